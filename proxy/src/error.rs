//! How a request can fail: which side, at which stage, why, and what the client is told.

use crate::http1::Reject;

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
    /// The upstream went away before it answered, and the request could not safely be sent again.
    UpstreamClosed,
    /// The upstream did not answer in time.
    ResponseTimeout,
}

impl Refusal {
    /// Those that are about no message.
    pub const OTHERS: [Self; 9] = [
        Self::HeaderTimeout,
        Self::BodyTimeout,
        Self::NoUpstream,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::UpstreamClosed,
        Self::ResponseTimeout,
        Self::QueueFull,
        Self::QueueTimeout,
    ];

    /// How many there are: the length of a table of counters.
    pub const COUNT: usize = 2 * Reject::ALL.len() + Self::OTHERS.len();

    /// Every one of them, so that counters and tests can enumerate them.
    pub fn all() -> impl Iterator<Item = Self> {
        let requests = Reject::ALL.into_iter().map(Self::Request);
        let responses = Reject::ALL.into_iter().map(Self::Response);
        requests.chain(responses).chain(Self::OTHERS)
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
            Self::UpstreamClosed => "upstream-closed",
            Self::ResponseTimeout => "response-timeout",
            Self::QueueFull => "queue-full",
            Self::QueueTimeout => "queue-timeout",
        }
    }

    /// The status line's code and phrase.
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Self::Request(reject) => {
                let phrase = match reject.status() {
                    405 => "Method Not Allowed",
                    413 => "Content Too Large",
                    414 => "URI Too Long",
                    431 => "Request Header Fields Too Large",
                    501 => "Not Implemented",
                    505 => "HTTP Version Not Supported",
                    _ => "Bad Request",
                };
                (reject.status(), phrase)
            }
            Self::HeaderTimeout | Self::BodyTimeout => (408, "Request Timeout"),
            Self::NoUpstream | Self::QueueFull | Self::QueueTimeout => (503, "Service Unavailable"),
            Self::Response(_) | Self::ConnectFailed | Self::UpstreamClosed => (502, "Bad Gateway"),
            Self::ConnectTimeout | Self::ResponseTimeout => (504, "Gateway Timeout"),
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
            Self::UpstreamClosed => format!("{role} closed the connection without an answer\n"),
            Self::ResponseTimeout => format!("{role} did not answer in time\n"),
        }
    }

    /// The whole response. `role` is who should have answered.
    pub fn response(self, role: &str, to_head: bool) -> String {
        let ((status, phrase), reason) = (self.status(), self.reason(role));
        let extra = match status {
            // RFC 9110 15.5.6: a 405 lists what is allowed.
            405 => "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n",
            503 => "Retry-After: 1\r\n",
            _ => "",
        };
        let length = reason.len();
        let body = if to_head { "" } else { &reason };
        format!(
            "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{extra}Connection: close\r\n\r\n{body}"
        )
    }
}

/// Why an attempt at an upstream failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptFailure {
    /// Refused, unreachable, reset while connecting.
    Connect,
    /// Not accepted in time.
    ConnectTimeout,
    /// Closed or reset before the first byte of its response.
    Closed,
}

impl AttemptFailure {
    pub(crate) fn refusal(self) -> Refusal {
        match self {
            Self::Connect => Refusal::ConnectFailed,
            Self::ConnectTimeout => Refusal::ConnectTimeout,
            Self::Closed => Refusal::UpstreamClosed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http1::Pieces;

    #[test]
    fn every_refusal_has_an_error_status_and_a_whole_response() {
        for refusal in Refusal::all() {
            assert!((400..600).contains(&refusal.status().0), "{refusal:?}");
            let text = refusal.response("appserver", false);
            let longest_name = "x".repeat(feed::name::NAME_BYTES_MAX);
            let longest = refusal.response(&longest_name, false);
            assert_eq!(
                Pieces::default().add(longest.as_bytes()),
                Ok(()),
                "it fits in what one message may add"
            );
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{text}");
            assert!(refusal.response("appserver", true).ends_with("\r\n\r\n"));
        }
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
