//! A client's connection: what happens on it from its first byte to its last.

mod attempt;
mod attempts;
mod awaited;
mod bound;
pub(crate) mod client;
mod ending;
pub(crate) mod exchange;
pub(crate) mod http;
mod noting;
mod patience;
mod request;
mod response;
mod shelf;
pub(crate) mod tcp;
mod timing;
mod trace;
