//! Sealed packets: what a node with keys sends instead of the plain ones of [`crate::wire::packet`].
//!
//! ```text
//! 0      1        2            3                7            11           27             35
//! ├ 'C' ─┼ version ┼ kind|0x80 ┼ cluster (u32) ┼ hint (4) ──┼ sender (16) ┼ sequence (8) ┼ sealed: sent (8), payload … ┼ tag (16)
//!  ─────────── associated data ───────────────  which key    ──────── nonce ─────────────   XChaCha20-Poly1305
//! ```
//!
//! All integers are big-endian. `sent` is in milliseconds since the Unix epoch. The associated data continues with what is
//! not sent, since both sides know it: where the packet belongs ([`Place`]). So it opens nowhere else.
//!
//! *Nonces.* `sender` is drawn at random by each process, `sequence` counts everything that the process ever seals, by
//! datagram and by stream. Two of 2^32 processes draw the same sender with a probability of 2^-65; within a process no
//! number comes twice. A process image that is started twice (a restored checkpoint) would repeat them: start such nodes anew.

use std::net::{IpAddr, SocketAddr};

use crate::wire::{
    keyring::{HINT_BYTES, Keyring, NONCE_BYTES, TAG_BYTES},
    packet::{ENVELOPE_BYTES, PacketError, SEAL_BYTES, SEALED},
    replay::{SenderId, Senders},
};

const SENT_BYTES: usize = 8;
const SEALED_START: usize = ENVELOPE_BYTES + HINT_BYTES + NONCE_BYTES;
const KIND_AT: usize = 2;

const _: () = assert!(SEAL_BYTES == HINT_BYTES + NONCE_BYTES + SENT_BYTES + TAG_BYTES);

/// Sender and sequence number.
pub type Nonce = [u8; NONCE_BYTES];

/// Where a packet belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A datagram to this gossip address.
    Datagram(SocketAddr),
    /// This place in a stream.
    Stream {
        /// The stream.
        stream: StreamId,
        /// From the side that dialled, or to it.
        from_dialler: bool,
        /// How many packets went the same way before.
        position: u32,
    },
}

/// What tells a stream from all others, past and future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamId {
    /// The gossip address that was dialled.
    pub to: SocketAddr,
    /// What the accepting side sent first: a number that it never used.
    pub challenge: Nonce,
    /// The nonce of the dialler's first packet; zeroes in that packet itself.
    pub opening: Nonce,
}

impl Place {
    fn encode(&self, to: &mut Vec<u8>) {
        let mut addr = |addr: &SocketAddr| {
            let ip = match addr.ip().to_canonical() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            to.extend(ip.octets());
            to.extend(addr.port().to_be_bytes());
        };
        match self {
            Self::Datagram(dst) => addr(dst),
            Self::Stream { stream, from_dialler, position } => {
                addr(&stream.to);
                to.extend(stream.challenge);
                to.extend(stream.opening);
                to.push(u8::from(*from_dialler));
                to.extend(position.to_be_bytes());
            }
        }
    }
}

/// Seals and opens for one node.
#[derive(Debug)]
pub struct Sealer {
    ring: Keyring,
    sender: SenderId,
    sequence: u64,
    senders: Senders,
}

impl Sealer {
    /// Seals and opens with these keys; `sender` must be random.
    pub fn new(ring: Keyring, sender: SenderId) -> Self {
        Self { ring, sender, sequence: 0, senders: Senders::default() }
    }

    /// The keys.
    pub fn ring(&self) -> &Keyring {
        &self.ring
    }

    /// The keys, to be changed.
    pub fn ring_mut(&mut self) -> &mut Keyring {
        &mut self.ring
    }

    /// A number that this process uses for nothing else, nor does any other.
    pub fn next_nonce(&mut self) -> Nonce {
        self.sequence += 1;
        let mut nonce = [0; NONCE_BYTES];
        nonce[..16].copy_from_slice(&self.sender);
        nonce[16..].copy_from_slice(&self.sequence.to_be_bytes());
        nonce
    }

    /// Seals a plain packet for a place.
    pub fn seal(&mut self, packet: &[u8], place: &Place, now_ms: u64) -> Vec<u8> {
        debug_assert!(packet.len() >= ENVELOPE_BYTES, "a packet of our own has an envelope");
        let (envelope, payload) = packet.split_at(ENVELOPE_BYTES.min(packet.len()));
        let nonce = self.next_nonce();
        let key = self.ring.primary();
        let mut sealed = Vec::with_capacity(packet.len() + SEAL_BYTES);
        sealed.extend_from_slice(envelope);
        sealed[KIND_AT] |= SEALED;
        let associated = associated(&sealed, place);
        sealed.extend(key.fingerprint().hint());
        sealed.extend(nonce);
        let mut body = Vec::with_capacity(SENT_BYTES + payload.len() + TAG_BYTES);
        body.extend(now_ms.to_be_bytes());
        body.extend_from_slice(payload);
        key.seal(&nonce, &associated, &mut body);
        sealed.append(&mut body);
        sealed
    }

    /// Opens a packet whose envelope is of this cluster; the plain packet. A datagram must also be news.
    ///
    /// # Errors
    /// Why it is to be dropped.
    pub fn open(&mut self, packet: &[u8], place: &Place, now_ms: u64) -> Result<Vec<u8>, PacketError> {
        let (envelope, rest) = packet.split_at_checked(ENVELOPE_BYTES).ok_or(PacketError::Truncated)?;
        if envelope[KIND_AT] & SEALED == 0 {
            return Err(PacketError::Unsealed);
        }
        let (hint, rest) = rest.split_first_chunk::<HINT_BYTES>().ok_or(PacketError::Truncated)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(PacketError::Truncated)?;
        if body.len() < SENT_BYTES + TAG_BYTES {
            return Err(PacketError::Truncated);
        }
        let associated = associated(envelope, place);
        let body = self.open_body(*hint, nonce, &associated, body)?;
        let (sent, payload) = body.split_first_chunk::<SENT_BYTES>().ok_or(PacketError::Truncated)?;
        if matches!(place, Place::Datagram(_)) {
            let (sender, sequence) = split(nonce);
            self.senders.handle(sender, sequence, u64::from_be_bytes(*sent), now_ms)?;
        }
        let mut plain = Vec::with_capacity(ENVELOPE_BYTES + payload.len());
        plain.extend_from_slice(envelope);
        plain[KIND_AT] &= !SEALED;
        plain.extend_from_slice(payload);
        Ok(plain)
    }

    fn open_body(
        &self,
        hint: [u8; HINT_BYTES],
        nonce: &Nonce,
        associated: &[u8],
        body: &[u8],
    ) -> Result<Vec<u8>, PacketError> {
        let mut why = PacketError::WrongKey;
        for key in self.ring.hinted(hint) {
            let mut buffer = body.to_vec();
            if key.open(nonce, associated, &mut buffer) {
                return Ok(buffer);
            }
            why = PacketError::Tampered;
        }
        Err(why)
    }
}

/// The nonce of a sealed packet; none if it is too short to have one.
pub fn nonce_of(packet: &[u8]) -> Option<Nonce> {
    packet.get(ENVELOPE_BYTES + HINT_BYTES..SEALED_START)?.try_into().ok()
}

fn split(nonce: &Nonce) -> (SenderId, u64) {
    let (mut sender, mut sequence) = ([0; 16], [0; 8]);
    sender.copy_from_slice(&nonce[..16]);
    sequence.copy_from_slice(&nonce[16..]);
    (sender, u64::from_be_bytes(sequence))
}

fn associated(envelope: &[u8], place: &Place) -> Vec<u8> {
    let mut associated = envelope.to_vec();
    place.encode(&mut associated);
    associated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        keyring::tests::key,
        packet::{DATAGRAM_BYTES_MAX, Envelope, Kind, PAYLOAD_BYTES_MAX},
        replay::SKEW_MS_MAX,
    };

    const NOW: u64 = 1_763_820_000_000;

    fn sealer(sender: u8) -> Sealer {
        Sealer::new(Keyring::new(key(1)), [sender; 16])
    }

    fn to(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 7946))
    }

    fn packet(payload: &[u8]) -> Vec<u8> {
        Envelope::new("default").encode(Kind::Gossip, payload)
    }

    #[test]
    fn a_packet_opens_once_as_it_was_and_does_not_show_what_it_says() {
        let (mut a, mut b) = (sealer(1), sealer(2));
        let place = Place::Datagram(to(2));
        let sealed = a.seal(&packet(b"a secret"), &place, NOW);
        assert_eq!(sealed.len(), packet(b"a secret").len() + SEAL_BYTES);
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_eq!(b.open(&sealed, &place, NOW), Ok(packet(b"a secret")));
        assert_eq!(b.open(&sealed, &place, NOW), Err(PacketError::Replayed));
        let mapped = Place::Datagram("[::ffff:10.0.0.2]:7946".parse().unwrap());
        let sealed = a.seal(&packet(b"x"), &mapped, NOW);
        assert_eq!(b.open(&sealed, &place, NOW), Ok(packet(b"x")), "one address in two spellings");
    }

    #[test]
    fn the_longest_packet_fits_a_datagram_exactly() {
        let sealed = sealer(1).seal(&packet(&[0; PAYLOAD_BYTES_MAX]), &Place::Datagram(to(2)), NOW);
        assert_eq!(sealed.len(), DATAGRAM_BYTES_MAX);
        assert_eq!(crate::wire::swim::foca_config(1000).max_packet_size.get(), PAYLOAD_BYTES_MAX);
    }

    #[test]
    fn no_byte_can_be_changed_and_none_be_missing() {
        let (mut a, mut b) = (sealer(1), sealer(2));
        let place = Place::Datagram(to(2));
        let sealed = a.seal(&packet(b"payload"), &place, NOW);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            let why = if (7..11).contains(&at) { PacketError::WrongKey } else { PacketError::Tampered };
            assert_eq!(b.open(&changed, &place, NOW), Err(why), "byte {at}");
            let shortest = ENVELOPE_BYTES + SEAL_BYTES;
            let why = if at < shortest { PacketError::Truncated } else { PacketError::Tampered };
            assert_eq!(b.open(&sealed[..at], &place, NOW), Err(why), "{at} bytes");
        }
        assert!(b.open(&sealed, &place, NOW).is_ok());
    }

    #[test]
    fn a_packet_opens_only_where_and_when_it_belongs() {
        let (mut a, mut b) = (sealer(1), sealer(2));
        let sealed = a.seal(&packet(b""), &Place::Datagram(to(2)), NOW);
        assert_eq!(b.open(&sealed, &Place::Datagram(to(3)), NOW), Err(PacketError::Tampered));
        let late = NOW + SKEW_MS_MAX + 1;
        assert_eq!(b.open(&sealed, &Place::Datagram(to(2)), late), Err(PacketError::Stale(30)));

        let stream = StreamId { to: to(2), challenge: b.next_nonce(), opening: [0; NONCE_BYTES] };
        let first = Place::Stream { stream, from_dialler: true, position: 0 };
        let sealed = a.seal(&packet(b""), &first, NOW);
        let opening = nonce_of(&sealed).unwrap();
        for elsewhere in [
            Place::Datagram(to(2)),
            Place::Stream { stream, from_dialler: false, position: 0 },
            Place::Stream { stream, from_dialler: true, position: 1 },
            Place::Stream {
                stream: StreamId { challenge: b.next_nonce(), ..stream },
                from_dialler: true,
                position: 0,
            },
            Place::Stream { stream: StreamId { opening, ..stream }, from_dialler: true, position: 0 },
            Place::Stream { stream: StreamId { to: to(3), ..stream }, from_dialler: true, position: 0 },
        ] {
            assert_eq!(b.open(&sealed, &elsewhere, NOW), Err(PacketError::Tampered), "{elsewhere:?}");
        }
        assert_eq!(b.open(&sealed, &first, late), Ok(packet(b"")), "a stream's freshness is its challenge");
    }

    #[test]
    fn each_key_of_the_ring_opens_and_others_do_not() {
        let place = Place::Datagram(to(2));
        let mut ring = Keyring::new(key(1));
        ring.install(key(2)).unwrap();
        let mut both = Sealer::new(ring, [9; 16]);
        for (n, expected) in [(1, Ok(packet(b""))), (2, Ok(packet(b""))), (3, Err(PacketError::WrongKey))] {
            let sealed = Sealer::new(Keyring::new(key(n)), [n; 16]).seal(&packet(b""), &place, NOW);
            assert_eq!(both.open(&sealed, &place, NOW), expected, "key {n}");
        }
        assert_eq!(both.open(&packet(b"plain"), &place, NOW), Err(PacketError::Unsealed));
    }
}
