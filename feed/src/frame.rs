//! Frames: one JSON object a line, in both directions, and the codec that bounds them.
//!
//! The shapes here are the protocol; `feed/PROTOCOL.md` shows them to readers of other languages.

use std::{marker::PhantomData, net::SocketAddr};

use bytes::BytesMut;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_util::codec::{Decoder, Encoder, LinesCodec, LinesCodecError};

use crate::{
    Name, RoleTable, Tags,
    event::{Answer, Query, Tally, UserEvent},
    explain::Explanation,
    keys::{KeysAt, KeysOrder},
    stats::Stats,
};

/// Version of the protocol; the other side's must be the same.
pub const VERSION: u32 = 1;

/// Longest line in bytes, either way. A table of [`crate::table::ENDPOINTS_MAX`] endpoints with names of 63 bytes
/// and the longest tags takes about 6 MB. The codec refuses a longer line before it allocates room for it.
pub const LINE_BYTES_MAX: usize = 8 << 20;

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
    /// Leave the cluster: what SIGTERM does.
    Leave {},
    /// Ask what was sent, received and dropped.
    Stats {},
    /// Have every member do something with its keys.
    Keys(KeysOrder),
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
    /// The answer to `tags`: the node's own.
    Tags(Tags),
    /// The answer to `leave`.
    Leaving {},
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
    /// The endpoint.
    pub instance: u64,
    /// Requests or connections under way.
    pub in_flight: u32,
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

/// A member of the cluster as one sidecar sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: Name,
    /// Its role.
    pub role: Name,
    /// Its gossip address.
    pub addr: SocketAddr,
    /// The port of its role's process, 0 for none.
    pub port: u16,
    /// Its state.
    pub state: MemberState,
    /// When it started, in milliseconds since the Unix epoch.
    pub instance: u64,
    /// What its operator says of it.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
}

/// The life of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// In the cluster; its role's process does not answer its check yet, or no longer.
    Joining,
    /// Serves.
    Ready,
    /// Takes nothing new and will leave.
    Draining,
    /// Said goodbye.
    Left,
    /// Vanished.
    Failed,
}

impl MemberState {
    /// The word that the protocol, the log and the command line use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Left => "left",
            Self::Failed => "failed",
        }
    }
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
    /// A line over [`LINE_BYTES_MAX`].
    #[error("feed line longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
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

impl From<LinesCodecError> for FeedError {
    fn from(error: LinesCodecError) -> Self {
        match error {
            LinesCodecError::MaxLineLengthExceeded => Self::LineTooLong,
            LinesCodecError::Io(error) => Self::Io(error),
        }
    }
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
        Self { lines: LinesCodec::new_with_max_length(LINE_BYTES_MAX), types: PhantomData }
    }
}

impl<In: DeserializeOwned, Out> Decoder for FrameCodec<In, Out> {
    type Item = In;
    type Error = FeedError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<In>, FeedError> {
        Ok(match self.lines.decode(bytes)? {
            Some(line) => Some(serde_json::from_str(&line)?),
            None => None,
        })
    }
}

impl<In, Out: Serialize> Encoder<Out> for FrameCodec<In, Out> {
    type Error = FeedError;

    fn encode(&mut self, frame: Out, bytes: &mut BytesMut) -> Result<(), FeedError> {
        Ok(self.lines.encode(serde_json::to_string(&frame)?, bytes)?)
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
        assert!(matches!(decode(&padded(LINE_BYTES_MAX + 1)), Err(FeedError::LineTooLong)));
    }

    #[test]
    fn an_endless_line_is_refused_before_it_is_complete() {
        let endless = "x".repeat(LINE_BYTES_MAX + 1);
        assert!(matches!(decode(&endless), Err(FeedError::LineTooLong)));
    }

    #[test]
    fn an_unknown_frame_is_malformed_and_says_what_is_known() {
        let error = decode("{\"subscribe\":{}}\n").unwrap_err().to_string();
        assert!(error.contains("hello"), "{error}");
    }
}
