//! A request as it comes from a client, and the replies to it. Bytes in, bytes out.

use hickory_proto::{
    op::{Edns, Header, LowerQuery, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Record, RecordType},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable},
};

use crate::answer::Answer;

/// Longest UDP answer, whatever the client offers: it passes every path without fragments (DNS flag day 2020).
/// The rest comes over TCP.
pub const UDP_BYTES_MAX: u16 = 1232;

/// Longest UDP answer to a client that offers nothing (RFC 1035 section 4.2.1).
const PLAIN_UDP_BYTES_MAX: u16 = 512;

/// The header of a message (RFC 1035 section 4.1.1).
pub const HEADER_BYTES: usize = 12;

/// An OPT record without options (RFC 6891 section 6.1.2).
const OPT_BYTES: usize = 11;

/// The only EDNS version there is (RFC 6891 section 6.1.3).
const EDNS_VERSION: u8 = 0;

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream, each message preceded by its length.
    Tcp,
}

/// A question that a name server like this answers.
#[derive(Debug)]
pub struct Request {
    message: Message,
    query: LowerQuery,
    /// The question section, byte by byte.
    section: Vec<u8>,
    transport: Transport,
}

/// What is no such question.
#[derive(Debug, PartialEq, Eq)]
pub enum Declined {
    /// Not to be answered: no message, or one that is an answer itself. Two servers would go on for ever.
    Silently,
    /// To be answered with this.
    With(Vec<u8>),
}

impl Request {
    /// Reads the bytes of a message.
    ///
    /// # Errors
    /// They are no plain question of the Internet class.
    pub fn parse(bytes: &[u8], transport: Transport) -> Result<Self, Declined> {
        let header = Header::read(&mut BinDecoder::new(bytes)).map_err(|_| Declined::Silently)?;
        if header.metadata.message_type == MessageType::Response {
            return Err(Declined::Silently);
        }
        if header.metadata.op_code != OpCode::Query {
            return Err(Declined::With(bare_reply(&header.metadata, ResponseCode::NotImp)));
        }
        // RFC 9619: a query has one question. Nothing is read, or kept, of a message that claims another number.
        let message = (header.counts.queries == 1).then(|| Message::from_vec(bytes).ok()).flatten();
        let query = message.as_ref().and_then(|message| message.queries.first()).cloned();
        let (Some(message), Some(query)) = (message, query) else {
            return Err(Declined::With(bare_reply(&header.metadata, ResponseCode::FormErr)));
        };
        let section = query.to_bytes().unwrap_or_default();
        let request = Self { message, query: LowerQuery::query(query), section, transport };
        match request.objection() {
            None => Ok(request),
            Some(code) => Err(Declined::With(request.encode_reply(Answer::empty(code)))),
        }
    }

    fn objection(&self) -> Option<ResponseCode> {
        let transfer = matches!(self.query.query_type(), RecordType::AXFR | RecordType::IXFR);
        if self.message.version() > EDNS_VERSION {
            Some(ResponseCode::BADVERS)
        } else if self.query.query_class() != DNSClass::IN || transfer {
            Some(ResponseCode::Refused)
        } else {
            None
        }
    }

    /// What the client knows it by.
    pub fn id(&self) -> u16 {
        self.message.metadata.id
    }

    /// The question.
    pub fn query(&self) -> &LowerQuery {
        &self.query
    }

    /// How it came.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// What is left for records beside header, question and OPT.
    pub fn records_bytes_max(&self) -> usize {
        let opt = self.message.edns.as_ref().map_or(0, |_| OPT_BYTES);
        self.reply_bytes_max().saturating_sub(HEADER_BYTES + self.section.len() + opt)
    }

    /// The longest message that the client takes.
    pub fn reply_bytes_max(&self) -> usize {
        match (self.transport, &self.message.edns) {
            (Transport::Udp, None) => PLAIN_UDP_BYTES_MAX.into(),
            (Transport::Udp, Some(theirs)) => udp_bytes_max(theirs).into(),
            (Transport::Tcp, _) => u16::MAX.into(),
        }
    }

    /// The bytes of the answer. It has been made to fit.
    pub fn encode_reply(&self, answer: Answer) -> Vec<u8> {
        let code = answer.code;
        let mut reply = Message::response(self.message.metadata.id, OpCode::Query);
        reply.metadata = Metadata::response_from_request(&self.message.metadata);
        reply.metadata.response_code = code;
        reply.metadata.authoritative = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        // Whoever asks here has nobody else to ask, and some resolvers drop an answer that denies recursion.
        reply.metadata.recursion_available = true;
        reply.metadata.truncation = answer.truncated;
        reply.add_query(self.query.original().clone());
        (reply.answers, reply.authorities, reply.additionals) =
            (answer.answers, answer.authorities, answer.additionals);
        reply.edns = self.edns_of_reply();
        reply.to_vec().unwrap_or_else(|error| {
            tracing::debug!(%error, query = %self.query, "answer cannot be written");
            bare_reply(&self.message.metadata, ResponseCode::ServFail)
        })
    }

    /// The bytes of the OPT record that an answer to this request ends with.
    pub fn opt_of_reply(&self) -> Option<Vec<u8>> {
        Record::from(&self.edns_of_reply()?).to_bytes().ok()
    }

    /// RFC 6891 section 6.1.1: whoever sends an OPT record gets one.
    fn edns_of_reply(&self) -> Option<Edns> {
        let theirs = self.message.edns.as_ref()?;
        let mut edns = Edns::new();
        edns.set_max_payload(udp_bytes_max(theirs));
        // RFC 3225 section 3: the DO bit is copied.
        edns.set_dnssec_ok(theirs.flags().dnssec_ok);
        Some(edns)
    }

    /// The client's question, to be asked in our name.
    pub fn question(&self) -> Message {
        let theirs = &self.message.metadata;
        let mut question = Message::new(0, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = theirs.recursion_desired;
        question.metadata.authentic_data = theirs.authentic_data;
        question.metadata.checking_disabled = theirs.checking_disabled;
        question.add_query(self.query.original().clone());
        question.edns = self.message.edns.clone().map(|mut edns| {
            edns.set_max_payload(udp_bytes_max(&edns));
            edns
        });
        question
    }
}

/// What a client that speaks EDNS gets over UDP.
fn udp_bytes_max(theirs: &Edns) -> u16 {
    theirs.max_payload().clamp(PLAIN_UDP_BYTES_MAX, UDP_BYTES_MAX)
}

/// A header alone, for a message of which no more is understood.
fn bare_reply(theirs: &Metadata, code: ResponseCode) -> Vec<u8> {
    let mut reply = Message::error_msg(theirs.id, theirs.op_code, code);
    reply.metadata.recursion_desired = theirs.recursion_desired;
    reply.to_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use hickory_proto::{op::Query, rr::Name as DomainName};
    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn question() -> Message {
        let mut question = Message::query();
        question.add_query(Query::query(DomainName::from_ascii("app.").unwrap(), RecordType::A));
        question
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let reply = question().into_response().to_vec().unwrap();
        for bytes in [&[][..], &[0; HEADER_BYTES - 1], &reply] {
            assert_eq!(Request::parse(bytes, Transport::Udp).unwrap_err(), Declined::Silently);
        }
    }

    #[test]
    fn a_message_that_claims_many_questions_is_declined_by_its_header() {
        let mut bytes = question().to_vec().unwrap();
        bytes[4..6].copy_from_slice(&[0xFF, 0xFF]);
        let Declined::With(reply) = Request::parse(&bytes, Transport::Udp).unwrap_err() else {
            panic!("a header is enough to be answered")
        };
        assert_eq!((reply.len(), reply[3] & 0xF), (HEADER_BYTES, 1));
    }

    #[test]
    fn no_bytes_make_the_parser_panic() {
        let mut rng = StdRng::seed_from_u64(1);
        let whole = question().to_vec().unwrap();
        for _ in 0..100_000 {
            let mut bytes = whole.clone();
            let length = rng.random_range(0..=bytes.len());
            bytes.truncate(length);
            if let Some(at) = length.checked_sub(1) {
                bytes[rng.random_range(0..=at)] = rng.random();
                rng.fill_bytes(&mut bytes[at..]);
            }
            let _ = Request::parse(&bytes, Transport::Tcp);
        }
    }
}
