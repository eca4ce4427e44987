//! All that is known of a node at one moment, and how it is told at the admin port: as metrics, as JSON, as targets for Prometheus. No I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use ::program::metrics::{Exposition, Family};
use feed::{
    Name,
    frame::{Health, Member, MemberState},
    stats::{HISTOGRAM_BOUNDS_MS, Histogram, Stats},
};
use serde::Serialize;

use crate::node::{
    procfs::Usage,
    recent::{Happening, Recent},
};

/// What a drain has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Drained {
    /// How long it took.
    pub(crate) after_ms: u64,
    /// The consumers that had not let go by then.
    pub(crate) held_up_by: Vec<Name>,
}

/// How far a node is with letting go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum Drain {
    /// Nobody has asked it to.
    None,
    /// Some consumers may choose it, or have something under way.
    Draining { held_up_by: Vec<Name> },
    /// Nobody does, or its time was over.
    Drained(Drained),
}

/// A program of the node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Process {
    /// `sidecar` or `role`.
    pub(crate) what: &'static str,
    pub(crate) usage: Usage,
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Glance {
    pub(crate) health: Health,
    pub(crate) role: Name,
    pub(crate) cluster: String,
    pub(crate) members: Vec<Member>,
    pub(crate) consumers_count: usize,
    pub(crate) stats: Stats,
    pub(crate) drain: Drain,
    pub(crate) recent: Recent,
    /// How long drains took, and how many of them timed out.
    pub(crate) drains: Histogram,
    pub(crate) drains_timed_out: u64,
    pub(crate) processes: Vec<Process>,
}

/// Consumers by what they call themselves: those of this project, and all others together, for the name is theirs to choose.
const CONSUMERS: [&str; 3] = ["proxy", "dns", "front"];
const OTHER: &str = "other";

/// Roles of members that are told apart; what is beyond is told of a role without a name, so that no cluster makes an endless scrape.
const ROLES_TOLD_MAX: usize = 1000;

const STATES: [MemberState; 8] = [
    MemberState::Joining,
    MemberState::Alone,
    MemberState::Checking,
    MemberState::Unhealthy,
    MemberState::Ready,
    MemberState::Draining,
    MemberState::Left,
    MemberState::Failed,
];

static BUILD: Family =
    Family::gauge("concertina_build_info", &["version"], "1, and the version of the sidecar.");
static STATE: Family =
    Family::gauge("concertina_node_state", &["role", "state"], "1 for the state of this node, else 0.");
static MEMBERS: Family =
    Family::gauge("concertina_members", &["role", "state"], "Members that this node knows, itself included.");
static CONSUMERS_OPEN: Family =
    Family::gauge("concertina_consumers", &[], "Programs that follow the feed of this sidecar.");
static LAG: Family = Family::histogram(
    "concertina_table_lag_seconds",
    &["consumer"],
    "From a member's change until a consumer beside this sidecar went by it. Clocks of two machines count into it.",
);
static DRAIN_TIMES: Family =
    Family::histogram("concertina_drain_seconds", &[], "How long drains of this node took.");
static DRAINS: Family = Family::counter(
    "concertina_drains",
    &["result"],
    "Drains of this node: every consumer had let go (released), or not in time (timeout).",
);
static GOSSIP_PACKETS: Family = Family::counter(
    "concertina_gossip_packets",
    &["direction", "transport"],
    "Packets of gossip, dropped ones included.",
);
static GOSSIP_BYTES: Family =
    Family::counter("concertina_gossip_bytes", &["direction", "transport"], "Bytes of these packets.");
static DROPPED: Family = Family::counter(
    "concertina_gossip_dropped",
    &["cause"],
    "Packets that were not believed or not understood; what did not occur is missing.",
);
static CPU: Family = Family::counter(
    "process_cpu_seconds",
    &["process"],
    "Time on processors, of the sidecar and of the role's process.",
);
static MEMORY: Family =
    Family::gauge("process_resident_memory_bytes", &["process"], "Memory that is not swapped out.");
static STARTED: Family =
    Family::gauge("process_start_time_seconds", &["process"], "When it started, since the Unix epoch.");
static DESCRIPTORS: Family =
    Family::gauge("process_open_fds", &["process"], "Open descriptors, from Linux 6.2 on.");

impl Glance {
    /// As an OpenMetrics document, if the machine has been up for so long at this time since the Unix epoch.
    pub(crate) fn metrics(&self, uptime: Duration, now: Duration) -> String {
        let mut document = Exposition::default();
        document.family(&BUILD).add(&[env!("CARGO_PKG_VERSION")], 1);
        let mut states = document.family(&STATE);
        for state in STATES {
            states.add(&[self.role.as_str(), state.as_str()], (state == self.health.state).into());
        }
        self.add_members(&mut document);
        document.one(&CONSUMERS_OPEN, self.consumers_count as u64);
        let mut lag = document.family(&LAG);
        for (consumer, times) in by_consumer(&self.stats.applied) {
            add_histogram(&mut lag, &[consumer], &times);
        }
        add_histogram(&mut document.family(&DRAIN_TIMES), &[], &self.drains);
        let mut drains = document.family(&DRAINS);
        drains.add(&["released"], self.drains.count.saturating_sub(self.drains_timed_out));
        drains.add(&["timeout"], self.drains_timed_out);
        self.add_gossip(&mut document);
        self.add_processes(&mut document, uptime, now);
        document.finish()
    }

    fn add_members(&self, document: &mut Exposition) {
        let mut counts: BTreeMap<&str, BTreeMap<MemberState, u64>> = BTreeMap::new();
        for member in &self.members {
            let is_told = counts.len() < ROLES_TOLD_MAX || counts.contains_key(member.role.as_str());
            let role = if is_told { member.role.as_str() } else { "" };
            *counts.entry(role).or_default().entry(member.state).or_default() += 1;
        }
        let mut members = document.family(&MEMBERS);
        for (role, by_state) in counts {
            for (state, count) in by_state {
                members.add(&[role, state.as_str()], count);
            }
        }
    }

    fn add_gossip(&self, document: &mut Exposition) {
        let directions = [("in", self.stats.received), ("out", self.stats.sent)];
        let mut packets = document.family(&GOSSIP_PACKETS);
        for (direction, traffic) in directions {
            packets.add(&[direction, "datagram"], traffic.datagrams);
            packets.add(&[direction, "stream"], traffic.stream_packets);
        }
        let mut bytes = document.family(&GOSSIP_BYTES);
        for (direction, traffic) in directions {
            bytes.add(&[direction, "datagram"], traffic.datagram_bytes);
            bytes.add(&[direction, "stream"], traffic.stream_bytes);
        }
        let mut dropped = document.family(&DROPPED);
        self.stats.dropped.iter().for_each(|(cause, count)| dropped.add(&[cause], *count));
    }

    fn add_processes(&self, document: &mut Exposition, uptime: Duration, now: Duration) {
        let all = &self.processes;
        let mut cpu = document.family(&CPU);
        all.iter().for_each(|process| cpu.add_fraction(&[process.what], process.usage.cpu.as_secs_f64()));
        let mut memory = document.family(&MEMORY);
        all.iter().for_each(|process| memory.add(&[process.what], process.usage.resident_bytes));
        let mut started = document.family(&STARTED);
        all.iter().for_each(|process| {
            started.add_fraction(&[process.what], process.usage.started_seconds(uptime, now));
        });
        let mut descriptors = document.family(&DESCRIPTORS);
        for process in all {
            if let Some(count) = process.usage.descriptors {
                descriptors.add(&[process.what], count);
            }
        }
    }

    /// As JSON.
    pub(crate) fn state(&self) -> String {
        #[derive(Serialize)]
        struct State<'a> {
            #[serde(flatten)]
            health: &'a Health,
            role: &'a Name,
            cluster: &'a str,
            version: &'static str,
            drain: &'a Drain,
            consumers: usize,
            stats: &'a Stats,
            recent: &'a VecDeque<Happening>,
            members: &'a [Member],
        }
        json(&State {
            health: &self.health,
            role: &self.role,
            cluster: &self.cluster,
            version: env!("CARGO_PKG_VERSION"),
            drain: &self.drain,
            consumers: self.consumers_count,
            stats: &self.stats,
            recent: self.recent.all(),
            members: &self.members,
        })
    }

    /// The node's state, and why it is not ready.
    pub(crate) fn health_line(&self) -> String {
        let state = self.health.state.as_str();
        self.health.check.as_ref().map_or_else(|| state.to_owned(), |why| format!("{state}: {why}"))
    }
}

/// A value as JSON; those of this module can all be written.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| {
        debug_assert!(false, "{error}");
        "null".to_owned()
    })
}

/// The members whose admin ports others reach, as Prometheus' `http_sd` wants them.
pub(crate) fn targets(members: &[Member], role: Option<&str>) -> String {
    #[derive(Serialize)]
    struct Target<'a> {
        targets: [String; 1],
        labels: BTreeMap<&'static str, &'a str>,
    }
    let is_meant =
        |member: &&Member| member.admin_port != 0 && role.is_none_or(|role| member.role.as_str() == role);
    let target = |member: &'_ Member| SocketAddr::new(member.addr.ip(), member.admin_port).to_string();
    let all: Vec<Target<'_>> = members
        .iter()
        .filter(is_meant)
        .map(|member| Target {
            targets: [target(member)],
            labels: BTreeMap::from([("node", member.name.as_str()), ("node_role", member.role.as_str())]),
        })
        .collect();
    json(&all)
}

/// Times by what consumers are, of those that call themselves alike together.
fn by_consumer(applied: &BTreeMap<String, Histogram>) -> BTreeMap<&'static str, Histogram> {
    let mut all: BTreeMap<&'static str, Histogram> = BTreeMap::new();
    for (consumer, times) in applied {
        let known = CONSUMERS.into_iter().find(|known| known == consumer).unwrap_or(OTHER);
        let sum = all.entry(known).or_default();
        sum.count += times.count;
        sum.sum_ms = sum.sum_ms.saturating_add(times.sum_ms);
        sum.longer += times.longer;
        for (bound, count) in &times.at_most_ms {
            *sum.at_most_ms.entry(*bound).or_default() += count;
        }
    }
    all
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of some thousand years are exact")]
fn add_histogram(samples: &mut ::program::metrics::Samples<'_>, labels: &[&str], times: &Histogram) {
    let bucket = |ms: u64| (ms as f64 / 1000.0, times.at_most_ms.get(&ms).copied().unwrap_or_default());
    let buckets = HISTOGRAM_BOUNDS_MS.map(bucket);
    samples.add_histogram(labels, &buckets, times.longer, times.sum_ms as f64 / 1000.0);
}

#[cfg(test)]
mod tests {
    use feed::{Routes, Tags};

    use super::*;

    fn member(name: &str, role: &str, n: u8, admin_port: u16) -> Member {
        Member {
            name: name.parse().unwrap(),
            role: role.parse().unwrap(),
            addr: SocketAddr::from(([10, 0, 0, n], 7946)),
            port: 80,
            admin_port,
            state: MemberState::Ready,
            instance: 1,
            tags: Tags::default(),
            routes: Routes::default(),
            protocol: None,
            check: None,
        }
    }

    fn glance() -> Glance {
        Glance {
            health: Health {
                node: "app1".parse().unwrap(),
                state: MemberState::Checking,
                check: Some("no".into()),
            },
            role: "app".parse().unwrap(),
            cluster: "default".into(),
            members: vec![
                member("app1", "app", 1, 9790),
                member("db1", "db", 2, 0),
                member("app2", "app", 3, 1),
            ],
            consumers_count: 0,
            stats: Stats::default(),
            drain: Drain::None,
            recent: Recent::default(),
            drains: Histogram::default(),
            drains_timed_out: 0,
            processes: Vec::new(),
        }
    }

    #[test]
    fn targets_are_members_whose_admin_port_is_reached() {
        let all = r#"[{"targets":["10.0.0.1:9790"],"labels":{"node":"app1","node_role":"app"}},{"targets":["10.0.0.3:1"],"labels":{"node":"app2","node_role":"app"}}]"#;
        let members = glance().members;
        assert_eq!(targets(&members, None), all);
        assert_eq!(targets(&members, Some("app")), all);
        assert_eq!(targets(&members, Some("db")), "[]");
    }

    #[test]
    fn what_consumers_call_themselves_is_no_label() {
        let mut glance = glance();
        for name in ["proxy", "x\"y", "z"] {
            let mut times = Histogram::default();
            times.record(7);
            glance.stats.applied.insert(name.to_owned(), times);
        }
        let text = glance.metrics(Duration::ZERO, Duration::ZERO);
        assert!(text.contains("concertina_table_lag_seconds_count{consumer=\"proxy\"} 1\n"), "{text}");
        assert!(text.contains("concertina_table_lag_seconds_count{consumer=\"other\"} 2\n"), "{text}");
        assert!(
            text.contains("concertina_table_lag_seconds_bucket{consumer=\"other\",le=\"0.005\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("concertina_table_lag_seconds_bucket{consumer=\"other\",le=\"0.01\"} 2\n"),
            "{text}"
        );
        assert!(!text.contains("x\\\""), "{text}");
    }

    #[test]
    fn members_of_more_roles_than_are_told_are_told_together() {
        let mut glance = glance();
        let role = |n: usize| member("n", &format!("r{n:04}"), 1, 0);
        glance.members = (0..=ROLES_TOLD_MAX).map(role).collect();
        let text = glance.metrics(Duration::ZERO, Duration::ZERO);
        assert!(text.contains("concertina_members{role=\"r0999\",state=\"ready\"} 1\n"));
        assert!(text.contains("concertina_members{role=\"\",state=\"ready\"} 1\n"), "one more");
    }

    #[test]
    fn a_state_says_how_far_a_drain_is() {
        let mut glance = glance();
        let held_up_by = vec!["proxy1".parse().unwrap()];
        for (drain, told) in [
            (Drain::None, r#""drain":{"state":"none"}"#),
            (
                Drain::Draining { held_up_by: held_up_by.clone() },
                r#""drain":{"state":"draining","held_up_by":["proxy1"]}"#,
            ),
            (
                Drain::Drained(Drained { after_ms: 7, held_up_by }),
                r#""drain":{"state":"drained","after_ms":7,"held_up_by":["proxy1"]}"#,
            ),
        ] {
            glance.drain = drain;
            let state = glance.state();
            assert!(state.contains(told), "{state}");
            assert!(
                state.starts_with(r#"{"node":"app1","state":"checking","check":"no","role":"app""#),
                "{state}"
            );
        }
        assert_eq!(glance.health_line(), "checking: no");
    }
}
