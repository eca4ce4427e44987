//! HTTP/1 as pure functions: bytes in, decisions out. Nothing here knows that sockets exist.
//!
//! ```text
//! bytes ──head──▶ fields ──framing──▶ body length ──rewrite──▶ pieces of the same bytes
//!                                        └──body──▶ pieces of what follows
//! ```
//!
//! The grammar is RFC 9112 without its leniencies: a message that two implementations might read differently is
//! refused, never repaired. What is forwarded is what was parsed: the original bytes, cut where something must not pass.

pub mod body;
pub mod fields;
pub mod forwarded;
pub mod framing;
pub mod head;
pub mod pieces;
pub mod reject;
pub mod rewrite;

pub use body::{Body, BodyKind};
pub use fields::Fields;
pub use forwarded::Forwarding;
pub use framing::Framing;
pub use pieces::Pieces;
pub use reject::Reject;

/// Whether bytes already make a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parse<T> {
    /// They do.
    Done(T),
    /// More are needed.
    NeedMore,
}

/// The version of a message. Others than these are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}
