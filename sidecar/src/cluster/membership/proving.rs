//! Who is not known yet proves that it is where it says, before anything else is sent there.
//!
//! Without this, a stranger's datagram of 63 bytes that names somebody else's address as its sender makes every member feed, probe and dial
//! that address. So the first packets of an unknown sender wait; the sender is sent a number, which is less than it sent, and shows by
//! giving it back that what is sent there arrives. A seed needs no proof: this node speaks to it first.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use foca::Codec as _;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::Membership;
use crate::{
    cluster::{codec::Codec, effect::Effect},
    wire::packet::{Kind, PacketError},
};

/// Senders that are asked at a time; the one that was asked first is forgotten first, and asked anew by its next packet. A proof
/// takes one way there and back: in a mass start, a few wait at a time.
const ASKED_MAX: usize = 64;

/// Packets of one sender that wait, the latest: each carries news that is told so many times and no more.
const WAITING_MAX: usize = 4;

/// What goes there and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    /// Who sends it.
    from: SocketAddr,
    /// Random, so that nobody knows it who does not get it.
    #[serde(with = "postcard::fixint::le")]
    number: u64,
}

/// A sender that has been asked.
#[derive(Debug)]
struct Asked {
    number: u64,
    at: Duration,
    /// What it said meanwhile.
    payloads: VecDeque<Vec<u8>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Proofs(BTreeMap<SocketAddr, Asked>);

impl Proofs {
    /// Keeps the packet until its sender has proved itself; what that is to be asked with, `number` if it has not been yet.
    fn keep(&mut self, sender: SocketAddr, payload: Vec<u8>, number: u64, now: Duration) -> u64 {
        let new = || Asked { number, at: now, payloads: VecDeque::new() };
        let asked = self.0.entry(sender).or_insert_with(new);
        asked.payloads.push_back(payload);
        if asked.payloads.len() > WAITING_MAX {
            asked.payloads.pop_front();
        }
        let number = asked.number;
        if self.0.len() > ASKED_MAX {
            let first = self.0.iter().min_by_key(|(_, asked)| asked.at).map(|(sender, _)| *sender);
            first.map(|first| self.0.remove(&first));
        }
        number
    }
}

impl Membership {
    /// Whether packets of this sender need no proof: it is known here, or was spoken to first.
    pub(super) fn is_known(&self, sender: SocketAddr) -> bool {
        self.stories.knows(sender)
            || sender == self.config.id.addr
            || self.seeds.contains(&sender)
            || self.former.contains(&sender)
            // Not in the picture yet, or not any more.
            || self.foca.iter_membership_state().any(|member| member.id().addr == sender)
    }

    /// Asks the unknown sender of a gossip packet, which waits meanwhile.
    pub(super) fn ask_for_proof(
        &mut self,
        sender: SocketAddr,
        payload: &[u8],
        now: Duration,
    ) -> Result<(), PacketError> {
        let mut codec = Codec::new(self.horizon.clone());
        codec.decode_header(payload).map_err(|why| PacketError::from(&why))?;
        let number = self.rng.random();
        let number = self.proofs.keep(sender, payload.to_vec(), number, now);
        self.send_token(Kind::Prove, sender, number);
        Ok(())
    }

    /// Somebody asks for a proof: it gets no more than it sent.
    pub(super) fn handle_prove(&mut self, payload: &[u8]) -> Result<(), PacketError> {
        let token = parse(payload)?;
        self.send_token(Kind::Proof, token.from, token.number);
        Ok(())
    }

    /// Takes a proof, and then the packets that waited for it.
    pub(super) fn handle_proof(&mut self, payload: &[u8], now: Duration) -> Result<(), PacketError> {
        let token = parse(payload)?;
        // One wrong guess has spoilt it; the sender will ask again.
        let Some(asked) = self.proofs.0.remove(&token.from) else { return Ok(()) };
        let proven = asked.payloads.into_iter().filter(|_| asked.number == token.number);
        proven.map(|payload| self.hear_gossip(token.from, &payload, now)).fold(Ok(()), Result::and)
    }

    fn send_token(&mut self, kind: Kind, to: SocketAddr, number: u64) {
        let token = Token { from: self.config.id.addr, number };
        let bytes = postcard::to_allocvec(&token).expect("a token has no field that postcard cannot write");
        self.effects.push_back(Effect::Send { to, bytes: self.envelope.encode(kind, &bytes).into() });
    }
}

fn parse(payload: &[u8]) -> Result<Token, PacketError> {
    match postcard::take_from_bytes(payload) {
        Ok((token, [])) => Ok(token),
        _ => Err(PacketError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_and_their_packets_wait_up_to_the_limits_and_the_first_give_way() {
        let mut proofs = Proofs::default();
        let sender = |n: usize| SocketAddr::from(([10, 0, 0, 1], u16::try_from(n).unwrap()));
        for n in 0..=ASKED_MAX {
            assert_eq!(
                proofs.keep(sender(n), Vec::new(), n as u64, Duration::from_millis(n as u64)),
                n as u64
            );
            assert_eq!(proofs.0.contains_key(&sender(0)), n < ASKED_MAX, "{n}");
        }
        assert_eq!(proofs.0.len(), ASKED_MAX);
        let last = sender(ASKED_MAX);
        for n in 0..=WAITING_MAX {
            let number = proofs.keep(last, vec![u8::try_from(n).unwrap()], 0, Duration::MAX);
            assert_eq!(number, ASKED_MAX as u64, "the one that was sent already");
        }
        assert_eq!((proofs.0[&last].payloads.len(), &proofs.0[&last].payloads[0]), (WAITING_MAX, &vec![1]));
    }
}
