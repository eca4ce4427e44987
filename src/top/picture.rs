//! What two looks at the cluster have shown: who is there, and what happened in between. Pure.

use std::collections::{BTreeMap, BTreeSet};

use feed::{
    Name,
    frame::{Member, MemberState},
    report::{EndpointLoad, Loads, RoleLoad},
};
use serde::Serialize;

use super::look::Look;

/// See the module.
#[derive(Debug, Serialize)]
pub(super) struct Picture {
    /// The node that was asked.
    pub(super) node: Name,
    pub(super) cluster: String,
    /// The time between the looks; none after the first one, when there are no rates yet.
    pub(super) seconds: Option<f64>,
    pub(super) roles: Vec<Role>,
    pub(super) nodes: Vec<Node>,
    /// Those that send requests on: proxies and fronts.
    pub(super) proxies: Vec<Proxy>,
    pub(super) flows: Vec<Flow>,
    /// Who did not tell its load, and why.
    pub(super) missing: BTreeMap<Name, String>,
}

/// Requests of some place. Rates are by second.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Traffic {
    pub(super) rate: Option<f64>,
    pub(super) error_rate: Option<f64>,
    pub(super) retry_rate: Option<f64>,
    pub(super) p50_us: Option<u64>,
    pub(super) p99_us: Option<u64>,
    pub(super) in_flight: u64,
    pub(super) queued: u64,
}

/// The nodes of one role together.
#[derive(Debug, Serialize)]
pub(super) struct Role {
    pub(super) role: Name,
    pub(super) ready: usize,
    pub(super) nodes: usize,
    /// What its nodes are asked, or where nobody asks them, what they answer. None: nobody counts.
    pub(super) traffic: Option<Traffic>,
}

/// A member, as an endpoint of its role.
#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) member: Member,
    /// None: nobody sends it anything.
    pub(super) asked: Option<Asked>,
    /// Whom its drain waits for, and how many requests each of them has under way there.
    pub(super) waits_for: BTreeMap<Name, u64>,
}

/// What an endpoint is asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Asked {
    pub(super) rate: Option<f64>,
    pub(super) failure_rate: Option<f64>,
    pub(super) mean_us: Option<u64>,
    pub(super) in_flight: u64,
    /// Who spares it now,
    pub(super) ejected_by: BTreeSet<Name>,
    /// and how often it was spared, by all of them.
    pub(super) ejections: u64,
}

/// A node that sends requests on.
#[derive(Debug, Serialize)]
pub(super) struct Proxy {
    pub(super) member: Member,
    pub(super) traffic: Traffic,
}

/// What one node sends to another.
#[derive(Debug, Serialize)]
pub(super) struct Flow {
    pub(super) from: Name,
    pub(super) to: Name,
    pub(super) asked: Asked,
}

/// How much has come to a total. One that is new may have grown long ago, and one that has shrunk began anew.
fn grown(now: u64, before: Option<u64>) -> u64 {
    before.map_or(0, |before| now.checked_sub(before).unwrap_or(now))
}

/// The time that so great a share of the answers took at most, by how many took how long at most.
fn quantile(times: &BTreeMap<u64, u64>, percent: u64) -> Option<u64> {
    let total: u64 = times.values().sum();
    let wanted = total.saturating_mul(percent).div_ceil(100).max(1);
    let mut counted = 0;
    times.iter().find_map(|(us, count)| {
        counted += count;
        (counted >= wanted).then_some(*us)
    })
}

/// What was counted between two looks.
#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    errors: u64,
    retries: u64,
    times_us: BTreeMap<u64, u64>,
    in_flight: u64,
    queued: u64,
}

impl Counts {
    fn traffic(&self, seconds: Option<f64>) -> Traffic {
        Traffic {
            rate: rate(self.requests, seconds),
            error_rate: rate(self.errors, seconds),
            retry_rate: rate(self.retries, seconds),
            p50_us: quantile(&self.times_us, 50),
            p99_us: quantile(&self.times_us, 99),
            in_flight: self.in_flight,
            queued: self.queued,
        }
    }

    /// What a consumer of a role tells of it.
    fn add(&mut self, now: &RoleLoad, before: Option<&RoleLoad>) {
        self.queued += u64::from(now.queued);
        self.in_flight += now.endpoints.iter().map(|end| u64::from(end.in_flight)).sum::<u64>();
        self.retries += grown(now.retries, before.map(|before| before.retries));
        for (us, count) in &now.times_us {
            let before = before.map(|before| before.times_us.get(us).copied().unwrap_or_default());
            *self.times_us.entry(*us).or_default() += grown(*count, before);
        }
    }

    fn add_answers(&mut self, now: &RoleLoad, before: Option<&RoleLoad>) {
        self.requests += grown(now.answered, before.map(|before| before.answered));
        self.errors += grown(now.errors, before.map(|before| before.errors));
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody counts to 2^53 between two looks")]
fn rate(count: u64, seconds: Option<f64>) -> Option<f64> {
    seconds.map(|seconds| count as f64 / seconds)
}

/// What consumers told before, to be found by whom it is about.
#[derive(Default)]
struct Before<'a> {
    roles: BTreeMap<(&'a Name, &'a Name), &'a RoleLoad>,
    endpoints: BTreeMap<(&'a Name, feed::EndpointId), &'a EndpointLoad>,
}

impl<'a> Before<'a> {
    fn of(loads: Option<&'a Loads>) -> Self {
        let mut before = Self::default();
        for node in loads.into_iter().flat_map(|loads| &loads.nodes) {
            for load in &node.roles {
                before.roles.insert((&node.node, &load.role), load);
                let ends = load.endpoints.iter().map(|end| ((&node.node, id(end)), end));
                before.endpoints.extend(ends);
            }
        }
        before
    }
}

fn id(end: &EndpointLoad) -> feed::EndpointId {
    feed::EndpointId { instance: end.instance, addr: end.addr }
}

fn flow(from: &Name, now: &EndpointLoad, before: Option<&EndpointLoad>, seconds: Option<f64>) -> Flow {
    let timed = grown(now.timed, before.map(|before| before.timed));
    let timed_us = grown(now.timed_us, before.map(|before| before.timed_us));
    let asked = Asked {
        rate: rate(grown(now.requests, before.map(|before| before.requests)), seconds),
        failure_rate: rate(grown(now.failures, before.map(|before| before.failures)), seconds),
        mean_us: timed_us.checked_div(timed),
        in_flight: now.in_flight.into(),
        ejected_by: now.ejected.then(|| from.clone()).into_iter().collect(),
        ejections: now.ejections,
    };
    Flow { from: from.clone(), to: now.node.clone(), asked }
}

impl Asked {
    /// Several consumers' together. Times count by how much each asks.
    fn sum<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let add = |of: fn(&Self) -> Option<f64>| all.clone().filter_map(of).reduce(|a, b| a + b);
        let weighed = all.clone().filter_map(|one| Some((one.mean_us?, one.rate.unwrap_or_default())));
        let weight: f64 = weighed.clone().map(|(_, rate)| rate).sum();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "times are positive and not as long as that"
        )]
        let mean_us = (weight > 0.0)
            .then(|| weighed.map(|(us, rate)| us as f64 * rate).sum::<f64>() / weight)
            .map(|us| us as u64);
        Self {
            rate: add(|one| one.rate),
            failure_rate: add(|one| one.failure_rate),
            mean_us,
            in_flight: all.clone().map(|one| one.in_flight).sum(),
            ejected_by: all.clone().flat_map(|one| one.ejected_by.clone()).collect(),
            ejections: all.map(|one| one.ejections).sum(),
        }
    }
}

impl Picture {
    /// What there is to see now, with rates since the look before, if the same node was asked: two may not have the same clock.
    pub(super) fn of(before: Option<&Look>, now: &Look) -> Self {
        let before = before.filter(|before| before.state.node == now.state.node).map(|before| &before.loads);
        #[expect(clippy::cast_precision_loss, reason = "looks are not so far apart")]
        let seconds = before
            .and_then(|before| now.loads.at_ms.checked_sub(before.at_ms))
            .filter(|ms| *ms > 0)
            .map(|ms| ms as f64 / 1000.0);
        let earlier = Before::of(before);
        let members: BTreeMap<&Name, &Member> =
            now.state.members.iter().map(|one| (&one.name, one)).collect();
        let (mut inward, mut outward, mut flows, mut proxies) =
            (BTreeMap::<&Name, Counts>::new(), BTreeMap::<&Name, Counts>::new(), Vec::new(), Vec::new());
        for node in now.loads.nodes.iter().filter(|node| !node.roles.is_empty()) {
            let Some(member) = members.get(&node.node) else { continue };
            let mut own = Counts::default();
            for load in &node.roles {
                let before = earlier.roles.get(&(&node.node, &load.role)).copied();
                let of_role = outward.entry(&member.role).or_default();
                let into = inward.entry(&load.role).or_default();
                into.add(load, before);
                for counts in [&mut own, of_role] {
                    counts.add(load, before);
                    counts.add_answers(load, before);
                }
                for end in &load.endpoints {
                    let before = earlier.endpoints.get(&(&node.node, id(end))).copied();
                    into.requests += grown(end.requests, before.map(|before| before.requests));
                    into.errors += grown(end.failures, before.map(|before| before.failures));
                    flows.push(flow(&node.node, end, before, seconds));
                }
            }
            proxies.push(Proxy { member: (*member).clone(), traffic: own.traffic(seconds) });
        }
        let counts = |role: &Name| inward.get(role).or_else(|| outward.get(role));
        let roles = roles(&now.state.members, |role| counts(role).map(|counts| counts.traffic(seconds)));
        let nodes = nodes(now, &flows);
        Self {
            node: now.state.node.clone(),
            cluster: now.state.cluster.clone(),
            seconds,
            roles,
            nodes,
            proxies,
            flows,
            missing: now.loads.missing.clone(),
        }
    }
}

fn roles(members: &[Member], traffic: impl Fn(&Name) -> Option<Traffic>) -> Vec<Role> {
    let mut counts: BTreeMap<&Name, (usize, usize)> = BTreeMap::new();
    for member in members {
        let (ready, nodes) = counts.entry(&member.role).or_default();
        *ready += usize::from(member.state == MemberState::Ready);
        *nodes += 1;
    }
    let role = |(role, (ready, nodes)): (&Name, (usize, usize))| Role {
        role: role.clone(),
        ready,
        nodes,
        traffic: traffic(role),
    };
    counts.into_iter().map(role).collect()
}

fn nodes(now: &Look, flows: &[Flow]) -> Vec<Node> {
    let mut inward: BTreeMap<&Name, Vec<&Flow>> = BTreeMap::new();
    for flow in flows {
        inward.entry(&flow.to).or_default().push(flow);
    }
    let held_up: BTreeMap<&Name, &Vec<Name>> =
        now.loads.nodes.iter().filter_map(|load| Some((&load.node, load.held_up_by.as_ref()?))).collect();
    let node = |member: &Member| {
        let to_it = inward.get(&member.name);
        let asked = to_it.map(|flows| Asked::sum(flows.iter().map(|flow| &flow.asked)));
        let mut waits_for = BTreeMap::new();
        if member.state == MemberState::Draining {
            let under_way = to_it.into_iter().flatten().filter(|flow| flow.asked.in_flight > 0);
            waits_for.extend(under_way.map(|flow| (flow.from.clone(), flow.asked.in_flight)));
            for name in held_up.get(&member.name).into_iter().copied().flatten() {
                waits_for.entry(name.clone()).or_default();
            }
        }
        Node { member: member.clone(), asked, waits_for }
    };
    now.state.members.iter().map(node).collect()
}
