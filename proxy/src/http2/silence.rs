//! Whether an upstream that says nothing is still there. One that has streams is asked by a ping, which any kernel may take for a process that
//! is frozen, and only the process answers.
//!
//! Seldom: servers of gRPC send away whoever pings them three times within five minutes without being served in between, or has no streams
//! (`too_many_pings`, gRPC's proposal A8).

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{H2_ORIGIN_PING_PERIOD, H2_ORIGIN_PONG_TIMEOUT, H2_ORIGIN_SILENCE};

/// What is known of one connection.
#[derive(Debug)]
pub(super) struct Silence {
    /// When it said something last, or its first stream began.
    heard: Instant,
    pinged: Option<Instant>,
    is_answered: bool,
    /// It has sent a part of an answer since it was pinged.
    has_served: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing for so long.
    Wait(Duration),
    Ping,
    /// It is gone.
    GiveUp,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        Self { heard: now, pinged: None, is_answered: true, has_served: true }
    }

    /// It has said something; `is_answer` if that is a part of an answer.
    pub(super) fn hear(&mut self, now: Instant, is_answer: bool) {
        self.heard = now;
        self.has_served |= is_answer;
    }

    /// It has a stream again: before that it had nothing to say.
    pub(super) fn begin(&mut self, now: Instant) {
        self.heard = now;
    }

    /// It has answered the ping.
    pub(super) fn answer(&mut self) {
        self.is_answered = true;
    }

    pub(super) fn turn(&mut self, now: Instant, has_streams: bool) -> Turn {
        let due = match self.pinged {
            // Whatever it says meanwhile is said by somebody who is there.
            Some(pinged) if !self.is_answered => {
                let end = self.heard.max(pinged) + H2_ORIGIN_PONG_TIMEOUT;
                return if now < end { Turn::Wait(end - now) } else { Turn::GiveUp };
            }
            Some(pinged) if !self.has_served => {
                (self.heard + H2_ORIGIN_SILENCE).max(pinged + H2_ORIGIN_PING_PERIOD)
            }
            _ => self.heard + H2_ORIGIN_SILENCE,
        };
        if now < due {
            return Turn::Wait(due - now);
        }
        if !has_streams {
            return Turn::Wait(H2_ORIGIN_SILENCE);
        }
        (self.pinged, self.is_answered, self.has_served) = (Some(now), false, false);
        Turn::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANT: Duration = Duration::from_millis(1);

    #[test]
    fn who_says_nothing_for_so_long_is_pinged_and_who_does_not_answer_is_given_up() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        let asked = start + H2_ORIGIN_SILENCE;
        assert_eq!(silence.turn(asked - INSTANT, true), Turn::Wait(INSTANT));
        assert_eq!(silence.turn(asked, true), Turn::Ping);
        let end = asked + H2_ORIGIN_PONG_TIMEOUT;
        assert_eq!(silence.turn(asked, true), Turn::Wait(H2_ORIGIN_PONG_TIMEOUT));
        assert_eq!(silence.turn(end - INSTANT, true), Turn::Wait(INSTANT));
        // Its streams may have been given up meanwhile: nobody else gets it.
        assert_eq!(silence.turn(end, false), Turn::GiveUp);
    }

    #[test]
    fn whoever_says_something_is_there_though_the_ping_is_not_answered() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        let asked = start + H2_ORIGIN_SILENCE;
        assert_eq!(silence.turn(asked, true), Turn::Ping);
        silence.hear(asked + INSTANT, true);
        assert_eq!(silence.turn(asked + H2_ORIGIN_PONG_TIMEOUT, true), Turn::Wait(INSTANT));
        silence.answer();
        let due = asked + INSTANT + H2_ORIGIN_SILENCE;
        assert_eq!(silence.turn(due - INSTANT, true), Turn::Wait(INSTANT));
        assert_eq!(silence.turn(due, true), Turn::Ping);
    }

    #[test]
    fn nobody_is_pinged_without_streams_and_silence_counts_from_the_first() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        let late = start + 100 * H2_ORIGIN_PING_PERIOD;
        assert_eq!(silence.turn(late, false), Turn::Wait(H2_ORIGIN_SILENCE));
        silence.begin(late);
        assert_eq!(silence.turn(late, true), Turn::Wait(H2_ORIGIN_SILENCE));
        assert_eq!(silence.turn(late + H2_ORIGIN_SILENCE, true), Turn::Ping);
    }

    #[test]
    fn a_stream_that_stays_silent_costs_its_server_no_ping_more_than_grpc_bears() {
        let start = Instant::now();
        let (mut silence, mut now, mut pings) = (Silence::new(start), start, vec![]);
        while now < start + 10 * H2_ORIGIN_PING_PERIOD {
            match silence.turn(now, true) {
                Turn::Wait(time) => now += time,
                Turn::Ping => {
                    pings.push(now);
                    silence.answer();
                    // A pong, and a frame that is no part of an answer.
                    silence.hear(now + INSTANT, false);
                }
                Turn::GiveUp => panic!("it answers"),
            }
        }
        assert_eq!(pings.len(), 10);
        assert!(pings.windows(2).all(|pair| pair[1] - pair[0] >= H2_ORIGIN_PING_PERIOD));
    }
}
