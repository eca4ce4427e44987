//! Which requests are answered from the zone, and which by others.

use std::{net::IpAddr, sync::Arc, time::Instant};

use hickory_proto::{op::ResponseCode, rr::RecordType};

use crate::{
    answer::{Answer, answer, nonexistent},
    exchange::Question,
    follow::SharedZone,
    forward::{Admission, Asking, Forwarder},
    request::{Declined, Request, Transport},
    tally::{Source, Tally},
};

/// Answers requests from the zone as it is, or with what the forwarder brings.
#[derive(Debug, Clone)]
pub struct Handler {
    zone: SharedZone,
    forwarder: Arc<Forwarder>,
    tally: Arc<Tally>,
}

/// What is to be done about a message.
#[derive(Debug)]
pub enum Action {
    /// Nothing.
    Ignore,
    /// This goes back.
    Reply(Vec<u8>),
    /// Somebody else is to be asked.
    Forward(Box<Forwarding>),
}

/// A request for somebody else's name.
#[derive(Debug)]
pub struct Forwarding {
    request: Request,
    asking: Asking,
    came: Instant,
    tally: Arc<Tally>,
}

impl Handler {
    /// A handler that answers from `zone` and asks `forwarder` for everything else.
    pub fn new(zone: SharedZone, forwarder: Forwarder) -> Self {
        Self { zone, forwarder: Arc::new(forwarder), tally: Arc::default() }
    }

    /// What was counted, as OpenMetrics.
    pub fn metrics(&self) -> String {
        self.tally.document()
    }

    /// Takes the bytes of a message.
    pub fn handle(&self, bytes: &[u8], source: IpAddr, transport: Transport) -> Action {
        let came = Instant::now();
        let request = match Request::parse(bytes, transport) {
            Ok(request) => request,
            Err(Declined::Silently) => {
                self.tally.note_ignored();
                return Action::Ignore;
            }
            Err(Declined::With(reply)) => return self.reply(None, reply, came),
        };
        let zone = self.zone.read();
        let query = request.query();
        let known = answer(&zone, query, request.records_bytes_max(), &mut rand::rng());
        let answer = match known {
            Some(answer) => answer,
            None => match self.forwarder.admit(source) {
                Admission::Nobody => nonexistent(&zone, query.name()),
                Admission::Denied(code) => Answer::empty(code),
                Admission::Granted(asking) => {
                    let tally = self.tally.clone();
                    return Action::Forward(Box::new(Forwarding { request, asking, came, tally }));
                }
            },
        };
        self.reply(Some(query.query_type()), request.encode_reply(answer), came)
    }

    fn reply(&self, asked: Option<RecordType>, reply: Vec<u8>, came: Instant) -> Action {
        self.tally.note(Source::Zone, asked, &reply, came.elapsed());
        Action::Reply(reply)
    }
}

impl Forwarding {
    /// Asks, and gives what goes back.
    pub async fn finish(self) -> Vec<u8> {
        let Self { request, asking, came, tally } = self;
        let reply = ask(&request, asking).await;
        tally.note(Source::Forward, Some(request.query().query_type()), &reply, came.elapsed());
        reply
    }
}

async fn ask(request: &Request, asking: Asking) -> Vec<u8> {
    let declined = |code| request.encode_reply(Answer::empty(code));
    let Ok(question) = Question::new(request.question()) else { return declined(ResponseCode::ServFail) };
    match asking.ask(&question, request.transport()).await {
        Ok(reply) if reply.len() <= request.reply_bytes_max() => reply.into_bytes(request.id()),
        Ok(reply) => reply.into_truncated_bytes(request.id(), &question, request.opt_of_reply().as_deref()),
        Err(code) => declined(code),
    }
}
