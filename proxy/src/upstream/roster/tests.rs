//! Claims about rosters.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::atomic::AtomicBool,
    task::{Wake, Waker},
};

use feed::EndpointId;

use super::{
    super::{directory::Directory, health::Health},
    *,
};
use crate::{certificates::Origins, config::EJECT_FAILURES};

fn listing(states: &[EndpointState], healths: &[Arc<Health>]) -> Arc<Listing> {
    let endpoint = |(instance, (state, health)): (u64, (&EndpointState, &Arc<Health>))| Endpoint {
        id: id(instance),
        addr: id(instance).addr.into(),
        node: "n".parse().unwrap(),
        node_hash: instance,
        state: *state,
        weight: 100,
        claim: None,
        health: health.clone(),
    };
    let endpoints = (1..).zip(states.iter().zip(healths)).map(endpoint).map(Arc::new).collect();
    Arc::new(Listing::new(1, endpoints, Vec::new(), false))
}

pub(super) fn id(instance: u64) -> EndpointId {
    EndpointId { instance, addr: "127.0.0.1:1".parse().unwrap() }
}

pub(super) fn new_roster(rules: &UpstreamRules) -> Roster {
    let directory = Directory::new(&["app".parse().unwrap()], 1, |_| false);
    Roster::new(rules, &directory.roles()[0], 0, Arc::default())
}

/// A roster of so many ready endpoints.
fn roster_of(count: usize, rules: &UpstreamRules) -> Roster {
    let healths: Vec<_> = (0..count).map(|_| Arc::default()).collect();
    let roster = new_roster(rules);
    roster.apply_listing(&listing(&vec![EndpointState::Ready; count], &healths), 0);
    roster
}

fn endpoint(roster: &Roster, position: usize) -> Arc<Endpoint> {
    roster.known.borrow().upstreams[position].endpoint.clone()
}

#[test]
fn an_upstream_keeps_its_connections_while_it_is_ready_and_can_have_new_ones_when_it_is_again() {
    let (roster, health) = (new_roster(&UpstreamRules::default()), [Arc::default()]);
    let pool = || roster.known.borrow().upstreams[0].pool.clone();
    roster.apply_listing(&listing(&[EndpointState::Ready], &health), 0);
    let first = pool();
    roster.apply_listing(&listing(&[EndpointState::Ready], &health), 0);
    assert!(Rc::ptr_eq(&first, &pool()) && !first.is_closed());
    roster.apply_listing(&listing(&[EndpointState::Suspect], &health), 0);
    assert!(Rc::ptr_eq(&first, &pool()) && !first.is_closed(), "suspects may live");
    roster.apply_listing(&listing(&[EndpointState::Draining], &health), 0);
    assert!(first.is_closed());
    roster.apply_listing(&listing(&[EndpointState::Ready], &health), 0);
    assert!(!pool().is_closed());
    roster.apply_listing(&Arc::default(), 0);
    assert!(first.is_closed());
}

/// A use of this upstream.
fn lease(roster: &Roster, position: usize) -> Lease {
    let upstream = roster.known.borrow().upstreams[position].clone();
    let epoch = upstream.endpoint.health.begin(u32::MAX).unwrap();
    Lease { timed_from: None, upstream, epoch, queue: None }
}

/// A request of which this comes.
fn answer(roster: &Roster, position: usize, status: u16) {
    let lease = lease(roster, position);
    roster.apply_status(&lease, status, 1000);
    roster.apply_response(&lease, status);
}

fn fail(roster: &Roster, position: usize, fault: Fault) {
    roster.apply_fault(&lease(roster, position), fault, 1000);
}

fn is_ejected(roster: &Roster, position: usize) -> bool {
    endpoint(roster, position).health.is_ejected(1000)
}

const FAILURES: [Fault; 4] = [Fault::Closed, Fault::ResponseTimeout, Fault::Truncated, Fault::Malformed];

#[test]
fn failures_of_any_kind_in_a_row_eject_and_whole_responses_in_between_do_not_let_it_come_to_that() {
    let roster = roster_of(2, &UpstreamRules::default());
    for failure in FAILURES.iter().cycle().take(100) {
        (1..EJECT_FAILURES).for_each(|_| fail(&roster, 0, *failure));
        answer(&roster, 0, 200);
    }
    assert!(!is_ejected(&roster, 0));
    FAILURES.iter().for_each(|failure| fail(&roster, 0, *failure));
    assert!(!is_ejected(&roster, 0), "four");
    fail(&roster, 0, Fault::Closed);
    assert!(is_ejected(&roster, 0) && !is_ejected(&roster, 1));
}

#[test]
fn a_head_alone_is_no_success() {
    let roster = roster_of(2, &UpstreamRules::default());
    for _ in 0..EJECT_FAILURES {
        let lease = lease(&roster, 0);
        roster.apply_status(&lease, 200, 1000);
        roster.apply_fault(&lease, Fault::Truncated, 1000);
    }
    assert!(is_ejected(&roster, 0));
}

#[test]
fn failures_eject_nobody_where_that_is_not_wanted() {
    let roster = roster_of(2, &UpstreamRules { eject_failures: 0, ..UpstreamRules::default() });
    FAILURES.iter().cycle().take(100).for_each(|failure| fail(&roster, 0, *failure));
    assert!(!is_ejected(&roster, 0));
}

#[test]
fn server_errors_in_a_row_eject_only_where_that_is_asked_for_and_count_together_with_failures() {
    let rules = UpstreamRules { eject_5xx: NonZeroU32::new(2), ..UpstreamRules::default() };
    let (roster, default) = (roster_of(2, &rules), roster_of(2, &UpstreamRules::default()));
    [500, 499, 600, 404, 503].into_iter().for_each(|status| answer(&roster, 0, status));
    assert!(!is_ejected(&roster, 0), "never two in a row");
    answer(&roster, 0, 503);
    assert!(is_ejected(&roster, 0));
    answer(&roster, 1, 500);
    fail(&roster, 1, Fault::Closed);
    assert!(endpoint(&roster, 1).health.apply_failure(endpoint(&roster, 1).health.epoch(), 1), "counted");
    (0..100).for_each(|_| answer(&default, 0, 500));
    assert!(!is_ejected(&default, 0));
}

#[test]
fn what_was_asked_before_an_ejection_does_not_end_it() {
    let roster = roster_of(2, &UpstreamRules::default());
    let old = lease(&roster, 0);
    (0..EJECT_FAILURES).for_each(|_| fail(&roster, 0, Fault::Closed));
    roster.apply_response(&old, 200);
    assert!(is_ejected(&roster, 0));
    answer(&roster, 0, 200);
    assert!(!is_ejected(&roster, 0), "but what is asked since, as the last resort, does");
}

#[test]
fn no_more_than_a_share_of_a_role_is_ejected_but_always_one() {
    for (count, percent, ejected_max) in [(4, 50, 2), (5, 50, 2), (1, 50, 1), (4, 0, 1), (4, 100, 4)] {
        let roster =
            roster_of(count, &UpstreamRules { eject_percent_max: percent, ..UpstreamRules::default() });
        // Twice: one that is ejected already takes nobody's place.
        (0..count).chain(0..count).for_each(|i| fail(&roster, i, Fault::AcceptTimeout));
        let ejected = (0..count).filter(|&i| is_ejected(&roster, i)).count();
        assert_eq!(ejected, ejected_max, "{percent} percent of {count}");
        (0..count).for_each(|i| fail(&roster, i, Fault::Refused));
        let is_refusing = |i| endpoint(&roster, i).health.is_refusing(1000);
        assert!((0..count).all(is_refusing), "refusals are no opinion");
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A request at one of the workers.
struct Request {
    roster: Rc<Roster>,
    woken: Arc<Flag>,
    ticket: Option<Ticket>,
}

impl Request {
    fn new(roster: &Rc<Roster>) -> Self {
        Self { roster: roster.clone(), woken: Arc::default(), ticket: None }
    }

    fn poll(&mut self, dice: &mut Dice) -> Poll<Result<Lease, Refusal>> {
        let waker = Waker::from(self.woken.clone());
        let wanted = Wanted { avoid: Avoided::NOBODY, key: None, now_ms: 0 };
        let leased = self.roster.poll_lease(&Context::from_waker(&waker), wanted, &mut self.ticket, dice);
        leased.map_ok(|(lease, _)| lease)
    }

    fn is_woken(&self) -> bool {
        self.woken.0.swap(false, Ordering::Relaxed)
    }
}

fn limited(connections_max: u32, pending_max: u32) -> UpstreamRules {
    UpstreamRules {
        upstream_connections_max: NonZeroU32::new(connections_max),
        upstream_pending_max: Some(pending_max),
        ..UpstreamRules::default()
    }
}

#[test]
fn who_waits_is_served_in_order_and_nobody_overtakes() {
    let (roster, mut dice) = (Rc::new(roster_of(1, &limited(1, 3))), Dice::new(1));
    let mut requests: Vec<_> = (0..5).map(|_| Request::new(&roster)).collect();
    let Poll::Ready(Ok(mut lease)) = requests[0].poll(&mut dice) else { panic!("there is room") };
    for request in &mut requests[1..4] {
        assert!(request.poll(&mut dice).is_pending());
    }
    assert!(
        matches!(requests[4].poll(&mut dice), Poll::Ready(Err(Refusal::QueueFull))),
        "one over the limit"
    );
    for next in 1..4 {
        drop(lease);
        let mut others = requests[next + 1..4].iter_mut();
        assert!(others.all(|other| !other.is_woken() && other.poll(&mut dice).is_pending()));
        if next == 2 {
            assert!(Request::new(&roster).poll(&mut dice).is_pending(), "a newcomer waits, then gives up");
        }
        assert!(requests[next].is_woken());
        let Poll::Ready(Ok(won)) = requests[next].poll(&mut dice) else { panic!("{next} has its turn") };
        lease = won;
    }
}

#[test]
fn whoever_waits_hears_that_there_is_nobody_any_more() {
    let (roster, mut dice) = (Rc::new(roster_of(1, &limited(1, 2))), Dice::new(1));
    let mut requests: Vec<_> = (0..3).map(|_| Request::new(&roster)).collect();
    let _lease = requests[0].poll(&mut dice);
    assert!(requests[1..].iter_mut().all(|request| request.poll(&mut dice).is_pending()));
    roster.apply_listing(&Arc::default(), 0);
    for request in &mut requests[1..] {
        assert!(request.is_woken());
        assert!(matches!(request.poll(&mut dice), Poll::Ready(Err(Refusal::NoUpstream))));
    }
}

/// Requests at three workers come, are served and give up at random. Whenever all who were woken have tried, there is no room
/// left where somebody waits: no wake-up was lost.
#[test]
fn no_wake_up_is_lost_between_workers() {
    for seed in 1..=50 {
        let (directory, mut dice) =
            (Directory::new(&["app".parse().unwrap()], 3, |_| false), Dice::new(seed));
        let healths: Vec<_> = (0..2).map(|_| Arc::default()).collect();
        let rosters: Vec<_> = (0..3)
            .map(|worker| {
                Rc::new(Roster::new(&limited(2, 20), &directory.roles()[0], worker, Arc::default()))
            })
            .collect();
        for roster in &rosters {
            roster.apply_listing(&listing(&[EndpointState::Ready; 2], &healths), 0);
        }
        let queues = rosters.iter().map(|roster| roster.queue().clone());
        let mut turns: Vec<Pin<Box<dyn Future<Output = ()>>>> =
            queues.map(|queue| Box::pin(async move { queue.take_turns().await }) as _).collect();
        let (mut waiting, mut leases, mut served) = (BTreeMap::new(), Vec::new(), 0);
        for number in 0..500_u64 {
            match dice.below(8) {
                0..4 => {
                    let roster = usize::try_from(dice.below(3)).unwrap();
                    let mut request = Request::new(&rosters[roster]);
                    match request.poll(&mut dice) {
                        Poll::Ready(lease) => leases.extend(lease),
                        Poll::Pending => drop(waiting.insert(number, request)),
                    }
                }
                4..7 if !leases.is_empty() => {
                    let ended = usize::try_from(dice.below(leases.len() as u64)).unwrap();
                    drop(leases.swap_remove(ended));
                }
                // Whoever has waited longest gives up, perhaps with its turn unused.
                _ => drop(waiting.pop_first()),
            }
            if dice.below(3) > 0 {
                continue;
            }
            loop {
                let context = &mut Context::from_waker(Waker::noop());
                assert!(turns.iter_mut().all(|turn| turn.as_mut().poll(context).is_pending()));
                let Some((&woken, _)) = waiting.iter().find(|(_, request)| request.is_woken()) else { break };
                if let Poll::Ready(lease) = waiting.get_mut(&woken).unwrap().poll(&mut dice) {
                    leases.push(lease.unwrap());
                    waiting.remove(&woken);
                    served += 1;
                }
            }
            let in_flight =
                healths.iter().map(|health| health.in_flight.load(Ordering::Relaxed)).sum::<u32>();
            assert_eq!(in_flight as usize, leases.len());
            assert!(waiting.is_empty() || in_flight == 4, "seed {seed}: {} wait for nothing", waiting.len());
            let left: u32 = rosters[0].queue().waiting();
            assert_eq!(left as usize, waiting.len(), "seed {seed}");
        }
        assert!(served > 0, "seed {seed}: somebody was served after a wait");
    }
}

#[test]
fn nobody_is_better_who_is_lost_spared_avoided_full_or_keeps_others_waiting() {
    let wanted = |avoid| Wanted { avoid, key: None, now_ms: 1000 };
    let nobody = || wanted(Avoided::NOBODY);
    let is_better = |spoil: fn(&Roster)| {
        let roster = roster_of(1, &limited(2, 20));
        assert!(roster.has_better(nobody()));
        spoil(&roster);
        roster.has_better(nobody())
    };
    assert!(is_better(|roster| endpoint(roster, 0).health.in_flight.store(1, Ordering::Relaxed)));
    assert!(!is_better(|roster| endpoint(roster, 0).health.in_flight.store(2, Ordering::Relaxed)));
    assert!(!is_better(|roster| endpoint(roster, 0).health.set_lost(true)));
    assert!(!is_better(|roster| endpoint(roster, 0).health.refuse_now(1000)));
    assert!(!is_better(|roster| endpoint(roster, 0).health.eject_now(1000)));
    assert!(!is_better(|roster| roster.apply_listing(&Arc::default(), 0)));
    let healths = [Arc::default()];
    for state in [EndpointState::Suspect, EndpointState::Draining] {
        let roster = new_roster(&UpstreamRules::default());
        roster.apply_listing(&listing(&[state], &healths), 0);
        assert!(!roster.has_better(nobody()), "{state:?}");
    }
    let (roster, context) = (roster_of(1, &limited(2, 20)), &Context::from_waker(Waker::noop()));
    let _ticket = roster.queue().join(context, 20).unwrap();
    assert!(!roster.has_better(nobody()), "another waits");
    let mut first = Avoided::default();
    first.insert(id(1));
    assert!(!roster_of(1, &limited(2, 20)).has_better(wanted(&first)));
}

#[test]
fn of_two_that_started_in_the_same_millisecond_each_tells_its_own_requests() {
    let directory = Directory::new(&["app".parse().unwrap()], 1, |_| false);
    let role = &directory.roles()[0];
    let twin = |n: u8, state| feed::Endpoint {
        node: format!("app{n}").parse().unwrap(),
        addr: ([10, 0, 0, n], 80).into(),
        ..listed(state)
    };
    let publish = |state| {
        let twins = [twin(1, EndpointState::Ready), twin(2, state)];
        role.publish(&feed::RoleTable::new(role.name.clone(), 1, twins.to_vec()), &Origins::default());
        twins[1].id()
    };
    publish(EndpointState::Ready);
    role.subscribe().borrow().endpoints[1].health.in_flight.store(3, Ordering::Relaxed);
    assert_eq!(role.in_flight(), HashMap::new(), "nobody drains");
    let draining = publish(EndpointState::Draining);
    assert_eq!(role.in_flight(), HashMap::from([(draining, 3)]));
}

fn listed(state: EndpointState) -> feed::Endpoint {
    feed::Endpoint {
        node: "app1".parse().unwrap(),
        instance: 1,
        addr: "127.0.0.1:1".parse().unwrap(),
        state,
        weight: 100,
        since: 0.0,
        gossip_port: 0,
        tags: feed::Tags::default(),
        routes: feed::Routes::default(),
        protocol: None,
    }
}

#[test]
fn an_instance_that_is_listed_again_is_the_same_while_requests_are_under_way_there() {
    let directory = Directory::new(&["app".parse().unwrap()], 1, |_| false);
    let role = &directory.roles()[0];
    let publish = |states: &[EndpointState]| {
        let endpoints = states.iter().copied().map(listed).collect();
        role.publish(&feed::RoleTable::new(role.name.clone(), 1, endpoints), &Origins::default());
        role.subscribe().borrow().clone()
    };
    let health = |listing: &Listing| listing.endpoints[0].health.clone();
    for in_flight in [1, 0] {
        let first = publish(&[EndpointState::Ready]);
        health(&first).in_flight.store(in_flight, Ordering::Relaxed);
        assert!(!first.has_stranded());
        assert_eq!(publish(&[EndpointState::Suspect]).has_stranded(), in_flight > 0);
        for _ in 0..2 {
            assert_eq!(publish(&[]).has_stranded(), in_flight > 0);
        }
        let again = publish(&[EndpointState::Ready]);
        assert_eq!(Arc::ptr_eq(&health(&first), &health(&again)), in_flight > 0);
        assert!(!health(&again).is_lost() && !again.has_stranded());
        health(&again).in_flight.store(0, Ordering::Relaxed);
        publish(&[]);
    }
}
