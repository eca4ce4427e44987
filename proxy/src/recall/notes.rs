//! What is noted of a request while it is under way: little, and at places where it is at hand.

use std::time::Duration;

use feed::{Name, Route};

use crate::{
    config::Address,
    error::{AttemptFailure, Refusal},
    http1::RequestId,
    limits::{LOG_METHOD_BYTES_MAX, RECALL_ATTEMPTS_COUNT_MAX, RECALL_HOST_BYTES_MAX, RECALL_PATH_BYTES_MAX},
    log::record::Text,
    upstream::{hash::field, pick::Picked},
};

/// What is noted of one request.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// It is kept even if nothing goes wrong.
    pub(crate) is_sampled: bool,
    pub(crate) line: Option<Line>,
    /// The last choice, until it is known what has come of it.
    pub(crate) picked: Option<Picked>,
    pub(crate) tries: Tries,
    pub(crate) times: Times,
    /// What the client is told instead of an upstream's answer.
    pub(crate) refusal: Option<Refusal>,
}

/// What a request asks for.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) method: Text<LOG_METHOD_BYTES_MAX>,
    pub(crate) host: Text<RECALL_HOST_BYTES_MAX>,
    pub(crate) path: Text<RECALL_PATH_BYTES_MAX>,
    /// The route that matches, and the next best.
    pub(crate) routes: [Option<Route>; 2],
}

/// How long phases took, where there were any.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) queue: Option<Duration>,
    pub(crate) connect: Option<Duration>,
    /// From the beginning on.
    pub(crate) first_byte: Option<Duration>,
}

/// Whom a request was given to: the first ones, and the last.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    all: [Option<Tried>; RECALL_ATTEMPTS_COUNT_MAX],
    count: usize,
    /// One has failed.
    pub(crate) has_failed: bool,
}

/// An upstream that a request was given to.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(crate) node: Name,
    pub(crate) addr: Address,
    pub(crate) instance: u64,
    pub(crate) picked: Picked,
    /// Of those that were drawn.
    pub(crate) names: [Option<Name>; 2],
    pub(crate) is_reused: bool,
    /// Why it failed, and when; none: how the request ended says it.
    pub(crate) failure: Option<(Failure, Duration)>,
}

/// Why a request was not answered by whom it was given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The attempt failed.
    Of(AttemptFailure),
    /// By the tables it would have waited in vain.
    Lost,
}

impl Failure {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Of(failure) => failure.word(),
            Self::Lost => "lost",
        }
    }
}

impl Notes {
    /// Begins anew.
    pub(crate) fn reset(&mut self) {
        (self.is_sampled, self.line, self.picked, self.refusal) = (false, None, None, None);
        self.times = Times::default();
        if self.tries.count > 0 {
            self.tries = Tries::default();
        }
    }

    /// The request has this id.
    #[inline]
    pub(crate) fn begin(&mut self, id: &RequestId) {
        self.is_sampled = feed::recall::is_sampled(id.as_str().as_bytes());
    }

    /// Takes what it asks for from what has come, be it good or not. Once: later there may be less of it.
    pub(crate) fn note_line(
        &mut self,
        received: &[u8],
        routes_of: impl FnOnce(&[u8], &[u8]) -> [Option<Route>; 2],
    ) {
        if self.line.is_some() {
            return;
        }
        let end = received.iter().position(|byte| b"\r\n".contains(byte)).unwrap_or(received.len());
        let mut words = received[..end].split(|&byte| byte == b' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
        let host = field(received, "host").unwrap_or_default();
        self.line = Some(Line {
            method: Text::new(method),
            host: Text::new(host),
            path: Text::new(path),
            routes: routes_of(host, target),
        });
    }
}

impl Tries {
    /// Adds one; where there is no room left, it takes the place of the last.
    pub(crate) fn push(&mut self, tried: Tried) {
        self.has_failed |= tried.failure.is_some();
        self.all[self.count.min(RECALL_ATTEMPTS_COUNT_MAX - 1)] = Some(tried);
        self.count += 1;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Tried> {
        self.all.iter().flatten()
    }

    /// How many are left out before the last.
    pub(crate) fn untold(&self) -> usize {
        self.count.saturating_sub(RECALL_ATTEMPTS_COUNT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::pick::By;

    fn tried(instance: usize) -> Tried {
        Tried {
            node: "app1".parse().unwrap(),
            addr: "127.0.0.1:1".parse().unwrap(),
            instance: instance as u64,
            picked: Picked::by(By::Load),
            names: [None, None],
            is_reused: false,
            failure: Some((Failure::Lost, Duration::ZERO)),
        }
    }

    #[test]
    fn of_more_attempts_than_there_is_room_for_the_first_and_the_last_are_told() {
        let mut tries = Tries::default();
        let told = |tries: &Tries| tries.iter().map(|tried| tried.instance).collect::<Vec<_>>();
        (1..=RECALL_ATTEMPTS_COUNT_MAX).for_each(|instance| tries.push(tried(instance)));
        assert_eq!((told(&tries), tries.untold()), (vec![1, 2, 3, 4], 0), "at the limit");
        tries.push(tried(5));
        assert_eq!((told(&tries), tries.untold()), (vec![1, 2, 3, 5], 1), "and one over it");
    }

    #[test]
    fn what_a_request_asks_for_is_found_in_whatever_came() {
        for (received, method, host, path) in [
            ("GET /a?b HTTP/1.1\r\nX: y\r\nhOST:  a.b:80 \r\n\r\nHost: z", "GET", "a.b:80", "/a"),
            ("GET http://a/b HTTP/1.1\nHost: a", "GET", "a", "http://a/b"),
            ("GET", "GET", "", ""),
            ("", "", "", ""),
        ] {
            let mut notes = Notes::default();
            notes.note_line(received.as_bytes(), |_, _| [None, None]);
            let line = notes.line.unwrap();
            assert_eq!(
                (line.method.bytes(), line.host.bytes(), line.path.bytes()),
                (method.as_bytes(), host.as_bytes(), path.as_bytes())
            );
        }
    }

    #[test]
    fn a_host_and_a_path_at_their_limits_are_whole_and_longer_ones_are_cut() {
        for more in [0, 1] {
            let (host, path) =
                ("h".repeat(RECALL_HOST_BYTES_MAX + more), "p".repeat(RECALL_PATH_BYTES_MAX + more));
            let mut notes = Notes::default();
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            notes.note_line(head.as_bytes(), |told, target| {
                assert_eq!(
                    (told, target),
                    (host.as_bytes(), path.as_bytes()),
                    "a route is looked for by all of it"
                );
                [None, None]
            });
            let line = notes.line.unwrap();
            assert_eq!((line.host.is_cut, line.path.is_cut), (more > 0, more > 0));
            assert_eq!(
                (line.host.bytes().len(), line.path.bytes().len()),
                (RECALL_HOST_BYTES_MAX, RECALL_PATH_BYTES_MAX)
            );
        }
    }
}
