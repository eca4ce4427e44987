//! One pass over the fields of a head: which of them mean anything to a proxy.

use super::{
    Reject,
    quoted::{Syntax, elements},
    trailers::Trailers,
};
use crate::limits::{FIELD_NAME_BYTES_MAX, FIELDS_COUNT_MAX};

/// A field as the parser found it.
pub type Field<'a> = httparse::Header<'a>;

/// A set of fields by their position in the head.
pub type FieldSet = u128;

const _: () = assert!(FIELDS_COUNT_MAX <= FieldSet::BITS as usize);

/// What the fields say about framing, routing and the connection. Positions are those in the head.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fields {
    /// Every Content-Length.
    pub content_length: FieldSet,
    /// There are several, or one that is a list.
    pub is_length_listed: bool,
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
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
    /// The Upgrade that Connection names, and that can be passed on.
    pub upgrade: Option<u8>,
    /// The first Max-Forwards.
    pub max_forwards: Option<u8>,
    /// A Date.
    pub date: Option<u8>,
    /// `TE: trailers`.
    pub wants_trailers: bool,
    /// Somebody authenticates by NTLM or Negotiate, and with that the connection instead of a request.
    pub is_connection_bound: bool,
    /// What Connection says of the trailers to come.
    pub trailers: Trailers,
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
                2 if name.eq_ignore_ascii_case(b"te") => {
                    found.hop_by_hop |= bit;
                    found.wants_trailers |= tokens(field.value).any(|t| t.eq_ignore_ascii_case(b"trailers"));
                }
                4 if name.eq_ignore_ascii_case(b"date") => found.date = Some(index),
                4 if name.eq_ignore_ascii_case(b"host") => {
                    note(&mut found.host, &mut found.host_repeated, index);
                }
                6 if name.eq_ignore_ascii_case(b"expect") => {
                    found.expects_continue |= field.value.eq_ignore_ascii_case(b"100-continue");
                }
                7 if name.eq_ignore_ascii_case(b"upgrade") => {
                    found.hop_by_hop |= bit;
                    if !names_h2c(field.value) {
                        upgrade = Some(index);
                    }
                }
                10 if name.eq_ignore_ascii_case(b"connection") => connection |= bit,
                10 if name.eq_ignore_ascii_case(b"keep-alive") => found.hop_by_hop |= bit,
                12 if name.eq_ignore_ascii_case(b"max-forwards") => {
                    found.max_forwards.get_or_insert(index);
                }
                13 if name.eq_ignore_ascii_case(b"authorization") => {
                    found.is_connection_bound |= is_bound_scheme(field.value);
                }
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    found.is_length_listed |= found.content_length != 0 || field.value.contains(&b',');
                    found.content_length |= bit;
                }
                // What it settles is between the client and an h2c that is not offered.
                14 if name.eq_ignore_ascii_case(b"http2-settings") => found.hop_by_hop |= bit,
                16 if name.eq_ignore_ascii_case(b"www-authenticate") => {
                    found.is_connection_bound |= has_bound_challenge(field.value);
                }
                16 if name.eq_ignore_ascii_case(b"proxy-connection") => found.hop_by_hop |= bit,
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    note(&mut found.transfer_encoding, &mut found.transfer_encoding_repeated, index);
                }
                18 if name.eq_ignore_ascii_case(b"proxy-authenticate") => {
                    found.is_connection_bound |= has_bound_challenge(field.value);
                }
                19 if name.eq_ignore_ascii_case(b"proxy-authorization") => {
                    found.is_connection_bound |= is_bound_scheme(field.value);
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
        // Framing and routing are not the sender's to take away: naming them would desynchronise the next hop.
        let protected = self.content_length | set_of(self.transfer_encoding) | set_of(self.host);
        let mut named_upgrade = false;
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
                self.trailers.nominate(token);
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

/// The set of this field.
pub(super) fn set_of(field: Option<u8>) -> FieldSet {
    field.map_or(0, |index| 1 << index)
}

/// A character of a field name, or of another token (RFC 9110 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// HTTP/2 over what was an HTTP/1.1 connection: behind that, requests would pass that nobody here has read. RFC 9113 3.1 has
/// given it up, and whoever offers several protocols must do with none (RFC 9110 7.8).
fn names_h2c(upgrade: &[u8]) -> bool {
    tokens(upgrade).any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"))
}

/// Whether credentials, or a challenge, are of a scheme that authenticates the connection (RFC 4559 6).
fn is_bound_scheme(value: &[u8]) -> bool {
    let scheme = value.split(|&byte| byte == b' ').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
}

fn has_bound_challenge(value: &[u8]) -> bool {
    is_bound_scheme(value) || elements(value, Syntax::Quoted).any(is_bound_scheme)
}

/// The tokens of a comma-separated list (RFC 9110 5.6.1).
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
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
    fn http_2_is_never_an_upgrade_and_its_settings_end_here() {
        for offer in ["h2c", "H2C", "websocket, h2c", "h2c,websocket"] {
            let found =
                parse(&[("Upgrade", offer), ("Connection", "Upgrade"), ("HTTP2-Settings", "AAMAAABk")]);
            assert_eq!((found.upgrade, found.hop_by_hop), (None, 0b111), "{offer}");
        }
        let lines = [("Upgrade", "websocket"), ("Upgrade", "h2c"), ("Connection", "Upgrade")];
        assert_eq!(parse(&lines).upgrade, Some(0), "a line of its own hides no other");
        assert_eq!(parse(&[("Upgrade", "h2cx"), ("Connection", "Upgrade")]).upgrade, Some(0));
    }

    #[test]
    fn authentication_that_binds_a_connection_is_recognised() {
        for (name, value, is_bound) in [
            ("Authorization", "NTLM TlRMTVNTUAAB", true),
            ("authorization", "negotiate YIIJvwYG", true),
            ("Authorization", "Negotiate", true),
            ("Proxy-Authorization", "ntlm x", true),
            ("Authorization", "Bearer ntlm", false),
            ("Authorization", "NTLMv3 x", false),
            ("WWW-Authenticate", "NTLM", true),
            ("WWW-Authenticate", "Negotiate, Basic realm=\"a\"", true),
            ("Proxy-Authenticate", "Basic realm=\"a, b\",Negotiate", true),
            ("WWW-Authenticate", "Basic realm=\", NTLM\"", false),
            ("Proxy-Authenticate", "Digest nonce=\"x\", qop=auth", false),
            ("X-Authenticate", "NTLM", false),
        ] {
            assert_eq!(parse(&[(name, value)]).is_connection_bound, is_bound, "{name}: {value}");
        }
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
