//! Upstreams: the endpoints of a role table with the live state that a proxy keeps of each.
//!
//! ```text
//! feed ─▶ follow ─▶ Directory ──(watch)──▶ Roster of each worker ─▶ pick ─▶ Lease
//! ```
//!
//! An [`Endpoint`](directory::Endpoint) is shared by all workers: counters only. An [`Upstream`] is one
//! worker's view of it with that worker's idle connections. Both live as long as the endpoint is listed, so that a
//! new table costs unchanged upstreams nothing.

pub(crate) mod alias;
pub(crate) mod attention;
mod avoided;
mod budget;
pub(crate) mod claim;
pub(crate) mod dice;
pub(crate) mod directory;
pub(crate) mod follow;
pub(crate) mod hash;
pub(crate) mod health;
pub(crate) mod pick;
mod pool;
mod queue;
mod ramp;
pub(crate) mod roster;
mod slots;

pub(crate) use avoided::Avoided;
pub(crate) use pool::Pool;
pub(crate) use queue::Ticket;
pub(crate) use roster::{Lease, Roster, Upstream, Wanted};
