//! Where packets leave a node and come in: sealed and opened if the node has keys, as they are if it has none, and counted.
//!
//! Pure: bytes and the time in, packets out. The sockets are the driver's and those of `link.rs`.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use feed::stats::{Stats, Traffic};

use crate::wire::{
    access::Access,
    drops::Drops,
    keyring::{Keyring, NONCE_BYTES},
    packet::{DATAGRAM_BYTES_MAX, Envelope, Kind, PacketError},
    replay::SenderId,
    seal::{Nonce, Place, Sealer, StreamId, nonce_of},
};

/// See the module.
#[derive(Debug)]
pub struct Gate {
    envelope: Envelope,
    own: SocketAddr,
    access: Access,
    sealer: Option<Sealer>,
    received: Traffic,
    sent: Traffic,
    drops: Drops,
}

impl Gate {
    /// The gate of the node that gossips at `own` in the cluster of this name; `sender` must be random.
    pub fn new(
        cluster: &str,
        own: SocketAddr,
        access: Access,
        keys: Option<Keyring>,
        sender: SenderId,
    ) -> Self {
        let sealer = keys.map(|ring| Sealer::new(ring, sender));
        let (received, sent, drops) = (Traffic::default(), Traffic::default(), Drops::default());
        Self { envelope: Envelope::new(cluster), own, access, sealer, received, sent, drops }
    }

    /// The gossip address of this node.
    pub fn own(&self) -> SocketAddr {
        self.own
    }

    /// The keys, to be changed; none if this node has none.
    pub fn ring_mut(&mut self) -> Option<&mut Keyring> {
        self.sealer.as_mut().map(Sealer::ring_mut)
    }

    /// The keys; none if this node has none.
    pub fn ring(&self) -> Option<&Keyring> {
        self.sealer.as_ref().map(Sealer::ring)
    }

    /// Whether this node has to do with that address: hears it, or dials it.
    ///
    /// # Errors
    /// [`PacketError::Denied`].
    pub fn check(&self, ip: IpAddr) -> Result<(), PacketError> {
        if self.access.permits(ip) { Ok(()) } else { Err(PacketError::Denied) }
    }

    /// Everything that was counted.
    pub fn stats(&self) -> Stats {
        let dropped = self.drops.counts().iter().map(|(cause, count)| ((*cause).to_owned(), *count));
        Stats { received: self.received, sent: self.sent, dropped: dropped.collect(), ..Stats::default() }
    }

    /// Counts a packet that was dropped, and says so once for each source and cause.
    pub fn note_drop(&mut self, from: IpAddr, why: PacketError) {
        if self.drops.add(from, why) {
            tracing::warn!(%from, cause = why.cause(), %why, "dropped a packet; more of them are only counted");
        }
    }

    /// The datagram that carries a plain packet to `to`.
    pub fn seal_datagram(&mut self, to: SocketAddr, packet: Bytes, now_ms: u64) -> Bytes {
        let datagram = match &mut self.sealer {
            None => packet,
            Some(sealer) => sealer.seal(&packet, &Place::Datagram(to), now_ms).into(),
        };
        self.sent.add_datagram(datagram.len());
        debug_assert!(datagram.len() <= DATAGRAM_BYTES_MAX, "{} bytes to {to}", datagram.len());
        datagram
    }

    /// The plain packet of a stranger's datagram.
    ///
    /// # Errors
    /// Why it is to be dropped.
    pub fn open_datagram<'a>(
        &mut self,
        datagram: &'a [u8],
        from: IpAddr,
        now_ms: u64,
    ) -> Result<Cow<'a, [u8]>, PacketError> {
        self.received.add_datagram(datagram.len());
        self.check(from)?;
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return Err(PacketError::Oversized);
        }
        self.open(datagram, &Place::Datagram(self.own), now_ms)
    }

    fn open<'a>(
        &mut self,
        packet: &'a [u8],
        place: &Place,
        now_ms: u64,
    ) -> Result<Cow<'a, [u8]>, PacketError> {
        match &mut self.sealer {
            None => self.envelope.parse(packet).map(|_| packet.into()),
            Some(sealer) => {
                self.envelope.parse_any(packet)?;
                sealer.open(packet, place, now_ms).map(Cow::from)
            }
        }
    }
}

/// One side of a stream: which stream it is, and how far each direction has come.
///
/// With keys, the accepting side speaks first: its challenge, a number that it never used, goes into every seal of the
/// stream; so does the nonce of the dialler's first packet. Thus neither side can be shown an older stream's packets.
#[derive(Debug)]
pub struct Session {
    stream: StreamId,
    dialled: bool,
    sent: u32,
    received: u32,
}

impl Session {
    /// The accepting side of a stream, and the packet to greet the dialler with, if this node has keys.
    pub fn accepted(gate: &mut Gate) -> (Self, Option<Vec<u8>>) {
        let challenge = gate.sealer.as_mut().map(Sealer::next_nonce);
        let greeting = challenge.map(|challenge| gate.envelope.encode(Kind::Challenge, &challenge));
        (Self::new(gate.own, challenge.unwrap_or_default(), false), greeting)
    }

    /// Whether the dialler has to wait for a greeting.
    pub fn is_greeted(gate: &Gate) -> bool {
        gate.sealer.is_some()
    }

    /// The dialling side of a stream to `to`, once it was greeted, or without a greeting where there are no keys.
    ///
    /// # Errors
    /// What was heard is no greeting.
    pub fn dialled(gate: &Gate, to: SocketAddr, greeting: Option<&[u8]>) -> Result<Self, PacketError> {
        let challenge = match greeting {
            None => [0; NONCE_BYTES],
            Some(greeting) => match gate.envelope.parse(greeting)? {
                (Kind::Challenge, challenge) => challenge.try_into().map_err(|_| PacketError::Malformed)?,
                (kind, _) => return Err(PacketError::Kind(kind as u8)),
            },
        };
        Ok(Self::new(to, challenge, true))
    }

    fn new(to: SocketAddr, challenge: Nonce, dialled: bool) -> Self {
        let stream = StreamId { to, challenge, opening: [0; NONCE_BYTES] };
        Self { stream, dialled, sent: 0, received: 0 }
    }

    /// What carries the next plain packet of this side.
    pub fn seal(&mut self, gate: &mut Gate, packet: Vec<u8>, now_ms: u64) -> Vec<u8> {
        let place = Place::Stream { stream: self.stream, from_dialler: self.dialled, position: self.sent };
        self.sent += 1;
        let sealed = match &mut gate.sealer {
            None => packet,
            Some(sealer) => {
                let sealed = sealer.seal(&packet, &place, now_ms);
                self.note_opening(self.dialled && self.sent == 1, &sealed);
                sealed
            }
        };
        gate.sent.add_stream_packet(sealed.len());
        sealed
    }

    /// The next plain packet of the other side. After an error the stream is of no use.
    ///
    /// # Errors
    /// Why it is to be dropped.
    pub fn open(&mut self, gate: &mut Gate, packet: &[u8], now_ms: u64) -> Result<Vec<u8>, PacketError> {
        let place =
            Place::Stream { stream: self.stream, from_dialler: !self.dialled, position: self.received };
        self.received += 1;
        gate.received.add_stream_packet(packet.len());
        let plain = gate.open(packet, &place, now_ms)?.into_owned();
        self.note_opening(!self.dialled && self.received == 1, packet);
        // Who greets has keys; this side has none, or would have expected it.
        match gate.envelope.parse(&plain)? {
            (Kind::Challenge, _) => Err(PacketError::WrongKey),
            _ => Ok(plain),
        }
    }

    fn note_opening(&mut self, is_opening: bool, sealed: &[u8]) {
        if is_opening && let Some(nonce) = nonce_of(sealed) {
            self.stream.opening = nonce;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::keyring::tests::key;

    const NOW: u64 = 1_763_820_000_000;

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 7946))
    }

    fn gate(n: u8, keys: Option<u8>) -> Gate {
        Gate::new("default", addr(n), Access::default(), keys.map(|byte| Keyring::new(key(byte))), [n; 16])
    }

    fn packet(payload: &[u8]) -> Vec<u8> {
        Envelope::new("default").encode(Kind::Sync, payload)
    }

    /// Both sides of a stream from the first gate to the second.
    fn stream(a: &mut Gate, b: &mut Gate) -> (Session, Session) {
        let (far, greeting) = Session::accepted(b);
        let near = Session::dialled(a, b.own, greeting.as_deref()).unwrap();
        (near, far)
    }

    #[test]
    fn without_keys_everything_is_as_it_was() {
        let (mut a, mut b) = (gate(1, None), gate(2, None));
        let datagram = a.seal_datagram(addr(2), packet(b"x").into(), NOW);
        assert_eq!(datagram, packet(b"x"));
        assert_eq!(
            b.open_datagram(&datagram, addr(9).ip(), NOW + 100_000).unwrap(),
            packet(b"x"),
            "and has no age"
        );
        let (mut near, mut far) = stream(&mut a, &mut b);
        let sent = near.seal(&mut a, packet(b"y"), NOW);
        assert_eq!(sent, packet(b"y"));
        assert_eq!(far.open(&mut b, &sent, NOW), Ok(packet(b"y")));
    }

    #[test]
    fn who_has_keys_and_who_has_none_do_not_hear_each_other() {
        let (mut with, mut without) = (gate(1, Some(1)), gate(2, None));
        let datagram = with.seal_datagram(addr(2), packet(b"").into(), NOW);
        assert_eq!(without.open_datagram(&datagram, addr(9).ip(), NOW), Err(PacketError::WrongKey));
        let datagram = without.seal_datagram(addr(1), packet(b"").into(), NOW);
        assert_eq!(with.open_datagram(&datagram, addr(9).ip(), NOW), Err(PacketError::Unsealed));

        let (mut far, greeting) = Session::accepted(&mut with);
        let mut near = Session::dialled(&without, addr(1), None).unwrap();
        let sent = near.seal(&mut without, packet(b""), NOW);
        assert_eq!(far.open(&mut with, &sent, NOW), Err(PacketError::Unsealed));
        let heard = near.open(&mut without, &greeting.unwrap(), NOW);
        assert_eq!(heard, Err(PacketError::WrongKey), "the greeting, taken for an answer");
    }

    #[test]
    fn a_stream_carries_both_directions_in_order() {
        let (mut a, mut b) = (gate(1, Some(1)), gate(2, Some(1)));
        let (mut near, mut far) = stream(&mut a, &mut b);
        for n in 0..3 {
            let sent = near.seal(&mut a, packet(&[n]), NOW);
            assert_eq!(far.open(&mut b, &sent, NOW), Ok(packet(&[n])));
            let sent = far.seal(&mut b, packet(&[n, n]), NOW);
            assert_eq!(near.open(&mut a, &sent, NOW), Ok(packet(&[n, n])));
        }
    }

    #[test]
    fn packets_of_a_stream_cannot_be_swapped_repeated_reflected_or_moved_to_another() {
        let (mut a, mut b) = (gate(1, Some(1)), gate(2, Some(1)));
        let (mut near, mut far) = stream(&mut a, &mut b);
        let first = near.seal(&mut a, packet(b"1"), NOW);
        let second = near.seal(&mut a, packet(b"2"), NOW);
        let tampered = Err(PacketError::Tampered);
        assert_eq!(near.open(&mut a, &first, NOW), tampered, "reflected");
        assert_eq!(stream(&mut a, &mut b).1.open(&mut b, &first, NOW), tampered, "another stream");
        assert_eq!(stream(&mut a, &mut b).1.open(&mut b, &second, NOW), tampered, "out of its turn");
        far.open(&mut b, &first, NOW).unwrap();
        assert_eq!(far.open(&mut b, &first, NOW), tampered, "repeated");

        // An answer that was recorded does not fit a stream whose greeting was recorded as well.
        let (mut far, greeting) = Session::accepted(&mut b);
        let mut near = Session::dialled(&a, addr(2), greeting.as_deref()).unwrap();
        let asked = near.seal(&mut a, packet(b"?"), NOW);
        far.open(&mut b, &asked, NOW).unwrap();
        let answer = far.seal(&mut b, packet(b"!"), NOW);
        let mut deceived = Session::dialled(&a, addr(2), greeting.as_deref()).unwrap();
        deceived.seal(&mut a, packet(b"?"), NOW);
        assert_eq!(deceived.open(&mut a, &answer, NOW), tampered);
        assert_eq!(near.open(&mut a, &answer, NOW), Ok(packet(b"!")));
    }

    #[test]
    fn a_datagram_one_byte_too_long_is_refused() {
        let at_limit = Envelope::new("default").encode(Kind::Gossip, &[0; DATAGRAM_BYTES_MAX - 7]);
        let mut node = gate(1, None);
        assert!(node.open_datagram(&at_limit, addr(9).ip(), NOW).is_ok());
        let over = [at_limit.as_slice(), &[0]].concat();
        assert_eq!(node.open_datagram(&over, addr(9).ip(), NOW), Err(PacketError::Oversized));
    }
}
