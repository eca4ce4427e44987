//! Heads as they are found: where their lines are, what was decided about them, and what they are rewritten by.

use std::net::IpAddr;

use super::{
    Date, FieldChanges, Forwarding, Framing, PathChange, Reject, RequestId, Scheme, Trace, Trailers, Version,
    fields::Field, verb::Verb,
};

/// What the method means to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Safe, and therefore repeatable: GET, OPTIONS.
    Safe,
    /// Safe, and its response has no body.
    Head,
    /// Not safe, but doing it twice is doing it once: PUT, DELETE.
    Idempotent,
    /// Everything else.
    Other,
}

impl Method {
    /// Whether sending the request twice is as good as once (RFC 9110 9.2.2).
    pub fn is_repeatable(self) -> bool {
        self != Self::Other
    }
}

/// What was decided about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead {
    /// Length of the head.
    pub bytes: usize,
    /// Its method.
    pub method: Method,
    /// The same as it is counted.
    pub verb: Verb,
    /// The client's version.
    pub version: Version,
    /// Its body.
    pub framing: Framing,
    /// The client will send another request on the same connection.
    pub keep_alive: bool,
    /// The client wants to leave HTTP.
    pub upgrade: bool,
    /// The client sends its body when it is told to, or when it has waited for long enough, or never.
    pub expects_continue: bool,
    /// The client authenticates by NTLM or Negotiate, and with that the connection to whoever answers: no other client may use it.
    pub is_connection_bound: bool,
    /// What its trailers must not say.
    pub trailers: Trailers,
}

/// What a request is told of this hop.
#[derive(Debug, Clone, Copy)]
pub struct Hop<'a> {
    /// The Host that an HTTP/1.0 request without one is forwarded with.
    pub host: &'a str,
    /// Who has sent it, if that is known.
    pub peer: Option<IpAddr>,
    /// By what.
    pub scheme: Scheme,
    /// It came as a stream of HTTP/2, and is written as HTTP/1.1 only here.
    pub is_http2: bool,
    /// What the upstream is told of that; by default nothing, and what the client has said of it passes.
    pub forwarding: Option<Forwarding>,
    /// The name of this hop in Via.
    pub via: Option<&'a str>,
    /// What its route changes of it.
    pub fields: Option<&'a FieldChanges>,
    /// The same of its path.
    pub path: Option<&'a PathChange>,
    /// What it is called from here on; by default what the client calls it passes.
    pub request_id: Option<&'a RequestId>,
    /// The trace that it is a part of from here on; by default what the client says of one passes.
    pub trace: Option<&'a Trace>,
}

impl<'a> Hop<'a> {
    /// One that says nothing of itself or the client.
    pub const fn plain(host: &'a str) -> Self {
        Self {
            host,
            peer: None,
            scheme: Scheme::Http,
            is_http2: false,
            forwarding: None,
            via: None,
            fields: None,
            path: None,
            request_id: None,
            trace: None,
        }
    }
}

/// What the response must take into account.
#[derive(Debug, Clone, Copy)]
pub struct Exchanged<'a> {
    /// The request was HEAD.
    pub to_head: bool,
    /// The client's version.
    pub client: Version,
    /// The client asked for an upgrade, and its request is over.
    pub upgrade: bool,
    /// The client's connection can be used again.
    pub keep_alive: bool,
    /// So much of the request is still to come that it is not waited for if the upstream closes its connection.
    pub is_rest_long: bool,
    /// The upstream has answered by HTTP/2.
    pub is_http2: bool,
    /// The name of this hop in Via.
    pub via: Option<&'a str>,
    /// What a response without a date is dated with; by default it is not.
    pub date: Option<&'a Date>,
    /// What its route changes of a final response.
    pub fields: Option<&'a FieldChanges>,
    /// The value of a Set-Cookie that a final response is given.
    pub cookie: Option<&'a [u8]>,
    /// What the client is told that its request was called.
    pub request_id: Option<&'a RequestId>,
}

/// What was decided about a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    /// Length of the head.
    pub bytes: usize,
    /// The status code.
    pub status: u16,
    /// Its body.
    pub framing: Framing,
    /// The upstream's connection can be used again.
    pub upstream_keep_alive: bool,
    /// The client's connection can be used again.
    pub client_keep_alive: bool,
    /// The upstream asks for NTLM or Negotiate, which authenticate the connection: no other client may use it.
    pub is_connection_bound: bool,
    /// What its trailers must not say.
    pub trailers: Trailers,
}

impl ResponseHead {
    /// 1xx other than 101: the real response is still to come.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// A head's fields and where their lines are.
pub(super) struct Layout<'a> {
    pub(super) buffer: &'a [u8],
    pub(super) fields: &'a [Field<'a>],
    /// Where the fields begin.
    pub(super) fields_start: usize,
    /// Length of the head; its last two bytes are the empty line.
    pub(super) bytes: usize,
    /// As it came.
    pub(super) version: Version,
}

impl Layout<'_> {
    /// Where the line of this field begins; one past the last field is the empty line.
    pub(super) fn line_start(&self, position: usize) -> usize {
        match self.fields.get(position) {
            Some(field) => offset(self.buffer, field.name.as_bytes()),
            None => self.bytes - 2,
        }
    }

    /// Every line ends in CR LF: httparse takes a bare LF, which others read as part of a value.
    pub(super) fn check_line_ends(&self) -> Result<(), Reject> {
        let crlf_before = |at: usize| at >= 2 && self.buffer.get(at - 2..at) == Some(b"\r\n");
        let lines = self.line_start(0) == self.fields_start
            && (0..=self.fields.len()).all(|position| crlf_before(self.line_start(position)))
            && crlf_before(self.bytes);
        if lines { Ok(()) } else { Err(Reject::BareLineEnd) }
    }
}

pub(super) fn offset(buffer: &[u8], part: &[u8]) -> usize {
    let offset = part.as_ptr() as usize - buffer.as_ptr() as usize;
    debug_assert!(offset <= buffer.len(), "httparse returned a slice of another buffer");
    offset
}

/// What a request asks for, by which it is routed.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The host of its target, or else that of Host; empty where it names none.
    pub host: &'a [u8],
    /// Its target without the host.
    pub target: &'a [u8],
    /// Its fields.
    pub(super) fields: &'a [Field<'a>],
}

impl<'a> Asked<'a> {
    /// The values of the fields of this name, in their order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }
}

/// `host[:port]` of RFC 3986 3.2, without user information, and without the comma that lists are made of.
pub(crate) fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text.iter().rposition(|&b| b == b':') {
        Some(colon) if !text.ends_with(b"]") => (&text[..colon], &text[colon + 1..]),
        _ => (text, &b""[..]),
    };
    let literal = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    let well_formed = match literal {
        Some(ip) => !ip.is_empty() && ip.iter().all(|b| b.is_ascii_hexdigit() || b":.".contains(b)),
        None => {
            !host.is_empty()
                && host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(b))
        }
    };
    well_formed && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}
