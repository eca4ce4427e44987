//! Between `hickory-server` and the zone: which questions are answered at all, by whom, and within what size.

use std::sync::Arc;

use async_trait::async_trait;
use hickory_server::{
    net::{runtime::Time, xfer::Protocol},
    proto::{
        op::{Edns, Header, HeaderCounts, LowerQuery, Message, MessageType, Metadata, OpCode, ResponseCode},
        rr::{DNSClass, RecordType},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};

use crate::{
    answer::{Answer, answer, nonexistent},
    follow::CurrentZone,
    forward::{Forwarder, Transport},
};

/// Longest UDP answer, whatever the client offers: it passes every path without fragments (DNS flag day 2020).
/// The rest comes over TCP.
const UDP_BYTES_MAX: u16 = 1232;

/// Longest UDP answer to a client that offers nothing (RFC 1035 section 4.2.1).
const PLAIN_UDP_BYTES_MAX: u16 = 512;

/// The header of a message (RFC 1035 section 4.1.1).
const HEADER_BYTES: usize = 12;

/// An OPT record without options (RFC 6891 section 6.1.2).
const OPT_BYTES: usize = 11;

/// The only EDNS version there is (RFC 6891 section 6.1.3).
const EDNS_VERSION: u8 = 0;

/// Answers requests from the current snapshot, or with what the forwarder brings.
#[derive(Debug, Clone)]
pub struct Handler {
    zone: CurrentZone,
    forwarder: Option<Arc<Forwarder>>,
}

/// What goes back.
struct Reply {
    metadata: Metadata,
    edns: Option<Edns>,
    answer: Answer,
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let Reply { mut metadata, edns, answer } = self.reply(request).await;
        metadata.response_code = answer.code;
        metadata.truncation |= answer.truncated;
        let response = MessageResponseBuilder::new(&request.queries, edns.as_ref()).build(
            metadata,
            &answer.answers,
            &answer.authorities,
            &[],
            &answer.additionals,
        );
        response_handle.send_response(response).await.unwrap_or_else(|error| {
            tracing::debug!(%error, client = %request.src(), "answer not sent");
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}

impl Handler {
    /// A handler that answers from `zone` and asks `forwarder` for everything else.
    pub fn new(zone: CurrentZone, forwarder: Option<Forwarder>) -> Self {
        Self { zone, forwarder: forwarder.map(Arc::new) }
    }

    async fn reply(&self, request: &Request) -> Reply {
        let query = match accept(request) {
            Ok(query) => query,
            Err(code) => return own_reply(request, Answer::empty(code)),
        };
        let known = {
            let room = records_bytes_max(request);
            answer(&self.zone.load(), query, room, &mut rand::rng())
        };
        let answer = match (known, &self.forwarder) {
            (Some(answer), _) => answer,
            (None, None) => nonexistent(&self.zone.load(), query.name()),
            (None, Some(forwarder)) => {
                let transport = match request.protocol() {
                    Protocol::Udp => Transport::Udp,
                    _ => Transport::Tcp,
                };
                match forwarder.ask(question(request, query), transport).await {
                    Some(reply) => return forwarded_reply(request, reply),
                    None => Answer::empty(ResponseCode::ServFail),
                }
            }
        };
        own_reply(request, answer)
    }
}

fn own_reply(request: &Request, answer: Answer) -> Reply {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.authoritative = matches!(answer.code, ResponseCode::NoError | ResponseCode::NXDomain);
    // Whoever asks here has nobody else to ask, and some resolvers drop an answer that denies recursion.
    metadata.recursion_available = true;
    Reply { metadata, edns: request.edns.as_ref().map(edns_of_reply), answer }
}

/// A forwarder's answer, as the answer to the client's request.
fn forwarded_reply(request: &Request, reply: Message) -> Reply {
    let mut metadata = reply.metadata;
    metadata.id = request.metadata.id;
    metadata.recursion_available = true;
    let edns = request.edns.as_ref().map(|theirs| {
        let mut edns = reply.edns.unwrap_or_else(|| edns_of_reply(theirs));
        edns.set_max_payload(udp_bytes_max(theirs));
        edns
    });
    let answer = Answer {
        code: reply.metadata.response_code,
        answers: reply.answers,
        authorities: reply.authorities,
        additionals: reply.additionals,
        truncated: reply.metadata.truncation,
    };
    Reply { metadata, edns, answer }
}

/// The question, if it is one that a name server like this answers.
fn accept(request: &Request) -> Result<&LowerQuery, ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if request.version() > EDNS_VERSION {
        return Err(ResponseCode::BADVERS);
    }
    // RFC 9619: a query has one question.
    let [query] = request.queries.queries() else { return Err(ResponseCode::FormErr) };
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if query.query_class() != DNSClass::IN || transfer {
        return Err(ResponseCode::Refused);
    }
    Ok(query)
}

/// What a client that speaks EDNS gets over UDP.
fn udp_bytes_max(theirs: &Edns) -> u16 {
    theirs.max_payload().clamp(PLAIN_UDP_BYTES_MAX, UDP_BYTES_MAX)
}

/// RFC 6891 section 6.1.1: whoever sends an OPT record gets one. `hickory-server` takes the size in it for the
/// limit of the answer.
fn edns_of_reply(theirs: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(udp_bytes_max(theirs));
    // RFC 3225 section 3: the DO bit is copied.
    edns.set_dnssec_ok(theirs.flags().dnssec_ok);
    edns
}

/// What is left for records beside header, question and OPT.
fn records_bytes_max(request: &Request) -> usize {
    let message = match request.protocol() {
        Protocol::Udp => request.edns.as_ref().map_or(PLAIN_UDP_BYTES_MAX, udp_bytes_max),
        _ => u16::MAX,
    };
    let opt = request.edns.as_ref().map_or(0, |_| OPT_BYTES);
    usize::from(message).saturating_sub(HEADER_BYTES + request.queries.as_bytes().len() + opt)
}

/// The client's question, to be asked in our name.
fn question(request: &Request, query: &LowerQuery) -> Message {
    let mut question = Message::new(0, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = request.metadata.recursion_desired;
    question.metadata.authentic_data = request.metadata.authentic_data;
    question.metadata.checking_disabled = request.metadata.checking_disabled;
    question.add_query(query.original().clone());
    question.edns = request.edns.clone().map(|mut edns| {
        edns.set_max_payload(udp_bytes_max(&edns));
        edns
    });
    question
}
