//! What one sidecar knows of a member, and why it believes it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{Name, member::Member};

/// Where a belief comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The node that answers says it of itself.
    Itself,
    /// The member told this node.
    Announcement,
    /// Another member passed it on.
    Gossip,
    /// It was in another's whole state.
    Sync,
    /// A lifeline to the member ended, and it accepts no connection any more.
    Lifeline,
    /// It did not answer probes and did not object to being suspected.
    Probe,
    /// An operator had it forgotten.
    ForceLeave,
}

/// The answer to `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The node that answers.
    pub by: Name,
    /// The member as it was last known, with its state.
    pub member: Member,
    /// Since when this node has known that state, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// And by what.
    pub evidence: Evidence,
    /// Its newest advert, if one came.
    pub advert: Option<KnownAdvert>,
    /// How long ago it last sent this node a gossip datagram, in milliseconds.
    pub heard_ms_ago: Option<u64>,
    /// Whether this node holds a lifeline to it.
    pub lifeline: bool,
    /// Members that claim the same name and do not have it, because they started earlier.
    pub twins: Vec<Twin>,
    /// How its drain stands, while it drains.
    pub drain: Option<Drain>,
    /// Why the node that answers, if it is about itself, has found nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<String>,
}

/// What is known of an advert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownAdvert {
    /// Grows with each change.
    pub version: u32,
    /// How it came.
    pub via: Evidence,
    /// The member that passed it on.
    pub relay: Option<SocketAddr>,
}

/// A member that claims a name in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    /// Its gossip address.
    pub addr: SocketAddr,
    /// When it started, in milliseconds since the Unix epoch.
    pub instance: u64,
}

/// How a drain stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// What the consumers beside the answering node have in flight at it; none: they have not all stopped choosing it, or
    /// there are none.
    pub in_flight: Option<u32>,
    /// The consumers that it waits for, which it alone knows.
    pub held_up_by: Vec<Name>,
}
