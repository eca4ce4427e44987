//! How foca's messages are read and written, and which identities are believed at all.
//!
//! Whoever has the latest claim to an address has it, so a claim far in the future would keep the node that lives there out of the
//! cluster for ever. What claims to be from later than any clock could be wrong by is dropped as it is read.

use std::{cell::Cell, rc::Rc};

use bytes::{Buf, BufMut};
use foca::{Header, Member, PostcardCodec};

use crate::{cluster::member_id::MemberId, wire::packet::PacketError};

/// How far ahead of the clock here a claim may be: a node whose clock was put back by a year has a predecessor a year ahead,
/// and may overshoot it by as much.
pub(crate) const LEAD_MS_MAX: u64 = 2 * 366 * 24 * 3600 * 1000;

/// The first of January 2023. A clock that shows less was never set, and tells nothing about claims.
const UNSET_CLOCK_MS: u64 = 1_672_531_200_000;

/// The latest claim that is believed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Horizon(Rc<Cell<u64>>);

impl Horizon {
    /// That of a clock that shows this, in milliseconds since the Unix epoch.
    pub(crate) fn at(unix_ms: u64) -> Self {
        let horizon = Self::default();
        horizon.set_now(unix_ms);
        horizon
    }

    /// The clock shows this now.
    pub(crate) fn set_now(&self, unix_ms: u64) {
        let latest = if unix_ms < UNSET_CLOCK_MS { u64::MAX } else { unix_ms.saturating_add(LEAD_MS_MAX) };
        self.0.set(latest);
    }

    /// Whether this identity may be real.
    pub(crate) fn includes(&self, id: &MemberId) -> bool {
        id.claim_ms() <= self.0.get()
    }
}

/// Why a message is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    /// Not one of foca's.
    #[error(transparent)]
    Malformed(#[from] postcard::Error),
    /// Somebody in it claims to be from too far in the future.
    #[error("{}", PacketError::Implausible)]
    Implausible,
}

impl From<&CodecError> for PacketError {
    fn from(why: &CodecError) -> Self {
        match why {
            CodecError::Malformed(_) => Self::Malformed,
            CodecError::Implausible => Self::Implausible,
        }
    }
}

/// foca's codec.
#[derive(Debug)]
pub(crate) struct Codec {
    inner: PostcardCodec,
    horizon: Horizon,
}

impl Codec {
    pub(crate) fn new(horizon: Horizon) -> Self {
        Self { inner: PostcardCodec, horizon }
    }

    fn check(&self, id: &MemberId) -> Result<(), CodecError> {
        if self.horizon.includes(id) { Ok(()) } else { Err(CodecError::Implausible) }
    }
}

impl foca::Codec<MemberId> for Codec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<MemberId>, buf: impl BufMut) -> Result<(), CodecError> {
        Ok(self.inner.encode_header(header, buf)?)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<MemberId>, CodecError> {
        let header: Header<MemberId> = self.inner.decode_header(buf)?;
        self.check(&header.src)?;
        Ok(header)
    }

    fn encode_member(&mut self, member: &Member<MemberId>, buf: impl BufMut) -> Result<(), CodecError> {
        Ok(self.inner.encode_member(member, buf)?)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<MemberId>, CodecError> {
        let member: Member<MemberId> = self.inner.decode_member(buf)?;
        self.check(member.id())?;
        Ok(member)
    }
}

/// Why foca did not take a packet, if it was the packet's fault.
pub(crate) fn fault_of(outcome: &Result<(), foca::Error>) -> Option<PacketError> {
    use foca::Error::{CustomBroadcast, DataTooBig, Decode, MalformedPacket};
    match outcome {
        Err(Decode(why)) => {
            Some(why.downcast_ref::<CodecError>().map_or(PacketError::Malformed, PacketError::from))
        }
        Err(CustomBroadcast(_) | DataTooBig | MalformedPacket) => Some(PacketError::Malformed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_at_the_limit_is_believed_and_a_later_one_is_not() {
        let now = UNSET_CLOCK_MS + 1;
        let horizon = Horizon::at(now);
        let at = |instance| MemberId { instance, ..MemberId::unknown_at("10.0.0.1:7946".parse().unwrap()) };
        assert!(horizon.includes(&at(now + LEAD_MS_MAX)) && !horizon.includes(&at(now + LEAD_MS_MAX + 1)));
        assert!(!horizon.includes(&MemberId { renewal: u32::MAX, ..at(now) }));
    }

    #[test]
    fn a_clock_that_was_never_set_refuses_nobody() {
        let horizon = Horizon::at(UNSET_CLOCK_MS - 1);
        let latest = MemberId::unknown_at("10.0.0.1:7946".parse().unwrap());
        assert!(horizon.includes(&MemberId { instance: u64::MAX, renewal: u32::MAX, ..latest }));
    }
}
