//! The proxy: HTTP/1 and TCP in front of the endpoints that a feed names.
//!
//! ```text
//! client bytes → accept → session → http1 (head → framing → rewrite) → upstream (pick → lease) → transfer → reuse or close
//!                                                                        ▲
//!                                                     feed → follow → directory → roster
//! ```
//!
//! One thread a core, each with its own listener, buffers, idle connections and deadlines; workers share the directory's
//! snapshots and counters and nothing else. [`http1`] is pure: it does not know that sockets exist.

mod accept;
mod buffer;
pub mod config;
mod deadline;
pub mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod http1;
pub mod limits;
mod log;
mod pipe;
mod run;
mod session;
mod socket;
mod stats;
mod upstream;
mod worker;

pub use config::Args;
pub use run::{Proxy, run};
