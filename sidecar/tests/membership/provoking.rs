//! What a stranger without keys can provoke by datagrams that name somebody else as their sender: little, and not for long.

use std::net::SocketAddr;

use foca::{Header, Message};
use sidecar::{
    cluster::member_id::MemberId,
    wire::packet::{Envelope, Kind},
};

use super::*;

/// A datagram to the n-th node by which somebody asks to be let in.
fn announce(src: MemberId, to: u16) -> Vec<u8> {
    let (dst, message) = (MemberId::unknown_at(addr(to)), Message::Announce);
    let header = Header { src, src_incarnation: 0, dst, message };
    Envelope::new("default").encode(Kind::Gossip, &postcard::to_allocvec(&header).unwrap())
}

fn id(at: SocketAddr, instance: u64, renewal: u32, name: &str) -> MemberId {
    MemberId { addr: at, instance, renewal, node: name.parse().unwrap(), role: "app".parse().unwrap() }
}

/// Instance and renewal, from the latest that is believed.
type Claim = fn(&Sim, u64) -> (u64, u32);

fn now_ms(sim: &Sim) -> u64 {
    u64::try_from((sim::WALL + sim.now).as_millis()).unwrap()
}

/// Datagrams a second of the whole cluster.
fn datagrams_per_second(sim: &mut Sim, seconds: u32) -> u64 {
    let before = sim.datagrams_sent;
    sim.run(seconds * SECOND);
    (sim.datagrams_sent - before) / u64::from(seconds)
}

#[test]
fn a_claim_to_a_living_nodes_address_starts_no_storm_and_costs_it_nothing() {
    const LEAD_MS_MAX: u64 = 2 * 366 * 24 * 3600 * 1000;
    let latest = |sim: &Sim| now_ms(sim) + LEAD_MS_MAX;
    let claims: [(&str, Claim); 5] = [
        ("the greatest renewal", |sim, _| (now_ms(sim) + 5000, u32::MAX)),
        ("the greatest instance", |_, _| (u64::MAX, 0)),
        ("the latest believed instance", |_, latest| (latest, 0)),
        ("the latest believed renewal", |sim, latest| {
            let lead_s = u32::try_from((latest - sim.node(3).instance) / 1000).unwrap();
            (sim.node(3).instance, lead_s)
        }),
        ("a little later", |sim, _| (now_ms(sim), 1)),
    ];
    for (what, claim) in claims {
        let mut sim = cluster(200, 4);
        sim.run(30 * SECOND);
        let (idle, told) = (datagrams_per_second(&mut sim, 10), sim.node(1).changes.len());
        let instance = sim.node(3).instance;
        let (claimed, renewal) = claim(&sim, latest(&sim));
        let claim = announce(id(addr(3), claimed, renewal, "app3"), 1);
        sim.inject(1, &claim);
        sim.run(2 * SECOND);
        let (soon, later) = (datagrams_per_second(&mut sim, 8), datagrams_per_second(&mut sim, 10));
        println!("{what}: {idle} datagrams a second before, {soon} within 10 s, {later} after");
        assert!(soon <= 3 * idle.max(10) && later <= 2 * idle.max(10), "{what}: {idle}, {soon}, {later}");
        assert!(all_see(&sim, 4), "{what}");
        let is_listed = |node: &sim::Node| node.tables["app"].ready().any(|e| e.instance == instance);
        assert!(sim.nodes.values().all(is_listed), "{what}: the process that was there is there");
        let changes = &sim.node(1).changes[told..];
        assert!(changes.iter().all(|member| member.name.as_str() == "app3"), "{what}: {changes:?}");
    }
}

#[test]
fn two_that_claim_one_address_contradict_each_other_slowly() {
    // A datagram each 50 ms from somebody who always claims to be a little later than the last claim.
    let mut sim = cluster(201, 4);
    sim.run(30 * SECOND);
    let idle = datagrams_per_second(&mut sim, 10);
    let before = sim.datagrams_sent;
    for n in 0..600 {
        let claimed = now_ms(&sim) + n * 100_000;
        let claim = announce(id(addr(3), claimed, 0, "app3"), 1);
        sim.inject(1, &claim);
        sim.run(Duration::from_millis(50));
    }
    let provoked = (sim.datagrams_sent - before) - idle * 30;
    println!("600 datagrams provoked {provoked} in half a minute");
    assert!(provoked < 600 * 5, "{provoked}");
}

#[test]
fn an_address_that_nobody_proved_gets_no_more_than_was_sent_in_its_name() {
    let mut sim = cluster(203, 7);
    sim.run(5 * SECOND);
    let victim = SocketAddr::from(([198, 51, 100, 7], 53));
    let datagram = announce(id(victim, now_ms(&sim), 0, "x"), 1);
    sim.inject(1, &datagram);
    sim.run(60 * SECOND);
    println!("{} bytes provoked {:?}", datagram.len(), sim.outside);
    assert_eq!((sim.outside.datagrams, sim.outside.streams), (1, 0));
    assert!(sim.outside.bytes <= datagram.len() as u64, "{} bytes: {:?}", datagram.len(), sim.outside);

    // As many as there is room for, and more, at every member.
    let before = sim.outside;
    let mut sent = (0, 0);
    for n in 0..200 {
        let port = 1000 + n;
        let datagram = announce(id((victim.ip(), port).into(), now_ms(&sim), 0, "x"), 1);
        (1..=8).for_each(|at| sim.inject(at, &datagram));
        sent = (sent.0 + 8, sent.1 + 8 * datagram.len() as u64);
    }
    sim.run(60 * SECOND);
    assert!(sim.outside.datagrams - before.datagrams <= sent.0);
    assert!(sim.outside.bytes - before.bytes <= sent.1 && sim.outside.streams == 0, "{:?}", sim.outside);
    assert!(all_see(&sim, 7));
}

#[test]
fn who_is_asked_for_a_proof_sends_no_more_than_it_got() {
    let mut sim = cluster(204, 2);
    sim.run(5 * SECOND);
    let victim = SocketAddr::from(([198, 51, 100, 7], 7946));
    let token = postcard::to_allocvec(&(victim, [7_u8; 8])).unwrap();
    let datagram = Envelope::new("default").encode(Kind::Prove, &token);
    sim.inject(2, &datagram);
    sim.run(5 * SECOND);
    assert_eq!((sim.outside.datagrams, sim.outside.streams), (1, 0));
    assert!(sim.outside.bytes <= datagram.len() as u64);
}

#[test]
fn a_wrong_proof_lets_nobody_in() {
    let mut sim = cluster(205, 2);
    sim.run(5 * SECOND);
    let stranger = SocketAddr::from(([198, 51, 100, 7], 7946));
    let datagram = announce(id(stranger, now_ms(&sim), 0, "x"), 1);
    sim.inject(1, &datagram);
    let token = postcard::to_allocvec(&(stranger, [7_u8; 8])).unwrap();
    let proof = Envelope::new("default").encode(Kind::Proof, &token);
    (0..100).for_each(|_| sim.inject(1, &proof));
    sim.run(5 * SECOND);
    assert_eq!(sim.outside.datagrams, 1);
    assert!(sim.nodes.values().all(|node| node.changes.iter().all(|member| member.name.as_str() != "x")));
}
