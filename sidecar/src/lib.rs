//! The sidecar: gossip, the feed, and supervision of one role process.
//!
//! ```text
//! gate → packet → membership (foca, adverts, sync, drain) → role tables → publish (feed)
//!                       ▲                                        │
//!          seeds, check, supervise ───────── driver ─────────────┘
//! ```
//!
//! * [`wire`]: what travels between nodes, byte by byte, and what is refused of it.
//! * [`cluster`]: what a node knows of the others, and what follows from that. [`cluster::membership::Membership`] is the whole state
//!   machine. It takes inputs and the time and returns effects.
//! * [`node`]: sockets, timers, signals, files and the role's process. `driver` runs the state machine.
//!
//! Each uses those above it alone. The first two have no socket, no clock and no global randomness, so that the same code runs in tests
//! with a virtual clock.
//!
//! What is *not* here: anything about HTTP or DNS service. Only [`cluster::member_id`], `codec`, [`cluster::advert`],
//! [`cluster::membership`], the files that it alone uses and `wire::swim` name foca.

pub mod cluster;
pub mod config;
pub mod node;
pub mod wire;

pub use config::Args;
pub use node::driver::{admin_token, run};
