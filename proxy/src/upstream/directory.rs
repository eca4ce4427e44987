//! What all workers share: for each role the newest table, with counters that survive from table to table.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use feed::{EndpointId, EndpointState, Name, RoleTable, Route};
use program::metrics::Times;
use tokio::sync::{Notify, watch};

use super::{
    alias::AliasTable,
    attention::Attention,
    claim::Claim,
    hash::hash,
    health::Health,
    queue::Turns,
    slots::{Node, Slots},
};
use crate::{
    certificates::Origins,
    config::Address,
    route::{Table, Target},
    stats::{Answers, Latencies, Phase},
};

/// How long a role is told of that no plan names and nobody claims a route for any more: long enough that whoever has lost all of a
/// service's nodes is called, and short enough that a service that was given up is not missed for ever.
pub(crate) const TOLD_AFTER: Duration = Duration::from_secs(3600);

/// An endpoint and what is known of it across workers.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: EndpointId,
    /// Where it listens.
    pub(crate) addr: Address,
    pub(crate) node: Name,
    /// Of its name: a node that restarts has the same.
    pub(crate) node_hash: u64,
    pub(crate) state: EndpointState,
    pub(crate) weight: u16,
    /// None: it says nothing.
    pub(crate) claim: Option<Claim>,
    pub(crate) health: Arc<Health>,
}

impl Endpoint {
    fn new(listed: &feed::Endpoint, addr: Address, claim: Option<Claim>, health: Arc<Health>) -> Self {
        Self {
            id: listed.id(),
            addr,
            node: listed.node.clone(),
            node_hash: hash(listed.node.as_str().as_bytes()),
            state: listed.state,
            weight: listed.weight,
            claim,
            health,
        }
    }

    /// It may be given work at all.
    pub(crate) fn is_eligible(&self) -> bool {
        self.state != EndpointState::Draining && self.weight > 0
    }

    /// It is meant to be given work.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == EndpointState::Ready && self.weight > 0
    }
}

/// A role's endpoints at one time.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Grows with each publication.
    pub(crate) version: u64,
    /// That of the table that it is made of.
    pub(crate) generation: u64,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// The ready ones, to draw from.
    pub(super) by_weight: AliasTable,
    /// Which keys the ready ones have, where the role is balanced by keys.
    pub(super) slots: Option<Slots>,
    /// Those that are listed no more while requests are under way there. They may be listed again: a frozen process thaws.
    gone: Vec<Arc<Endpoint>>,
}

impl Listing {
    /// The endpoints in their order, made ready to be chosen from: once for all workers.
    pub(super) fn new(
        version: u64,
        endpoints: Vec<Arc<Endpoint>>,
        gone: Vec<Arc<Endpoint>>,
        is_keyed: bool,
    ) -> Self {
        let ready = || endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.is_ready());
        let node = |(position, endpoint): (usize, &Arc<Endpoint>)| Node {
            position,
            hash: endpoint.node_hash,
            weight: endpoint.weight,
        };
        Self {
            by_weight: AliasTable::new(ready().map(|(position, endpoint)| (position, endpoint.weight))),
            slots: is_keyed.then(|| Slots::new(ready().map(node))),
            version,
            generation: 0,
            endpoints,
            gone,
        }
    }

    /// Requests, connections and flows under way, at those that are listed no more, too.
    pub(crate) fn in_flight(&self) -> u64 {
        self.all().map(|endpoint| u64::from(endpoint.health.in_flight.load(Ordering::Relaxed))).sum()
    }

    /// Those that are listed, and those that are no more while something is under way there.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().chain(&self.gone)
    }

    /// Whether requests wait where they may wait in vain.
    pub(crate) fn has_stranded(&self) -> bool {
        self.endpoints.iter().chain(&self.gone).any(|e| e.health.is_lost() && e.health.is_in_use())
    }
}

/// One role: its listing, and how far each worker has taken note of it.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) name: Name,
    /// Since when no plan names it, and nobody claims a route for it.
    unnamed: Mutex<Option<Instant>>,
    /// It is balanced by keys.
    is_keyed: AtomicBool,
    listing: watch::Sender<Arc<Listing>>,
    applied: Vec<AtomicU64>,
    some_applied: Notify,
    pub(super) turns: Arc<Turns>,
    /// By worker.
    pub(crate) answers: Vec<Arc<Answers>>,
    /// By worker, too.
    pub(crate) latencies: Vec<Arc<Latencies>>,
}

/// Roles by their position in the directory.
pub(crate) type Roles = Arc<Vec<Arc<Role>>>;

/// Where each route leads.
pub(crate) type Routes = Arc<Table<Led>>;

/// A route, and where it leads.
#[derive(Debug)]
pub(crate) struct Led {
    pub(crate) route: Route,
    pub(crate) target: Target,
}

impl Led {
    /// An entry of the table of routes.
    pub(crate) fn entry(route: &Route, target: Target) -> (Route, Self) {
        (route.clone(), Self { route: route.clone(), target })
    }
}

/// The roles that the listeners name, and those that claim routes. A role stays where it is once it is there.
#[derive(Debug)]
pub(crate) struct Directory {
    workers: usize,
    roles: watch::Sender<Roles>,
    routes: watch::Sender<Routes>,
    /// The sidecar has told all that it knows.
    synced: watch::Sender<bool>,
    attention: Arc<Attention>,
}

impl Directory {
    /// A directory of these roles for so many workers; those that are keyed have their upstreams found by keys.
    pub(crate) fn new(names: &[Name], workers: usize, is_keyed: impl Fn(&Name) -> bool) -> Self {
        let directory = Self {
            workers,
            roles: watch::Sender::default(),
            routes: watch::Sender::new(Arc::new(std::iter::empty().collect())),
            synced: watch::Sender::new(false),
            attention: Arc::default(),
        };
        names.iter().for_each(|name| drop(directory.add(name, is_keyed(name))));
        directory
    }

    pub(crate) fn roles(&self) -> Roles {
        self.roles.borrow().clone()
    }

    /// The same, and news of more.
    pub(crate) fn subscribe_roles(&self) -> watch::Receiver<Roles> {
        self.roles.subscribe()
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.roles.borrow().iter().position(|role| role.name.as_str() == name)
    }

    pub(crate) fn role(&self, name: &str) -> Option<Arc<Role>> {
        self.roles.borrow().iter().find(|role| role.name.as_str() == name).cloned()
    }

    /// Whether somebody wants to know how long the answers of each endpoint take.
    pub(crate) fn attention(&self) -> &Arc<Attention> {
        &self.attention
    }

    /// Adds a role behind the others; `is_keyed` if it is balanced by keys.
    pub(crate) fn add(&self, name: &Name, is_keyed: bool) -> Arc<Role> {
        let role = Arc::new(Role {
            name: name.clone(),
            unnamed: Mutex::default(),
            is_keyed: AtomicBool::new(is_keyed),
            listing: watch::Sender::new(Arc::default()),
            applied: (0..self.workers).map(|_| AtomicU64::new(0)).collect(),
            some_applied: Notify::new(),
            turns: Turns::new(self.workers),
            answers: (0..self.workers).map(|_| Arc::default()).collect(),
            latencies: (0..self.workers).map(|_| Arc::default()).collect(),
        });
        self.roles.send_modify(|roles| Arc::make_mut(roles).push(role.clone()));
        role
    }

    /// Has requests routed by this table from now on. Every worker must know the roles in it.
    pub(crate) fn publish_routes(&self, routes: Table<Led>) {
        self.routes.send_replace(Arc::new(routes));
    }

    pub(crate) fn subscribe_routes(&self) -> watch::Receiver<Routes> {
        self.routes.subscribe()
    }

    pub(crate) fn note_synced(&self) {
        self.synced.send_replace(true);
    }

    /// Waits until the sidecar has told all that it knows.
    pub(crate) async fn synced(&self) {
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }
}

impl Role {
    /// Somebody is ready.
    pub(crate) fn is_served(&self) -> bool {
        self.listing.borrow().by_weight.len() > 0
    }

    /// Publishes a table: workers will choose by it, and speak to endpoints as these claim. Returns its version.
    pub(crate) fn publish(&self, table: &RoleTable, origins: &Origins) -> u64 {
        self.publish_at(table, |listed| (listed.addr.into(), Claim::of(listed, &self.name, origins)))
    }

    /// The same where endpoints may listen elsewhere than at the addresses of the table.
    pub(crate) fn publish_at(
        &self,
        table: &RoleTable,
        place_of: impl Fn(&feed::Endpoint) -> (Address, Option<Claim>),
    ) -> u64 {
        let before = self.listing.borrow().clone();
        let version = before.version + 1;
        let known = before.endpoints.iter().chain(&before.gone).map(|e| (e.id, e));
        // By key, because a table may have ten thousand.
        let mut known: HashMap<_, _> = known.collect();
        let mut endpoint = |listed: &feed::Endpoint| {
            let known = known.remove(&listed.id());
            let health = known.map_or_else(Arc::default, |e| e.health.clone());
            let (addr, claim) = place_of(listed);
            Arc::new(Endpoint::new(listed, addr, claim, health))
        };
        let endpoints: Vec<_> = table.endpoints().iter().map(&mut endpoint).collect();
        // Before anybody chooses by the new listing: who then looks at a request that waits must see that it does so in vain.
        for endpoint in &endpoints {
            endpoint.health.set_lost(endpoint.state == EndpointState::Suspect);
            endpoint.health.set_released(false);
        }
        for gone in known.values() {
            gone.health.set_lost(true);
            gone.health.set_released(gone.state == EndpointState::Draining);
        }
        let gone = known.into_values().filter(|gone| gone.health.is_in_use()).cloned().collect();
        self.send(version, table.generation(), endpoints, gone);
        version
    }

    /// Whether a plan names it, or somebody claims a route for it.
    pub(crate) fn set_named(&self, is_named: bool, now: Instant) {
        let mut unnamed = self.unnamed.lock().unwrap_or_else(PoisonError::into_inner);
        *unnamed = if is_named { None } else { unnamed.or(Some(now)) };
    }

    /// Whether its state is anything to anybody.
    pub(crate) fn is_told(&self, now: Instant) -> bool {
        let unnamed = *self.unnamed.lock().unwrap_or_else(PoisonError::into_inner);
        unnamed.is_none_or(|since| now.saturating_duration_since(since) < TOLD_AFTER)
            || self.waiting() > 0
            || self.listing().in_flight() > 0
    }

    /// Has its endpoints found by keys, or no more.
    pub(crate) fn set_keyed(&self, is_keyed: bool) {
        if self.is_keyed.swap(is_keyed, Ordering::AcqRel) != is_keyed {
            let before = self.listing.borrow().clone();
            self.send(before.version + 1, before.generation, before.endpoints.clone(), before.gone.clone());
        }
    }

    fn send(&self, version: u64, generation: u64, endpoints: Vec<Arc<Endpoint>>, gone: Vec<Arc<Endpoint>>) {
        let is_keyed = self.is_keyed.load(Ordering::Acquire);
        let listing = Listing { generation, ..Listing::new(version, endpoints, gone, is_keyed) };
        self.listing.send_replace(Arc::new(listing));
    }

    /// Publishes a table and waits until every worker chooses by it.
    pub(crate) async fn apply_table(&self, table: &RoleTable, origins: &Origins) {
        self.wait_version(self.publish(table, origins)).await;
    }

    /// Waits until every worker chooses by this version, or a later one.
    pub(crate) async fn wait_version(&self, version: u64) {
        self.wait_applied(|applied| applied.iter().all(|by| by.load(Ordering::Acquire) >= version)).await;
    }

    /// Waits until this worker chooses by some table.
    pub(crate) async fn first_table(&self, worker: usize) {
        self.wait_applied(|applied| applied[worker].load(Ordering::Acquire) > 0).await;
    }

    async fn wait_applied(&self, is_enough: impl Fn(&[AtomicU64]) -> bool) {
        loop {
            let some_applied = self.some_applied.notified();
            tokio::pin!(some_applied);
            // Registered before the look, so that a worker's note between look and wait is not missed.
            some_applied.as_mut().enable();
            if is_enough(&self.applied) {
                return;
            }
            some_applied.await;
        }
    }

    /// The newest listing.
    pub(crate) fn listing(&self) -> Arc<Listing> {
        self.listing.borrow().clone()
    }

    /// How long a phase of requests took, by worker.
    pub(crate) fn times(&self, phase: Phase) -> impl Iterator<Item = &Times> + Clone {
        self.latencies.iter().filter_map(move |latencies| latencies.of(phase))
    }

    /// Requests that wait for an upstream.
    pub(crate) fn waiting(&self) -> u32 {
        self.turns.waiting()
    }

    /// A worker's view of the listings.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Listing>> {
        self.listing.subscribe()
    }

    /// A worker chooses by this version from now on, or does not choose any more.
    pub(crate) fn note_applied(&self, worker: usize, version: u64) {
        self.applied[worker].store(version, Ordering::Release);
        self.some_applied.notify_waiters();
    }

    /// Requests and connections under way at endpoints that drain; who is missing has none.
    pub(crate) fn in_flight(&self) -> HashMap<EndpointId, u32> {
        let listing = self.listing.borrow();
        let draining = listing.endpoints.iter().filter(|e| e.state == EndpointState::Draining);
        let count = |e: &Arc<Endpoint>| (e.id, e.health.in_flight.load(Ordering::Acquire));
        draining.map(count).filter(|(_, in_flight)| *in_flight > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Directory {
        /// Of two workers and one role, with so many upstreams.
        pub(crate) fn sample(role: &str, count: u16) -> Self {
            let role: Name = role.parse().unwrap();
            let directory = Self::new(std::slice::from_ref(&role), 2, |_| false);
            let endpoint = |n: u16| feed::Endpoint {
                node: format!("n{n}").parse().unwrap(),
                instance: n.into(),
                addr: ([127, 0, 0, 1], n).into(),
                state: EndpointState::Ready,
                weight: 100,
                since: 0.0,
                gossip_port: 1,
                tags: feed::Tags::default(),
                routes: feed::Routes::default(),
                protocol: None,
            };
            let table = RoleTable::new(role, 1, (1..=count).map(endpoint).collect());
            directory.roles()[0].publish(&table, &Origins::default());
            directory
        }
    }
}
