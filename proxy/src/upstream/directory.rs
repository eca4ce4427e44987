//! What all workers share: for each role the newest table, with counters that survive from table to table.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use feed::{EndpointState, Name, RoleTable};
use tokio::sync::{Notify, watch};

/// An endpoint and what is known of it across workers. Aligned to two cache lines, because the counters of neighbours would
/// otherwise be passed back and forth between cores.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Endpoint {
    pub(crate) instance: u64,
    pub(crate) addr: SocketAddr,
    pub(crate) state: EndpointState,
    pub(crate) weight: u16,
    /// Since when it is ready, in milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
    pub(crate) health: Arc<Health>,
}

/// The counters of an instance; they outlive a change of its state or weight.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Health {
    pub(crate) in_flight: AtomicU32,
    /// Connect failures in a row.
    failures: AtomicU32,
    /// Until when it is a last resort, on the workers' clock.
    ejected_until_ms: AtomicU64,
}

/// First ejection; doubles with each further failure up to [`EJECTION_MAX_MS`]. A refused connection is tried again soon: the
/// usual cause is a process that is just starting or restarting.
const EJECTION_MIN_MS: u64 = 500;
const EJECTION_MAX_MS: u64 = 10_000;

impl Health {
    pub(crate) fn is_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) > now_ms
    }

    /// A connection was refused or timed out.
    pub(crate) fn apply_failure(&self, now_ms: u64) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(8);
        let pause = (EJECTION_MIN_MS << failures).min(EJECTION_MAX_MS);
        self.ejected_until_ms.store(now_ms + pause, Ordering::Relaxed);
    }

    /// A response came.
    pub(crate) fn apply_success(&self) {
        // A load first: a store by every request would make the line travel between cores.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejected_until_ms.store(0, Ordering::Relaxed);
        }
    }
}

/// A role's endpoints at one time.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Grows with each publication.
    pub(crate) version: u64,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// One role: its listing, and how far each worker has taken note of it.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) name: Name,
    listing: watch::Sender<Arc<Listing>>,
    applied: Vec<AtomicU64>,
    some_applied: Notify,
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
        let endpoints = table.endpoints().iter().map(|e| Arc::new(endpoint(e, &before))).collect();
        self.listing.send_replace(Arc::new(Listing { version, endpoints }));
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

fn endpoint(listed: &feed::Endpoint, before: &Listing) -> Endpoint {
    let known = before.endpoints.iter().find(|e| e.instance == listed.instance && e.addr == listed.addr);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time after 1970")]
    let since_ms = (listed.since.max(0.0) * 1000.0) as u64;
    Endpoint {
        instance: listed.instance,
        addr: listed.addr,
        state: listed.state,
        weight: listed.weight,
        since_ms,
        health: known.map_or_else(Arc::default, |e| e.health.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ejection_grows_with_failures_and_ends_with_a_success() {
        let health = Health::default();
        assert!(!health.is_ejected(0));
        health.apply_failure(1000);
        assert!(health.is_ejected(1000 + EJECTION_MIN_MS - 1));
        assert!(!health.is_ejected(1000 + EJECTION_MIN_MS));
        health.apply_failure(2000);
        assert!(health.is_ejected(2000 + EJECTION_MIN_MS));
        for _ in 0..40 {
            health.apply_failure(3000);
        }
        assert!(!health.is_ejected(3000 + EJECTION_MAX_MS));
        health.apply_failure(4000);
        health.apply_success();
        assert!(!health.is_ejected(4000));
    }
}
