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
pub(crate) const VERDICT_PERIOD: Duration = Duration::from_millis(150);

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
