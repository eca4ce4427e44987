//! Frames: one JSON object a line, in both directions, and the codec that bounds them.
//!
//! The shapes here are the protocol; `feed/PROTOCOL.md` shows them to readers of other languages.

use std::{marker::PhantomData, net::SocketAddr};

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_util::codec::{Decoder, Encoder, LinesCodec, LinesCodecError};

pub use crate::member::{Member, MemberState};
use crate::{
    EndpointId, Name, RoleTable, Tags,
    event::{Answer, Query, Tally, UserEvent},
    explain::Explanation,
    keys::{KeysAt, KeysOrder},
    recall::{Account, RequestId},
    stats::Stats,
    ticket::TicketKeys,
};

/// Version of the protocol; the other side's must be the same.
pub const VERSION: u32 = 1;

/// Longest line in bytes, either way. A table of [`crate::table::ENDPOINTS_MAX`] endpoints with names of 63 bytes
/// and the longest tags takes about 6 MB. The codec refuses a longer line before it allocates room for it.
pub const LINE_BYTES_MAX: usize = 8 << 20;

/// Longest first line that a sidecar reads of a connection: a question, or a hello with a thousand roles.
pub const QUESTION_BYTES_MAX: usize = 64 << 10;

/// Longest line that a sidecar reads of a consumer: a receipt for a table of which every endpoint drains.
pub const RECEIPT_BYTES_MAX: usize = 2 << 20;

/// What a consumer, or the command line, says to the sidecar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSidecar {
    /// Subscribe. The first frame of a consumer.
    Hello(ConsumerHello),
    /// A table has taken effect. Sent again whenever the in-flight counts of draining endpoints change.
    Applied(Applied),
    /// Ask who is in the cluster, optionally of one role only.
    Members {
        /// Only this role.
        #[serde(default)]
        role: Option<Name>,
        /// Only those that have all of these tags.
        #[serde(default)]
        tags: Tags,
    },
    /// Change the node's own tags, if anything is said, and tell them.
    Tags {
        /// Set these.
        #[serde(default)]
        set: Tags,
        /// Delete those with these keys.
        #[serde(default)]
        delete: Vec<String>,
    },
    /// Ask for every change from now on, beginning with the members as they are.
    Monitor {},
    /// Ask to be told when the role has the wished number of ready endpoints, applied by every consumer of this
    /// sidecar that follows the role.
    Wait(Wait),
    /// Send an event to every live member, this one included.
    Event {
        /// What it is called.
        name: Name,
        /// What it says, up to [`PAYLOAD_BYTES_MAX`](crate::event::PAYLOAD_BYTES_MAX).
        #[serde(default)]
        payload: String,
    },
    /// Ask members something.
    Query(Query),
    /// Have every member forget this one as left. A live one comes back by itself.
    ForceLeave {
        /// Its name.
        name: Name,
    },
    /// Ask what this sidecar knows of a member and why.
    Explain {
        /// Its name.
        name: Name,
    },
    /// Ask what all proxies and fronts of the cluster keep of a request.
    Recall {
        /// Its id.
        id: RequestId,
    },
    /// Ask how the node itself is.
    Health {},
    /// Leave the cluster: what SIGTERM does.
    Leave {},
    /// Start the role's command anew beside its process, and have the old process drain once the new one is ready.
    Upgrade {
        /// How long the new process may take.
        timeout_ms: u64,
    },
    /// Ask what was sent, received and dropped.
    Stats {},
    /// Have every member do something with its keys.
    Keys(KeysOrder),
}

/// A process that follows another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The process that served until now.
    pub old: u32,
    /// The one that serves from now on.
    pub new: u32,
    /// Milliseconds from its start until it was ready.
    pub after_ms: u64,
}

/// What the sidecar says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromSidecar {
    /// The answer to a consumer's hello.
    Hello(SidecarHello),
    /// A role's whole table; replaces the one before.
    Table(RoleTable),
    /// All tables that the cluster knows have been sent; from here on they may also remove endpoints.
    Synced {
        /// Grows with each change of any role at this sidecar.
        epoch: u64,
    },
    /// The keys of session tickets, all of them, to consumers that want them; before `synced`, and when they change.
    Tickets(TicketKeys),
    /// The answer to `members`.
    Members(Vec<Member>),
    /// One change, to those who monitor.
    Change(Member),
    /// One event, to those who monitor.
    Event(UserEvent),
    /// The answer to `event`: it is on its way.
    Sent {
        /// Its Lamport time.
        time: u64,
    },
    /// One member's answer to `query`.
    Answer(Answer),
    /// The end of the answers to `query`.
    Answered(Tally),
    /// The answer to `wait`: the wish came true after so many milliseconds.
    Waited {
        /// Milliseconds from the question to the answer.
        after_ms: u64,
    },
    /// The answer to `force_leave`: everybody is being told.
    Forgotten {
        /// The member.
        name: Name,
        /// What it was here until now.
        was: MemberState,
    },
    /// The answer to `explain`.
    Explained(Explanation),
    /// The answer to `recall`.
    Recalled(Account),
    /// The answer to `health`.
    Health(Health),
    /// The answer to `tags`: the node's own.
    Tags(Tags),
    /// The answer to `leave`.
    Leaving {},
    /// The first answer to `upgrade`: a new process was started.
    Upgrading {
        /// The process that serves.
        old: u32,
        /// The one that is to follow it.
        new: u32,
    },
    /// The second: the new process serves, and the old one drains.
    Upgraded(Upgraded),
    /// The last: the old process has ended.
    Retired {
        /// Which.
        old: u32,
        /// Milliseconds for which it drained.
        after_ms: u64,
    },
    /// The answer to `stats`.
    Stats(Stats),
    /// The answer to `keys`: what came of it at each member.
    Keys(Vec<KeysAt>),
    /// The request cannot be answered; says why. The connection closes after it.
    Refused {
        /// What was wrong and what would be right.
        why: String,
    },
}

/// First frame of a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerHello {
    /// [`VERSION`].
    pub version: u32,
    /// What the consumer calls itself, for the log.
    pub name: String,
    /// The roles it follows; `*` for all.
    pub roles: Vec<String>,
    /// Whether it wants to be told the keys of session tickets. Sidecars of before do not know of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tickets: bool,
}

/// First frame of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SidecarHello {
    /// [`VERSION`].
    pub version: u32,
    /// The node's name.
    pub node: Name,
    /// The cluster's name.
    pub cluster: String,
}

/// A consumer's receipt for a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The table's role.
    pub role: Name,
    /// The table's generation.
    pub generation: u64,
    /// What is still in flight at the draining endpoints of the table.
    pub draining: Vec<InFlight>,
}

/// How much work of this consumer an endpoint still has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// The endpoint's instance.
    pub instance: u64,
    /// The endpoint's address. Consumers of before it was asked for leave it out, and mean every endpoint of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<SocketAddr>,
    /// Requests or connections under way.
    pub in_flight: u32,
}

impl InFlight {
    /// So much at this endpoint.
    pub fn new(id: EndpointId, in_flight: u32) -> Self {
        Self { instance: id.instance, addr: Some(id.addr), in_flight }
    }

    /// Whether it is said of this endpoint.
    pub fn is_of(&self, id: EndpointId) -> bool {
        self.instance == id.instance && self.addr.is_none_or(|addr| addr == id.addr)
    }
}

/// The wish of `wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The role.
    pub role: Name,
    /// At least so many ready endpoints.
    #[serde(default)]
    pub min: u32,
    /// At most so many ready endpoints, and none draining.
    #[serde(default)]
    pub max: Option<u32>,
    /// At least one consumer of this sidecar follows the role.
    #[serde(default)]
    pub visible: bool,
    /// Every consumer of the role in the cluster has applied it, not only those of this sidecar; and there is one.
    #[serde(default)]
    pub everywhere: bool,
    /// Only endpoints that have all of these tags count.
    #[serde(default)]
    pub tags: Tags,
}

/// How a node is, by its own word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The node.
    pub node: Name,
    /// Its state.
    pub state: MemberState,
    /// Why its role's process does not pass its check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}

/// Why a feed connection cannot go on. None of these is retried on the same connection; a new one may be made.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The socket failed or ended.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The other side closed.
    #[error("feed socket closed by the other side")]
    Closed,
    /// A line over this limit.
    #[error("feed line longer than {0} bytes")]
    LineTooLong(usize),
    /// A line that is no frame.
    #[error("not a feed frame: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A frame where another was due.
    #[error("feed frame out of place: {0}")]
    OutOfPlace(&'static str),
    /// The other side speaks another version.
    #[error("feed version {theirs}, expected {VERSION}")]
    Version {
        /// What it speaks.
        theirs: u32,
    },
    /// The sidecar refused.
    #[error("refused by the sidecar: {0}")]
    Refused(String),
}

/// Reads frames of type `In` and writes frames of type `Out`.
#[derive(Debug)]
pub struct FrameCodec<In, Out> {
    lines: LinesCodec,
    types: PhantomData<fn(Out) -> In>,
}

/// The consumer's end.
pub type ConsumerCodec = FrameCodec<FromSidecar, ToSidecar>;
/// The sidecar's end.
pub type SidecarCodec = FrameCodec<ToSidecar, FromSidecar>;

impl<In, Out> Default for FrameCodec<In, Out> {
    fn default() -> Self {
        Self::with_line_max(LINE_BYTES_MAX)
    }
}

impl<In, Out> FrameCodec<In, Out> {
    /// Reads lines of so many bytes at most.
    pub fn with_line_max(bytes: usize) -> Self {
        Self { lines: LinesCodec::new_with_max_length(bytes), types: PhantomData }
    }
}

impl<In: DeserializeOwned, Out> Decoder for FrameCodec<In, Out> {
    type Item = In;
    type Error = FeedError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<In>, FeedError> {
        let line = self.lines.decode(bytes).map_err(|error| match error {
            LinesCodecError::MaxLineLengthExceeded => FeedError::LineTooLong(self.lines.max_length()),
            LinesCodecError::Io(error) => FeedError::Io(error),
        })?;
        Ok(line.map(|line| serde_json::from_str(&line)).transpose()?)
    }
}

impl<In, Out: Serialize> Encoder<Out> for FrameCodec<In, Out> {
    type Error = FeedError;

    fn encode(&mut self, frame: Out, bytes: &mut BytesMut) -> Result<(), FeedError> {
        let line = serde_json::to_string(&frame)?;
        // The other side would refuse it, and could not say what it is about.
        if line.len() > LINE_BYTES_MAX {
            return Err(FeedError::LineTooLong(LINE_BYTES_MAX));
        }
        bytes.reserve(line.len() + 1);
        bytes.put_slice(line.as_bytes());
        bytes.put_u8(b'\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<Option<ToSidecar>, FeedError> {
        SidecarCodec::default().decode(&mut BytesMut::from(text))
    }

    #[test]
    fn a_frame_needs_its_newline() {
        assert!(decode("{\"leave\":{}}").unwrap().is_none());
        assert_eq!(decode("{\"leave\":{}}\n").unwrap(), Some(ToSidecar::Leave {}));
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_over_it_is_refused() {
        let padded = |n: usize| format!("{{\"leave\":{{}}{}}}\n", " ".repeat(n - 12));
        assert!(decode(&padded(LINE_BYTES_MAX)).is_ok());
        assert!(matches!(decode(&padded(LINE_BYTES_MAX + 1)), Err(FeedError::LineTooLong(LINE_BYTES_MAX))));
    }

    #[test]
    fn what_is_said_has_the_same_limit() {
        let said = |length: usize| {
            let frame = FromSidecar::Refused { why: "x".repeat(length - "{'refused':{'why':''}}".len()) };
            SidecarCodec::default().encode(frame, &mut BytesMut::new())
        };
        assert!(said(LINE_BYTES_MAX).is_ok());
        assert!(matches!(said(LINE_BYTES_MAX + 1), Err(FeedError::LineTooLong(LINE_BYTES_MAX))));
    }

    #[test]
    fn the_longest_receipt_is_within_its_limit() {
        let applied = |count| Applied {
            role: "r".repeat(crate::name::NAME_BYTES_MAX).parse().unwrap(),
            generation: u64::MAX,
            draining: vec![
                InFlight {
                    instance: u64::MAX,
                    addr: Some("[1111:1111:1111:1111:1111:1111:1111:1111]:65535".parse().unwrap()),
                    in_flight: u32::MAX
                };
                count
            ],
        };
        let length = |count| serde_json::to_string(&ToSidecar::Applied(applied(count))).unwrap().len();
        assert!(length(crate::table::ENDPOINTS_MAX) < RECEIPT_BYTES_MAX);
    }

    #[test]
    fn an_endless_line_is_refused_before_it_is_complete() {
        let endless = "x".repeat(LINE_BYTES_MAX + 1);
        assert!(matches!(decode(&endless), Err(FeedError::LineTooLong(_))));
    }

    #[test]
    fn a_receipt_tells_endpoints_of_one_instance_apart_and_an_older_one_means_them_all() {
        let applied = |draining: &str| {
            let text =
                format!("{{\"applied\":{{\"role\":\"app\",\"generation\":7,\"draining\":[{draining}]}}}}\n");
            let Ok(Some(ToSidecar::Applied(applied))) = decode(&text) else { panic!("{text}") };
            applied.draining
        };
        let id = |addr: &str| EndpointId { instance: 1, addr: addr.parse().unwrap() };
        let (one, two) = (id("10.0.0.1:80"), id("10.0.0.2:80"));
        let newer = applied(r#"{"instance":1,"addr":"10.0.0.1:80","in_flight":3}"#);
        assert_eq!(newer, [InFlight::new(one, 3)]);
        assert!(newer[0].is_of(one) && !newer[0].is_of(two));
        let older = applied(r#"{"instance":1,"in_flight":3}"#);
        assert!(older[0].is_of(one) && older[0].is_of(two));
        assert!(!older[0].is_of(EndpointId { instance: 2, ..one }));
    }

    #[test]
    fn a_hello_that_does_not_ask_for_ticket_keys_is_as_it_was_before_there_were_any() {
        let hello = |tickets| ConsumerHello { version: VERSION, name: "a".into(), roles: vec![], tickets };
        let text = serde_json::to_string(&ToSidecar::Hello(hello(false))).unwrap();
        assert_eq!(text, r#"{"hello":{"version":1,"name":"a","roles":[]}}"#);
        assert_eq!(decode(&(text + "\n")).unwrap(), Some(ToSidecar::Hello(hello(false))));
    }

    #[test]
    fn an_unknown_frame_is_malformed_and_says_what_is_known() {
        let error = decode("{\"subscribe\":{}}\n").unwrap_err().to_string();
        assert!(error.contains("hello"), "{error}");
    }
}
