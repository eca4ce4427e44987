//! What a membership wants done.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use feed::{FromSidecar, Name, RoleTable, event::UserEvent, frame::Member};

use crate::cluster::{
    peer::Peer,
    query::{Asked, QueryId},
};

/// What the driver is to do.
#[derive(Debug)]
pub enum Effect {
    /// Send a datagram.
    Send {
        /// To here.
        to: SocketAddr,
        /// This.
        bytes: Bytes,
    },
    /// Exchange states with this sidecar by stream: see
    /// [`Membership::encode_summary`](crate::cluster::membership::Membership::encode_summary).
    Sync {
        /// This one.
        with: Peer,
    },
    /// Hold lifelines to these peers and to no others.
    Lifelines(Vec<Peer>),
    /// These tables changed.
    Tables(Vec<RoleTable>),
    /// From now on the tables are complete.
    InTouch,
    /// Answer a connection.
    Reply {
        /// This one.
        to: u64,
        /// So.
        frame: FromSidecar,
        /// And there is no more to be said.
        is_last: bool,
    },
    /// An event was heard, for the first time.
    Event(UserEvent),
    /// Answer another's query, by an [`Input::Outcome`](crate::cluster::input::Input::Outcome).
    Asked {
        /// Which.
        id: QueryId,
        /// What is asked.
        asked: Asked,
    },
    /// A member changed.
    Change(Member),
    /// Several nodes claim one name, and not for a moment only.
    Twins {
        /// The name.
        name: Name,
        /// Where they are; the last has the name.
        addrs: Vec<SocketAddr>,
    },
    /// No consumer chooses this node any more, or the drain timed out.
    Drained {
        /// How long it took.
        after: Duration,
        /// The consumers that had not let go at the deadline.
        held_up_by: Vec<Name>,
    },
    /// The farewells are out; the process may end.
    Left,
}
