//! The feed: what a sidecar tells the programs beside it, and what they answer.
//!
//! ```text
//! sidecar ── Table(role, generation, endpoints) ──▶ Subscriber ──▶ consumer (proxy, dns, front)
//!         ◀── Applied(role, generation, in flight of what is draining) ──
//! ```
//!
//! Newline-delimited JSON over a Unix stream socket, so that ten lines of any language can subscribe and a
//! person can read along with `socat`. Whole tables, never deltas: there is no gap to detect and nothing to
//! replay; the consumer compares, and what did not change keeps its connections.
//!
//! This crate knows roles, endpoints and frames. It knows no gossip, no HTTP and no DNS, and depends on none.
//!
//! Reading order: [`name`] → [`tag`] → [`route`] → [`table`] → [`load`] → [`event`] → [`ticket`] → [`frame`] → [`explain`] → [`subscriber`] → [`follow`] → [`ask`];
//! [`socket`], [`control`], [`report`], [`request`], [`recall`].

pub mod ask;
pub mod control;
pub mod event;
pub mod explain;
pub mod follow;
pub mod frame;
pub mod keys;
pub mod load;
mod member;
pub mod name;
pub mod protocol;
pub mod recall;
pub mod report;
pub mod request;
pub mod route;
pub mod socket;
pub mod stats;
pub mod subscriber;
pub mod table;
pub mod tag;
pub mod ticket;
pub mod time;

pub use frame::{FromSidecar, ToSidecar};
pub use name::Name;
pub use protocol::EndpointProtocol;
pub use route::{Route, Routes};
pub use table::{Endpoint, EndpointId, EndpointState, RoleTable};
pub use tag::{Tag, Tags};
