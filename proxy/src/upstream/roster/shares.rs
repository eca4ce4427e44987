//! Claims about shares, under load.

use std::collections::BTreeMap;

use super::{
    tests::{id, new_roster},
    *,
};

/// Clients at a role whose endpoints come and go: each has its next request as soon as the one before has ended, and which ends next is
/// random.
struct Crowd {
    roster: Rc<Roster>,
    dice: Dice,
    endpoints: Vec<Arc<Endpoint>>,
    leases: Vec<Lease>,
    now_ms: u64,
    /// By instance: what it had, and what it was to have.
    had: BTreeMap<u64, Had>,
    /// What each has of the requests now; worked out anew while somebody is new.
    shares: Vec<(u64, f64)>,
    settled_ms: u64,
}

#[derive(Default)]
struct Had {
    requests: f64,
    wanted: f64,
}

impl Crowd {
    fn new(seed: u64, clients: usize, endpoints: usize) -> Self {
        let mut crowd = Self {
            roster: Rc::new(new_roster(&UpstreamRules::default())),
            dice: Dice::new(seed),
            endpoints: Vec::new(),
            leases: Vec::new(),
            now_ms: 0,
            had: BTreeMap::new(),
            shares: Vec::new(),
            settled_ms: 0,
        };
        (0..endpoints).for_each(|_| crowd.join());
        crowd.publish();
        (0..clients).for_each(|_| crowd.ask());
        crowd
    }

    fn join(&mut self) {
        const WEIGHTS: [u16; 8] = [100, 100, 100, 10, 50, 20, 200, 100];
        let instance = self.had.len() as u64 + 1;
        let weight = WEIGHTS[usize::try_from(self.dice.below(8)).unwrap()];
        let (node_hash, state, health) = (instance, EndpointState::Ready, Arc::default());
        self.endpoints.push(Arc::new(Endpoint {
            id: id(instance),
            addr: id(instance).addr.into(),
            node: "n".parse().unwrap(),
            node_hash,
            state,
            weight,
            claim: None,
            health,
        }));
        self.had.insert(instance, Had::default());
    }

    fn leave(&mut self) {
        let leaving = usize::try_from(self.dice.below(self.endpoints.len() as u64)).unwrap();
        self.endpoints.swap_remove(leaving);
    }

    fn publish(&mut self) {
        self.settled_ms = self.now_ms + 20_000;
        let listing = Listing::new(1, self.endpoints.clone(), Vec::new(), false);
        self.roster.apply_listing(&Arc::new(listing), self.now_ms);
    }

    fn ask(&mut self) {
        if self.now_ms <= self.settled_ms {
            let known = self.roster.known.borrow();
            let percent = |i| known.ramp.grown(i, self.now_ms).percent as f64;
            let share = |(i, e): (usize, &Arc<Endpoint>)| (e.id.instance, f64::from(e.weight) * percent(i));
            self.shares = self.endpoints.iter().enumerate().map(share).collect();
            let total: f64 = self.shares.iter().map(|(_, share)| share).sum();
            self.shares.iter_mut().for_each(|(_, share)| *share /= total);
        }
        for (instance, share) in &self.shares {
            self.had.get_mut(instance).unwrap().wanted += share;
        }
        let wanted = Wanted { avoid: Avoided::NOBODY, key: None, now_ms: self.now_ms };
        let (lease, _) = self.roster.lease(wanted, &mut self.dice).unwrap();
        self.had.get_mut(&lease.upstream.endpoint.id.instance).unwrap().requests += 1.0;
        self.leases.push(lease);
    }

    fn step(&mut self) {
        self.now_ms += 10;
        let ending = usize::try_from(self.dice.below(self.leases.len() as u64)).unwrap();
        drop(self.leases.swap_remove(ending));
        self.ask();
    }

    /// The greatest difference between what one had and what it was to have, in percent of all requests.
    fn percent_off(&self) -> f64 {
        let all: f64 = self.had.values().map(|had| had.requests).sum();
        let off = self.had.values().map(|had| (had.requests - had.wanted).abs() / all * 100.0);
        off.fold(0.0, f64::max)
    }
}

#[test]
fn shares_hold_with_any_load_while_endpoints_come_and_go() {
    for endpoints in [2, 3, 10, 50] {
        for clients in [1, 4, 16, 64, 256] {
            let mut crowd = Crowd::new(clients as u64 + 1, clients, endpoints);
            for _ in 0..6 {
                // Long enough that what is under way when somebody comes or goes is little of it.
                (0..200 + 40 * clients).for_each(|_| crowd.step());
                if crowd.endpoints.len() >= endpoints {
                    crowd.leave();
                } else {
                    crowd.join();
                }
                crowd.publish();
            }
            let off = crowd.percent_off();
            assert!(off < 3.0, "{endpoints} endpoints, {clients} clients: {off} percent");
        }
    }
}

#[test]
fn who_is_new_here_starts_slowly_and_who_was_here_from_the_first_table_does_not() {
    let mut crowd = Crowd::new(1, 16, 4);
    let percent = |crowd: &Crowd, i| {
        let grown = crowd.roster.known.borrow().ramp.grown(i, crowd.now_ms);
        grown.percent * 100 / grown.of
    };
    assert!((0..4).all(|i| percent(&crowd, i) == 100), "all have just come");
    crowd.now_ms = 60_000;
    crowd.join();
    crowd.publish();
    assert_eq!([percent(&crowd, 3), percent(&crowd, 4)], [100, 20]);
    crowd.now_ms = 65_000;
    crowd.publish();
    assert_eq!([percent(&crowd, 3), percent(&crowd, 4)], [100, 60], "another table changes nothing");
    let ready = crowd.endpoints[4].clone();
    for state in [EndpointState::Suspect, EndpointState::Ready] {
        let (id, health) = (ready.id, ready.health.clone());
        let (node, addr) = ("n".parse().unwrap(), id.addr.into());
        crowd.endpoints[4] =
            Arc::new(Endpoint { id, addr, node, state, health, node_hash: 5, weight: 100, claim: None });
        crowd.publish();
    }
    assert_eq!(percent(&crowd, 4), 60, "nor does a suspicion that was wrong");
    let was = crowd.endpoints.pop().unwrap();
    crowd.publish();
    crowd.endpoints.push(was);
    crowd.publish();
    assert_eq!(percent(&crowd, 4), 20, "but who was gone begins anew");
}
