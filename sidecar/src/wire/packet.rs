//! The envelope of everything that sidecars send each other, by datagram or by stream.
//!
//! ```text
//! 0      1        2     3                7
//! ├ 'C' ─┼ version ┼ kind ┼ cluster (u32) ┼ payload …
//! ```
//!
//! The cluster field is a hash of the cluster's name: it keeps two clusters on one network apart by mistake, and keeps
//! nobody out who means to come in. That is what keys are for: [`crate::wire::seal`] makes another layout of such a packet,
//! marked in the kind, before it leaves a node that has some.

/// Bytes before the payload.
pub const ENVELOPE_BYTES: usize = 7;

/// What a seal adds to a packet ([`crate::wire::seal`]).
pub const SEAL_BYTES: usize = 52;

/// Longest payload of a datagram in bytes: with the envelope and a seal it has [`DATAGRAM_BYTES_MAX`]. The same without
/// keys, so that nothing else depends on whether there are some.
pub const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - ENVELOPE_BYTES - SEAL_BYTES;

/// Set in the kind of a sealed packet.
pub const SEALED: u8 = 0x80;

/// Longest datagram in bytes: with IP and UDP headers it passes an Ethernet of 1400, which overlay networks have,
/// in one piece.
pub const DATAGRAM_BYTES_MAX: usize = 1350;

const MAGIC: u8 = b'C';
const VERSION: u8 = 3;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A foca message.
    Gossip = 1,
    /// A consumer's report to a draining member.
    Drain = 2,
    /// The whole state, by stream.
    Sync = 3,
    /// The first packet of a lifeline, by stream.
    Lifeline = 4,
    /// A question to a member.
    Query = 5,
    /// A member's answer.
    Reply = 6,
    /// What asks an unknown sender to prove that it is where it says.
    Prove = 7,
    /// The proof: what was asked with.
    Proof = 8,
    /// The first packet of who accepts a stream, if it has keys: what the dialler's seals must name.
    Challenge = 32,
    /// An order about the keys, or the answer to one, by stream.
    Keys = 33,
    /// A question how much a node has to do, or the answer to one, by stream.
    Load = 34,
    /// A question what is kept of a request, or the answer to one, by stream.
    Recall = 35,
    /// A question for the secret of session tickets, or the answer to one, by stream.
    Tickets = 36,
}

/// Why a packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Shorter than the envelope.
    #[error("truncated")]
    Truncated,
    /// Not from a sidecar.
    #[error("not a concertina packet")]
    Foreign,
    /// From a sidecar of another protocol version.
    #[error("protocol version {0}, expected {VERSION}")]
    Version(u8),
    /// From a sidecar of another cluster.
    #[error("another cluster")]
    Cluster,
    /// Of a kind that does not exist, or that nobody sends this way.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// Without a seal, at a node with keys.
    #[error("not sealed, and this node has keys")]
    Unsealed,
    /// Sealed with a key that this node does not have.
    #[error("sealed with a key that this node does not have")]
    WrongKey,
    /// Not what was sealed, or not meant for this node, this stream or this place in the stream.
    #[error("changed on its way, or meant for another")]
    Tampered,
    /// Sealed too long ago, or in the future.
    #[error("sealed {0} s away from the clock here: is one of the clocks wrong?")]
    Stale(u64),
    /// Came before, or is older than what is remembered.
    #[error("replayed")]
    Replayed,
    /// Longer than any packet.
    #[error("too long")]
    Oversized,
    /// From an address that is not to be heard.
    #[error("its address is denied")]
    Denied,
    /// From a sidecar, but not what its kind announces.
    #[error("malformed")]
    Malformed,
    /// Of a node that claims to have started years after the time here.
    #[error("it tells of a node that claims to be from years ahead: is one of the clocks wrong?")]
    Implausible,
}

/// Packs and unpacks for one cluster.
#[derive(Debug, Clone, Copy)]
pub struct Envelope {
    cluster: u32,
}

impl Envelope {
    /// The envelope of the cluster of this name.
    pub fn new(cluster: &str) -> Self {
        // FNV-1a: stable across versions and architectures, which the standard library's hasher does not promise.
        let hash = cluster.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        Self { cluster: hash }
    }

    /// Wraps a payload.
    pub fn encode(&self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(ENVELOPE_BYTES + payload.len());
        packet.extend([MAGIC, VERSION, kind as u8]);
        packet.extend(self.cluster.to_be_bytes());
        packet.extend_from_slice(payload);
        packet
    }

    /// Unwraps a packet without a seal.
    ///
    /// # Errors
    /// Why it is to be dropped.
    pub fn parse<'a>(&self, packet: &'a [u8]) -> Result<(Kind, &'a [u8]), PacketError> {
        let (kind, payload) = self.parse_any(packet)?;
        let kind = match kind {
            1 => Kind::Gossip,
            2 => Kind::Drain,
            3 => Kind::Sync,
            4 => Kind::Lifeline,
            5 => Kind::Query,
            6 => Kind::Reply,
            7 => Kind::Prove,
            8 => Kind::Proof,
            32 => Kind::Challenge,
            33 => Kind::Keys,
            34 => Kind::Load,
            35 => Kind::Recall,
            36 => Kind::Tickets,
            sealed if sealed & SEALED != 0 => return Err(PacketError::WrongKey),
            other => return Err(PacketError::Kind(other)),
        };
        Ok((kind, payload))
    }

    /// The kind and what follows the envelope of a stranger's packet, sealed or not.
    ///
    /// # Errors
    /// Why it is to be dropped.
    pub fn parse_any<'a>(&self, packet: &'a [u8]) -> Result<(u8, &'a [u8]), PacketError> {
        let Some((&[magic, version, kind, a, b, c, d], payload)) =
            packet.split_first_chunk::<ENVELOPE_BYTES>()
        else {
            return Err(PacketError::Truncated);
        };
        if magic != MAGIC {
            return Err(PacketError::Foreign);
        }
        if version != VERSION {
            return Err(PacketError::Version(version));
        }
        if u32::from_be_bytes([a, b, c, d]) != self.cluster {
            return Err(PacketError::Cluster);
        }
        Ok((kind, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_arrives_as_it_was_sent() {
        let envelope = Envelope::new("default");
        let packet = envelope.encode(Kind::Drain, b"payload");
        assert_eq!(packet.len(), ENVELOPE_BYTES + 7);
        assert_eq!(envelope.parse(&packet), Ok((Kind::Drain, &b"payload"[..])));
    }

    #[test]
    fn every_reason_to_drop_a_packet_fires() {
        let envelope = Envelope::new("default");
        let good = envelope.encode(Kind::Gossip, b"");
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        assert_eq!(envelope.parse(&good[..ENVELOPE_BYTES - 1]), Err(PacketError::Truncated));
        assert_eq!(envelope.parse(&with(0, b'X')), Err(PacketError::Foreign));
        assert_eq!(envelope.parse(&with(1, 9)), Err(PacketError::Version(9)));
        assert_eq!(envelope.parse(&with(2, 9)), Err(PacketError::Kind(9)));
        assert_eq!(envelope.parse(&with(2, SEALED | 1)), Err(PacketError::WrongKey));
        assert_eq!(Envelope::new("other").parse(&good), Err(PacketError::Cluster));
    }
}
