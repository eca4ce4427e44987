//! Claims about the pool.

use rand::{SeedableRng as _, rngs::StdRng};

use super::*;

struct Bench {
    pool: Pool<&'static str>,
    now: Instant,
    rng: StdRng,
}

impl Bench {
    fn of(endpoints: Vec<Endpoint>) -> Self {
        let mut bench = Self { pool: Pool::default(), now: Instant::now(), rng: StdRng::seed_from_u64(1) };
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
        let tried = tried.iter().map(|app| app.id).collect();
        self.pool.choose(&tried, self.now, &mut self.rng)
    }

    /// Requests under way at this app.
    fn in_flight(&self, endpoint: &Endpoint) -> u32 {
        self.pool.in_flight().get(&endpoint.id()).copied().unwrap_or(0)
    }

    /// How often each of the ports `1..=N` is chosen when one request follows the other.
    fn tally<const N: usize>(&mut self, rounds: usize) -> [usize; N] {
        let mut tally = [0; N];
        for _ in 0..rounds {
            let port = self.choose().unwrap().app().id.addr.port();
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
        routes: feed::Routes::default(),
        protocol: None,
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
    assert_eq!(bench.choose().unwrap().app().id.addr.port(), 2, "one that is ejected is ready all the same");
    let other = bench.choose_beside(&[ready]).unwrap();
    assert_eq!((other.app().id.addr.port(), other.take_idle()), (1, Some("kept")));
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

/// So many clients, each with its next request as soon as the one before has ended; which ends next is random.
#[test]
fn weights_hold_under_load() {
    for clients in [1, 2, 16, 64, 256] {
        for weights in [&[10, 100][..], &[100, 10, 10, 10], &[100, 50, 1, 20, 100, 50, 7, 100, 100, 100]] {
            let weighted = |(n, weight): (u16, &u16)| Endpoint { weight: *weight, ..ready(n) };
            let mut bench = Bench::of((1..).zip(weights).map(weighted).collect());
            let (mut counts, rounds) = (vec![0.0; weights.len()], 6000);
            let mut leases: Vec<_> = (0..clients).map(|_| bench.choose().unwrap()).collect();
            for _ in 0..rounds {
                leases.swap_remove(bench.rng.random_range(0..clients));
                leases.push(bench.choose().unwrap());
                let port = leases.last().unwrap().app().id.addr.port();
                counts[usize::from(port) - 1] += 1.0;
            }
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            for (count, weight) in counts.iter().zip(weights) {
                let off = count / f64::from(rounds) - f64::from(*weight) / total;
                assert!(off.abs() < 0.03, "{clients} clients, {weights:?}: {counts:?}");
            }
        }
    }
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
    assert_eq!(bench.in_flight(&ready(1)), 2);
    drop(one);
    assert_eq!(bench.in_flight(&ready(1)), 1);
    two.park("kept");
    assert_eq!(bench.in_flight(&ready(1)), 0);
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
    assert_eq!(bench.in_flight(&ready(1)), 1);
    two.park("not kept");
    assert_eq!(bench.in_flight(&ready(1)), 0);
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
    assert_eq!(bench.in_flight(&ready(1)), 1);
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
fn apps_that_started_in_the_same_millisecond_are_two() {
    let twin = Endpoint { instance: 1, ..ready(2) };
    let mut bench = Bench::of(vec![ready(1), twin.clone()]);
    let one = bench.choose().unwrap();
    let two = bench.choose_beside(&[Rc::clone(one.app())]).unwrap();
    assert_ne!(one.app().id.addr, two.app().id.addr);
    drop(if one.app().id == twin.id() { one } else { two });
    assert_eq!([bench.in_flight(&ready(1)), bench.in_flight(&twin)], [1, 0]);
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
    assert_eq!(bench.tally::<2>(20)[usize::from(out.id.addr.port()) - 1], 0);
    assert!(Rc::ptr_eq(bench.choose_beside(&[other]).unwrap().app(), &out));
    bench.now += EJECTION;
    assert_ne!(bench.tally::<2>(20)[usize::from(out.id.addr.port()) - 1], 0);
}
