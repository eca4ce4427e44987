//! A client's connection: what happens on it from its first byte to its last.

mod attempt;
pub(crate) mod exchange;
pub(crate) mod http;
mod request;
mod response;
pub(crate) mod tcp;
mod trace;
pub(crate) mod transfer;
