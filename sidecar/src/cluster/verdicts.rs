//! Verdicts that wait: who is down by hearsay may have said goodbye, and the word of it may still be under way.
//!
//! A departure travels as two things, the advert that says so and foca's obituary, and either may come first. Tables do not wait
//! for the verdict; only what people and programs are told does.

use std::time::Duration;

use feed::{
    Name,
    frame::{Member, MemberState},
};

/// How long a goodbye may come after the obituary: three rounds of gossip.
const VERDICT_PERIOD: Duration = Duration::from_millis(150);

/// The members whose verdict waits.
#[derive(Debug, Default)]
pub(crate) struct Verdicts(Vec<(Member, Duration)>);

impl Verdicts {
    /// This member seems to have failed.
    pub(crate) fn push(&mut self, failed: Member, now: Duration) {
        self.0.push((failed, now + VERDICT_PERIOD));
    }

    /// Something newer is known of the name.
    pub(crate) fn forget(&mut self, name: &Name) {
        self.0.retain(|(member, _)| member.name != *name);
    }

    /// Those that are clear by now: who has left by its advert, and who has said nothing for too long.
    pub(crate) fn take_due(
        &mut self,
        now: Duration,
        how_it_went: impl Fn(&Member) -> MemberState,
    ) -> Vec<Member> {
        for (member, at) in &mut self.0 {
            member.state = how_it_went(member);
            if member.state == MemberState::Left {
                *at = now;
            }
        }
        self.0.extract_if(.., |(_, at)| *at <= now).map(|(member, _)| member).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.0.iter().map(|(_, at)| *at).min()
    }
}

#[cfg(test)]
mod tests {
    use feed::Tags;

    use super::*;

    fn failed(name: &str) -> Member {
        let addr = "10.0.0.1:7946".parse().unwrap();
        let (name, role) = (name.parse().unwrap(), "app".parse().unwrap());
        Member {
            name,
            role,
            addr,
            port: 0,
            admin_port: 0,
            state: MemberState::Failed,
            instance: 1,
            tags: Tags::default(),
            routes: feed::Routes::default(),
            protocol: None,
            check: None,
        }
    }

    #[test]
    fn who_says_nothing_has_failed_when_the_time_is_over_and_not_before() {
        let mut verdicts = Verdicts::default();
        verdicts.push(failed("a"), Duration::ZERO);
        let early = VERDICT_PERIOD - Duration::from_millis(1);
        assert!(verdicts.take_due(early, |_| MemberState::Failed).is_empty());
        assert_eq!(verdicts.next_deadline(), Some(VERDICT_PERIOD));
        assert_eq!(verdicts.take_due(VERDICT_PERIOD, |_| MemberState::Failed), [failed("a")]);
        assert!(verdicts.take_due(VERDICT_PERIOD, |_| MemberState::Failed).is_empty(), "told once");
    }

    #[test]
    fn a_goodbye_that_comes_meanwhile_is_told_at_once() {
        let mut verdicts = Verdicts::default();
        verdicts.push(failed("a"), Duration::ZERO);
        verdicts.push(failed("b"), Duration::ZERO);
        let only_b_left = |m: &Member| if m.name.as_str() == "b" { MemberState::Left } else { m.state };
        let clear = verdicts.take_due(Duration::from_millis(1), only_b_left);
        assert_eq!(clear, [Member { state: MemberState::Left, ..failed("b") }]);
    }

    #[test]
    fn nothing_is_told_of_whoever_is_back() {
        let mut verdicts = Verdicts::default();
        verdicts.push(failed("a"), Duration::ZERO);
        verdicts.forget(&"a".parse().unwrap());
        assert!(verdicts.take_due(VERDICT_PERIOD, |_| MemberState::Failed).is_empty());
        assert_eq!(verdicts.next_deadline(), None);
    }
}
