//! The sidecar: gossip, the feed, and supervision of one role process.
//!
//! ```text
//! gate → packet → membership (foca, adverts, sync, drain) → role tables → publish (feed)
//!                       ▲                                        │
//!          seeds, check, supervise ───────── driver ─────────────┘
//! ```
//!
//! [`membership::Membership`] is the whole state machine. It takes inputs and the time and returns effects: no
//! socket, no clock and no global randomness, so that the same code runs in tests with a virtual clock. `driver` is the one
//! place with sockets, timers and signals.
//!
//! What is *not* here: anything about HTTP or DNS service. Only [`member_id`], [`advert`], [`membership`]
//! and the files that it alone uses name foca.

pub mod access;
pub mod advert;
mod broadcast;
mod check;
pub mod config;
mod drain;
mod driver;
pub mod drops;
pub mod effect;
mod event;
mod explain;
mod fnv;
mod footprint;
pub mod gate;
pub mod handler;
mod health;
pub mod input;
pub mod key_file;
mod key_orders;
pub mod keyring;
pub mod lifeline;
mod link;
pub mod member_id;
pub mod membership;
pub mod packet;
mod picture;
mod publish;
pub mod query;
pub mod replay;
mod role_tables;
pub mod seal;
pub mod seeds;
mod snapshot;
mod stream;
pub mod supervise;
mod swim;
mod sync;
mod timers;
mod verdicts;

pub use config::Args;
pub use driver::run;
