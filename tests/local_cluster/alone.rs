//! Nodes that find nobody, or nobody who tells them where to look: they say so, use what they have, and stop when they are asked to.

use std::{
    fs,
    net::UdpSocket,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::support::{
    network::Network,
    program::{Running, concertina},
    wait::until,
};

fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

/// A node without a process.
fn start(network: &Network, node: &str, flags: &[&str]) -> Running {
    network.run(node, network.sidecar(node, &owned(flags), &[]))
}

#[test]
fn a_node_that_finds_nobody_says_so_and_why_until_somebody_comes() {
    let network = Network::claim();
    let join = format!("nobody.invalid,{}", network.gossip("dnsserver"));
    let mut billing = start(&network, "billing1", &["--join", &join, "--check", "none"]);
    let why = billing.hear("no seed answers yet seeds=");
    assert!(why.contains("nobody.invalid: cannot be resolved"), "{why}");
    assert!(why.contains(&format!("{}: nobody listens there", network.gossip("dnsserver"))), "{why}");
    assert!(
        !billing.said().contains("member joined"),
        "it is no success to know oneself: {}",
        billing.said()
    );
    until("the word for it", || network.ask("billing1", "members").stdout.contains(" alone ").then_some(()));
    let explained = network.ask("billing1", "explain billing1").stdout;
    assert!(
        explained.contains("billing1 is alone") && explained.contains("has found nobody: "),
        "{explained}"
    );

    let _dnsserver = start(&network, "dnsserver", &[]);
    billing.hear("member joined name=dnsserver");
    let members = until("another state", || {
        let members = network.ask("billing1", "members").stdout;
        (!members.contains(" alone ")).then_some(members)
    });
    assert!(members.contains("ready"), "{members}");
    assert!(!network.ask("billing1", "explain billing1").stdout.contains("has found nobody"));
}

#[test]
fn seeds_that_do_not_understand_a_node_are_told_apart() {
    let network = Network::claim();
    let key = network.place.join("key");
    fs::write(&key, "11".repeat(32)).unwrap();
    let other_key = network.place.join("other-key");
    fs::write(&other_key, "22".repeat(32)).unwrap();
    let (key, other_key) = (key.to_str().unwrap(), other_key.to_str().unwrap());
    let join = network.gossip("dnsserver");
    for (theirs, ours, why) in [
        (&["--key-file", key][..], &[][..], "it seals its gossip, and this node has no --key-file"),
        (&[], &["--key-file", key], "it does not seal its gossip, and this node has a --key-file"),
        (&["--key-file", key], &["--key-file", other_key], "has it another key"),
        (&["--cluster", "other"], &[], "is it of another --cluster"),
        (&["--key-file", key, "--cluster", "other"], &["--key-file", key], "it is of another --cluster"),
    ] {
        let dnsserver = start(&network, "dnsserver", theirs);
        let mut billing = start(&network, "billing1", &[&["--join", &join], ours].concat());
        let said = billing.hear("no seed answers yet seeds=");
        assert!(said.contains(why), "{theirs:?} {ours:?}: {said}");
        network.kill("dnsserver", dnsserver);
        network.kill("billing1", billing);
    }
}

#[test]
fn nameservers_hear_of_a_node_only_where_that_is_wanted() {
    let network = Network::claim();
    let nameserver = UdpSocket::bind(network.gossip("dnsserver")).unwrap();
    nameserver.set_nonblocking(true).unwrap();
    let resolv_conf = network.place.join("resolv.conf");
    // Loopback nameservers are never seeds: this one is asked for by another name for the same.
    fs::write(&resolv_conf, format!("nameserver ::ffff:{}\n", network.service("dnsserver").ip())).unwrap();
    let resolv_conf = resolv_conf.to_str().unwrap();
    let mut alone =
        start(&network, "billing1", &["--resolv-conf", resolv_conf, "--join-nameservers", "false"]);
    alone.hear("no seed: give one with --join, or take the nameservers with --join-nameservers");
    assert!(nameserver.recv(&mut [0; 1]).is_err(), "nothing was sent");
    assert!(!alone.said().contains("seeds={"), "{}", alone.said());
    network.kill("billing1", alone);
    let mut asking = start(&network, "billing1", &["--resolv-conf", resolv_conf, "--join-nameservers"]);
    asking.hear("seeds={");
}

/// How long the resolver tries: two nameservers, twice, for five seconds each.
const SILENCE: Duration = Duration::from_secs(20);

/// The command in a network of its own whose resolver never answers.
fn in_silence(network: &Network, command: &Command) -> Command {
    const SCRIPT: &str = "ip link set lo up; ip link add s0 type veth peer name s1; ip addr add 10.99.0.2/24 dev s0; \
                          ip link set s0 up; ip link set s1 up; for n in 8 9; do \
                          ip neigh add 10.99.0.$n lladdr 02:00:00:00:00:0$n dev s0; done; \
                          mount --bind \"$1\" /etc/resolv.conf; shift; exec \"$@\"";
    let resolv_conf = network.place.join("silent-resolv.conf");
    fs::write(&resolv_conf, "nameserver 10.99.0.8\nnameserver 10.99.0.9\n").unwrap();
    let mut silent = Command::new("unshare");
    silent.args(["-n", "-m", "sh", "-ec", SCRIPT, "sh"]).arg(resolv_conf);
    silent.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, _) in command.get_envs().filter(|(_, value)| value.is_none()) {
        silent.env_remove(name);
    }
    silent
}

/// Needs root, as do the networks that are cut.
#[test]
fn a_silent_resolver_keeps_a_node_neither_from_its_other_seeds_nor_from_stopping() {
    let network = Network::claim();
    let flags = owned(&["--join", "silent.example,10.99.0.3", "--check", "none"]);
    let command = in_silence(&network, &network.sidecar("billing1", &flags, &[]));
    let mut billing = network.run("billing1", command);
    billing.hear("sidecar started");
    let started = Instant::now();
    billing.hear("seeds={10.99.0.3:7946}");
    let why = billing.hear("no seed answers yet seeds=");
    assert!(why.contains("silent.example: no answer from the resolver"), "{why}");
    assert!(started.elapsed() < SILENCE / 2, "{:?}", started.elapsed());
    let asked = Instant::now();
    billing.signal(Signal::TERM);
    assert_eq!(billing.ended().code(), Some(0), "{}", billing.said());
    assert!(asked.elapsed() < SILENCE / 2, "{:?}", asked.elapsed());
}

/// The same for a node that does not even know its own address yet.
#[test]
fn a_node_that_is_stopped_while_it_looks_for_its_own_address_stops() {
    let network = Network::claim();
    let mut command = concertina(["sidecar", "--role", "billing", "--join", "silent.example", "--feed"]);
    command.arg(network.feed("billing1"));
    let mut billing = network.run("billing1", in_silence(&network, &command));
    let status = format!("/proc/{}/status", billing.id());
    until("handlers", || {
        let status = fs::read_to_string(&status).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        let is_sidecar = status.starts_with("Name:\tconcertina");
        (is_sidecar && caught >> (Signal::TERM.as_raw() - 1) & 1 == 1).then_some(())
    });
    billing.signal(Signal::TERM);
    assert_eq!(billing.ended().code(), Some(0), "{}", billing.said());
    assert!(!billing.said().contains("sidecar started"), "{}", billing.said());
}
