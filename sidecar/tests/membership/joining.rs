//! How nodes find each other.

use super::*;

#[test]
fn everybody_knows_a_newcomer_within_a_quarter_of_a_second() {
    let mut sim = cluster(1, 30);
    sim.start(50, "late", "app");
    let took = sim.run_until(SECOND, |sim| all_see(sim, 31));
    assert!(took < Duration::from_millis(250), "{took:?}");
}

#[test]
fn a_newcomer_knows_everybody_after_one_state_exchange() {
    let mut sim = cluster(2, 60);
    sim.start(100, "late", "front");
    let took = sim.run_until(SECOND, |sim| sim.node(100).ready("app").len() == 60);
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[test]
fn a_node_is_not_ready_before_it_knows_the_cluster() {
    let mut sim = Sim::new(3);
    sim.start(2, "app2", "app");
    sim.run(3 * SECOND);
    assert!(!sim.node(2).in_touch);
    assert!(sim.node(2).ready("app").is_empty());
}

#[test]
fn newcomers_that_meet_each_other_first_do_not_take_themselves_for_the_cluster() {
    for seed in 100..130 {
        let mut sim = cluster(seed, 3);
        for n in 20..30 {
            sim.start(n, &format!("late{n}"), if n % 2 == 0 { "app" } else { "front" });
        }
        sim.run_until(5 * SECOND, |sim| sim.nodes.values().all(|node| node.in_touch));
        for n in 20..30 {
            let knew = &sim.node(n).knew;
            assert!(["app2", "app3", "app4"].iter().all(|app| knew.contains(*app)), "{n} knew only {knew:?}");
        }
    }
}

#[test]
fn nodes_that_only_name_each_other_become_a_cluster() {
    let mut sim = Sim::new(6);
    for n in [2, 3] {
        sim.start(n, &format!("app{n}"), "app");
    }
    sim.input(2, Input::Seeds(vec![addr(3)]));
    let took = sim.run_until(5 * SECOND, |sim| all_see(sim, 2));
    assert!(took < 2 * SECOND, "{took:?}");
}

#[test]
fn a_whole_cluster_that_starts_again_without_a_seed_finds_itself_by_what_it_remembers() {
    let mut sim = Sim::new(7);
    for n in 2..6 {
        sim.start(n, &format!("app{n}"), "app");
        sim.input(n, Input::Seeds(Vec::new()));
    }
    sim.run(5 * SECOND);
    assert!(sim.nodes.values().all(|node| node.ready("app").is_empty()), "nobody knows anybody");
    // One remembers a single neighbour, beside some that are no more.
    for n in 2..6 {
        let gone = (100..130).map(addr);
        sim.input(n, Input::Rejoin([addr(2 + (n - 1) % 4)].into_iter().chain(gone).collect()));
    }
    let took = sim.run_until(30 * SECOND, |sim| all_see(sim, 4));
    assert!(took < 15 * SECOND, "{took:?}");
}

#[test]
fn a_whole_cluster_that_finds_itself_in_pairs_at_first_is_one_soon_after() {
    for seed in 130..140 {
        let mut sim = Sim::new(seed);
        let is_cut = |a: u16, b: u16| a < b && a / 2 != b / 2;
        let pairs =
            (2..8).flat_map(|a| (2..8).filter(move |b| is_cut(a, *b)).map(move |b| (addr(a), addr(b))));
        sim.cut = pairs.collect();
        for n in 2..8 {
            sim.start(n, &format!("app{n}"), "app");
            sim.input(n, Input::Seeds(Vec::new()));
            sim.input(n, Input::Rejoin((2..8).chain(100..130).map(addr).collect()));
        }
        sim.run(5 * SECOND);
        assert!(sim.nodes.values().all(|node| node.ready("app").len() == 2), "pairs");
        sim.cut.clear();
        let took = sim.run_until(30 * SECOND, |sim| all_see(sim, 6));
        assert!(took < 5 * SECOND, "{took:?}");
    }
}

#[test]
fn start_order_does_not_matter() {
    let mut sim = Sim::new(4);
    for n in 2..6 {
        sim.start(n, &format!("app{n}"), "app");
    }
    sim.run(10 * SECOND);
    sim.start(1, "dnsserver", "dnsserver");
    let took = sim.run_until(5 * SECOND, |sim| all_see(sim, 4));
    assert!(took < 3 * SECOND, "{took:?}");
}

#[test]
fn a_restarted_dnsserver_knows_everybody_again() {
    let mut sim = cluster(5, 4);
    sim.kill(1);
    sim.run(30 * SECOND);
    sim.start(1, "dnsserver", "dnsserver");
    sim.start(60, "app60", "app");
    let took = sim.run_until(30 * SECOND, |sim| all_see(sim, 5));
    assert!(took < SECOND, "{took:?}");
}

#[test]
fn islands_that_never_met_find_each_other() {
    let mut sim = Sim::new(8);
    let islands = [[1, 2, 3], [4, 5, 6]];
    sim.cut = islands[0].iter().flat_map(|a| islands[1].iter().map(|b| (addr(*a), addr(*b)))).collect();
    for (n, seed) in [(1, 1), (2, 1), (3, 1), (4, 5), (5, 4), (6, 4)] {
        sim.start(n, &format!("app{n}"), "app");
        // One of the other island is among the seeds, as in a list that everybody gets; it never answered.
        let seeds = [seed, 1].into_iter().filter(|seed| *seed != n);
        sim.input(n, Input::Seeds(seeds.map(addr).collect()));
    }
    sim.run(60 * SECOND);
    assert!(sim.nodes.values().all(|node| node.ready("app").len() == 3));
    sim.cut.clear();
    // The pause between announcements to the seeds is 15 s, give or take a quarter.
    let took = sim.run_until(25 * SECOND, |sim| all_see(sim, 6));
    assert!(took < 20 * SECOND, "{took:?}");
}

#[test]
fn a_restarted_founder_that_remembers_is_not_complete_before_it_knows_them() {
    for seed in 110..120 {
        let mut sim = cluster(seed, 4);
        sim.kill(1);
        sim.run(5 * SECOND);
        sim.start_remembering(1, "dnsserver", "dnsserver", (2..6).map(addr).collect());
        sim.run_until(5 * SECOND, |sim| sim.node(1).in_touch);
        assert_eq!(sim.node(1).knew.len(), 4, "seed {seed}: only {:?}", sim.node(1).knew);
    }
}

#[test]
fn who_was_cut_off_from_all_is_back_soon_after() {
    for seed in 120..124 {
        let mut sim = cluster(seed, 8);
        sim.cut = (1..10).filter(|n| *n != 5).map(|n| (addr(5), addr(n))).collect();
        sim.run(60 * SECOND);
        assert!(sim.node(5).ready("app").len() <= 8 && sim.node(1).ready("app").len() == 7);
        sim.cut.clear();
        let took = sim.run_until(30 * SECOND, |sim| all_see(sim, 8));
        assert!(took < 5 * SECOND, "{took:?}");
    }
}

#[test]
fn who_lost_its_only_companion_finds_the_next() {
    let mut sim = cluster(9, 1);
    sim.kill(1);
    sim.run(30 * SECOND);
    sim.start(1, "dnsserver", "dnsserver");
    let took = sim.run_until(10 * SECOND, |sim| all_see(sim, 1));
    assert!(took < 3 * SECOND, "{took:?}");
}

#[test]
fn who_has_found_nobody_is_alone_until_it_has() {
    let mut sim = Sim::new(290);
    sim.start(2, "app2", "app");
    sim.run(2 * SECOND);
    assert_eq!(last_state(&sim, 2, "app2"), Some(MemberState::Joining));
    sim.input(2, Input::Alone("no answer".to_owned()));
    sim.run(SECOND);
    assert_eq!(last_state(&sim, 2, "app2"), Some(MemberState::Alone));
    let explain = ToSidecar::Explain { name: "app2".parse().unwrap() };
    let why = |sim: &mut Sim| {
        sim.input(2, Input::Question { to: 1, question: explain.clone() });
        match sim.node(2).replies.last() {
            Some(feed::FromSidecar::Explained(explanation)) => explanation.alone.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(why(&mut sim).as_deref(), Some("no answer"));
    sim.start(1, "dnsserver", "dnsserver");
    sim.run_until(5 * SECOND, |sim| last_state(sim, 1, "app2") == Some(MemberState::Ready));
    assert_eq!(why(&mut sim), None);
}
