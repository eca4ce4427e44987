//! How a request can fail: which side, at which stage, why, and what the client is told.

mod tls;

use std::io;

use rustix::io::Errno;

use crate::http1::{Date, Reject, RequestId};
pub use tls::TlsFailure;

/// An answer of our own instead of an upstream's. Each has one status, one counter and one word in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request breaks the rules.
    Request(Reject),
    /// The upstream's response does.
    Response(Reject),
    /// The client did not complete its head in time.
    HeaderTimeout,
    /// The client stopped sending its body.
    BodyTimeout,
    /// Nobody serves the role.
    NoUpstream,
    /// All upstreams are at their limit, and as many requests as may wait do.
    QueueFull,
    /// All upstreams were at their limit for too long.
    QueueTimeout,
    /// No upstream accepted a connection.
    ConnectFailed,
    /// No upstream accepted a connection in time.
    ConnectTimeout,
    /// An upstream accepted a connection and does not speak the protocol that its role is said to speak.
    HandshakeFailed,
    /// An upstream that was asked to switch protocols for the client of a stream answered with another success.
    NotSwitched,
    /// There is no TLS connection to an upstream whose role is said to speak it.
    Tls(TlsFailure),
    /// The upstream went away before it answered, and the request could not safely be sent again.
    UpstreamClosed,
    /// The upstream did not answer in time.
    ResponseTimeout,
    /// This proxy had no descriptors or ports left for a connection to an upstream, for as long as a request may wait for one.
    Shortage,
    /// The route is not for this client.
    Forbidden,
    /// The client asks more often than the route allows.
    RateLimited,
    /// The client is to ask elsewhere, this time.
    TemporaryRedirect,
    /// The client is to ask elsewhere from now on.
    PermanentRedirect,
    /// HTTP without TLS at a port that speaks TLS.
    PlainHttp,
}

impl Refusal {
    /// Those that are about no message.
    pub const OTHERS: [Self; 17] = [
        Self::HeaderTimeout,
        Self::BodyTimeout,
        Self::NoUpstream,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::UpstreamClosed,
        Self::ResponseTimeout,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Shortage,
        Self::Forbidden,
        Self::RateLimited,
        Self::TemporaryRedirect,
        Self::PermanentRedirect,
        Self::PlainHttp,
        Self::HandshakeFailed,
        Self::NotSwitched,
    ];

    /// How many there are: the length of a table of counters.
    pub const COUNT: usize = 2 * Reject::ALL.len() + Self::OTHERS.len() + TlsFailure::ALL.len();

    /// Every one of them, so that counters and tests can enumerate them.
    pub fn all() -> impl Iterator<Item = Self> {
        let requests = Reject::ALL.into_iter().map(Self::Request);
        let responses = Reject::ALL.into_iter().map(Self::Response);
        requests.chain(responses).chain(Self::OTHERS).chain(TlsFailure::ALL.map(Self::Tls))
    }

    /// It is an answer that a route's rules give, and nothing is wrong with the connection.
    pub(crate) fn is_by_rule(self) -> bool {
        matches!(
            self,
            Self::Forbidden | Self::RateLimited | Self::TemporaryRedirect | Self::PermanentRedirect
        )
    }

    /// Position in a table of counters.
    pub fn index(self) -> usize {
        const OTHERS: usize = 2 * Reject::ALL.len();
        match self {
            Self::Request(reject) => reject as usize,
            Self::Response(reject) => Reject::ALL.len() + reject as usize,
            Self::HeaderTimeout => OTHERS,
            Self::BodyTimeout => OTHERS + 1,
            Self::NoUpstream => OTHERS + 2,
            Self::ConnectFailed => OTHERS + 3,
            Self::ConnectTimeout => OTHERS + 4,
            Self::UpstreamClosed => OTHERS + 5,
            Self::ResponseTimeout => OTHERS + 6,
            Self::QueueFull => OTHERS + 7,
            Self::QueueTimeout => OTHERS + 8,
            Self::Shortage => OTHERS + 9,
            Self::Forbidden => OTHERS + 10,
            Self::RateLimited => OTHERS + 11,
            Self::TemporaryRedirect => OTHERS + 12,
            Self::PermanentRedirect => OTHERS + 13,
            Self::PlainHttp => OTHERS + 14,
            Self::HandshakeFailed => OTHERS + 15,
            Self::NotSwitched => OTHERS + 16,
            Self::Tls(failure) => OTHERS + Self::OTHERS.len() + failure as usize,
        }
    }

    /// What it is called in logs and counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::Request(reject) => reject.word(),
            Self::Response(reject) => reject.response_word(),
            Self::HeaderTimeout => "header-timeout",
            Self::BodyTimeout => "body-timeout",
            Self::NoUpstream => "no-upstream",
            Self::ConnectFailed => "connect-failed",
            Self::ConnectTimeout => "connect-timeout",
            Self::HandshakeFailed => "handshake-failed",
            Self::NotSwitched => "not-switched",
            Self::Tls(failure) => failure.word(),
            Self::UpstreamClosed => "upstream-closed",
            Self::ResponseTimeout => "response-timeout",
            Self::QueueFull => "queue-full",
            Self::QueueTimeout => "queue-timeout",
            Self::Shortage => "shortage",
            Self::Forbidden => "forbidden",
            Self::RateLimited => "rate-limited",
            Self::PlainHttp => "plain-http",
            Self::TemporaryRedirect => "temporary-redirect",
            Self::PermanentRedirect => "permanent-redirect",
        }
    }

    /// The status line's code and phrase.
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Self::Request(reject) => {
                let phrase = match reject.status() {
                    200 => "OK",
                    404 => "Not Found",
                    405 => "Method Not Allowed",
                    413 => "Content Too Large",
                    414 => "URI Too Long",
                    421 => "Misdirected Request",
                    431 => "Request Header Fields Too Large",
                    501 => "Not Implemented",
                    505 => "HTTP Version Not Supported",
                    _ => "Bad Request",
                };
                (reject.status(), phrase)
            }
            Self::HeaderTimeout | Self::BodyTimeout => (408, "Request Timeout"),
            Self::NoUpstream | Self::QueueFull | Self::QueueTimeout | Self::Shortage => {
                (503, "Service Unavailable")
            }
            Self::Response(_)
            | Self::ConnectFailed
            | Self::HandshakeFailed
            | Self::NotSwitched
            | Self::Tls(_)
            | Self::UpstreamClosed => (502, "Bad Gateway"),
            Self::ConnectTimeout | Self::ResponseTimeout => (504, "Gateway Timeout"),
            Self::Forbidden => (403, "Forbidden"),
            Self::RateLimited => (429, "Too Many Requests"),
            Self::TemporaryRedirect => (307, "Temporary Redirect"),
            Self::PermanentRedirect => (308, "Permanent Redirect"),
            Self::PlainHttp => (400, "Bad Request"),
        }
    }

    /// Why, in a line for the client. `role` is who should have answered.
    pub fn reason(self, role: &str) -> String {
        match self {
            Self::Request(reject) => format!("{reject}\n"),
            Self::Response(reject) => format!("the response of {role} was refused: {reject}\n"),
            Self::HeaderTimeout => "the request's head did not come in time\n".to_owned(),
            Self::BodyTimeout => "the request's body did not come in time\n".to_owned(),
            Self::NoUpstream => format!("no {role} is ready\n"),
            Self::QueueFull => format!("every {role} is at its limit, and no more requests may wait\n"),
            Self::QueueTimeout => format!("every {role} was at its limit for too long\n"),
            Self::ConnectFailed => format!("no {role} accepts connections\n"),
            Self::ConnectTimeout => format!("no {role} accepted a connection in time\n"),
            Self::HandshakeFailed => format!("{role} does not speak the protocol that it should\n"),
            Self::NotSwitched => format!("{role} has not switched protocols\n"),
            Self::Tls(failure) => failure.reason(role),
            Self::UpstreamClosed => format!("{role} closed the connection without an answer\n"),
            Self::ResponseTimeout => format!("{role} did not answer in time\n"),
            Self::Forbidden => "this is not for you\n".to_owned(),
            Self::RateLimited => "too many requests\n".to_owned(),
            Self::PlainHttp => "this port speaks TLS: use https://\n".to_owned(),
            Self::TemporaryRedirect | Self::PermanentRedirect => "it is elsewhere\n".to_owned(),
            Self::Shortage => format!("the proxy has no descriptors or ports left to connect to {role}\n"),
        }
    }

    /// The whole response.
    pub fn response(self, told: Told<'_>) -> String {
        let ((status, phrase), reason) = (self.status(), self.reason(told.role));
        let extra = match status {
            // RFC 9110 15.5.6 and 9.3.7: a 405 lists what is allowed, and so does an answer to OPTIONS.
            200 | 405 => "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n",
            429 | 503 => "Retry-After: 1\r\n",
            _ => "",
        };
        let location = told.location.map(|there| format!("Location: {there}\r\n")).unwrap_or_default();
        let id = told.request_id.map(|id| format!("X-Request-ID: {id}\r\n")).unwrap_or_default();
        let close = if told.is_last { "Connection: close\r\n" } else { "" };
        let (date, length) = (told.date, reason.len());
        let body = if told.to_head { "" } else { &reason };
        format!(
            "HTTP/1.1 {status} {phrase}\r\nDate: {date}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{extra}{location}{id}{close}\r\n{body}"
        )
    }
}

/// What an answer of our own is made of besides.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// Who should have answered.
    pub role: &'a str,
    /// The request was HEAD.
    pub to_head: bool,
    /// When.
    pub date: &'a Date,
    /// Where the client is sent.
    pub location: Option<&'a str>,
    /// What the request is called, if it is called anything.
    pub request_id: Option<&'a RequestId>,
    /// The connection is closed then.
    pub is_last: bool,
}

/// Why an attempt at an upstream failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptFailure {
    /// Refused, unreachable, reset while connecting: nothing was sent.
    Connect,
    /// Not accepted in time: nothing was sent.
    ConnectTimeout,
    /// It is there and does not speak the protocol that it should: nothing was sent.
    Handshake,
    /// It is there and does not speak TLS, or is not whom it should be: nothing was sent.
    Tls(TlsFailure),
    /// The upstream has said that it did not look at the request (RFC 9113 8.7).
    Unprocessed,
    /// No descriptor or memory for a connection to anybody: our own shortage, and nobody else's fault.
    Descriptors,
    /// The queue of a Unix socket is full, and the kernel lets nobody wait for it to get shorter (connect(2)): nothing was sent.
    Full,
    /// No port for another connection to this address: our own shortage as well.
    Ports,
    /// A connection that has served others was closed or reset before the first byte of a response: the upstream may just have
    /// closed what was idle.
    Stale,
    /// A new connection was.
    Closed,
    /// The upstream has answered neither the request nor a ping on its connection.
    Silent,
}

impl AttemptFailure {
    /// Of a connection that could not be made.
    pub(crate) fn of_connect(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ADDRNOTAVAIL) => Self::Ports,
            Some(Errno::AGAIN) => Self::Full,
            _ if is_own_shortage(error) => Self::Descriptors,
            _ => Self::Connect,
        }
    }

    /// What the upstream is to answer for.
    pub(crate) fn fault(self) -> Option<Fault> {
        match self {
            Self::Connect | Self::Handshake | Self::Tls(_) => Some(Fault::Refused),
            Self::ConnectTimeout => Some(Fault::AcceptTimeout),
            Self::Closed => Some(Fault::Closed),
            Self::Silent => Some(Fault::ResponseTimeout),
            Self::Stale | Self::Unprocessed | Self::Descriptors | Self::Ports | Self::Full => None,
        }
    }

    /// What it is called where attempts are told.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect-failed",
            Self::ConnectTimeout => "connect-timeout",
            Self::Handshake => "handshake-failed",
            Self::Tls(failure) => failure.word(),
            Self::Unprocessed => "unprocessed",
            Self::Descriptors => "no-descriptors",
            Self::Full => "socket-full",
            Self::Ports => "no-ports",
            Self::Stale => "stale-connection",
            Self::Closed => "closed",
            Self::Silent => "silent",
        }
    }

    pub(crate) fn refusal(self) -> Refusal {
        match self {
            Self::Connect | Self::Full => Refusal::ConnectFailed,
            Self::ConnectTimeout => Refusal::ConnectTimeout,
            Self::Descriptors | Self::Ports => Refusal::Shortage,
            Self::Handshake => Refusal::HandshakeFailed,
            Self::Silent => Refusal::ResponseTimeout,
            Self::Tls(failure) => Refusal::Tls(failure),
            Self::Stale | Self::Unprocessed | Self::Closed => Refusal::UpstreamClosed,
        }
    }
}

/// Whether it is this process, or its machine, that has run out of something.
pub(crate) fn is_own_shortage(error: &io::Error) -> bool {
    // NOSPC: the event loop watches as many descriptors as it may (epoll_ctl(2)).
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL, Errno::NOSPC];
    error.raw_os_error().is_some_and(|code| own.contains(&Errno::from_raw_os_error(code)))
}

/// What an upstream is to answer for: by these it is spared.
///
/// Not here is what may as well be somebody else's doing: a client that goes away or does not read, a kept connection that is closed as
/// it is used, which any server may do at any time (RFC 9112 9.3.1), and whatever this proxy itself is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It accepts no connections.
    Refused,
    /// It did not accept a connection in time.
    AcceptTimeout,
    /// It closed or reset a fresh connection before the first byte of its response.
    Closed,
    /// It did not answer in time.
    ResponseTimeout,
    /// Its response broke off, or stood still for too long.
    Truncated,
    /// Its response breaks the rules.
    Malformed,
    /// It answered with a 5xx status.
    ServerError,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::limits::{HEAD_BYTES_MAX, RESPONSE_BUFFER_BYTES};

    #[test]
    fn every_refusal_has_a_status_and_a_whole_response() {
        let date = Date::from_unix(0);
        let told = Told {
            role: "appserver",
            to_head: false,
            date: &date,
            location: None,
            request_id: None,
            is_last: true,
        };
        for refusal in Refusal::all() {
            let is_last_hop = refusal == Refusal::Request(Reject::LastForward);
            assert!((300..600).contains(&refusal.status().0) || is_last_hop, "{refusal:?}");
            let text = refusal.response(told);
            assert!(text.contains("\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"), "{text}");
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{text}");
            assert!(head.ends_with("Connection: close"), "{text}");
            assert!(refusal.response(Told { to_head: true, ..told }).ends_with("\r\n\r\n"));
        }
    }

    #[test]
    fn every_refusal_with_the_longest_location_fits_in_a_buffer() {
        let (date, role) = (Date::from_unix(0), "x".repeat(feed::name::NAME_BYTES_MAX));
        let location = "x".repeat(HEAD_BYTES_MAX + 2048);
        let id = RequestId::of_bits(1, 2);
        let told = Told {
            role: &role,
            to_head: false,
            date: &date,
            location: Some(&location),
            request_id: Some(&id),
            is_last: true,
        };
        assert!(Refusal::all().all(|refusal| refusal.response(told).len() <= RESPONSE_BUFFER_BYTES));
    }

    #[test]
    fn every_refusal_has_a_counter_and_a_word_of_its_own() {
        let counters: Vec<usize> = Refusal::all().map(Refusal::index).collect();
        assert_eq!(counters, (0..Refusal::COUNT).collect::<Vec<_>>());
        let words: BTreeSet<&str> = Refusal::all().map(Refusal::word).collect();
        assert_eq!(words.len(), Refusal::COUNT, "{words:?}");
        let is_kebab = |word: &&str| {
            let parts = word.split('-');
            parts
                .into_iter()
                .all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
        };
        assert!(words.iter().all(is_kebab), "{words:?}");
    }

    #[test]
    fn every_reject_is_listed_once() {
        let mut seen: Vec<u8> = Reject::ALL.iter().map(|reject| *reject as u8).collect();
        seen.dedup();
        assert_eq!(seen, (0..Reject::ALL.len()).map(|i| u8::try_from(i).unwrap()).collect::<Vec<_>>());
    }
}
