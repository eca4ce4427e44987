//! What strangers send: dropped, counted by cause, and harmless. Through the gate and the membership, as in a running node.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use sidecar::{
    cluster::{
        effect::Effect,
        input::Input,
        member_id::MemberId,
        membership::{Config, Membership},
    },
    wire::{
        access::Access,
        gate::Gate,
        keyring::{KEY_BYTES, Key, Keyring},
        packet::{DATAGRAM_BYTES_MAX, ENVELOPE_BYTES, Envelope, Kind, SEAL_BYTES, SEALED},
        replay::SKEW_MS_MAX,
    },
};

const NOW: u64 = 1_763_820_000_000;
const RANDOM_DATAGRAMS: usize = 10_000;

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 7946))
}

struct Node {
    gate: Gate,
    membership: Membership,
}

impl Node {
    fn start(n: u8, cluster: &str, key: Option<u8>) -> Self {
        let id = MemberId {
            addr: addr(n),
            instance: NOW,
            renewal: 0,
            node: format!("node{n}").parse().unwrap(),
            role: "app".parse().unwrap(),
        };
        let config = Config {
            id,
            port: 8080,
            admin_port: 0,
            weight: 100,
            cluster: cluster.into(),
            founds: true,
            labels: sidecar::cluster::labels::Labels::default(),
            routes: feed::Routes::default(),
            drain_timeout: Duration::from_secs(6),
        };
        let keys = key.map(|byte| Keyring::new(Key::new([byte; KEY_BYTES])));
        let access = Access { allow: vec!["10.0.0.0/8".parse().unwrap()], deny: Vec::new() };
        let mut membership = Membership::new(config, u64::from(n));
        membership.handle(Input::Tick, Duration::ZERO).unwrap();
        Self { gate: Gate::new(cluster, addr(n), access, keys, [n; 16]), membership }
    }

    /// What the node says to the first that it hears of.
    fn announcement(&mut self, to: u8, now_ms: u64) -> Vec<u8> {
        self.membership.handle(Input::Seeds(vec![addr(to)]), Duration::ZERO).unwrap();
        let sent = std::iter::from_fn(|| self.membership.poll_effect()).find_map(|effect| match effect {
            Effect::Send { to, bytes } => Some((to, bytes)),
            _ => None,
        });
        let (to, bytes) = sent.unwrap();
        self.gate.seal_datagram(to, bytes, now_ms).to_vec()
    }

    fn hear(&mut self, datagram: &[u8]) {
        self.hear_from(datagram, addr(9).ip());
    }

    fn hear_from(&mut self, datagram: &[u8], from: IpAddr) {
        let opened = self.gate.open_datagram(datagram, from, NOW);
        let heard =
            opened.and_then(|packet| self.membership.handle(Input::Datagram(&packet), Duration::ZERO));
        if let Err(why) = heard {
            self.gate.note_drop(from, why);
        }
    }

    fn dropped(&self) -> BTreeMap<String, u64> {
        self.gate.stats().dropped
    }

    /// How many were dropped for each of these reasons.
    #[track_caller]
    fn assert_dropped(&self, expected: &[(&str, u64)]) {
        let expected = expected.iter().map(|(cause, count)| ((*cause).to_owned(), *count)).collect();
        assert_eq!(self.dropped(), expected);
        assert_eq!(self.membership.members().count(), 1, "nobody came in");
    }

    /// Whether anybody was heard: the membership then answers.
    fn answers(&mut self) -> bool {
        std::iter::from_fn(|| self.membership.poll_effect()).any(|e| matches!(e, Effect::Send { .. }))
    }
}

#[test]
fn a_good_packet_is_heard_once() {
    let mut node = Node::start(1, "default", Some(1));
    let good = Node::start(2, "default", Some(1)).announcement(1, NOW);
    node.hear(&good);
    assert!(node.answers());
    node.hear(&good);
    assert!(!node.answers());
    assert_eq!(node.dropped(), BTreeMap::from([("replayed".into(), 1)]));
}

#[test]
fn each_cause_is_counted_as_what_it_is() {
    let mut node = Node::start(1, "default", Some(1));
    node.hear(&Node::start(2, "default", Some(2)).announcement(1, NOW));
    node.hear(&Node::start(3, "default", None).announcement(1, NOW));
    node.hear(&Node::start(4, "other", Some(1)).announcement(1, NOW));
    node.hear(&Node::start(5, "default", Some(1)).announcement(6, NOW));
    node.hear(&Node::start(7, "default", Some(1)).announcement(1, NOW - SKEW_MS_MAX - 1));
    node.hear(b"GET / HTTP/1.1\r\n\r\n");
    node.hear(&[b'C'; DATAGRAM_BYTES_MAX + 1]);
    let mut version = Node::start(8, "default", Some(1)).announcement(1, NOW);
    version[1] += 1;
    node.hear(&version);
    let junk = Envelope::new("default").encode(Kind::Gossip, &[0xff; 40]);
    let junk = Node::start(9, "default", Some(1)).gate.seal_datagram(addr(1), junk.into(), NOW);
    node.hear(&junk);
    let sync = Envelope::new("default").encode(Kind::Sync, b"");
    let sync = Node::start(10, "default", Some(1)).gate.seal_datagram(addr(1), sync.into(), NOW);
    node.hear(&sync);
    node.hear_from(&Node::start(11, "default", Some(1)).announcement(1, NOW), "192.0.2.1".parse().unwrap());
    node.assert_dropped(&[
        ("denied", 1),
        ("foreign", 1),
        ("malformed", 1),
        ("other_cluster", 1),
        ("other_version", 1),
        ("oversized", 1),
        ("stale", 1),
        ("tampered", 1),
        ("unknown_kind", 1),
        ("unsealed", 1),
        ("wrong_key", 1),
    ]);
}

#[test]
fn a_packet_that_is_cut_anywhere_is_dropped() {
    for key in [None, Some(1)] {
        let mut node = Node::start(1, "default", key);
        let good = Node::start(2, "default", key).announcement(1, NOW);
        for length in 0..good.len() {
            node.hear(&good[..length]);
        }
        let without_body = ENVELOPE_BYTES + if key.is_some() { SEAL_BYTES } else { 0 };
        let cut = if key.is_some() { "tampered" } else { "malformed" };
        let (short, rest) = (without_body as u64, (good.len() - without_body) as u64);
        node.assert_dropped(&[("truncated", short), (cut, rest)]);
        assert!(!node.answers());
        node.hear(&good);
        assert!(node.answers(), "what was dropped does no harm to what follows");
    }
}

#[test]
fn ten_thousand_random_datagrams_are_dropped_and_counted() {
    for (seed, key) in [(1, None), (2, Some(1))] {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut node = Node::start(1, "default", key);
        let good = Node::start(2, "default", Some(1)).announcement(1, NOW);
        for n in 0..RANDOM_DATAGRAMS {
            let mut datagram = vec![0; rng.random_range(0..DATAGRAM_BYTES_MAX + 100)];
            rng.fill_bytes(&mut datagram);
            match n % 3 {
                0 => {}
                // The beginning as it should be, and junk after it.
                1 => {
                    let kind =
                        [Kind::Gossip, Kind::Drain, Kind::Sync, Kind::Lifeline][rng.random_range(0..4)];
                    let mut packet = Envelope::new("default").encode(kind, &[]);
                    if rng.random() {
                        packet[2] |= SEALED;
                        packet.extend_from_slice(&good[ENVELOPE_BYTES..ENVELOPE_BYTES + 4]);
                    }
                    packet.append(&mut datagram);
                    datagram = packet;
                }
                // One bit wrong in a packet that was sealed with the right key.
                _ => {
                    datagram.clone_from(&good);
                    let at = rng.random_range(0..datagram.len());
                    datagram[at] ^= 1 << rng.random_range(0..8);
                }
            }
            node.hear(&datagram);
        }
        assert_eq!(node.dropped().values().sum::<u64>(), RANDOM_DATAGRAMS as u64, "{:?}", node.dropped());
        assert_eq!(node.membership.members().count(), 1);
        assert!(!node.answers());
    }
}
