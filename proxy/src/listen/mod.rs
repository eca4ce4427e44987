//! What comes on a connection before its protocol does: who the client is, by the word of a proxy in front, and which host a TLS client
//! wants.

pub mod client_hello;
pub(crate) mod doors;
pub(crate) mod greet;
pub(crate) mod handshakes;
pub mod proxy_header;
pub(crate) mod target;
pub(crate) mod unix;
