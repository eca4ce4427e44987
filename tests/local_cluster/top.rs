//! `concertina top`, and what commands say while they wait, in a real terminal.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{cluster::Cluster, place::Place, tmux::Tmux, wait::until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_concertina");

/// A command line for this cluster.
fn line(place: &Place, command: &str) -> String {
    format!("{PROGRAM} {command} --dir {}", place.path().display())
}

/// The words of a row that begins with this one.
fn row(screen: &str, table: &str, name: &str) -> Vec<String> {
    let rows = screen.lines().skip_while(|line| !line.trim_start().starts_with(table));
    let words = |line: &str| line.trim_start_matches('>').split_whitespace().map(str::to_owned).collect();
    let mut rows = rows.map(words);
    rows.find(|words: &Vec<String>| words.first().is_some_and(|word| word == name)).unwrap_or_default()
}

#[test]
fn the_whole_cluster_is_shown_sorted_filtered_paused_and_one_node_explained() {
    let cluster = Cluster::up(&["--front", "2"]);
    let Some(tmux) = Tmux::start(&cluster.place, 80, 24) else { return };
    tmux.enter("echo what was there");
    tmux.enter(&format!("{}; echo ended=$?", line(&cluster.place, "top --every 500ms")));
    let screen = tmux.shows_that("the whole cluster", |screen| {
        let rows = [
            ("ROLES", "frontserver", ["2", "of"]),
            ("NODES", "appserver1", ["●", "ready"]),
            ("PROXIES", "proxyserver", ["●", "ready"]),
        ];
        let is_there = |(table, name, words): &(&str, &str, [&str; 2])| {
            row(screen, table, name).get(1..3).is_some_and(|told| told == words)
        };
        screen.contains("default · seen by proxyserver · 5 nodes: 5 ready") && rows.iter().all(is_there)
    });
    assert!(!screen.contains("what was there"), "{screen}");
    until("requests and how long they take", || {
        assert_eq!(cluster.hello().status, 200);
        let told = row(&tmux.screen(), "PROXIES", "proxyserver");
        let is_timed = told.get(5).is_some_and(|unit| unit == "µs" || unit == "ms");
        (is_timed && told[3] != "0").then_some(())
    });

    tmux.types("ss");
    tmux.shows("▾req/s");
    tmux.types("/appserver1");
    tmux.shows("filter: appserver1");
    tmux.press("Enter");
    tmux.shows("NODES 1");
    tmux.press("Enter");
    for words in ["appserver1 · default", "state      ● ready", "role       appserver", "\n  frontserver2 "]
    {
        tmux.shows(words);
    }
    tmux.press("Escape");
    tmux.shows("NODES 1");
    tmux.press("Escape");
    tmux.shows("NODES 5");
    tmux.press("Space");
    tmux.shows("PAUSED");
    tmux.press("Space");
    tmux.shows_that("no pause", |screen| !screen.contains("PAUSED"));
    tmux.resize(120, 40);
    tmux.shows_that("the keys at the end of forty lines", |screen| {
        screen.lines().nth(39).is_some_and(|line| line.contains("q quit"))
    });

    cluster.order("node pause proxyserver");
    tmux.shows_that("another's answer", |screen| {
        let says = |what: &str| screen.contains(&format!("\nproxyserver {what}; asking "));
        (says("is gone") || says("does not answer")) && !screen.contains("seen by proxyserver")
    });
    cluster.order("node resume proxyserver");
    tmux.types("q");
    let screen = tmux.shows("ended=0");
    assert!(screen.contains("what was there") && !screen.contains("PROXIES"), "{screen}");
    tmux.is_restored();
}

#[test]
fn where_the_node_that_is_asked_is_gone_another_is_asked_and_the_last_one_until_it_answers() {
    let cluster = Cluster::up(&[]);
    let Some(tmux) = Tmux::start(&cluster.place, 80, 24) else { return };
    tmux.enter(&line(&cluster.place, "top --every 500ms --node appserver1"));
    tmux.shows("seen by appserver1 · 4 nodes: 4 ready");
    let mut asked = "appserver1".to_owned();
    for _ in 0..3 {
        cluster.order(&format!("node stop {asked}"));
        let screen = tmux.shows_that("that another is asked", |screen| {
            screen.contains(&format!("\n{asked} is gone; asking ")) && !screen.contains("no answer")
        });
        let other = screen.split(" seen by ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        assert_ne!(std::mem::replace(&mut asked, other.clone()), other, "{screen}");
    }
    cluster.order(&format!("node pause {asked}"));
    tmux.shows("no answer from ");
    cluster.order(&format!("node resume {asked}"));
    tmux.shows_that("an answer again", |screen| {
        screen.contains(&format!("seen by {asked} ")) && !screen.contains("no answer from ")
    });
}

#[test]
fn signals_and_refusals_leave_the_terminal_as_it_was() {
    let cluster = Cluster::up(&[]);
    let Some(tmux) = Tmux::start(&cluster.place, 80, 24) else { return };
    let pid = cluster.place.join("top.pid");
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let top = line(&cluster.place, "top");
        tmux.enter(&format!("NO_COLOR=1 sh -c 'echo $$ > {}; exec {top}'; echo ended=$?", pid.display()));
        tmux.shows("seen by proxyserver");
        let pid = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        tmux.shows(&format!("ended={code}"));
        tmux.is_restored();
    }
    tmux.enter(&format!("clear; TERM=dumb {}", line(&cluster.place, "top")));
    tmux.shows("cannot be drawn on");
    tmux.is_restored();
}

#[test]
fn without_a_terminal_it_is_refused_and_once_is_told_as_text_or_json() {
    let cluster = Cluster::up(&[]);
    let refused = cluster.run("top");
    assert!(refused.why().contains("--once prints it as text, --json for programs"), "{refused:?}");
    let text = until("everybody is known to the proxyserver", || {
        let text = cluster.order("top --once --every 500ms");
        text.starts_with("default · seen by proxyserver · 4 nodes: 4 ready\n").then_some(text)
    });
    for (table, name) in [("ROLES", "dnsserver"), ("NODES", "appserver1"), ("PROXIES", "frontserver1")] {
        assert!(!row(&text, table, name).is_empty(), "{name}: {text}");
    }
    assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
    until("everybody is known to appserver1", || {
        let json = cluster.order("top --json --every 500ms --node appserver1");
        let picture: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(picture["node"], "appserver1", "{json}");
        (picture["roles"][3]["ready"] == 1).then_some(())
    });
    let lost = cluster.run("top 127.0.0.1:1 --once");
    assert!(lost.why().starts_with("error: no answer from 127.0.0.1:1: "), "{lost:?}");
}

#[test]
fn what_is_waited_for_is_said_on_a_terminal_until_it_is_over_and_nowhere_else() {
    let cluster = Cluster::up(&[]);
    let quiet = cluster.run("wait --role nobody --timeout 1300ms");
    assert!(quiet.why().starts_with("error: timed out after 1.3s"), "{quiet:?}");
    assert!(!quiet.stderr.contains(['\r', '\u{1b}']), "{quiet:?}");
    let Some(tmux) = Tmux::start(&cluster.place, 80, 24) else { return };
    tmux.enter(&line(&cluster.place, "wait --role frontserver --min 2 --timeout 60s"));
    tmux.shows("\nwaiting for at least 2 ready frontserver (");
    cluster.order("scale front=2");
    // The two are written by different threads.
    tmux.shows_that("the result without what was waited for", |screen| {
        screen.contains("\nfrontserver ready after ") && !screen.contains("waiting")
    });

    let mut holder = UnixStream::connect(cluster.place.join("dnsserver/feed.sock")).unwrap();
    holder.write_all(b"{\"hello\":{\"version\":1,\"name\":\"holder\",\"roles\":[\"*\"]}}\n").unwrap();
    BufReader::new(&holder).read_line(&mut String::new()).unwrap();
    tmux.enter(&format!("clear; {}", line(&cluster.place, "node stop frontserver2")));
    tmux.shows("waiting for dnsserver to let go of frontserver2 (");
    drop(holder);
    tmux.shows_that("the end without what was waited for", |screen| {
        screen.contains("frontserver2 stopped after ") && !screen.contains("let go")
    });
}
