//! One question to one name server. What comes back stays bytes: of an answer only that it belongs to the question
//! has to be understood, and what it says is the client's to read.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use hickory_proto::{
    ProtoError,
    op::{Message, ResponseCode},
    serialize::binary::BinEncodable,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use crate::request::{HEADER_BYTES, Transport, UDP_BYTES_MAX};

/// What is received over UDP: one byte more than any client is sent, which shows that it is too long.
const UDP_REPLY_BYTES_MAX: usize = UDP_BYTES_MAX as usize + 1;

/// Flags in the third and fourth byte of a header (RFC 1035 section 4.1.1).
const QR: u8 = 0x80;
const TC: u8 = 0x02;
const RA: u8 = 0x80;
const RCODE: u8 = 0x0F;

/// Why a server's answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    #[error("message: {0}")]
    Proto(#[from] ProtoError),
    #[error("the answer does not belong to the question")]
    Mismatch,
    #[error("answered {0}")]
    Refused(ResponseCode),
}

/// A question in our name.
#[derive(Debug)]
pub(crate) struct Question {
    message: Message,
    /// Its question section, as it is sent.
    section: Vec<u8>,
}

impl Question {
    /// The question of a message that has one.
    pub(crate) fn new(message: Message) -> Result<Self, ProtoError> {
        let section = message.queries.first().map_or(Ok(Vec::new()), BinEncodable::to_bytes)?;
        Ok(Self { message, section })
    }
}

/// An answer to a question, as the server sent it.
#[derive(Debug, PartialEq)]
pub(crate) struct Reply(Vec<u8>);

impl Reply {
    /// The reply, if it answers the question (RFC 5452 section 9.1). An old server that does not understand one
    /// may say so with a header alone (RFC 6891 section 7).
    fn parse(mut bytes: Vec<u8>, id: u16, section: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || bytes[..2] != id.to_be_bytes() || bytes[2] & QR == 0 {
            return None;
        }
        let question_end = HEADER_BYTES + section.len();
        match bytes[4..6] {
            [0, 0] if is_refusal(code(&bytes)) => Some(Self(bytes)),
            [0, 1] if same_question(bytes.get(HEADER_BYTES..question_end)?, section) => {
                // Some clients spell their question in a way that a forger would have to guess.
                bytes[HEADER_BYTES..question_end].copy_from_slice(section);
                Some(Self(bytes))
            }
            _ => None,
        }
    }

    fn code(&self) -> ResponseCode {
        code(&self.0)
    }

    /// The length of the message.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The bytes for a client who asked with this id.
    pub(crate) fn into_bytes(mut self, id: u16) -> Vec<u8> {
        self.0[..2].copy_from_slice(&id.to_be_bytes());
        self.0[3] |= RA;
        self.0
    }

    /// The same without records, for a client to whom it is too long: it shall come again over TCP.
    pub(crate) fn into_truncated_bytes(self, id: u16, question: &Question, opt: Option<&[u8]>) -> Vec<u8> {
        let mut bytes = self.into_bytes(id);
        bytes.truncate(HEADER_BYTES + question.section.len());
        bytes[2] |= TC;
        bytes[6..HEADER_BYTES].copy_from_slice(&[0, 0, 0, 0, 0, u8::from(opt.is_some())]);
        bytes.extend_from_slice(opt.unwrap_or_default());
        bytes
    }
}

/// What the header says; the rest of a larger code is in an OPT record.
fn code(bytes: &[u8]) -> ResponseCode {
    ResponseCode::from(0, bytes[3] & RCODE)
}

/// The server cannot or will not; another one may.
fn is_refusal(code: ResponseCode) -> bool {
    use ResponseCode::{FormErr, NotImp, Refused, ServFail};
    matches!(code, FormErr | NotImp | Refused | ServFail)
}

/// Names are the same in any case; type and class are numbers.
fn same_question(theirs: &[u8], ours: &[u8]) -> bool {
    let Some(name_bytes) = ours.len().checked_sub(4) else { return false };
    theirs[..name_bytes].eq_ignore_ascii_case(&ours[..name_bytes])
        && theirs[name_bytes..] == ours[name_bytes..]
}

/// Asks a server. One that does not understand EDNS is asked again without (RFC 6891 section 7).
pub(crate) async fn exchange(
    server: SocketAddr,
    question: &Question,
    transport: Transport,
) -> Result<Reply, ExchangeError> {
    let mut message = question.message.clone();
    let mut reply = ask(server, &mut message, &question.section, transport).await?;
    if matches!(reply.code(), ResponseCode::FormErr | ResponseCode::NotImp) && message.edns.take().is_some() {
        reply = ask(server, &mut message, &question.section, transport).await?;
    }
    match reply.code() {
        code if is_refusal(code) => Err(ExchangeError::Refused(code)),
        _ => Ok(reply),
    }
}

async fn ask(
    server: SocketAddr,
    message: &mut Message,
    section: &[u8],
    transport: Transport,
) -> Result<Reply, ExchangeError> {
    // RFC 5452 section 9.2: an id and a port that nobody can guess.
    let id = rand::random();
    message.metadata.id = id;
    let bytes = message.to_vec()?;
    match transport {
        Transport::Udp => ask_over_udp(server, &bytes, id, section).await,
        Transport::Tcp => ask_over_tcp(server, &bytes, id, section).await,
    }
}

async fn ask_over_udp(
    server: SocketAddr,
    question: &[u8],
    id: u16,
    section: &[u8],
) -> Result<Reply, ExchangeError> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut bytes = [0; UDP_REPLY_BYTES_MAX];
    loop {
        let length = socket.recv(&mut bytes).await?;
        // Anything else is a late answer or a forgery; the right one may still come.
        if let Some(reply) = Reply::parse(bytes[..length].to_vec(), id, section) {
            return Ok(reply);
        }
    }
}

async fn ask_over_tcp(
    server: SocketAddr,
    question: &[u8],
    id: u16,
    section: &[u8],
) -> Result<Reply, ExchangeError> {
    let length = u16::try_from(question.len()).map_err(|_| ProtoError::Message("question over 64 KiB"))?;
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    Reply::parse(bytes, id, section).ok_or(ExchangeError::Mismatch)
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::Query,
        rr::{Name as DomainName, RecordType},
    };

    use super::*;

    /// `HTTPS` is 65, which is 97 in another case.
    fn question() -> Question {
        let mut message = Message::query();
        message.metadata.id = 0x0102;
        let name = DomainName::from_ascii("wWw.example.com.").unwrap();
        message.add_query(Query::query(name, RecordType::HTTPS));
        Question::new(message).unwrap()
    }

    fn reply(question: &Question) -> Vec<u8> {
        let mut bytes = question.message.to_vec().unwrap();
        bytes[2] |= QR;
        bytes
    }

    fn is_taken(change: impl Fn(&mut Vec<u8>)) -> bool {
        let question = question();
        let mut bytes = reply(&question);
        change(&mut bytes);
        Reply::parse(bytes, 0x0102, &question.section).is_some()
    }

    #[test]
    fn a_reply_is_taken_for_its_id_and_its_question_whatever_follows() {
        assert!(is_taken(|_| {}));
        assert!(is_taken(|bytes| bytes.extend([0xFF; 700])));
        assert!(is_taken(|bytes| bytes[HEADER_BYTES + 1] = b'w'));
        assert!(!is_taken(|bytes| bytes[1] = 9));
        assert!(!is_taken(|bytes| bytes[2] &= !QR));
        assert!(!is_taken(|bytes| bytes[HEADER_BYTES + 1] = b'x'));
        assert!(!is_taken(|bytes| bytes.truncate(HEADER_BYTES + 5)));
        assert!(!is_taken(|bytes| bytes.truncate(HEADER_BYTES - 1)));
        assert!(!is_taken(|bytes| bytes[4..6].copy_from_slice(&[0, 2])));
        let record_type = HEADER_BYTES + question().section.len() - 3;
        assert!(!is_taken(|bytes| bytes[record_type] = 97));
    }

    #[test]
    fn a_header_alone_is_taken_for_a_refusal_and_for_nothing_else() {
        let header = |code: u8| {
            is_taken(|bytes| {
                bytes.truncate(HEADER_BYTES);
                bytes[3] = code;
                bytes[4..6].copy_from_slice(&[0, 0]);
            })
        };
        assert_eq!([0, 1, 2, 3, 4, 5].map(header), [false, true, true, false, true, true]);
    }

    #[test]
    fn the_client_sees_its_own_id_and_spelling() {
        let question = question();
        let mut bytes = reply(&question);
        bytes[HEADER_BYTES + 1..HEADER_BYTES + 4].copy_from_slice(b"www");
        let expected = [b'w', b'W', b'w'];
        let whole = Reply::parse(bytes.clone(), 0x0102, &question.section).unwrap().into_bytes(7);
        assert_eq!((&whole[..2], &whole[HEADER_BYTES + 1..HEADER_BYTES + 4]), (&[0, 7][..], &expected[..]));
        bytes.extend([0xFF; 700]);
        let reply = Reply::parse(bytes, 0x0102, &question.section).unwrap();
        let cut = Message::from_vec(&reply.into_truncated_bytes(7, &question, None)).unwrap();
        assert!(cut.metadata.truncation && cut.metadata.id == 7 && cut.queries == question.message.queries);
    }
}
