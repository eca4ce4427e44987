//! What a membership is told.

use std::{collections::BTreeMap, net::SocketAddr};

use feed::{EndpointId, ToSidecar, event::Outcome, explain::Evidence};

use crate::cluster::{advert::Follows, labels::Labels, peer::Peer, query::QueryId, trouble::Trouble};

/// What happens to a node.
#[derive(Debug)]
pub enum Input<'a> {
    /// Time has passed.
    Tick,
    /// A datagram came.
    Datagram(&'a [u8]),
    /// The exchange with this address that [`Effect::Sync`](crate::cluster::effect::Effect::Sync) asked for is over, well or badly.
    SyncEnded(SocketAddr),
    /// The addresses to announce to, own one excluded or not.
    Seeds(Vec<SocketAddr>),
    /// Addresses of members from before this start, to try while nobody else is known.
    Rejoin(Vec<SocketAddr>),
    /// The role's process answers its check, or no longer does.
    Serving(bool),
    /// It does not, for this reason.
    CheckFails(Trouble),
    /// The roles that consumers beside this sidecar follow.
    Follows(Follows),
    /// What the operator says of the node from now on.
    Labels(Labels),
    /// What those consumers have in flight at draining endpoints that they have stopped choosing.
    InFlight(BTreeMap<EndpointId, u32>),
    /// A lifeline ended without a word and its peer does not accept connections any more, or it refuses them.
    Dead(Peer),
    /// Somebody asks something on this connection; answered by
    /// [`Effect::Reply`](crate::cluster::effect::Effect::Reply).
    Question {
        /// The connection.
        to: u64,
        /// What.
        question: ToSidecar,
    },
    /// Whoever asked on this connection is gone.
    Withdrawn(u64),
    /// What came of an [`Effect::Asked`](crate::cluster::effect::Effect::Asked); none: nothing yet, and the asker will ask again.
    Outcome(QueryId, Option<Outcome>),
    /// Nobody is found, and why.
    Alone(String),
    /// Drain, and stay until asked to leave.
    Drain,
    /// Drain and leave.
    Leave,
    /// Leave without waiting any longer.
    LeaveNow,
    /// The role's process is gone: leave without draining. It has failed, unless the node was leaving.
    RoleDied,
}

impl Input<'_> {
    /// What it is to whoever asks why a member is down.
    pub(crate) fn evidence(&self) -> Evidence {
        match self {
            Self::Datagram(_) => Evidence::Gossip,
            Self::Dead(_) => Evidence::Lifeline,
            _ => Evidence::Itself,
        }
    }
}
