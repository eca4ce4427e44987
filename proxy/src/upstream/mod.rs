//! Upstreams: the endpoints of a role table with the live state that a proxy keeps of each.
//!
//! ```text
//! feed ─▶ follow ─▶ Directory ──(watch)──▶ Roster of each worker ─▶ pick ─▶ Lease
//! ```
//!
//! An [`Endpoint`](directory::Endpoint) is shared by all workers: counters only. An [`Upstream`](roster::Upstream) is one
//! worker's view of it with that worker's idle connections. Both live as long as the instance is listed, so that a
//! new table costs unchanged upstreams nothing.

mod budget;
pub(crate) mod directory;
pub(crate) mod follow;
pub(crate) mod hash;
pub(crate) mod health;
pub(crate) mod pick;
mod pool;
mod queue;
pub(crate) mod roster;

pub(crate) use pool::is_quiet;
pub(crate) use queue::Ticket;
pub(crate) use roster::{Lease, Roster, Wanted};
