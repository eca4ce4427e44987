//! Signals to a sidecar: which stop the node and how, and which are its role's.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{network::Network, program::Running, wait::until};

const CHECK: &[&str] = &["--check", "none"];

/// A role that says which signals it hears, and goes on. What starts with `exit` ends it.
fn listening(signals: &[&str], ending: &[&str]) -> String {
    let say = |signal: &&str| format!("trap 'echo heard {signal}' {signal}; ");
    let end = |signal: &&str| format!("trap 'echo heard {signal}; exit 0' {signal}; ");
    let traps: String = signals.iter().map(say).chain(ending.iter().map(end)).collect();
    format!("{traps} echo listening as $$; while :; do sleep 0.05; done")
}

fn flags(network: &Network, node: &str, more: &[&str]) -> Vec<String> {
    [network.join(node), CHECK.iter().chain(more).map(|flag| (*flag).to_owned()).collect()].concat()
}

/// One beside the dnsserver who follows every role, and never says that it has let go of anybody.
fn hold_up_drains(network: &Network) -> UnixStream {
    let consumer = until("the dnsserver's feed", || UnixStream::connect(network.feed("dnsserver")).ok());
    let hello = r#"{"hello":{"version":1,"name":"holder","roles":["*"]}}"#;
    writeln!(&consumer, "{hello}").unwrap();
    let mut heard = String::new();
    BufReader::new(&consumer).read_line(&mut heard).unwrap();
    assert!(heard.contains("hello"), "{heard}");
    consumer
}

/// Waits until the consumer beside the dnsserver would hold up this node's drain.
fn await_company(network: &Network, node: &str) {
    until("a cluster of two", || network.ask(node, "members").stdout.contains("dnsserver").then_some(()));
    let visible = |node| network.ask(node, "members --json").stdout.matches("\"name\"").count() == 2;
    until("both know both", || (visible(node) && visible("dnsserver")).then_some(()));
}

/// A dnsserver whose consumer lets go of nobody, and a node around this script.
fn held_up(network: &Network, script: &str, more: &[&str]) -> (Running, UnixStream, Running, String) {
    let dnsserver = network.start("dnsserver");
    let consumer = hold_up_drains(network);
    let command = network.sidecar("billing1", &flags(network, "billing1", more), &["sh", "-c", script]);
    let mut billing = network.run("billing1", command);
    let role = billing.hear("listening as ");
    await_company(network, "billing1");
    (dnsserver, consumer, billing, role)
}

#[test]
fn signals_with_a_meaning_of_their_own_reach_the_role_and_end_nobody() {
    let network = Network::claim();
    let script = listening(&["HUP", "USR1", "USR2", "WINCH"], &[]);
    let mut billing = network.wrap("billing1", &flags(&network, "billing1", &[]), &["sh", "-c", &script]);
    billing.hear("listening");
    for (name, signal) in
        [("HUP", Signal::HUP), ("USR1", Signal::USR1), ("USR2", Signal::USR2), ("WINCH", Signal::WINCH)]
    {
        billing.signal(signal);
        billing.hear(&format!("heard {name}"));
    }
    billing.signal(Signal::TERM);
    assert_eq!(billing.ended().code(), Some(0), "{}", billing.said());
}

#[test]
fn a_role_that_waits_for_its_clients_at_the_first_signal_is_told_to_stop_in_order_before_it_is_killed() {
    let network = Network::claim();
    let script = listening(&["TERM"], &["INT"]);
    let more = ["--stop-timeout", "6s"];
    let mut billing = network.wrap("billing1", &flags(&network, "billing1", &more), &["sh", "-c", &script]);
    billing.hear("listening");
    billing.signal(Signal::TERM);
    billing.hear("heard TERM");
    billing.hear("heard INT");
    assert_eq!(billing.ended().code(), Some(0), "{}", billing.said());
    assert!(!billing.said().contains("killing it"), "{}", billing.said());
}

#[test]
fn a_sidecar_without_a_role_outlives_them() {
    let network = Network::claim();
    let mut node =
        network.run("billing1", network.sidecar("billing1", &flags(&network, "billing1", &[]), &[]));
    node.hear("sidecar started");
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::WINCH] {
        node.signal(signal);
        node.hear("there is none");
    }
    node.signal(Signal::INT);
    assert_eq!(node.ended().code(), Some(0), "{}", node.said());
}

#[test]
fn what_is_sent_to_the_process_group_stops_the_role_only_when_the_drain_is_over() {
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT] {
        let network = Network::claim();
        let script = listening(&["INT", "QUIT"], &["TERM"]);
        let mut command =
            network.sidecar("billing1", &flags(&network, "billing1", &[]), &["sh", "-c", &script]);
        command.process_group(0);
        let mut billing = network.run("billing1", command);
        billing.hear("listening");
        billing.signal_group(signal);
        assert_eq!(billing.ended().code(), Some(0), "{}", billing.said());
        let said = billing.said();
        let (drained, heard) = (said.find("drained after"), said.find("heard"));
        assert!(drained.is_some() && drained < heard, "{signal:?}: {said}");
        assert_eq!(said.matches("heard").count(), 1, "{signal:?}: {said}");
    }
}

#[test]
fn a_role_that_ends_during_the_drain_is_no_failure_and_its_end_ends_the_drain() {
    let network = Network::claim();
    let (_dnsserver, _consumer, mut billing, role) =
        held_up(&network, &listening(&[], &["TERM"]), &["--drain-timeout", "1h"]);
    billing.signal(Signal::TERM);
    until("it drains", || network.ask("dnsserver", "members").stdout.contains("draining").then_some(()));
    // As service managers do that signal every process of a service.
    let role = Pid::from_raw(role.parse().unwrap()).unwrap();
    kill_process(role, Signal::TERM).unwrap();
    assert_eq!(billing.ended().code(), Some(0), "{}", billing.said());
    assert!(billing.said().contains("ended before the drain was over"), "{}", billing.said());
    let gone = until("it has gone", || {
        let members = network.ask("dnsserver", "explain billing1").stdout;
        (!members.contains("draining")).then_some(members)
    });
    assert!(gone.contains("billing1 is left"), "{gone}");
}

#[test]
fn a_role_that_ends_by_itself_is_a_failure() {
    let network = Network::claim();
    let mut billing = network.wrap("billing1", &flags(&network, "billing1", &[]), &["sh", "-c", "exit 0"]);
    assert_eq!(billing.ended().code(), Some(1), "{}", billing.said());
}

#[test]
fn who_asks_to_stop_again_waits_neither_for_the_drain_nor_for_the_role() {
    let network = Network::claim();
    let (_dnsserver, _consumer, mut billing, _role) =
        held_up(&network, &listening(&["TERM"], &[]), &["--drain-timeout", "1h", "--stop-timeout", "1h"]);
    billing.signal(Signal::TERM);
    // What comes at once is the same wish.
    billing.signal(Signal::INT);
    // The second has to pass after it was heard, which may take a busy machine a while.
    until("it drains", || network.ask("dnsserver", "members").stdout.contains("draining").then_some(()));
    let mut asked = Instant::now();
    for (outcome, words) in [("waiting for no consumer", "heard TERM"), ("asked to stop again, killing", "")]
    {
        until("a second has passed", || (asked.elapsed() > Duration::from_millis(1100)).then_some(()));
        assert!(!billing.said().contains(outcome));
        billing.signal(Signal::TERM);
        billing.hear(outcome);
        billing.hear(words);
        asked = Instant::now();
    }
    assert_eq!(billing.ended().code(), Some(0), "{}", billing.said());
}

#[test]
fn a_role_is_stopped_by_the_signal_that_was_named_for_it() {
    let network = Network::claim();
    let more = ["--stop-signal", "sigint"];
    let script = listening(&["TERM"], &["INT"]);
    let mut billing = network.wrap("billing1", &flags(&network, "billing1", &more), &["sh", "-c", &script]);
    billing.hear("listening");
    billing.signal(Signal::TERM);
    assert_eq!(billing.ended().code(), Some(0), "{}", billing.said());
    assert!(
        billing.said().contains("heard INT") && !billing.said().contains("heard TERM"),
        "{}",
        billing.said()
    );
}

#[test]
fn a_role_that_does_not_stop_in_its_time_is_killed_with_what_it_started() {
    let network = Network::claim();
    let more = ["--stop-timeout", "100ms"];
    // It hears INT half way, which would end a shell that has no trap for it.
    let script = format!("sleep 3600 & {}", listening(&["TERM", "INT"], &[]));
    let mut billing = network.wrap("billing1", &flags(&network, "billing1", &more), &["sh", "-c", &script]);
    billing.hear("listening");
    billing.signal(Signal::TERM);
    assert_eq!(billing.ended().code(), Some(0), "{}", billing.said());
    assert!(
        billing.said().contains("did not stop, killing it signal=SIGTERM after=100ms"),
        "{}",
        billing.said()
    );
    assert_eq!(network.place.left_behind(), [] as [String; 0]);
}
