//! One pass over the fields of a head: which of them mean anything to a proxy.

use super::Reject;
use crate::limits::{FIELD_NAME_BYTES_MAX, FIELDS_COUNT_MAX};

/// A field as the parser found it.
pub type Field<'a> = httparse::Header<'a>;

/// A set of fields by their position in the head.
pub type FieldSet = u128;

const _: () = assert!(FIELDS_COUNT_MAX <= FieldSet::BITS as usize);

/// What the fields say about framing, routing and the connection. Positions are those in the head.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fields {
    /// The only Content-Length.
    pub content_length: Option<u8>,
    /// More than one Content-Length was seen.
    pub content_length_repeated: bool,
    /// The only Transfer-Encoding.
    pub transfer_encoding: Option<u8>,
    /// More than one Transfer-Encoding was seen.
    pub transfer_encoding_repeated: bool,
    /// The only Host.
    pub host: Option<u8>,
    /// More than one Host was seen.
    pub host_repeated: bool,
    /// `Connection: close`.
    pub close: bool,
    /// `Connection: keep-alive`.
    pub keep_alive: bool,
    /// The Upgrade that Connection names.
    pub upgrade: Option<u8>,
    /// Fields that end at this hop, Upgrade included: who lets it pass decides so.
    pub hop_by_hop: FieldSet,
}

impl Fields {
    /// Reads the fields.
    ///
    /// # Errors
    /// A name that is too long, or more names in Connection than there can be fields.
    pub fn parse(fields: &[Field<'_>]) -> Result<Self, Reject> {
        let mut found = Self::default();
        let (mut connection, mut upgrade): (FieldSet, Option<u8>) = (0, None);
        for (position, field) in fields.iter().enumerate() {
            let name = field.name.as_bytes();
            #[expect(clippy::cast_possible_truncation, reason = "bounded by FIELDS_COUNT_MAX")]
            let index = position as u8;
            let bit: FieldSet = 1 << index;
            // The length alone rules out nearly every field that means nothing here.
            match name.len() {
                2 if name.eq_ignore_ascii_case(b"te") => found.hop_by_hop |= bit,
                4 if name.eq_ignore_ascii_case(b"host") => {
                    note(&mut found.host, &mut found.host_repeated, index);
                }
                7 if name.eq_ignore_ascii_case(b"upgrade") => {
                    upgrade = Some(index);
                    found.hop_by_hop |= bit;
                }
                10 if name.eq_ignore_ascii_case(b"connection") => connection |= bit,
                10 if name.eq_ignore_ascii_case(b"keep-alive") => found.hop_by_hop |= bit,
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    note(&mut found.content_length, &mut found.content_length_repeated, index);
                }
                16 if name.eq_ignore_ascii_case(b"proxy-connection") => found.hop_by_hop |= bit,
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    note(&mut found.transfer_encoding, &mut found.transfer_encoding_repeated, index);
                }
                length if length > FIELD_NAME_BYTES_MAX => return Err(Reject::FieldNameTooLong),
                _ => {}
            }
        }
        if connection != 0 {
            found.apply_connection(fields, connection, upgrade)?;
        }
        Ok(found)
    }

    /// Everything that Connection names ends here. It is taken out *before* anything of our own is put in, or a client
    /// could name our fields and have them removed (CVE-2024-45410).
    fn apply_connection(
        &mut self,
        fields: &[Field<'_>],
        connection: FieldSet,
        upgrade: Option<u8>,
    ) -> Result<(), Reject> {
        self.hop_by_hop |= connection;
        let (mut named_upgrade, mut protected): (bool, FieldSet) = (false, 0);
        // Framing and routing are not the sender's to take away: naming them would desynchronise the next hop.
        for kept in [self.content_length, self.transfer_encoding, self.host].into_iter().flatten() {
            protected |= 1 << kept;
        }
        let values =
            fields.iter().enumerate().filter(|(i, _)| connection & (1 << i) != 0).map(|(_, f)| f.value);
        for (count, token) in values.flat_map(tokens).enumerate() {
            // Each is compared with each field: a head full of names would cost a hundred times its bytes.
            if count == FIELDS_COUNT_MAX {
                return Err(Reject::TooManyFields);
            }
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                named_upgrade = true;
            } else {
                for (position, field) in fields.iter().enumerate() {
                    if field.name.as_bytes().eq_ignore_ascii_case(token) {
                        self.hop_by_hop |= (1 << position) & !protected;
                    }
                }
            }
        }
        self.upgrade = upgrade.filter(|_| named_upgrade);
        Ok(())
    }
}

fn note(first: &mut Option<u8>, repeated: &mut bool, index: u8) {
    *repeated |= first.is_some();
    first.get_or_insert(index);
}

/// The tokens of a comma-separated list (RFC 9110 5.6.1).
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&'static str, &'static str)]) -> Fields {
        let fields: Vec<_> =
            pairs.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect();
        Fields::parse(&fields).unwrap()
    }

    #[test]
    fn what_connection_names_is_hop_by_hop() {
        let found = parse(&[("Connection", "close, X-Secret ,,"), ("x-secret", "1"), ("X-Other", "2")]);
        assert!(found.close);
        assert_eq!(found.hop_by_hop, 0b011);
    }

    #[test]
    fn framing_and_host_cannot_be_named_away() {
        let found = parse(&[("Connection", "host, content-length"), ("Host", "a"), ("Content-Length", "1")]);
        assert_eq!(found.hop_by_hop, 0b001);
    }

    #[test]
    fn an_upgrade_needs_both_fields() {
        assert_eq!(parse(&[("Upgrade", "websocket"), ("Connection", "Upgrade")]).upgrade, Some(0));
        let alone = parse(&[("Upgrade", "websocket")]);
        assert_eq!(alone.upgrade, None);
        assert_eq!(alone.hop_by_hop, 1);
        assert_eq!(parse(&[("Connection", "upgrade")]).upgrade, None);
    }

    #[test]
    fn well_known_hop_by_hop_fields_go_even_if_nobody_names_them() {
        let found =
            parse(&[("TE", "trailers"), ("Keep-Alive", "5"), ("Proxy-Connection", "x"), ("Accept", "*")]);
        assert_eq!(found.hop_by_hop, 0b0111);
    }

    #[test]
    fn a_name_at_the_limit_passes_and_one_over_it_is_refused() {
        let name = |n: usize| "x".repeat(n);
        let parse = |name: &str| Fields::parse(&[Field { name, value: b"" }]).map(drop);
        assert_eq!(parse(&name(FIELD_NAME_BYTES_MAX)), Ok(()));
        assert_eq!(parse(&name(FIELD_NAME_BYTES_MAX + 1)), Err(Reject::FieldNameTooLong));
    }
}
