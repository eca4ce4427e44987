//! Other people's names: asks name servers and brings back what they say.
//!
//! A question is asked anew, with its own id and source port, over the transport that the client used: an answer
//! that is too long for UDP comes back truncated, and the client's retry over TCP is forwarded over TCP. The first
//! answer that says something counts. Nothing is cached.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hickory_proto::op::ResponseCode;
use ipnet::IpNet;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    exchange::{ExchangeError, Question, Reply, exchange},
    request::Transport,
    upstreams::{Servers, Upstreams},
};

/// Questions under way at once. Each holds up to six sockets, which leaves room below the usual limit of 1024 open
/// files; who comes when all are taken is told to try later. It also ends a loop of forwarders that nobody noticed.
const FORWARDS_MAX: usize = 100;

/// How long each round of asking waits before the next begins, the earlier questions staying open. Most answers
/// arrive within 400 ms; after 4 s in all the client is about to give up, which glibc and musl do after 5 s.
const ROUNDS: [Duration; 3] =
    [Duration::from_millis(400), Duration::from_millis(1200), Duration::from_millis(2400)];

/// Asks other name servers for those who may.
#[derive(Debug)]
pub struct Forwarder {
    upstreams: Upstreams,
    sources: Vec<IpNet>,
    slots: Arc<Semaphore>,
}

/// Whether a client's question is asked of others.
#[derive(Debug)]
pub enum Admission {
    /// There is nobody to ask.
    Nobody,
    /// The client is told this.
    Denied(ResponseCode),
    /// It is.
    Granted(Asking),
}

/// The right to ask one question.
#[derive(Debug)]
pub struct Asking {
    servers: Arc<Servers>,
    _slot: OwnedSemaphorePermit,
}

impl Forwarder {
    /// A forwarder to these servers for clients in these networks.
    pub fn new(upstreams: Upstreams, sources: Vec<IpNet>) -> Self {
        Self { upstreams, sources, slots: Arc::new(Semaphore::new(FORWARDS_MAX)) }
    }

    /// Decides about a client.
    pub fn admit(&self, source: IpAddr) -> Admission {
        let servers = self.upstreams.servers(Instant::now());
        if servers.addrs.is_empty() {
            return Admission::Nobody;
        }
        // An open resolver is a tool of attackers (RFC 5358).
        if !self.sources.iter().any(|net| net.contains(&source)) {
            return Admission::Denied(ResponseCode::Refused);
        }
        // Two dnsservers may have each other in their resolv.conf: the question would go on between them for ever.
        if servers.asked.contains(&source) {
            tracing::debug!(%source, "not asked for a server that would be asked");
            return Admission::Denied(ResponseCode::ServFail);
        }
        match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => Admission::Granted(Asking { servers, _slot: slot }),
            Err(_) => {
                tracing::debug!("{FORWARDS_MAX} questions under way, one more not forwarded");
                Admission::Denied(ResponseCode::ServFail)
            }
        }
    }
}

impl Asking {
    /// Asks until a server says that the name exists or does not, or all fail, or time is up.
    ///
    /// # Errors
    /// What the client is to be told.
    pub(crate) async fn ask(self, question: &Question, transport: Transport) -> Result<Reply, ResponseCode> {
        let Servers { addrs, racers, .. } = &*self.servers;
        let mut next = addrs.iter().cycle();
        let mut asked = FuturesUnordered::new();
        let mut asked_count = 0;
        let mut refusal = None;
        for round in ROUNDS {
            for server in next.by_ref().take(addrs.len().min(*racers)) {
                asked.push(exchange(*server, question, transport));
                asked_count += 1;
            }
            if let Ok(Some(reply)) = timeout(round, first_good(&mut asked, &mut refusal)).await {
                return Ok(reply);
            }
            // A server that is there and does not want to would not want to later.
            if refusal.is_some() && asked_count >= addrs.len() {
                break;
            }
        }
        match refusal {
            Some(code @ (ResponseCode::FormErr | ResponseCode::NotImp)) => Err(code),
            _ => Err(ResponseCode::ServFail),
        }
    }
}

/// The first answer that says something; None when nobody who was asked has one.
async fn first_good(
    asked: &mut FuturesUnordered<impl Future<Output = Result<Reply, ExchangeError>>>,
    refusal: &mut Option<ResponseCode>,
) -> Option<Reply> {
    while let Some(ended) = asked.next().await {
        match ended {
            Ok(reply) => return Some(reply),
            Err(error) => {
                tracing::debug!(%error, "name server of no help");
                if let ExchangeError::Refused(code) = error {
                    *refusal = Some(code);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use hickory_proto::{
        op::{Edns, Message, MessageType, Query},
        rr::{Name as DomainName, RData, Record, RecordType},
    };
    use tokio::{net::UdpSocket, time::Instant};

    use super::*;
    use crate::upstreams::Upstream;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn question(name: &str) -> Message {
        let mut question = Message::query();
        question.add_query(Query::query(DomainName::from_ascii(name).unwrap(), RecordType::A));
        question
    }

    fn reply_to(bytes: &[u8], code: ResponseCode) -> Message {
        let mut reply = Message::from_vec(bytes).unwrap().into_response();
        reply.metadata.response_code = code;
        let name = reply.queries[0].name().clone();
        reply.add_answer(Record::from_rdata(name, 60, RData::A(Ipv4Addr::new(192, 0, 2, 1).into())));
        reply
    }

    /// A name server that answers each question with what `replies` makes of it.
    async fn upstream(replies: impl Fn(&[u8]) -> Vec<Message> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut bytes = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
                for reply in replies(&bytes[..length]) {
                    socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
                }
            }
        });
        addr
    }

    fn forwarder(servers: &[SocketAddr]) -> Forwarder {
        let upstreams = servers.iter().copied().map(Upstream::Server).collect();
        Forwarder::new(Upstreams::new(upstreams, vec![]), vec!["127.0.0.0/8".parse().unwrap()])
    }

    async fn ask_question(forwarder: &Forwarder, question: Message) -> Result<Message, ResponseCode> {
        let Admission::Granted(asking) = forwarder.admit(CLIENT) else { return Err(ResponseCode::Refused) };
        let reply = asking.ask(&Question::new(question).unwrap(), Transport::Udp).await?;
        Ok(Message::from_vec(&reply.into_bytes(1)).unwrap())
    }

    async fn ask(servers: &[SocketAddr]) -> Result<Message, ResponseCode> {
        ask_question(&forwarder(servers), question("example.com.")).await
    }

    #[tokio::test]
    async fn the_first_good_answer_counts() {
        let refusing = upstream(|bytes| vec![reply_to(bytes, ResponseCode::Refused)]).await;
        let willing = upstream(|bytes| vec![reply_to(bytes, ResponseCode::NoError)]).await;
        assert_eq!(ask(&[refusing, willing]).await.unwrap().answers.len(), 1);
    }

    #[tokio::test]
    async fn an_answer_to_something_else_is_not_taken() {
        let forging = upstream(|bytes| {
            let honest = reply_to(bytes, ResponseCode::NXDomain);
            let mut other_id = reply_to(bytes, ResponseCode::NoError);
            other_id.metadata.id ^= 1;
            let mut other_name = reply_to(bytes, ResponseCode::NoError);
            other_name.queries = question("example.net.").queries;
            let mut no_reply = reply_to(bytes, ResponseCode::NoError);
            no_reply.metadata.message_type = MessageType::Query;
            vec![other_id, other_name, no_reply, honest]
        })
        .await;
        assert_eq!(ask(&[forging]).await.unwrap().metadata.response_code, ResponseCode::NXDomain);
    }

    #[tokio::test]
    async fn a_server_that_does_not_know_edns_is_asked_without() {
        for code in [ResponseCode::FormErr, ResponseCode::NotImp] {
            for bare in [false, true] {
                let old = upstream(move |bytes| {
                    let known = Message::from_vec(bytes).unwrap().edns.is_none();
                    let mut reply = reply_to(bytes, if known { ResponseCode::NoError } else { code });
                    if bare && !known {
                        (reply.queries, reply.answers, reply.edns) = (vec![], vec![], None);
                    }
                    vec![reply]
                })
                .await;
                let mut offering = question("example.com.");
                offering.set_edns(Edns::new());
                let reply = ask_question(&forwarder(&[old]), offering).await.unwrap();
                assert_eq!((reply.answers.len(), reply.edns), (1, None), "{code} {bare}");
            }
        }
    }

    #[tokio::test]
    async fn what_no_server_understands_is_said_to_be_so() {
        for (code, expected) in [
            (ResponseCode::FormErr, ResponseCode::FormErr),
            (ResponseCode::NotImp, ResponseCode::NotImp),
            (ResponseCode::Refused, ResponseCode::ServFail),
        ] {
            let declining = upstream(move |bytes| vec![reply_to(bytes, code)]).await;
            assert_eq!(ask(&[declining]).await, Err(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn servers_that_say_nothing_are_given_up_after_four_seconds() {
        let silent = upstream(|_| vec![]).await;
        let before = Instant::now();
        assert_eq!(ask(&[silent, silent]).await, Err(ResponseCode::ServFail));
        assert_eq!(before.elapsed().as_secs(), 4);
    }

    #[tokio::test]
    async fn the_third_server_is_asked_when_the_first_two_say_nothing_or_refuse() {
        let silent = upstream(|_| vec![]).await;
        let refusing = upstream(|bytes| vec![reply_to(bytes, ResponseCode::Refused)]).await;
        let willing = upstream(|bytes| vec![reply_to(bytes, ResponseCode::NoError)]).await;
        for unhelpful in [silent, refusing] {
            assert!(ask(&[unhelpful, unhelpful, willing]).await.is_ok());
        }
    }

    #[tokio::test]
    async fn a_refusal_is_final_once_the_others_had_their_round() {
        let silent = upstream(|_| vec![]).await;
        let refusing = upstream(|bytes| vec![reply_to(bytes, ResponseCode::ServFail)]).await;
        let before = Instant::now();
        assert_eq!(ask(&[refusing, silent]).await, Err(ResponseCode::ServFail));
        assert!(before.elapsed() < ROUNDS.iter().sum::<Duration>());
    }

    #[test]
    fn questions_over_the_limit_are_told_to_come_later() {
        let forwarder = forwarder(&["127.0.0.1:53".parse().unwrap()]);
        let mut under_way: Vec<Admission> = (0..FORWARDS_MAX).map(|_| forwarder.admit(CLIENT)).collect();
        assert!(under_way.iter().all(|admission| matches!(admission, Admission::Granted(_))));
        assert!(matches!(forwarder.admit(CLIENT), Admission::Denied(ResponseCode::ServFail)));
        under_way.pop();
        assert!(matches!(forwarder.admit(CLIENT), Admission::Granted(_)));
    }

    #[test]
    fn strangers_are_refused_and_who_would_be_asked_is_not_asked_for() {
        let forwarder = Forwarder::new(
            Upstreams::new(vec!["10.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap()], vec![]),
            vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.0/8".parse().unwrap()],
        );
        let admit = |source: &str| forwarder.admit(source.parse().unwrap());
        assert!(matches!(admit("10.0.0.1"), Admission::Granted(_)));
        assert!(matches!(admit("192.0.2.1"), Admission::Denied(ResponseCode::Refused)));
        assert!(matches!(admit("10.0.0.2"), Admission::Denied(ResponseCode::ServFail)));
        // Who is asked on this machine and who asks on it need not be the same.
        assert!(matches!(admit("127.0.0.1"), Admission::Granted(_)));
        let off = Forwarder::new(Upstreams::new(vec![Upstream::Off], vec![]), vec![]);
        assert!(matches!(off.admit(CLIENT), Admission::Nobody));
    }
}
