//! What `h2` says to a client that it sends away. Its errors do not say it, and its goodbyes do.

use h2::Reason;

use crate::flood::Flood;

/// What a client has had enough of that is told so: the payload of a GOAWAY, or the beginning of one. None if that says nothing of floods.
pub(super) fn word(said: &[u8]) -> Option<Flood> {
    let (reason, word) = said.get(4..)?.split_first_chunk()?;
    match Reason::from(u32::from_be_bytes(*reason)) {
        // Of what is packed wrongly it says PROTOCOL_ERROR: this is a head that goes on although it is too long already.
        Reason::COMPRESSION_ERROR => Some(Flood::Fields),
        Reason::ENHANCE_YOUR_CALM => Some(match word {
            b"too_many_resets" => Flood::RapidResets,
            b"too_many_internal_resets" => Flood::ForcedResets,
            b"too_many_continuations" => Flood::Continuations,
            b"header_list_way_too_large" => Flood::Fields,
            b"too_many_data_frames" => Flood::Data,
            _ => Flood::Library,
        }),
        _ => None,
    }
}
