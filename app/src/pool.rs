//! The apps as the front sees them: which to ask, what each has under way, which connections to it idle.
//!
//! No I/O and no clock: `C` is whatever a connection is, time and chance come as arguments. Everything happens on
//! one thread, and choosing counts the choice in the same step, so that between [`Pool::apply_table`] and the
//! receipt for that table nothing can slip through.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use feed::{Endpoint, EndpointState, Name, RoleTable};
use rand::{Rng, RngExt as _};
use tokio::sync::Notify;

/// Most idle connections kept to one app: what a burst leaves behind, a descriptor each, here and there.
const IDLE_MAX: usize = 32;

/// How long an app that failed is only a last resort: about what the sidecars take to notice it too.
const EJECTION: Duration = Duration::from_secs(1);

/// The apps of the current table, and those before it that still have work under way.
///
/// The key is the instance; the address is in it because two nodes may have started in the same millisecond.
#[derive(Debug)]
pub(crate) struct Pool<C>(BTreeMap<(u64, SocketAddr), Rc<App<C>>>);

/// One app.
#[derive(Debug)]
pub(crate) struct App<C> {
    pub(crate) node: Name,
    pub(crate) addr: SocketAddr,
    /// Its share of the choices beside others; 0 while it is not to be chosen.
    share: Cell<u16>,
    /// It is a last resort: it failed, by what its sidecar heard.
    is_suspect: Cell<bool>,
    in_flight: Cell<u32>,
    ejected_until: Cell<Option<Instant>>,
    idle: RefCell<Vec<C>>,
    /// Told when a table has it as a suspect, or not at all, and others as ready.
    lost: Notify,
}

/// A request under way at an app, counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct Lease<C>(Rc<App<C>>);

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
            let app = self.0.entry((endpoint.instance, endpoint.addr)).or_insert_with(|| App::new(endpoint));
            app.share.set(share(endpoint));
            app.is_suspect.set(endpoint.state == EndpointState::Suspect);
        }
        let is_listed = |key: &(u64, SocketAddr)| {
            table.endpoints().iter().any(|endpoint| (endpoint.instance, endpoint.addr) == *key)
        };
        if self.0.values().any(|app| app.share.get() > 0 && !app.is_suspect.get()) {
            let lost = self.0.iter().filter(|(key, app)| app.is_suspect.get() || !is_listed(key));
            lost.for_each(|(_, app)| app.lost.notify_waiters());
        }
        self.0.retain(|_, app| {
            if app.share.get() == 0 {
                app.idle.take();
            }
            app.share.get() > 0 || app.in_flight.get() > 0
        });
    }

    /// Requests under way at the instance.
    pub(crate) fn in_flight(&self, instance: u64) -> u32 {
        let same = self.0.iter().filter(|((key, _), _)| *key == instance);
        same.map(|(_, app)| app.in_flight.get()).sum()
    }

    /// Chooses an app that was not tried yet: of two drawn by weight the one with fewer requests under way, of
    /// equals the first drawn. Ejected apps count only when there is no other, suspects only when there is none of these.
    pub(crate) fn choose(&self, tried: &[Rc<App<C>>], now: Instant, rng: &mut impl Rng) -> Option<Lease<C>> {
        let untried = self.0.values().filter(|app| !tried.iter().any(|t| Rc::ptr_eq(t, app)));
        let rank = |app: &&Rc<App<C>>| (app.is_suspect.get(), app.is_ejected(now));
        let mut candidates: Vec<_> = untried.filter(|app| app.share.get() > 0).collect();
        let best = candidates.iter().map(rank).min()?;
        candidates.retain(|app| rank(app) == best);
        let first = draw(&mut candidates, rng)?;
        let chosen = match draw(&mut candidates, rng) {
            Some(second) if second.in_flight.get() < first.in_flight.get() => second,
            _ => first,
        };
        chosen.in_flight.update(|n| n + 1);
        Some(Lease(Rc::clone(chosen)))
    }
}

/// What a ready endpoint with a port has as weight; an endpoint that takes no work has nothing.
fn share(endpoint: &Endpoint) -> u16 {
    match endpoint.state {
        EndpointState::Ready | EndpointState::Suspect if endpoint.addr.port() != 0 => endpoint.weight,
        EndpointState::Ready | EndpointState::Suspect | EndpointState::Draining => 0,
    }
}

/// Takes one out, with a chance in proportion to its share.
fn draw<'a, C>(candidates: &mut Vec<&'a Rc<App<C>>>, rng: &mut impl Rng) -> Option<&'a Rc<App<C>>> {
    let total: u64 = candidates.iter().map(|app| u64::from(app.share.get())).sum();
    let mut point = (total > 0).then(|| rng.random_range(0..total))?;
    let drawn = candidates.iter().position(|app| {
        let share = u64::from(app.share.get());
        let within = point < share;
        point = point.saturating_sub(share);
        within
    })?;
    Some(candidates.swap_remove(drawn))
}

impl<C> App<C> {
    fn new(endpoint: &Endpoint) -> Rc<Self> {
        Rc::new(Self {
            node: endpoint.node.clone(),
            addr: endpoint.addr,
            share: Cell::new(0),
            is_suspect: Cell::new(false),
            in_flight: Cell::new(0),
            ejected_until: Cell::new(None),
            idle: RefCell::default(),
            lost: Notify::new(),
        })
    }

    /// The app failed: for [`EJECTION`] it is chosen only when there is no other.
    pub(crate) fn eject(&self, now: Instant) {
        self.ejected_until.set(Some(now + EJECTION));
    }

    /// Waits until the app is lost and another is ready: what it was asked then, that one can answer.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }

    fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.get().is_some_and(|until| now < until)
    }
}

impl<C> Lease<C> {
    /// The app that the request is under way at.
    pub(crate) fn app(&self) -> &Rc<App<C>> {
        &self.0
    }

    /// The idle connection that was used last, which is the least likely to have been closed meanwhile.
    pub(crate) fn take_idle(&self) -> Option<C> {
        self.0.idle.borrow_mut().pop()
    }

    /// Ends the request and keeps its connection for another, unless the app takes no more.
    pub(crate) fn park(self, connection: C) {
        let mut idle = self.0.idle.borrow_mut();
        if self.0.share.get() > 0 && idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

impl<C> Drop for Lease<C> {
    fn drop(&mut self) {
        self.0.in_flight.update(|n| n - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    struct Bench {
        pool: Pool<&'static str>,
        now: Instant,
        rng: StdRng,
    }

    impl Bench {
        fn of(endpoints: Vec<Endpoint>) -> Self {
            let mut bench =
                Self { pool: Pool::default(), now: Instant::now(), rng: StdRng::seed_from_u64(1) };
            bench.apply(endpoints);
            bench
        }

        fn apply(&mut self, endpoints: Vec<Endpoint>) {
            self.pool.apply_table(&RoleTable::new("appserver".parse().unwrap(), 1, endpoints));
        }

        fn choose(&mut self) -> Option<Lease<&'static str>> {
            self.choose_beside(&[])
        }

        fn choose_beside(&mut self, tried: &[Rc<App<&'static str>>]) -> Option<Lease<&'static str>> {
            self.pool.choose(tried, self.now, &mut self.rng)
        }

        /// How often each of the ports `1..=N` is chosen when one request follows the other.
        fn tally<const N: usize>(&mut self, rounds: usize) -> [usize; N] {
            let mut tally = [0; N];
            for _ in 0..rounds {
                let port = self.choose().unwrap().app().addr.port();
                tally[usize::from(port) - 1] += 1;
            }
            tally
        }
    }

    /// An app whose instance and port are `n`.
    fn ready(n: u16) -> Endpoint {
        Endpoint {
            node: format!("app{n}").parse().unwrap(),
            instance: n.into(),
            addr: ([127, 0, 0, 1], n).into(),
            state: EndpointState::Ready,
            weight: 100,
            since: 0.0,
            gossip_port: 0,
            tags: feed::Tags::default(),
        }
    }

    fn draining(n: u16) -> Endpoint {
        Endpoint { state: EndpointState::Draining, ..ready(n) }
    }

    fn suspect(n: u16) -> Endpoint {
        Endpoint { state: EndpointState::Suspect, ..ready(n) }
    }

    #[test]
    fn suspects_are_chosen_where_nobody_is_ready_and_keep_their_connections() {
        let mut bench = Bench::of(vec![ready(1)]);
        bench.choose().unwrap().park("kept");
        bench.apply(vec![suspect(1), ready(2)]);
        let tally: [usize; 2] = bench.tally(100);
        assert_eq!(tally, [0, 100]);
        let ready = Rc::clone(bench.choose().unwrap().app());
        ready.eject(bench.now);
        assert_eq!(bench.choose().unwrap().app().addr.port(), 2, "one that is ejected is ready all the same");
        let other = bench.choose_beside(&[ready]).unwrap();
        assert_eq!((other.app().addr.port(), other.take_idle()), (1, Some("kept")));
    }

    #[test]
    fn nobody_is_chosen_from_nobody() {
        let idle = Endpoint { weight: 0, ..ready(1) };
        let deaf = Endpoint { addr: ([127, 0, 0, 1], 0).into(), ..ready(2) };
        assert!(Bench::of(vec![]).choose().is_none());
        assert!(Bench::of(vec![idle, deaf, draining(3)]).choose().is_none());
    }

    #[test]
    fn one_request_after_the_other_reaches_every_app_alike() {
        let tally: [usize; 3] = Bench::of(vec![ready(1), ready(2), ready(3)]).tally(3000);
        assert!(tally.iter().all(|n| (900..1100).contains(n)), "{tally:?}");
    }

    #[test]
    fn a_tenth_of_the_weight_is_a_tenth_of_the_work() {
        let light = Endpoint { weight: 10, ..ready(1) };
        let tally: [usize; 2] = Bench::of(vec![light, ready(2)]).tally(1100);
        assert!((70..130).contains(&tally[0]), "{tally:?}");
    }

    #[test]
    fn of_two_the_less_busy_is_chosen() {
        let mut bench = Bench::of(vec![ready(1), ready(2)]);
        let busy = bench.choose().unwrap();
        for _ in 0..20 {
            assert_ne!(bench.choose().unwrap().app().node, busy.app().node);
        }
    }

    #[test]
    fn a_lease_counts_until_it_is_dropped_or_parked() {
        let mut bench = Bench::of(vec![ready(1)]);
        let (one, two) = (bench.choose().unwrap(), bench.choose().unwrap());
        assert_eq!(bench.pool.in_flight(1), 2);
        drop(one);
        assert_eq!(bench.pool.in_flight(1), 1);
        two.park("kept");
        assert_eq!(bench.pool.in_flight(1), 0);
    }

    #[test]
    fn the_connection_used_last_is_reused_first() {
        let mut bench = Bench::of(vec![ready(1)]);
        let (one, two) = (bench.choose().unwrap(), bench.choose().unwrap());
        one.park("older");
        two.park("newer");
        let again = bench.choose().unwrap();
        assert_eq!(
            [again.take_idle(), again.take_idle(), again.take_idle()],
            [Some("newer"), Some("older"), None]
        );
    }

    #[test]
    fn idle_connections_are_kept_up_to_the_limit() {
        let mut bench = Bench::of(vec![ready(1)]);
        let leases: Vec<_> = (0..=IDLE_MAX).map(|_| bench.choose().unwrap()).collect();
        leases.into_iter().for_each(|lease| lease.park("kept"));
        let lease = bench.choose().unwrap();
        assert_eq!(std::iter::from_fn(|| lease.take_idle()).count(), IDLE_MAX);
    }

    #[test]
    fn draining_ends_choices_and_idle_connections_but_not_the_count() {
        let mut bench = Bench::of(vec![ready(1)]);
        let (one, two) = (bench.choose().unwrap(), bench.choose().unwrap());
        one.park("idle");
        bench.apply(vec![draining(1)]);
        assert!(bench.choose().is_none());
        assert_eq!(two.take_idle(), None);
        assert_eq!(bench.pool.in_flight(1), 1);
        two.park("not kept");
        assert_eq!(bench.pool.in_flight(1), 0);
        bench.apply(vec![ready(1)]);
        assert_eq!(bench.choose().unwrap().take_idle(), None);
    }

    #[test]
    fn a_removed_app_that_comes_back_still_has_its_requests() {
        let mut bench = Bench::of(vec![ready(1)]);
        let lease = bench.choose().unwrap();
        bench.apply(vec![]);
        assert!(bench.choose().is_none());
        bench.apply(vec![ready(1)]);
        assert_eq!(bench.pool.in_flight(1), 1);
        drop(lease);
        bench.apply(vec![]);
        assert!(bench.pool.0.is_empty());
    }

    #[test]
    fn an_address_under_a_new_instance_is_a_new_app() {
        let mut bench = Bench::of(vec![ready(1)]);
        let old = bench.choose().unwrap();
        old.app().eject(bench.now);
        old.park("of the old instance");
        bench.apply(vec![Endpoint { instance: 2, ..ready(1) }]);
        let new = bench.choose().unwrap();
        assert_eq!((new.take_idle(), new.app().is_ejected(bench.now)), (None, false));
    }

    #[test]
    fn apps_that_started_in_the_same_millisecond_are_counted_as_one_and_asked_as_two() {
        let twin = Endpoint { instance: 1, ..ready(2) };
        let mut bench = Bench::of(vec![ready(1), twin]);
        let (one, two) = (bench.choose().unwrap(), bench.choose().unwrap());
        assert_ne!(one.app().addr, two.app().addr);
        assert_eq!(bench.pool.in_flight(1), 2);
    }

    #[test]
    fn each_app_is_tried_once() {
        let mut bench = Bench::of(vec![ready(1), ready(2)]);
        let one = Rc::clone(bench.choose().unwrap().app());
        let two = Rc::clone(bench.choose_beside(&[Rc::clone(&one)]).unwrap().app());
        assert_ne!(one.node, two.node);
        assert!(bench.choose_beside(&[one, two]).is_none());
    }

    #[test]
    fn an_ejected_app_is_the_last_resort_until_its_time_is_over() {
        let mut bench = Bench::of(vec![ready(1), ready(2)]);
        let out = Rc::clone(bench.choose().unwrap().app());
        out.eject(bench.now);
        let other = Rc::clone(bench.choose().unwrap().app());
        assert_eq!(bench.tally::<2>(20)[usize::from(out.addr.port()) - 1], 0);
        assert!(Rc::ptr_eq(bench.choose_beside(&[other]).unwrap().app(), &out));
        bench.now += EJECTION;
        assert_ne!(bench.tally::<2>(20)[usize::from(out.addr.port()) - 1], 0);
    }
}
