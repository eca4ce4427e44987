//! HTTP/1 as pure functions: bytes in, decisions out. Nothing here knows that sockets exist.
//!
//! ```text
//! bytes ──head──▶ fields ──framing──▶ body length ──rewrite──▶ pieces of the same bytes
//!                                        └──body──▶ pieces of what follows
//! ```
//!
//! The grammar is RFC 9112 without its leniencies: a message that two implementations might read differently is
//! refused, never repaired. Of an origin's oddities, those are taken that mean one thing to everybody. What is forwarded is
//! what was parsed: the original bytes, cut where something must not pass.

pub mod body;
pub mod changes;
pub mod date;
pub mod fields;
pub mod forwarded;
pub mod framing;
pub mod head;
pub mod layout;
pub mod pieces;
pub mod quoted;
pub mod reject;
pub mod request_id;
pub mod rewrite;
pub mod target;
pub mod trace_context;
pub mod trailers;
pub mod verb;
mod way;

pub use body::{Body, BodyKind};
pub use changes::{FieldChanges, PathChange};
pub use date::Date;
pub use fields::Fields;
pub use forwarded::Forwarding;
pub use framing::Framing;
pub use pieces::Pieces;
pub use reject::Reject;
pub use request_id::RequestId;
pub use trace_context::{SpanId, Trace, TraceId, Traceparent};
pub use trailers::Trailers;

/// Whether bytes already make a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parse<T> {
    /// They do.
    Done(T),
    /// More are needed.
    NeedMore,
}

/// By what a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Sealed by TLS.
    Https,
}

impl Scheme {
    /// What URLs call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of a URL that names none.
    pub fn default_port(self) -> &'static str {
        match self {
            Self::Http => "80",
            Self::Https => "443",
        }
    }
}

/// The version of a message. Others than these are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}
