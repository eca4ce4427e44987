//! From single findings to whether the process serves, when to look again, and when to say so.
//!
//! A process that served has to fail for a while before it counts as failing, and one that failed has to pass for a while before it
//! serves again, so that a hiccup is nobody's business and a process that flaps is not everybody's. What has never served serves
//! with its first pass. All of it goes by time: checks come the closer together the shorter it is that something changed.

use std::time::Duration;

use crate::cluster::trouble::Trouble;

/// Shortest pause between checks: what a start waits at most beyond the process's own need, at first.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// After a time of failing, the pause is this part of it: nobody waits much longer than he has to, and nobody is asked for ever at the
/// pace of a start.
const PAUSE_PART: u32 = 8;
/// What has never served is said to fail after this time, and again after twice as long each time, up to the longest.
const COMPLAINT_PAUSE_MIN: Duration = Duration::from_secs(1);
const COMPLAINT_PAUSE_MAX: Duration = Duration::from_secs(600);

/// How findings are weighed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Damping {
    /// Pause between checks while nothing changes.
    pub(crate) interval: Duration,
    /// How long what failed has to pass.
    pub(crate) rise: Duration,
    /// How long what served has to fail.
    pub(crate) fall: Duration,
}

/// What others are to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// The process serves now.
    Serves,
    /// It does not, for this reason, which is told again at growing pauses.
    Fails(Trouble),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Damper {
    damping: Damping,
    serves: bool,
    has_served: bool,
    passes: bool,
    /// Since when it has passed, or failed, without a break.
    since: Duration,
    complains_at: Duration,
    complaint_pause: Duration,
}

impl Damper {
    /// At time zero.
    pub(crate) fn new(damping: Damping) -> Self {
        Self {
            damping,
            serves: false,
            has_served: false,
            passes: false,
            since: Duration::ZERO,
            complains_at: COMPLAINT_PAUSE_MIN,
            complaint_pause: COMPLAINT_PAUSE_MIN,
        }
    }

    /// Takes what a check found.
    pub(crate) fn apply(&mut self, found: Result<(), Trouble>, now: Duration) -> Option<News> {
        if found.is_ok() != self.passes {
            (self.passes, self.since) = (found.is_ok(), now);
        }
        let lasted = now.saturating_sub(self.since);
        match found {
            Ok(()) if !self.serves && (!self.has_served || lasted >= self.damping.rise) => {
                (self.serves, self.has_served) = (true, true);
                Some(News::Serves)
            }
            Err(trouble) if self.serves && lasted >= self.damping.fall => {
                self.serves = false;
                self.complaint_pause = COMPLAINT_PAUSE_MIN;
                self.complains_at = now + COMPLAINT_PAUSE_MIN;
                Some(News::Fails(trouble))
            }
            Err(trouble) if !self.serves && now >= self.complains_at => {
                self.complaint_pause = (self.complaint_pause * 2).min(COMPLAINT_PAUSE_MAX);
                self.complains_at = now + self.complaint_pause;
                Some(News::Fails(trouble))
            }
            _ => None,
        }
    }

    /// How long to wait before the next check.
    pub(crate) fn pause(&self, now: Duration) -> Duration {
        let interval = self.damping.interval.max(PAUSE_MIN);
        if self.passes && self.serves {
            return interval;
        }
        (now.saturating_sub(self.since) / PAUSE_PART).clamp(PAUSE_MIN, interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAMPING: Damping = Damping {
        interval: Duration::from_secs(1),
        rise: Duration::from_secs(1),
        fall: Duration::from_secs(1),
    };

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Checks of no duration until the end; the news, and how many checks there were.
    fn play(until: Duration, passes: impl Fn(Duration) -> bool) -> (Vec<(Duration, bool)>, u32) {
        let (mut damper, mut now, mut news, mut checks) = (Damper::new(DAMPING), ms(0), Vec::new(), 0);
        while now < until {
            checks += 1;
            let found = if passes(now) { Ok(()) } else { Err(Trouble::Refused) };
            news.extend(damper.apply(found, now).map(|told| (now, told == News::Serves)));
            now += damper.pause(now);
        }
        (news, checks)
    }

    #[test]
    fn a_start_is_seen_at_once_whenever_it_comes_and_is_not_asked_for_much() {
        for needed in [ms(0), ms(35), ms(80), ms(900), ms(5000)] {
            let (news, checks) = play(needed * 2 + ms(100), |now| now >= needed);
            let (served_at, _) = *news.iter().find(|(_, serves)| *serves).unwrap();
            let late = served_at - needed;
            assert!(late <= (needed / PAUSE_PART).max(PAUSE_MIN), "{needed:?}: {late:?} late");
            assert!(checks < 80, "{needed:?}: {checks}");
        }
    }

    #[test]
    fn a_process_that_never_serves_is_asked_ever_less_and_said_to_fail_at_growing_pauses() {
        let (news, checks) = play(ms(60_000), |_| false);
        let told: Vec<u64> = news.iter().map(|(at, _)| at.as_secs()).collect();
        assert!(news.iter().all(|(_, serves)| !serves));
        assert!(told.len() == 5 && told[0] == 1 && told[4] < 40, "{told:?}");
        assert!(checks < 110, "{checks} checks in a minute");
    }

    #[test]
    fn a_hiccup_shorter_than_the_fall_changes_nothing_and_a_longer_failure_does() {
        let failing = |length: Duration| move |now: Duration| !(ms(3000)..ms(3000) + length).contains(&now);
        for hiccup in [ms(25), ms(990)] {
            assert_eq!(play(ms(9000), failing(hiccup)).0, [(ms(0), true)], "{hiccup:?}");
        }
        let (news, _) = play(ms(9000), failing(ms(2000)));
        let [(_, true), (fell, false), (rose, true)] = news[..] else { panic!("{news:?}") };
        assert!((ms(4000)..ms(4200)).contains(&fell), "{fell:?}");
        assert!((ms(6000)..ms(6500)).contains(&rose), "{rose:?}");
    }

    #[test]
    fn a_process_that_flaps_is_not_taken_in_and_out_with_each_turn() {
        let (news, _) = play(ms(60_000), |now| (now.as_millis() / 700).is_multiple_of(2));
        assert_eq!(news, [(ms(0), true)], "never down for long enough");
        let (news, _) = play(ms(20_000), |now| now < ms(1000) || now.as_millis() % 2000 < 700);
        assert!(news[1..].iter().all(|(_, serves)| !serves), "never up for long enough: {news:?}");
    }
}
