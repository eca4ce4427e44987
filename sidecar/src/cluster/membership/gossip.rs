//! Between this node and foca: what foca wants done, and when its timers fire.

use std::time::Duration;

use feed::explain::Evidence;
use foca::{OwnedNotification, Timer};

use super::{ANNOUNCE_PAUSE_MIN, Membership};
use crate::{
    cluster::{effect::Effect, member_id::MemberId},
    wire::packet::Kind,
};

impl Membership {
    /// Gives foca its timers that are due, in their order.
    pub(super) fn fire_timers(&mut self, now: Duration) {
        self.drain_runtime(now);
        if let Some(by) = self.timers.forgive_stall(now) {
            self.suspects.put_off(by);
            self.events.borrow_mut().put_off(by);
            self.health.note_trouble();
        }
        while let Some(timer) = self.timers.poll_due(now) {
            self.cause = Evidence::Probe;
            let ends_probe = matches!(timer, Timer::ProbeRandomMember(_));
            let outcome = self.foca.handle_timer(timer, &mut self.runtime);
            self.note(outcome);
            let has_failed = self.drain_runtime(now);
            if ends_probe && !has_failed {
                self.health.note_answer();
            }
        }
    }

    /// Takes what foca wants done; true if a probe of it has failed.
    pub(super) fn drain_runtime(&mut self, now: Duration) -> bool {
        let mut has_failed = false;
        while let Some((to, payload)) = self.runtime.to_send() {
            let bytes = self.envelope.encode(Kind::Gossip, &payload).into();
            self.effects.push_back(Effect::Send { to: to.addr, bytes });
        }
        while let Some(notification) = self.runtime.to_notify() {
            has_failed |= matches!(notification, OwnedNotification::ProbeFailed(..));
            self.handle_notification(notification, now);
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            match &timer {
                // Delivered when this node has made up its mind: see `suspecting.rs`.
                Timer::ChangeSuspectToDown { member_id, incarnation, token } => {
                    self.suspects.note_token(*token);
                    self.suspect(member_id, *incarnation, after, now);
                }
                Timer::ProbeRandomMember(token) => {
                    self.suspects.note_token(*token);
                    self.timers.insert(now + self.health.stretch(&timer, after), timer);
                }
                _ => self.timers.insert(now + self.health.stretch(&timer, after), timer),
            }
        }
        has_failed
    }

    pub(super) fn handle_notification(&mut self, notification: OwnedNotification<MemberId>, now: Duration) {
        match notification {
            OwnedNotification::MemberUp(id) => drop(self.moved.insert(id.addr)),
            OwnedNotification::MemberDown(id) => {
                self.moved.insert(id.addr);
                self.stories.note_down(id.peer(), self.cause);
            }
            OwnedNotification::Rename(before, after) => self.moved.extend([before.addr, after.addr]),
            // Alone again: the first member to come back is somebody to sync with.
            OwnedNotification::Idle => {
                self.announce_pause = ANNOUNCE_PAUSE_MIN;
                self.suspects.forget_all();
            }
            OwnedNotification::Active => self.sync_at = now,
            OwnedNotification::ProbeFailed(..) => self.health.note_trouble(),
            OwnedNotification::DataSent(header) => {
                if header.src_incarnation > self.own_incarnation {
                    self.health.note_trouble();
                }
                self.own_incarnation = header.src_incarnation;
            }
            OwnedNotification::Defunct => self.handle_defunct(now),
            // This node never lets foca rejoin by itself.
            OwnedNotification::Rejoin(_) | OwnedNotification::DataReceived(_) => {}
        }
        if !self.moved.is_empty() {
            self.unsettle(now);
        }
    }

    /// foca's complaints are about strangers' bytes or timers that came late; it stays whole in all of them.
    pub(super) fn note(&self, outcome: Result<(), foca::Error>) {
        if let Err(error) = outcome {
            tracing::debug!(node = %self.config.id.node, %error, "gossip");
        }
    }
}
