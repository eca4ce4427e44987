//! What all workers share: for each role the newest table, with counters that survive from table to table.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use feed::{EndpointState, Name, RoleTable};
use tokio::sync::{Notify, watch};

use super::{hash::hash, health::Health, queue::Turns};

/// An endpoint and what is known of it across workers. Aligned to two cache lines, because the counters of neighbours would
/// otherwise be passed back and forth between cores.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Endpoint {
    pub(crate) instance: u64,
    /// Of its name: a node that restarts has the same.
    pub(crate) node_hash: u64,
    pub(crate) addr: SocketAddr,
    pub(crate) state: EndpointState,
    pub(crate) weight: u16,
    /// Since when it is ready, in milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
    pub(crate) health: Arc<Health>,
}

impl Endpoint {
    fn new(listed: &feed::Endpoint, health: Arc<Health>) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time after 1970")]
        let since_ms = (listed.since.max(0.0) * 1000.0) as u64;
        Self {
            instance: listed.instance,
            node_hash: hash(listed.node.as_str().as_bytes()),
            addr: listed.addr,
            state: listed.state,
            weight: listed.weight,
            since_ms,
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
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Those that are listed no more while requests are under way there. They may be listed again: a frozen process thaws.
    pub(super) gone: Vec<Arc<Endpoint>>,
}

impl Listing {
    /// Whether requests wait where they may wait in vain.
    pub(crate) fn has_stranded(&self) -> bool {
        self.endpoints.iter().chain(&self.gone).any(|e| e.health.is_lost() && e.health.is_in_use())
    }
}

/// One role: its listing, and how far each worker has taken note of it.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) name: Name,
    listing: watch::Sender<Arc<Listing>>,
    applied: Vec<AtomicU64>,
    some_applied: Notify,
    pub(super) turns: Arc<Turns>,
}

/// The roles that the listeners name.
#[derive(Debug)]
pub(crate) struct Directory {
    roles: Vec<Arc<Role>>,
}

impl Directory {
    pub(crate) fn new(names: &[Name], workers: usize) -> Self {
        let role = |name: &Name| Role {
            name: name.clone(),
            listing: watch::Sender::new(Arc::default()),
            applied: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            some_applied: Notify::new(),
            turns: Turns::new(workers),
        };
        Self { roles: names.iter().map(role).map(Arc::new).collect() }
    }

    pub(crate) fn roles(&self) -> &[Arc<Role>] {
        &self.roles
    }

    pub(crate) fn role(&self, name: &str) -> Option<&Arc<Role>> {
        self.roles.iter().find(|role| role.name.as_str() == name)
    }
}

impl Role {
    /// Publishes a table: workers will choose by it. Returns its version.
    pub(crate) fn publish(&self, table: &RoleTable) -> u64 {
        let before = self.listing.borrow().clone();
        let version = before.version + 1;
        let known = before.endpoints.iter().chain(&before.gone).map(|e| ((e.instance, e.addr), e));
        // By key, because a table may have ten thousand.
        let mut known: HashMap<_, _> = known.collect();
        let mut endpoint = |listed: &feed::Endpoint| {
            let known = known.remove(&(listed.instance, listed.addr));
            Arc::new(Endpoint::new(listed, known.map_or_else(Arc::default, |e| e.health.clone())))
        };
        let endpoints: Vec<_> = table.endpoints().iter().map(&mut endpoint).collect();
        // Before anybody chooses by the new listing: who then looks at a request that waits must see that it does so in vain.
        endpoints.iter().for_each(|e| e.health.set_lost(e.state == EndpointState::Suspect));
        known.values().for_each(|gone| gone.health.set_lost(true));
        let gone = known.into_values().filter(|gone| gone.health.is_in_use()).cloned().collect();
        self.listing.send_replace(Arc::new(Listing { version, endpoints, gone }));
        version
    }

    /// Publishes a table and waits until every worker chooses by it.
    pub(crate) async fn apply_table(&self, table: &RoleTable) {
        let version = self.publish(table);
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

    /// A worker's view of the listings.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Listing>> {
        self.listing.subscribe()
    }

    /// A worker chooses by this version from now on, or does not choose any more.
    pub(crate) fn note_applied(&self, worker: usize, version: u64) {
        self.applied[worker].store(version, Ordering::Release);
        self.some_applied.notify_waiters();
    }

    /// Requests and connections under way at an instance.
    pub(crate) fn in_flight(&self, instance: u64) -> u32 {
        let listing = self.listing.borrow();
        let found = listing.endpoints.iter().find(|e| e.instance == instance);
        found.map_or(0, |e| e.health.in_flight.load(Ordering::Acquire))
    }
}
