//! Claims about the membership, on a virtual clock: no sockets, no waiting, every run the same.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod questions;
#[expect(dead_code, reason = "the simulator serves other tests, too")]
mod sim;

use std::{collections::BTreeMap, time::Duration};

use feed::{
    Tags, ToSidecar,
    frame::{Member, MemberState},
};
use sidecar::{input::Input, lifeline::Peer};
use sim::{Sim, addr};

const SECOND: Duration = Duration::from_secs(1);

/// A dnsserver and so many apps, in agreement.
fn cluster(seed: u64, apps: u16) -> Sim {
    let mut sim = Sim::new(seed);
    sim.start(1, "dnsserver", "dnsserver");
    for n in 2..2 + apps {
        sim.start(n, &format!("app{n}"), "app");
    }
    sim.run_until(5 * SECOND, |sim| all_see(sim, usize::from(apps)));
    sim
}

fn all_see(sim: &Sim, apps: usize) -> bool {
    sim.nodes.values().filter(|node| !node.left).all(|node| node.ready("app").len() == apps)
}

fn last_state(sim: &Sim, at: u16, name: &str) -> Option<MemberState> {
    sim.node(at).changes.iter().rev().find(|member| member.name.as_str() == name).map(|member| member.state)
}

fn is_gone(member: &Member) -> bool {
    matches!(member.state, MemberState::Left | MemberState::Failed)
}

mod joining {
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
                assert!(
                    ["app2", "app3", "app4"].iter().all(|app| knew.contains(*app)),
                    "{n} knew only {knew:?}"
                );
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
}

mod leaving {
    use super::*;

    #[test]
    fn a_node_without_consumers_is_gone_at_once_and_counts_as_left_everywhere() {
        for seed in 1000..1050 {
            let mut sim = cluster(seed, 30);
            sim.input(5, Input::Leave);
            let took = sim.run_until(SECOND, |sim| all_see(sim, 29));
            assert!(took < Duration::from_millis(300), "{took:?}");
            sim.run(SECOND);
            assert!(sim.node(5).left);
            for n in (1..32).filter(|n| *n != 5) {
                let told = sim.node(n).changes.iter().filter(|m| m.name.as_str() == "app5" && is_gone(m));
                let told: Vec<_> = told.map(|m| m.state).collect();
                assert_eq!(told, [MemberState::Left], "at node {n}");
            }
        }
    }

    #[test]
    fn a_node_that_left_does_not_come_back() {
        let mut sim = cluster(11, 10);
        sim.input(5, Input::Leave);
        sim.run(60 * SECOND);
        assert!(all_see(&sim, 9));
    }

    #[test]
    fn the_drain_waits_for_the_zero_of_every_consumer() {
        let mut sim = cluster(12, 2);
        sim.start(10, "front1", "front");
        sim.start(11, "front2", "front");
        sim.follow(10, &["app"]);
        sim.follow(11, &["app"]);
        sim.run(SECOND);
        let instance = sim.node(1).tables["app"].endpoints()[0].instance;
        sim.input(2, Input::Leave);
        sim.run(SECOND);
        assert!(sim.node(2).drained.is_none(), "nobody let go yet");
        sim.input(10, Input::InFlight(BTreeMap::from([(instance, 0)])));
        sim.input(11, Input::InFlight(BTreeMap::from([(instance, 3)])));
        sim.run(SECOND);
        assert!(sim.node(2).drained.is_none(), "three are in flight");
        sim.input(11, Input::InFlight(BTreeMap::from([(instance, 0)])));
        sim.run(Duration::from_millis(100));
        let (after, held_up_by) = sim.node(2).drained.clone().unwrap();
        assert!(after >= 2 * SECOND && held_up_by.is_empty(), "{after:?} {held_up_by:?}");
    }

    #[test]
    fn a_consumer_that_never_lets_go_is_named_at_the_deadline() {
        let mut sim = cluster(13, 2);
        sim.start(10, "front1", "front");
        sim.follow(10, &["app"]);
        sim.run(SECOND);
        sim.input(2, Input::Leave);
        sim.run(7 * SECOND);
        let (after, held_up_by) = sim.node(2).drained.clone().unwrap();
        assert_eq!(after, 6 * SECOND);
        assert_eq!(held_up_by.iter().map(|n| n.as_str()).collect::<Vec<_>>(), ["front1"]);
    }

    #[test]
    fn a_consumer_that_dies_does_not_hold_up_a_drain() {
        let mut sim = cluster(14, 2);
        sim.start(10, "front1", "front");
        sim.follow(10, &["app"]);
        sim.run(SECOND);
        sim.kill(10);
        sim.input(2, Input::Leave);
        sim.run_until(5 * SECOND, |sim| sim.node(2).left);
    }

    #[test]
    fn reports_survive_a_lossy_network() {
        let mut sim = cluster(15, 2);
        sim.start(10, "front1", "front");
        sim.follow(10, &["app"]);
        sim.run(SECOND);
        let instance = sim.node(1).tables["app"].endpoints()[0].instance;
        sim.loss = 0.4;
        sim.input(2, Input::Leave);
        sim.run(Duration::from_millis(500));
        sim.input(10, Input::InFlight(BTreeMap::from([(instance, 0)])));
        sim.run_until(3 * SECOND, |sim| sim.node(2).drained.is_some());
    }

    #[test]
    fn a_dead_role_process_takes_its_node_out_at_once() {
        let mut sim = cluster(16, 10);
        sim.input(5, Input::RoleDied);
        let took = sim.run_until(SECOND, |sim| all_see(sim, 9));
        assert!(took < Duration::from_millis(300), "{took:?}");
        assert_eq!(last_state(&sim, 2, "app5"), Some(MemberState::Failed));
    }
}

mod failing {
    use super::*;

    /// By SWIM alone: the simulation's streams do not end, so that no lifeline helps.
    #[test]
    fn a_killed_node_is_noticed_and_counts_as_failed() {
        let noticed_after = |seed| {
            let mut sim = cluster(seed, 20);
            sim.kill(5);
            let took = sim.run_until(10 * SECOND, |sim| all_see(sim, 19));
            sim.run_until(SECOND, |sim| last_state(sim, 2, "app5") == Some(MemberState::Failed));
            took
        };
        let mut times: Vec<Duration> = (40..49).map(noticed_after).collect();
        times.sort();
        // 1.58 periods until somebody probes it, one to evaluate the probe, the suspicion of log10(21), and the gossip.
        assert!(times[times.len() / 2] < 4 * SECOND, "{times:?}");
    }

    /// Streams help; here there are none. `SIM_SEEDS` makes more of the clusters.
    #[test]
    fn nobody_is_declared_dead_on_a_network_that_loses_a_third_of_its_datagrams() {
        let seeds = std::env::var("SIM_SEEDS").map_or(2, |seeds| seeds.parse().unwrap());
        for seed in 21..21 + seeds {
            let mut sim = cluster(seed, 31);
            (sim.loss, sim.streams_fail) = (0.33, true);
            sim.run(60 * SECOND);
            let changes = sim.nodes.values().flat_map(|node| &node.changes);
            let failed: Vec<_> = changes.filter(|member| member.state == MemberState::Failed).collect();
            assert!(failed.is_empty(), "seed {seed}: {failed:?}");
        }
    }

    #[test]
    fn a_frozen_node_comes_back_without_a_restart() {
        let mut sim = cluster(22, 6);
        sim.freeze(4, true);
        sim.run_until(10 * SECOND, |sim| sim.node(1).ready("app").len() == 5);
        sim.run(5 * SECOND);
        sim.freeze(4, false);
        sim.run_until(30 * SECOND, |sim| all_see(sim, 6));
    }

    #[test]
    fn a_machine_that_sleeps_wakes_without_accusations() {
        for seed in 60..80 {
            let mut sim = cluster(seed, 10);
            sim.loss = 0.2;
            sim.run(2 * SECOND);
            for _ in 0..5 {
                (1..12).for_each(|n| sim.freeze(n, true));
                sim.run(10 * SECOND);
                (1..12).for_each(|n| sim.freeze(n, false));
                sim.run(SECOND);
            }
            let mut changes = sim.nodes.values().flat_map(|n| &n.changes);
            assert!(changes.all(|m| m.state != MemberState::Failed), "seed {seed}");
        }
    }

    #[test]
    fn the_wrongly_accused_are_suspects_until_they_have_objected() {
        for seed in 80..90 {
            let mut sim = cluster(seed, 2);
            let before = sim.node(1).tables["app"].clone();
            for endpoint in before.endpoints() {
                let addr = (endpoint.addr.ip(), endpoint.gossip_port).into();
                sim.input(1, Input::Dead(Peer { addr, instance: endpoint.instance }));
            }
            let lists_both = |node: &sim::Node| node.tables["app"].endpoints().len() == 2;
            sim.run_until(SECOND, |sim| sim.node(1).ready("app").is_empty());
            while !all_see(&sim, 2) {
                sim.run(Duration::from_millis(1));
                assert!(sim.nodes.values().all(lists_both), "at {:?}", sim.now);
            }
            assert_eq!(sim.node(1).tables["app"].endpoints(), before.endpoints(), "the same instances");
        }
    }

    #[test]
    fn a_partition_heals() {
        let mut sim = cluster(23, 7);
        let halves = |a: u16, b: u16| (addr(a), addr(b));
        sim.cut = (1..5).flat_map(|a| (5..9).map(move |b| halves(a, b))).collect();
        sim.run_until(20 * SECOND, |sim| {
            sim.node(1).ready("app").len() == 3 && sim.node(8).ready("app").len() == 4
        });
        sim.cut.clear();
        sim.run_until(120 * SECOND, |sim| all_see(sim, 7));
    }
}

mod fencing {
    use super::*;

    #[test]
    fn a_quick_restart_replaces_the_instance() {
        let mut sim = cluster(30, 4);
        let before = sim.node(1).tables["app"].endpoints()[0].instance;
        sim.kill(2);
        sim.run(Duration::from_millis(50));
        sim.start(2, "app2", "app");
        sim.run_until(2 * SECOND, |sim| {
            all_see(sim, 4) && sim.nodes.values().all(|n| n.tables["app"].endpoints()[0].instance != before)
        });
    }

    #[test]
    fn the_same_name_at_another_address_belongs_to_the_later_start() {
        let mut sim = cluster(31, 4);
        sim.kill(2);
        sim.run(Duration::from_millis(50));
        sim.start(60, "app2", "app");
        let moved = |sim: &Sim| {
            let listed =
                |n: &sim::Node| n.tables["app"].endpoints().iter().map(|e| e.addr.ip()).collect::<Vec<_>>();
            sim.nodes
                .values()
                .all(|n| !listed(n).contains(&addr(2).ip()) && listed(n).contains(&addr(60).ip()))
        };
        let took = sim.run_until(2 * SECOND, moved);
        assert!(took < Duration::from_millis(500), "before anybody noticed the death: {took:?}");
    }

    #[test]
    fn a_reused_address_belongs_to_its_new_holder_in_the_same_step() {
        let mut sim = cluster(32, 4);
        sim.kill(2);
        sim.run(Duration::from_millis(50));
        sim.start(2, "billing", "billing");
        sim.run_until(2 * SECOND, |sim| sim.nodes.values().all(|n| n.ready("billing").len() == 1));
        assert!(sim.nodes.values().all(|n| !n.ready("app").contains("app2")), "one address, one holder");
    }
}

mod clocks {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_node_that_restarts_with_its_clock_put_back_has_its_name_and_address_again() {
        for (seed, address) in [(70, 2), (71, 2), (72, 60), (73, 60)] {
            let mut sim = cluster(seed, 6);
            sim.kill(2);
            sim.run(Duration::from_millis(50));
            sim.start_behind(HOUR, address, "app2", "app");
            let is_back = |node: &sim::Node| {
                let at = |e: &feed::Endpoint| e.addr.ip() == addr(address).ip() && e.instance < 1_000_000_000;
                node.tables["app"].ready().any(at) && node.ready("app").len() == 6
            };
            let took = sim.run_until(60 * SECOND, |sim| sim.nodes.values().all(is_back));
            println!("{address}: {took:?}");
            assert!(took < 5 * SECOND, "{took:?}");
        }
    }
}

mod changing {
    use super::*;

    #[test]
    fn a_change_that_no_table_shows_is_not_the_newest_one() {
        let mut sim = cluster(55, 3);
        let before = sim.node(1).changed_ms("app");
        sim.run(SECOND);
        sim.follow(2, &["front"]);
        sim.run(SECOND);
        assert_eq!(sim.node(1).changed_ms("app"), before);
        sim.input(2, Input::Tags(Tags::new(["zone=a".parse().unwrap()]).unwrap()));
        sim.run(SECOND);
        assert!(sim.node(1).changed_ms("app") >= before.map(|ms| ms + 2000));
    }

    #[test]
    fn whoever_is_forced_to_leave_is_no_suspect_any_more() {
        let mut sim = cluster(56, 4);
        for n in [3, 4, 5] {
            sim.kill(n);
        }
        sim.run(15 * SECOND);
        let listed = |sim: &Sim| sim.node(1).tables["app"].endpoints().len();
        assert_eq!(listed(&sim), 4, "three of four went at once, and are a last resort");
        sim.input(
            2,
            Input::Question { to: 1, question: ToSidecar::ForceLeave { name: "app4".parse().unwrap() } },
        );
        sim.run(SECOND);
        assert_eq!(listed(&sim), 3);
    }
}

mod tags {
    use super::*;

    #[test]
    fn changed_tags_are_in_the_members_and_tables_of_all_and_late_joiners_learn_them() {
        let mut sim = cluster(50, 10);
        let tags = Tags::new(["zone=a".parse().unwrap()]).unwrap();
        sim.input(5, Input::Tags(tags.clone()));
        let knows = |node: &sim::Node| node.tables["app"].endpoints().iter().any(|e| e.tags.include(&tags));
        let took = sim.run_until(SECOND, |sim| sim.nodes.values().all(knows));
        assert!(took < Duration::from_millis(250), "{took:?}");
        sim.start(50, "late", "front");
        sim.run_until(SECOND, |sim| sim.nodes.values().all(|n| n.tables.contains_key("app") && knows(n)));
        assert_eq!(sim.node(50).changes.iter().filter(|m| m.tags == tags).count(), 1);
    }
}
