//! Claims about events and queries, on a virtual clock.

use std::time::Duration;

use feed::{
    FromSidecar, Tags, ToSidecar,
    event::{Answer, Outcome, PAYLOAD_BYTES_MAX, Query, Tally},
    frame::Wait,
};
use sidecar::cluster::{input::Input, query::Asked};

use crate::{SECOND, cluster, sim::Sim};

fn ask(sim: &mut Sim, at: u16, question: ToSidecar) {
    sim.input(at, Input::Question { to: 1, question });
}

fn send(sim: &mut Sim, at: u16, payload: &str) {
    ask(sim, at, ToSidecar::Event { name: "deploy".parse().unwrap(), payload: payload.to_owned() });
}

fn payloads(sim: &Sim, at: u16) -> Vec<&str> {
    sim.node(at).events.iter().map(|event| event.payload.as_str()).collect()
}

fn query(name: &str) -> Query {
    Query {
        name: name.parse().unwrap(),
        payload: String::new(),
        timeout_ms: None,
        role: None,
        node: None,
        tags: Tags::default(),
    }
}

fn answers(sim: &Sim, at: u16) -> Vec<&Answer> {
    let replies = sim.node(at).replies.iter();
    let answers = replies.filter_map(|frame| match frame {
        FromSidecar::Answer(answer) => Some(answer),
        _ => None,
    });
    answers.collect()
}

fn tally(sim: &Sim, at: u16) -> Option<Tally> {
    match sim.node(at).replies.last() {
        Some(FromSidecar::Answered(tally)) => Some(*tally),
        _ => None,
    }
}

/// Nodes answer what they were asked; none: not yet.
fn answer_all(sim: &mut Sim, outcome: impl Fn(&str) -> Option<Outcome>) {
    let at: Vec<u16> = sim.nodes.values().map(|node| node.at).collect();
    for at in at {
        for (id, asked) in sim.take_asked(at) {
            match outcome(&sim.node(at).name) {
                Some(outcome) => sim.input(at, Input::Outcome(id, Some(outcome))),
                None => sim.keep_asked(at, id, asked),
            }
        }
    }
}

mod events {
    use super::*;

    #[test]
    fn every_live_member_hears_an_event_once_and_soon() {
        let mut sim = cluster(1, 30);
        send(&mut sim, 5, "v2");
        assert_eq!(sim.node(5).replies.last(), Some(&FromSidecar::Sent { time: 1 }));
        let heard = |sim: &Sim| sim.nodes.values().all(|node| !node.events.is_empty());
        let took = sim.run_until(SECOND, heard);
        assert!(took < Duration::from_millis(250), "{took:?}");
        sim.run(60 * SECOND);
        for node in sim.nodes.values() {
            let [event] = node.events.as_slice() else { panic!("once: {:?}", node.events) };
            assert_eq!((event.origin.as_str(), event.payload.as_str()), ("app5", "v2"));
        }
    }

    #[test]
    fn what_follows_from_an_event_has_a_later_time() {
        let mut sim = cluster(2, 10);
        send(&mut sim, 2, "first");
        sim.run(SECOND);
        send(&mut sim, 7, "second");
        sim.run(SECOND);
        for node in sim.nodes.values() {
            assert!(node.events.is_sorted_by_key(|event| event.time));
            assert_eq!(node.events.len(), 2);
        }
        assert_eq!(sim.node(1).events[1].time, 2);
    }

    #[test]
    fn an_event_is_heard_on_a_network_that_loses_two_fifths() {
        let mut sim = cluster(3, 20);
        sim.loss = 0.4;
        (0..10).for_each(|n| send(&mut sim, 2 + n, &n.to_string()));
        sim.run(30 * SECOND);
        for node in sim.nodes.values() {
            let mut heard: Vec<_> = node.events.iter().map(|event| event.payload.clone()).collect();
            heard.sort();
            assert_eq!(heard, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        }
    }

    #[test]
    fn who_was_cut_off_hears_it_later_and_who_comes_later_does_not() {
        let mut sim = cluster(4, 5);
        sim.freeze(4, true);
        send(&mut sim, 2, "while one is away");
        sim.run(SECOND);
        sim.freeze(4, false);
        sim.run_until(30 * SECOND, |sim| payloads(sim, 4) == ["while one is away"]);
        sim.start(20, "late", "app");
        sim.run(60 * SECOND);
        assert!(sim.node(20).in_touch && sim.node(20).events.is_empty(), "{:?}", payloads(&sim, 20));
    }

    #[test]
    fn a_restarted_first_node_is_not_told_old_events() {
        let mut sim = cluster(5, 4);
        send(&mut sim, 2, "old");
        sim.run(10 * SECOND);
        sim.kill(1);
        sim.run(10 * SECOND);
        sim.start(1, "dnsserver", "dnsserver");
        sim.run(30 * SECOND);
        assert!(sim.node(1).ready("app").len() == 4 && sim.node(1).events.is_empty());
        send(&mut sim, 1, "new");
        sim.run(SECOND);
        assert_eq!(payloads(&sim, 3), ["old", "new"]);
    }

    #[test]
    fn a_payload_at_the_limit_is_sent_and_a_longer_one_is_refused() {
        let mut sim = cluster(6, 3);
        let longest = "p".repeat(PAYLOAD_BYTES_MAX);
        send(&mut sim, 2, &longest);
        sim.run(SECOND);
        assert!(sim.nodes.values().all(|node| node.events[0].payload == longest));
        send(&mut sim, 2, &format!("{longest}p"));
        assert!(
            matches!(sim.node(2).replies.last(), Some(FromSidecar::Refused { why }) if why.contains("513 bytes"))
        );
    }

    #[test]
    fn who_knows_nobody_yet_sends_nothing() {
        let mut sim = Sim::new(7);
        sim.start(2, "app2", "app");
        send(&mut sim, 2, "hello?");
        assert!(matches!(sim.node(2).replies.last(), Some(FromSidecar::Refused { .. })));
        assert!(sim.node(2).events.is_empty());
    }
}

mod queries {
    use super::*;

    #[test]
    fn every_member_answers_what_is_built_in() {
        let mut sim = cluster(20, 10);
        ask(&mut sim, 3, ToSidecar::Query(query("ping")));
        sim.run_until(Duration::from_millis(20), |sim| tally(sim, 3).is_some());
        assert_eq!(tally(&sim, 3), Some(Tally { answered: 11, asked: 11 }));
        assert!(answers(&sim, 3).iter().all(|answer| answer.outcome == Outcome::Payload("ok".into())));
    }

    #[test]
    fn a_query_reaches_those_it_is_meant_for() {
        let mut sim = cluster(21, 4);
        let tags = Tags::new(["zone=a".parse().unwrap()]).unwrap();
        sim.input(3, Input::Labels(tags.clone().into()));
        sim.run(SECOND);
        for (query, expected) in [
            (Query { role: Some("app".parse().unwrap()), ..query("ping") }, 4),
            (Query { node: Some("app4".parse().unwrap()), ..query("ping") }, 1),
            (Query { node: Some("nobody".parse().unwrap()), ..query("ping") }, 0),
            (Query { tags, ..query("ping") }, 1),
        ] {
            ask(&mut sim, 2, ToSidecar::Query(query));
            sim.run(SECOND);
            assert_eq!(tally(&sim, 2), Some(Tally { answered: expected, asked: expected }));
        }
    }

    #[test]
    fn lost_questions_and_answers_are_made_good_and_nothing_is_run_twice() {
        let mut sim = cluster(22, 10);
        sim.loss = 0.4;
        ask(&mut sim, 2, ToSidecar::Query(Query { timeout_ms: Some(10_000), ..query("status") }));
        for _ in 0..50 {
            sim.run(Duration::from_millis(100));
            answer_all(&mut sim, |_| Some(Outcome::Payload("fine".into())));
        }
        assert_eq!(tally(&sim, 2), Some(Tally { answered: 11, asked: 11 }));
        assert!(sim.nodes.values().all(|node| node.worked_on == 1));
    }

    #[test]
    fn who_is_silent_is_missing_and_an_error_does_not_count() {
        let mut sim = cluster(23, 3);
        sim.freeze(3, true);
        ask(&mut sim, 2, ToSidecar::Query(Query { timeout_ms: Some(300), ..query("status") }));
        sim.run(Duration::from_millis(10));
        answer_all(&mut sim, |name| (name == "app4").then(|| Outcome::Payload("x".repeat(2000))));
        answer_all(&mut sim, |_| Some(Outcome::Error("no".into())));
        sim.run(Duration::from_millis(280));
        assert_eq!(tally(&sim, 2), None, "the third may still answer");
        sim.run(Duration::from_millis(20));
        assert_eq!(tally(&sim, 2), Some(Tally { answered: 1, asked: 4 }));
        assert_eq!(answers(&sim, 2).len(), 3);
    }
}

mod wishes {
    use super::*;

    fn wish() -> ToSidecar {
        let role = "app".parse().unwrap();
        ToSidecar::Wait(Wait {
            role,
            min: 2,
            max: None,
            visible: false,
            everywhere: true,
            tags: Tags::default(),
        })
    }

    #[test]
    fn a_wish_has_come_true_when_every_live_consumer_has_confirmed_it() {
        let mut sim = cluster(30, 2);
        sim.start(10, "front1", "front");
        sim.start(11, "front2", "front");
        ask(&mut sim, 2, wish());
        sim.run(SECOND);
        assert!(sim.node(2).replies.is_empty(), "nobody consumes it");
        sim.follow(10, &["app"]);
        sim.follow(11, &["app"]);
        sim.run(SECOND);
        assert!(
            sim.node(10).asked.iter().all(|(_, asked)| matches!(asked, Asked::Visible(wish) if wish.visible))
        );
        answer_all(&mut sim, |name| (name == "front1").then(|| Outcome::Payload(String::new())));
        sim.run(SECOND);
        assert!(sim.node(2).replies.is_empty(), "one is missing");
        sim.kill(11);
        sim.run_until(10 * SECOND, |sim| !sim.node(2).replies.is_empty());
        assert!(matches!(sim.node(2).replies[..], [FromSidecar::Waited { after_ms: 2000.. }]));
    }

    #[test]
    fn a_wish_that_was_withdrawn_is_asked_no_more() {
        let mut sim = cluster(31, 2);
        sim.follow(3, &["app"]);
        sim.run(SECOND);
        ask(&mut sim, 2, wish());
        sim.run(SECOND);
        sim.input(2, Input::Withdrawn(1));
        // What is under way arrives.
        sim.run(Duration::from_millis(50));
        for (id, _) in sim.take_asked(3) {
            sim.input(3, Input::Outcome(id, None));
        }
        sim.run(SECOND);
        assert!(sim.node(3).asked.is_empty() && sim.node(2).replies.is_empty());
    }
}

mod believing {
    use feed::{
        explain::{Evidence, Explanation},
        frame::MemberState,
    };

    use super::*;
    use crate::last_state;

    fn explained(sim: &mut Sim, at: u16, name: &str) -> Explanation {
        ask(sim, at, ToSidecar::Explain { name: name.parse().unwrap() });
        match sim.node(at).replies.last() {
            Some(FromSidecar::Explained(explanation)) => explanation.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn force_leave(sim: &mut Sim, at: u16, name: &str) {
        ask(sim, at, ToSidecar::ForceLeave { name: name.parse().unwrap() });
    }

    #[test]
    fn a_failed_member_is_forgotten_as_left_everywhere_at_once() {
        let mut sim = cluster(40, 10);
        sim.kill(5);
        sim.run_until(10 * SECOND, |sim| sim.nodes.values().all(|n| n.ready("app").len() == 9));
        sim.run_until(SECOND, |sim| last_state(sim, 2, "app5") == Some(MemberState::Failed));
        force_leave(&mut sim, 3, "app5");
        let left =
            |sim: &Sim| sim.nodes.values().all(|n| last_state(sim, n.at, "app5") == Some(MemberState::Left));
        let took = sim.run_until(SECOND, left);
        assert!(took < Duration::from_millis(250), "{took:?}");
        assert_eq!(explained(&mut sim, 9, "app5").evidence, Evidence::ForceLeave);
        force_leave(&mut sim, 3, "app5");
        assert!(
            matches!(sim.node(3).replies.last(), Some(FromSidecar::Refused { why }) if why.contains("left already"))
        );
    }

    #[test]
    fn one_that_is_frozen_is_gone_before_anybody_has_noticed_and_back_when_it_thaws() {
        let mut sim = cluster(41, 6);
        sim.freeze(4, true);
        force_leave(&mut sim, 2, "app4");
        let others = |sim: &Sim| sim.nodes.values().filter(|n| n.at != 4).all(|n| n.ready("app").len() == 5);
        let took = sim.run_until(SECOND, others);
        assert!(took < Duration::from_millis(250), "{took:?}");
        assert_eq!(last_state(&sim, 1, "app4"), Some(MemberState::Left));
        sim.freeze(4, false);
        sim.run_until(30 * SECOND, |sim| sim.nodes.values().all(|n| n.ready("app").len() == 6));
    }

    #[test]
    fn a_live_member_that_is_forced_to_leave_is_back_soon_and_stays() {
        let mut sim = cluster(42, 6);
        let instance = sim.node(1).tables["app"].endpoints()[0].instance;
        force_leave(&mut sim, 1, "app2");
        sim.run(5 * SECOND);
        for _ in 0..10 {
            sim.run(5 * SECOND);
            assert!(sim.nodes.values().all(|n| n.ready("app").len() == 6));
        }
        assert_eq!(sim.node(1).tables["app"].endpoints()[0].instance, instance);
    }

    #[test]
    fn a_node_is_not_forced_out_by_itself_and_nobody_unknown_is() {
        let mut sim = cluster(43, 2);
        for (name, why) in [("app2", "concertina leave"), ("nobody", "no member nobody")] {
            force_leave(&mut sim, 2, name);
            assert!(
                matches!(sim.node(2).replies.last(), Some(FromSidecar::Refused { why: said }) if said.contains(why))
            );
        }
    }

    #[test]
    fn beliefs_come_with_their_evidence() {
        let mut sim = cluster(44, 3);
        sim.run(SECOND);
        let own = explained(&mut sim, 2, "app2");
        assert_eq!((own.evidence, own.by.as_str(), own.heard_ms_ago), (Evidence::Itself, "app2", None));
        let other = explained(&mut sim, 2, "app3");
        assert!(matches!(other.evidence, Evidence::Announcement | Evidence::Gossip | Evidence::Sync));
        assert!(other.heard_ms_ago.is_some() && other.lifeline && other.twins.is_empty(), "{other:?}");
        assert!(other.advert.is_some_and(|advert| advert.version >= 1));

        let dead = sim.node(1).tables["app"].endpoints()[0].instance;
        sim.kill(2);
        sim.input(3, Input::Dead(sidecar::cluster::peer::Peer { addr: crate::addr(2), instance: dead }));
        sim.run(SECOND);
        let failed = explained(&mut sim, 3, "app2");
        assert_eq!((failed.evidence, failed.member.state), (Evidence::Lifeline, MemberState::Failed));
        assert!(matches!(explained(&mut sim, 4, "app2").evidence, Evidence::Gossip | Evidence::Sync));
    }

    #[test]
    fn a_fenced_twin_and_a_drain_are_told() {
        let mut sim = cluster(45, 2);
        sim.run(Duration::from_millis(50));
        sim.start(60, "app2", "app");
        sim.follow(3, &["app"]);
        sim.run(SECOND);
        let twins = explained(&mut sim, 1, "app2").twins;
        assert_eq!(twins.iter().map(|twin| twin.addr).collect::<Vec<_>>(), [crate::addr(2)]);
        assert_eq!(explained(&mut sim, 2, "app2").twins, twins, "the one that is set aside knows it, too");
        sim.input(60, Input::Leave);
        sim.run(SECOND);
        let drain = explained(&mut sim, 60, "app2").drain.unwrap();
        assert_eq!(drain.held_up_by, ["app3".parse().unwrap()]);
        assert_eq!(explained(&mut sim, 1, "app2").drain.unwrap().in_flight, None);
    }
}
