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
pub(crate) mod certificates;
#[doc(hidden)]
pub mod choosing;
pub mod config;
pub mod control;
mod deadline;
mod dial;
pub mod error;
mod explain;
mod flood;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod half;
mod held;
pub mod http1;
mod http2;
pub mod limits;
mod link;
pub mod listen;
mod load;
mod log;
mod metrics;
mod pipe;
mod placing;
mod proxy;
mod recall;
#[doc(hidden)]
pub mod recalling;
pub mod route;
#[doc(hidden)]
pub mod ruling;
mod run;
mod session;
mod socket;
mod stats;
mod stream;
mod udp;
mod upstream;
mod worker;

pub use config::Args;
pub use proxy::Proxy;
pub use run::run;
