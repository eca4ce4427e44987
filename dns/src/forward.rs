//! Other people's names: asks the configured name servers and brings back what they say.
//!
//! A question is asked anew, with its own id and source port, over the transport that the client used: an answer
//! that is too long for UDP comes back truncated, and the client's retry over TCP is forwarded over TCP. Two
//! servers are asked at once and the first good answer counts. Nothing is cached.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_server::proto::{
    ProtoError,
    op::{Message, MessageType, ResponseCode},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

/// Questions under way at once. Each holds up to `RACERS * ROUNDS.len()` sockets, which leaves room below the
/// usual limit of 1024 open files; who comes when all are taken is told to try later.
const FORWARDS_MAX: usize = 100;

/// Servers asked at the same time.
const RACERS: usize = 2;

/// How long each round of asking waits before the next begins, the earlier questions staying open. Most answers
/// arrive within 400 ms; after 4 s in all the client is about to give up, which glibc and musl do after 5 s.
const ROUNDS: [Duration; 3] =
    [Duration::from_millis(400), Duration::from_millis(1200), Duration::from_millis(2400)];

/// How the client asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream, each message preceded by its length.
    Tcp,
}

/// Why a server's answer cannot be used.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    #[error("message: {0}")]
    Proto(#[from] ProtoError),
    #[error("the answer does not belong to the question")]
    Mismatch,
    #[error("answered {0}")]
    Refused(ResponseCode),
}

/// The name servers to ask.
#[derive(Debug)]
pub struct Forwarder {
    upstreams: Vec<SocketAddr>,
    slots: Semaphore,
}

impl Forwarder {
    /// A forwarder to these servers; None when there are none.
    pub fn new(upstreams: Vec<SocketAddr>) -> Option<Self> {
        (!upstreams.is_empty()).then(|| Self { upstreams, slots: Semaphore::new(FORWARDS_MAX) })
    }

    /// Asks until a server says that the name exists or does not, or all fail, or time is up.
    pub async fn ask(&self, question: Message, transport: Transport) -> Option<Message> {
        let Ok(_slot) = self.slots.try_acquire() else {
            tracing::debug!("{FORWARDS_MAX} questions under way, one more not forwarded");
            return None;
        };
        let question = Arc::new(question);
        let mut upstreams = self.upstreams.iter().copied().cycle();
        let mut asked = JoinSet::new();
        let mut refused = false;
        for round in ROUNDS {
            for upstream in upstreams.by_ref().take(RACERS.min(self.upstreams.len())) {
                asked.spawn(exchange(upstream, Arc::clone(&question), transport));
            }
            if let Ok(Some(reply)) = timeout(round, first_good(&mut asked, &mut refused)).await {
                return Some(reply);
            }
            // A server that is there and does not want to would not want to later.
            if refused {
                break;
            }
        }
        None
    }
}

/// The first answer that says something; None when nobody who was asked has one.
async fn first_good(
    asked: &mut JoinSet<Result<Message, ForwardError>>,
    refused: &mut bool,
) -> Option<Message> {
    while let Some(ended) = asked.join_next().await {
        match ended {
            Ok(Ok(reply)) => return Some(reply),
            Ok(Err(error)) => {
                tracing::debug!(%error, "name server of no help");
                *refused |= matches!(error, ForwardError::Refused(_));
            }
            Err(error) => tracing::error!(%error, "forwarding failed"),
        }
    }
    None
}

async fn exchange(
    upstream: SocketAddr,
    question: Arc<Message>,
    transport: Transport,
) -> Result<Message, ForwardError> {
    let mut question = Message::clone(&question);
    // RFC 5452 section 9.2: an id and a port that nobody can guess.
    question.metadata.id = rand::random();
    let bytes = question.to_vec()?;
    let reply = match transport {
        Transport::Udp => ask_over_udp(upstream, &bytes, &question).await?,
        Transport::Tcp => ask_over_tcp(upstream, &bytes, &question).await?,
    };
    match reply.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(reply),
        code => Err(ForwardError::Refused(code)),
    }
}

async fn ask_over_udp(
    upstream: SocketAddr,
    bytes: &[u8],
    question: &Message,
) -> Result<Message, ForwardError> {
    let local: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut reply = vec![0; usize::from(question.max_payload())];
    loop {
        let length = socket.recv(&mut reply).await?;
        // Anything else is a late answer or a forgery; the right one may still come.
        if let Some(reply) = parse_reply(&reply[..length], question) {
            return Ok(reply);
        }
    }
}

async fn ask_over_tcp(
    upstream: SocketAddr,
    bytes: &[u8],
    question: &Message,
) -> Result<Message, ForwardError> {
    let length = u16::try_from(bytes.len()).map_err(|_| ProtoError::Message("question over 64 KiB"))?;
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    parse_reply(&reply, question).ok_or(ForwardError::Mismatch)
}

/// The reply, if it answers the question (RFC 5452 section 9.1).
fn parse_reply(bytes: &[u8], question: &Message) -> Option<Message> {
    let reply = Message::from_vec(bytes).ok()?;
    let belongs = reply.metadata.message_type == MessageType::Response
        && reply.metadata.id == question.metadata.id
        && reply.queries == question.queries;
    belongs.then_some(reply)
}

#[cfg(test)]
mod tests {
    use hickory_server::proto::{
        op::Query,
        rr::{Name as DomainName, RData, Record, RecordType},
    };
    use tokio::time::Instant;

    use super::*;

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

    async fn ask(upstreams: Vec<SocketAddr>) -> Option<Message> {
        Forwarder::new(upstreams).unwrap().ask(question("example.com."), Transport::Udp).await
    }

    #[tokio::test]
    async fn the_first_good_answer_counts() {
        let refusing = upstream(|bytes| vec![reply_to(bytes, ResponseCode::Refused)]).await;
        let willing = upstream(|bytes| vec![reply_to(bytes, ResponseCode::NoError)]).await;
        assert_eq!(ask(vec![refusing, willing]).await.unwrap().answers.len(), 1);
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
        assert_eq!(ask(vec![forging]).await.unwrap().metadata.response_code, ResponseCode::NXDomain);
    }

    #[tokio::test(start_paused = true)]
    async fn servers_that_say_nothing_are_given_up_after_four_seconds() {
        let silent = upstream(|_| vec![]).await;
        let before = Instant::now();
        assert_eq!(ask(vec![silent, silent]).await, None);
        assert_eq!(before.elapsed().as_secs(), 4);
    }

    #[tokio::test]
    async fn the_third_server_is_asked_when_the_first_two_say_nothing() {
        let silent = upstream(|_| vec![]).await;
        let willing = upstream(|bytes| vec![reply_to(bytes, ResponseCode::NoError)]).await;
        assert!(ask(vec![silent, silent, willing]).await.is_some());
    }

    #[tokio::test]
    async fn a_refusal_is_final_once_the_others_had_their_round() {
        let silent = upstream(|_| vec![]).await;
        let refusing = upstream(|bytes| vec![reply_to(bytes, ResponseCode::ServFail)]).await;
        let before = Instant::now();
        assert_eq!(ask(vec![refusing, silent]).await, None);
        assert!(before.elapsed() < ROUNDS.iter().sum::<Duration>());
    }

    #[tokio::test(start_paused = true)]
    async fn questions_over_the_limit_fail_at_once() {
        let silent = upstream(|_| vec![]).await;
        let forwarder = Arc::new(Forwarder::new(vec![silent]).unwrap());
        let mut waiting = JoinSet::new();
        for _ in 0..=FORWARDS_MAX {
            let forwarder = Arc::clone(&forwarder);
            waiting.spawn(async move { forwarder.ask(question("example.com."), Transport::Udp).await });
        }
        let before = Instant::now();
        assert!(waiting.join_next().await.unwrap().unwrap().is_none());
        assert!(before.elapsed() < Duration::from_secs(1));
    }
}
