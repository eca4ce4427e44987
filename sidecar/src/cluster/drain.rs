//! The drain barrier: a stopping node waits until every consumer of its role has let go of it.
//!
//! The stopping side holds a [`Barrier`]; each sidecar with consumers keeps [`Reports`] and sends them straight to
//! whoever drains, repeated until the drain is over, since datagrams may be lost.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use feed::{EndpointId, frame::Member};
use serde::{Deserialize, Serialize};

/// How often a report is repeated while its subject is still draining. A lost datagram delays a drain by this much.
const REPORT_PERIOD: Duration = Duration::from_millis(50);

/// Says how much work the consumers of one sidecar still have at a draining instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The reporting sidecar.
    pub(crate) from: SocketAddr,
    pub(crate) from_instance: u64,
    /// The draining node.
    pub(crate) instance: u64,
    pub(crate) in_flight: u32,
}

impl Report {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("reports have no field that postcard cannot write")
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((report, [])) => Some(report),
            _ => None,
        }
    }
}

/// What a stopping node waits for.
#[derive(Debug)]
pub(crate) struct Barrier {
    pub(crate) since: Duration,
    pub(crate) deadline: Duration,
    reports: BTreeMap<(SocketAddr, u64), u32>,
    /// The node leaves behind it; else it stays until it is asked to.
    pub(crate) leaves: bool,
    /// What has come of it.
    pub(crate) outcome: Option<Outcome>,
}

/// What a drain has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every consumer has let go.
    Released,
    /// Not all of them had when its time was over.
    TimedOut,
}

impl Barrier {
    pub(crate) fn new(now: Duration, timeout: Duration, leaves: bool) -> Self {
        Self { since: now, deadline: now + timeout, reports: BTreeMap::new(), leaves, outcome: None }
    }

    /// The node is to leave, and what its drain has waited for already it does not wait for again. Consumers that have come since are given
    /// their time.
    pub(crate) fn leave(&mut self, now: Duration, timeout: Duration) {
        self.leaves = true;
        match self.outcome {
            None => {}
            Some(Outcome::Released) => self.deadline = now + timeout,
            Some(Outcome::TimedOut) => self.deadline = now,
        }
    }

    /// Nothing is waited for, and the node stays.
    pub(crate) fn is_at_rest(&self) -> bool {
        !self.leaves && self.outcome.is_some()
    }

    /// When it waits no longer.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        (!self.is_at_rest()).then_some(self.deadline)
    }

    pub(crate) fn handle_report(&mut self, report: &Report) {
        self.reports.insert((report.from, report.from_instance), report.in_flight);
    }

    /// Whether this consumer has let go. One that did not report yet may still choose this node.
    pub(crate) fn is_released_by(&self, addr: SocketAddr, instance: u64) -> bool {
        self.reports.get(&(addr, instance)) == Some(&0)
    }
}

/// The endpoint that a member is in the table of its role.
pub(crate) fn endpoint_of(member: &Member) -> EndpointId {
    EndpointId { instance: member.instance, addr: (member.addr.ip(), member.port).into() }
}

/// What a sidecar has to tell draining nodes.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    in_flight: BTreeMap<EndpointId, u32>,
    next_at: Duration,
}

impl Reports {
    /// Takes the newest counts; what is missing has not been applied by every consumer yet.
    pub(crate) fn apply_counts(&mut self, in_flight: BTreeMap<EndpointId, u32>) {
        if self.in_flight != in_flight {
            self.in_flight = in_flight;
            self.next_at = Duration::ZERO;
        }
    }

    /// What is in flight at this endpoint, as far as the consumers have said.
    pub(crate) fn at(&self, id: EndpointId) -> Option<u32> {
        self.in_flight.get(&id).copied()
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        (!self.in_flight.is_empty()).then_some(self.next_at)
    }

    /// The counts to report, when it is time to.
    pub(crate) fn poll_due(&mut self, now: Duration) -> Option<&BTreeMap<EndpointId, u32>> {
        if self.in_flight.is_empty() || now < self.next_at {
            return None;
        }
        self.next_at = now + REPORT_PERIOD;
        Some(&self.in_flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(in_flight: u32) -> Report {
        Report { from: "10.0.0.1:1".parse().unwrap(), from_instance: 1, instance: 9, in_flight }
    }

    #[test]
    fn only_a_zero_of_the_very_consumer_releases() {
        let mut barrier = Barrier::new(Duration::ZERO, Duration::from_secs(1), true);
        let addr = report(0).from;
        assert!(!barrier.is_released_by(addr, 1), "silence is no release");
        barrier.handle_report(&report(2));
        assert!(!barrier.is_released_by(addr, 1));
        barrier.handle_report(&report(0));
        assert!(barrier.is_released_by(addr, 1));
        assert!(!barrier.is_released_by(addr, 2), "a restarted consumer has to report anew");
    }

    #[test]
    fn reports_go_out_at_once_on_change_and_then_periodically() {
        let mut reports = Reports::default();
        let ms = Duration::from_millis;
        let id = EndpointId { instance: 9, addr: "10.0.0.9:80".parse().unwrap() };
        assert!(reports.poll_due(ms(100)).is_none());
        reports.apply_counts(BTreeMap::from([(id, 2)]));
        assert!(reports.poll_due(ms(100)).is_some());
        assert!(reports.poll_due(ms(101)).is_none());
        reports.apply_counts(BTreeMap::from([(id, 1)]));
        assert!(reports.poll_due(ms(101)).is_some());
        assert!(reports.poll_due(ms(102)).is_none());
        assert!(reports.poll_due(ms(101) + REPORT_PERIOD).is_some());
        reports.apply_counts(BTreeMap::new());
        assert!(reports.next_deadline().is_none());
    }
}
