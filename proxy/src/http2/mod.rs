//! HTTP/2, whose streams are exchanges of HTTP/1.1 in memory, so that routing, retries, limits and drains are the same: for clients,
//!
//! ```text
//! TLS ─▶ metered ─▶ h2 ─▶ stream ─▶ encode ─▶ memory ─▶ session (http1, route, pick, relay) ─▶ memory ─▶ decode ─▶ stream
//! ```
//!
//! and for upstreams of roles that speak it:
//!
//! ```text
//! session ─▶ memory ─▶ request ─▶ stream of a kept connection ─▶ response ─▶ memory ─▶ session
//! ```
//!
//! The frames, HPACK and flow control are those of the crate `h2`; what it is told to bear is in [`limits`](crate::limits).

pub(crate) mod connections;
mod decode;
mod encode;
mod exchange;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod goodbye;
mod interim;
mod listened;
mod meter;
mod metered;
mod origin;
#[cfg(test)]
mod properties;
mod request;
mod response;
mod rooms;
mod serve;
mod silence;

pub(crate) use serve::{Client, serve};
