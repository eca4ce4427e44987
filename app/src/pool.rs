//! The apps as the front sees them: which to ask, what each has under way, which connections to it idle.
//!
//! No I/O and no clock: `C` is whatever a connection is, time and chance come as arguments. Everything happens on
//! one thread, and choosing counts the choice in the same step, so that between [`Pool::apply_table`] and the
//! receipt for that table nothing can slip through.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    time::{Duration, Instant},
};

use feed::{
    Endpoint, EndpointId, EndpointState, Name, RoleTable,
    load::Load,
    recall::{Attempt, Drawn},
    report::EndpointLoad,
};
use rand::{Rng, RngExt as _};
use tokio::sync::Notify;

/// Most idle connections kept to one app: what a burst leaves behind, a descriptor each, here and there.
const IDLE_MAX: usize = 32;

/// How long an app that failed is only a last resort: about what the sidecars take to notice it too.
const EJECTION: Duration = Duration::from_secs(1);

/// The apps of the current table, and those before it that still have work under way.
#[derive(Debug)]
pub(crate) struct Pool<C>(BTreeMap<EndpointId, Rc<App<C>>>);

/// One app.
#[derive(Debug)]
pub(crate) struct App<C> {
    pub(crate) node: Name,
    pub(crate) id: EndpointId,
    /// Its share of the choices beside others; 0 while it is not to be chosen.
    share: Cell<u16>,
    /// It is a last resort: it failed, by what its sidecar heard.
    is_suspect: Cell<bool>,
    in_flight: Cell<u32>,
    tally: Tally,
    ejected_until: Cell<Option<Instant>>,
    ejections: Cell<u64>,
    idle: RefCell<Vec<C>>,
    /// Told when a table has it as a suspect, or not at all, and others as ready.
    lost: Notify,
}

/// What has come of it so far.
#[derive(Debug, Default)]
struct Tally {
    requests: Cell<u64>,
    failures: Cell<u64>,
    /// Answers,
    timed: Cell<u64>,
    /// and how long they took to begin, all together.
    timed_us: Cell<u64>,
}

/// A request under way at an app, counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct Lease<C> {
    app: Rc<App<C>>,
    /// Those that it was chosen from, and what they had to do.
    drawn: [Option<(Rc<App<C>>, Load)>; 2],
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<C> Pool<C> {
    /// Takes a new table. What it drains or leaves out is not chosen again, and its idle connections are dropped.
    pub(crate) fn apply_table(&mut self, table: &RoleTable) {
        for app in self.0.values() {
            app.share.set(0);
        }
        for endpoint in table.endpoints() {
            let app = self.0.entry(endpoint.id()).or_insert_with(|| App::new(endpoint));
            app.share.set(share(endpoint));
            app.is_suspect.set(endpoint.state == EndpointState::Suspect);
        }
        if self.0.values().any(|app| app.share.get() > 0 && !app.is_suspect.get()) {
            let listed: BTreeSet<_> = table.endpoints().iter().map(Endpoint::id).collect();
            let lost = self.0.iter().filter(|(id, app)| app.is_suspect.get() || !listed.contains(id));
            lost.for_each(|(_, app)| app.lost.notify_waiters());
        }
        self.0.retain(|_, app| {
            if app.share.get() == 0 {
                app.idle.take();
            }
            app.share.get() > 0 || app.in_flight.get() > 0
        });
    }

    /// Requests under way, by app; who is missing has none.
    pub(crate) fn in_flight(&self) -> HashMap<EndpointId, u32> {
        let busy = self.0.iter().filter(|(_, app)| app.in_flight.get() > 0);
        busy.map(|(id, app)| (*id, app.in_flight.get())).collect()
    }

    /// What all of them have to do, and how it went.
    pub(crate) fn loads(&self, now: Instant) -> Vec<EndpointLoad> {
        let load = |app: &Rc<App<C>>| EndpointLoad {
            node: app.node.clone(),
            instance: app.id.instance,
            addr: app.id.addr,
            in_flight: app.in_flight.get(),
            requests: app.tally.requests.get(),
            failures: app.tally.failures.get(),
            timed: app.tally.timed.get(),
            timed_us: app.tally.timed_us.get(),
            ejected: app.is_ejected(now),
            ejections: app.ejections.get(),
        };
        self.0.values().map(load).collect()
    }

    /// Chooses an app that was not tried yet: of two drawn by weight the one with less under way for its weight. Ejected apps count
    /// only when there is no other, suspects only when there is none of these.
    pub(crate) fn choose(
        &self,
        tried: &BTreeSet<EndpointId>,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<Lease<C>> {
        let rank = |app: &App<C>| (app.is_suspect.get(), app.is_ejected(now));
        let untried = || self.0.values().filter(|app| app.share.get() > 0 && !tried.contains(&app.id));
        let best_rank = untried().map(|app| rank(app)).min()?;
        let best = || untried().filter(|app| rank(app) == best_rank);
        let (first, second) = (draw(best, rng)?, draw(best, rng)?);
        let is_second_chosen = second.load().is_less(first.load(), rng.random());
        let (other, chosen) = if Rc::ptr_eq(first, second) {
            let others = || best().filter(|app| !Rc::ptr_eq(app, first));
            let other = draw(others, rng);
            (other, other.filter(|other| other.load().is_clearly_less(first.load())).unwrap_or(first))
        } else {
            (Some(second), if is_second_chosen { second } else { first })
        };
        let drawn = [Some(first), other].map(|app| app.map(|app| (Rc::clone(app), app.load())));
        chosen.in_flight.update(|n| n + 1);
        chosen.tally.requests.update(|n| n + 1);
        Some(Lease { app: Rc::clone(chosen), drawn })
    }
}

/// What a ready endpoint with a port has as weight; an endpoint that takes no work has nothing.
fn share(endpoint: &Endpoint) -> u16 {
    match endpoint.state {
        EndpointState::Ready | EndpointState::Suspect if endpoint.addr.port() != 0 => endpoint.weight,
        EndpointState::Ready | EndpointState::Suspect | EndpointState::Draining => 0,
    }
}

/// Draws one of these, with a chance in proportion to its share.
fn draw<'a, C: 'a, Among: Iterator<Item = &'a Rc<App<C>>>>(
    among: impl Fn() -> Among,
    rng: &mut impl Rng,
) -> Option<&'a Rc<App<C>>> {
    let total: u64 = among().map(|app| u64::from(app.share.get())).sum();
    let mut point = (total > 0).then(|| rng.random_range(0..total))?;
    among().find(|app| {
        let share = u64::from(app.share.get());
        let is_drawn = point < share;
        point = point.saturating_sub(share);
        is_drawn
    })
}

impl<C> App<C> {
    fn new(endpoint: &Endpoint) -> Rc<Self> {
        Rc::new(Self {
            node: endpoint.node.clone(),
            id: endpoint.id(),
            share: Cell::new(0),
            is_suspect: Cell::new(false),
            in_flight: Cell::new(0),
            tally: Tally::default(),
            ejected_until: Cell::new(None),
            ejections: Cell::new(0),
            idle: RefCell::default(),
            lost: Notify::new(),
        })
    }

    /// The app failed: for [`EJECTION`] it is chosen only when there is no other.
    pub(crate) fn eject(&self, now: Instant) {
        self.ejected_until.set(Some(now + EJECTION));
        self.ejections.update(|n| n + 1);
    }

    /// A request failed there, or was answered by an error.
    pub(crate) fn note_failure(&self) {
        self.tally.failures.update(|n| n + 1);
    }

    /// An answer of the app has begun after this time.
    pub(crate) fn note_time(&self, us: u64) {
        self.tally.timed.update(|n| n + 1);
        self.tally.timed_us.update(|n| n.saturating_add(us));
    }

    /// Waits until the app is lost and another is ready: what it was asked then, that one can answer.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }

    fn load(&self) -> Load {
        Load { in_flight: self.in_flight.get(), share: self.share.get().into() }
    }

    fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.get().is_some_and(|until| now < until)
    }
}

impl<C> Lease<C> {
    /// The app that the request is under way at.
    pub(crate) fn app(&self) -> &Rc<App<C>> {
        &self.app
    }

    /// The choice, for whoever asks later why the request went there.
    pub(crate) fn attempt(&self) -> Attempt {
        let drawn = |(app, load): &(Rc<App<C>>, Load)| Drawn {
            node: Some(app.node.clone()),
            addr: app.id.addr.to_string(),
            in_flight: load.in_flight,
            // Of an endpoint's weight, which has 16 bits.
            weight: u16::try_from(load.share).unwrap_or(u16::MAX),
            grown_percent: 100,
            tier: String::new(),
            is_ejected: false,
        };
        Attempt {
            node: self.app.node.clone(),
            addr: self.app.id.addr.to_string(),
            instance: self.app.id.instance,
            by: "load".to_owned(),
            generation: None,
            among: None,
            drawn: self.drawn.iter().flatten().map(drawn).collect(),
            is_reused: !self.app.idle.borrow().is_empty(),
            failure: None,
            failed_us: None,
        }
    }

    /// The idle connection that was used last, which is the least likely to have been closed meanwhile.
    pub(crate) fn take_idle(&self) -> Option<C> {
        self.app.idle.borrow_mut().pop()
    }

    /// Ends the request and keeps its connection for another, unless the app takes no more.
    pub(crate) fn park(self, connection: C) {
        let mut idle = self.app.idle.borrow_mut();
        if self.app.share.get() > 0 && idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

impl<C> Drop for Lease<C> {
    fn drop(&mut self) {
        self.app.in_flight.update(|n| n - 1);
    }
}

#[cfg(test)]
mod tests;
