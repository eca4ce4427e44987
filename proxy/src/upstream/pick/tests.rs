//! Claims about choices.

use std::sync::Arc;

use feed::{EndpointId, EndpointState};

use super::{super::hash::hash, *};

const LATER_MS: u64 = 1_000_000;

fn id(instance: u64) -> EndpointId {
    EndpointId { instance, addr: "127.0.0.1:1".parse().unwrap() }
}

fn endpoint(instance: u64, weight: u16) -> Endpoint {
    Endpoint {
        id: id(instance),
        addr: id(instance).addr.into(),
        node: "n".parse().unwrap(),
        node_hash: hash(&instance.to_be_bytes()),
        state: EndpointState::Ready,
        weight,
        claim: None,
        health: Arc::default(),
    }
}

fn avoided(instances: &[u64]) -> Avoided {
    let mut avoided = Avoided::default();
    instances.iter().for_each(|instance| avoided.insert(id(*instance)));
    avoided
}

/// Endpoints, all ready for long.
struct Scene {
    listing: Listing,
    ramp: Ramp,
    dice: Dice,
}

impl Scene {
    fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let endpoints: Vec<_> = endpoints.into_iter().map(Arc::new).collect();
        Self {
            listing: Listing::new(1, endpoints, Vec::new(), true),
            ramp: Ramp::default(),
            dice: Dice::new(42),
        }
    }

    fn health(&self, position: usize) -> &super::super::health::Health {
        &self.listing.endpoints[position].health
    }

    fn busy(&self, position: usize, in_flight: u32) {
        self.health(position).in_flight.store(in_flight, Ordering::Relaxed);
    }

    fn choose_by(&mut self, terms: &Terms<'_>, how: Pick) -> Result<usize, Unpicked> {
        let panic = Panic::new(50);
        let field = Field { listing: &self.listing, ramp: &self.ramp, panic: &panic };
        how(field, terms, &mut self.dice).map(|two| two.chosen)
    }

    fn choose(&mut self, terms: &Terms<'_>) -> Result<usize, Unpicked> {
        self.choose_by(terms, pick)
    }

    /// Avoiding these.
    fn choose_beside(&mut self, instances: &[u64]) -> Result<usize, Unpicked> {
        self.choose(&Terms { avoid: &avoided(instances), ..terms() })
    }

    /// How often each is chosen, of this many times.
    fn counts_by(&mut self, times: u32, terms: &Terms<'_>, how: Pick) -> Vec<u32> {
        let mut counts = vec![0; self.listing.endpoints.len()];
        for _ in 0..times {
            counts[self.choose_by(terms, how).unwrap()] += 1;
        }
        counts
    }

    fn counts(&mut self) -> Vec<u32> {
        self.counts_by(10_000, &terms(), pick)
    }
}

type Pick = fn(Field<'_>, &Terms<'_>, &mut Dice) -> Result<Two, Unpicked>;

fn terms() -> Terms<'static> {
    Terms { avoid: Avoided::NOBODY, key: None, in_flight_max: u32::MAX, now_ms: LATER_MS }
}

#[test]
fn equal_endpoints_get_equal_shares() {
    let counts = Scene::new((1..5).map(|n| endpoint(n, 100))).counts();
    assert!(counts.iter().all(|count| (2300..2700).contains(count)), "{counts:?}");
}

#[test]
fn the_less_busy_of_two_is_chosen() {
    let mut scene = Scene::new([endpoint(1, 100), endpoint(2, 100)]);
    scene.busy(0, 1);
    assert_eq!(scene.counts(), [0, 10_000]);
}

#[test]
fn weights_and_age_set_the_share() {
    let by_weight = Scene::new([endpoint(1, 100), endpoint(2, 300)]).counts();
    assert!((2200..2800).contains(&by_weight[0]), "{by_weight:?}");
    let mut scene = Scene::new([endpoint(1, 100), endpoint(2, 100)]);
    scene.ramp = Ramp::new([Some(0), Some(LATER_MS)].into_iter());
    let by_age = scene.counts();
    assert!((1500..1900).contains(&by_age[1]), "{by_age:?}");
}

#[test]
fn with_load_the_quotient_of_load_and_share_decides() {
    let mut scene = Scene::new([endpoint(1, 100), endpoint(2, 10)]);
    scene.busy(0, 50);
    scene.busy(1, 7);
    assert_eq!(scene.counts(), [10_000, 0]);
    scene.busy(0, 90);
    assert_eq!(scene.counts(), [0, 10_000]);
}

/// The table and the look at each choose alike, whatever keeps some of them from being chosen.
#[test]
fn drawing_from_the_table_is_the_same_as_looking_at_each() {
    const TIMES: u32 = 20_000;
    type Spoil = fn(&mut Scene);
    let spoil: [(&str, Spoil); 8] = [
        ("nothing", |_| {}),
        ("load", |scene| (0..12).for_each(|i| scene.busy(i, u32::try_from(i * 7 % 5).unwrap()))),
        ("new ones", |scene| {
            let since = (0..12).map(|i| Some(if i % 3 == 0 { 0 } else { LATER_MS - i * 700 }));
            scene.ramp = Ramp::new(since);
        }),
        ("refusals", |scene| (0..9).for_each(|i| scene.health(i).refuse_now(LATER_MS))),
        ("ejections", |scene| (3..8).for_each(|i| scene.health(i).eject_now(LATER_MS))),
        ("panic", |scene| (0..8).for_each(|i| scene.health(i).eject_now(LATER_MS))),
        ("limits", |scene| (1..11).for_each(|i| scene.busy(i, 9))),
        ("all refusing", |scene| (0..12).for_each(|i| scene.health(i).refuse_now(LATER_MS))),
    ];
    for (what, spoil) in spoil {
        for avoid in [&[][..], &[2, 12]] {
            let weights = [100, 100, 10, 250, 1, 100, 0, 30, 100, 7, 1000, 100];
            let mut scene = Scene::new((1..).zip(weights).map(|(n, weight)| endpoint(n, weight)));
            spoil(&mut scene);
            let terms = Terms { avoid: &avoided(avoid), in_flight_max: 9, ..terms() };
            let quick = scene.counts_by(TIMES, &terms, pick);
            let plain = scene.counts_by(TIMES, &terms, pick_among_all);
            for (quick, plain) in quick.iter().zip(&plain) {
                let (off, deviation) = (quick.abs_diff(*plain), f64::from(quick + plain).sqrt());
                assert!(f64::from(off) <= 4.5 * deviation, "{what}, {avoid:?}: {quick} and {plain}");
            }
        }
    }
}

#[test]
fn draining_and_weightless_endpoints_are_never_chosen() {
    let draining = Endpoint { state: EndpointState::Draining, ..endpoint(1, 100) };
    let mut scene = Scene::new([draining, endpoint(2, 0)]);
    assert_eq!(scene.choose(&terms()), Err(Unpicked::Nobody));
    assert_eq!(scene.choose(&Terms { key: Some(1), ..terms() }), Err(Unpicked::Nobody));
}

#[test]
fn ejected_and_avoided_endpoints_are_the_last_resort() {
    let mut scene = Scene::new([endpoint(1, 100), endpoint(2, 100)]);
    scene.health(0).eject_now(LATER_MS);
    assert_eq!(scene.counts(), [0, 10_000]);
    assert_eq!(scene.choose_beside(&[2]), Ok(0));
    assert!(scene.choose_beside(&[1, 2]).is_ok());
}

#[test]
fn an_only_endpoint_is_chosen_however_it_does() {
    let mut scene = Scene::new([endpoint(1, 100)]);
    scene.health(0).eject_now(LATER_MS);
    assert_eq!(scene.choose(&terms()), Ok(0));
    scene.health(0).refuse_now(LATER_MS);
    assert_eq!(scene.choose(&terms()), Ok(0));
    assert_eq!(scene.choose(&Terms { key: Some(1), ..terms() }), Ok(0));
}

#[test]
fn one_of_two_that_started_in_the_same_millisecond_is_avoided_alone() {
    let twin =
        Endpoint { id: EndpointId { instance: 1, addr: "127.0.0.2:1".parse().unwrap() }, ..endpoint(2, 100) };
    let mut scene = Scene::new([endpoint(1, 100), twin]);
    assert!((0..100).all(|_| scene.choose_beside(&[1]) == Ok(1)));
}

#[test]
fn suspects_are_chosen_where_nobody_is_ready() {
    let suspect = |n| Endpoint { state: EndpointState::Suspect, ..endpoint(n, 100) };
    let mut scene = Scene::new([suspect(1), endpoint(2, 100), suspect(3)]);
    assert_eq!(scene.counts(), [0, 10_000, 0]);
    scene.health(1).refuse_now(LATER_MS);
    assert_eq!(scene.counts(), [0, 10_000, 0], "one that refuses is ready all the same");
    assert_eq!(scene.choose_beside(&[1, 2]), Ok(2), "before those that failed already");
}

#[test]
fn suspects_do_not_count_for_the_panic_threshold() {
    let suspect = Endpoint { state: EndpointState::Suspect, ..endpoint(3, 100) };
    let mut scene = Scene::new([endpoint(1, 100), endpoint(2, 100), suspect]);
    scene.health(0).eject_now(LATER_MS);
    assert_eq!(scene.counts(), [0, 10_000, 0], "one of two, at the threshold");
    scene.health(1).eject_now(LATER_MS);
    assert!(scene.counts()[..2].iter().all(|count| *count > 4500), "two of two");
}

#[test]
fn more_ejections_than_the_panic_threshold_are_ignored() {
    let mut scene = Scene::new((1..5).map(|n| endpoint(n, 100)));
    scene.health(0).eject_now(LATER_MS);
    scene.health(1).eject_now(LATER_MS);
    assert_eq!(scene.counts()[..2], [0, 0], "at the threshold");
    scene.health(2).eject_now(LATER_MS);
    let all = scene.counts();
    assert!(all.iter().all(|count| (2300..2700).contains(count)), "one over it: {all:?}");
}

#[test]
fn a_panic_is_noticed_at_once_by_whoever_ejects_and_by_others_with_the_next_tick() {
    let scene = Scene::new([endpoint(1, 100), endpoint(2, 100)]);
    let panic = Panic::new(50);
    scene.health(0).eject_now(LATER_MS);
    assert!(!panic.is_on(&scene.listing, LATER_MS));
    scene.health(1).eject_now(LATER_MS);
    assert!(!panic.is_on(&scene.listing, LATER_MS));
    assert!(panic.is_on(&scene.listing, LATER_MS + 100));
    scene.health(1).apply_success(scene.health(1).epoch());
    panic.forget();
    assert!(!panic.is_on(&scene.listing, LATER_MS + 100));
}

#[test]
fn refusals_are_believed_however_many_there_are() {
    let mut scene = Scene::new((1..4).map(|n| endpoint(n, 100)));
    scene.health(0).refuse_now(LATER_MS);
    scene.health(1).refuse_now(LATER_MS);
    assert_eq!(scene.counts(), [0, 0, 10_000]);
}

#[test]
fn nobody_gets_more_than_the_limit_and_a_better_one_is_waited_for() {
    let mut scene = Scene::new((1..4).map(|n| endpoint(n, 100)));
    let limited = Terms { in_flight_max: 2, ..terms() };
    scene.health(2).eject_now(LATER_MS);
    scene.busy(0, 1);
    scene.busy(1, 2);
    assert!((0..100).all(|_| scene.choose(&limited) == Ok(0)), "one below the limit");
    scene.busy(0, 2);
    assert_eq!(scene.choose(&limited), Err(Unpicked::Full), "at the limit");
    let avoiding = Terms { avoid: &avoided(&[1, 2]), ..limited };
    assert_eq!(scene.choose(&avoiding), Ok(2), "the ejected one is all that is left");
}

#[test]
fn a_key_stays_while_its_endpoint_can_be_chosen_and_goes_to_the_same_other_while_it_cannot() {
    let mut scene = Scene::new((1..4).map(|n| endpoint(n, 100)));
    let mut to_others = [0; 3];
    for key in (0..1000_u64).map(|key| hash(&key.to_be_bytes())) {
        let keyed = Terms { key: Some(key), ..terms() };
        let owner = scene.choose(&keyed).unwrap();
        scene.busy(owner, 100);
        assert_eq!(scene.choose(&keyed), Ok(owner), "however busy");
        let full = scene.choose(&Terms { in_flight_max: 100, ..keyed });
        scene.busy(owner, 0);
        scene.health(owner).eject_now(LATER_MS);
        let ejected = scene.choose(&keyed);
        scene.health(owner).apply_success(scene.health(owner).epoch());
        let instance = scene.listing.endpoints[owner].id.instance;
        let avoided = scene.choose(&Terms { avoid: &avoided(&[instance]), ..keyed });
        assert!(ejected != Ok(owner) && ejected == avoided && ejected == full);
        assert_eq!(scene.choose(&keyed), Ok(owner), "it is back");
        to_others[ejected.unwrap()] += 1;
    }
    assert!(to_others.iter().all(|count| (250..420).contains(count)), "spread: {to_others:?}");
}

#[test]
fn where_nearly_all_are_spared_a_key_still_has_one_owner() {
    let mut scene = Scene::new((1..=50).map(|n| endpoint(n, 100)));
    (0..48).for_each(|i| scene.health(i).refuse_now(LATER_MS));
    for key in (0..200_u64).map(|key| hash(&key.to_be_bytes())) {
        let keyed = Terms { key: Some(key), ..terms() };
        let owner = scene.choose(&keyed).unwrap();
        assert!(owner >= 48 && (0..5).all(|_| scene.choose(&keyed) == Ok(owner)));
    }
}

#[test]
fn the_choice_that_is_told_is_the_one_that_would_be_made() {
    let mut scene = Scene::new((1..6).map(|n| endpoint(n, 100)));
    (0..5).for_each(|position| scene.busy(position, u32::try_from(position).unwrap()));
    scene.health(4).eject_now(LATER_MS);
    let panic = Panic::new(50);
    for seed in 0..200 {
        for key in [None, Some(seed)] {
            let terms = Terms { key, ..terms() };
            scene.dice = Dice::new(seed);
            let chosen = scene.choose(&terms).unwrap();
            let field = Field { listing: &scene.listing, ramp: &scene.ramp, panic: &panic };
            let told = prospect(field, &terms, &mut Dice::new(seed));
            assert_eq!(told.chosen, Some(chosen), "seed {seed}, key {key:?}");
            assert!(told.drawn.contains(&chosen) && !told.drawn.contains(&4), "{told:?}");
            let two = pick(field, &terms, &mut Dice::new(seed)).unwrap();
            let noted: Vec<_> =
                two.picked(field, &terms, Among::default()).drawn.into_iter().flatten().collect();
            let drawn = told.drawn.iter().map(|position| Drawn {
                id: id(*position as u64 + 1),
                in_flight: u32::try_from(*position).unwrap(),
                weight: 100,
                grown_percent: 100,
                is_ejected: false,
            });
            assert_eq!(noted, drawn.collect::<Vec<_>>(), "and what is noted of it");
            assert_eq!((told.endpoints[4].tier.as_str(), told.endpoints[3].in_flight), ("spared", 3));
        }
    }
}
