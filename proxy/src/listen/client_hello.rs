//! The first message of a TLS client, read for the host that it wants (RFC 8446 4.1.2, RFC 6066 3). Nothing is decrypted and nothing is
//! changed: what was read goes on to whoever terminates TLS.

use crate::http1::Parse;

/// Bytes of records that a ClientHello may take: post-quantum key shares and long lists of everything stay below a quarter of it.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// The alert to a client whose host nobody serves (RFC 6066 3: fatal `unrecognized_name`).
pub const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// The alert to a client whose first message is none (RFC 8446 6.2: fatal `decode_error`).
pub const DECODE_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];

const HANDSHAKE_RECORD: u8 = 22;
const RECORD_BYTES_MAX: usize = 16 * 1024;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What a TLS client wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The host, in lower case; none if it does not say.
    pub server_name: Option<String>,
}

/// Why a first message is no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAHello {
    /// The connection does not speak TLS.
    #[error("not TLS")]
    NotTls,
    /// It does, and breaks its rules.
    #[error("malformed ClientHello")]
    Malformed,
    /// It is longer than the limit.
    #[error("ClientHello too long")]
    TooLong,
}

/// Parses the ClientHello at the start of `bytes`, in however many records it comes.
///
/// # Errors
/// There is none, or it breaks the rules; never as long as more bytes could make one.
pub fn parse(bytes: &[u8]) -> Result<Parse<ClientHello>, NotAHello> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [] => {}
            [HANDSHAKE_RECORD] | [HANDSHAKE_RECORD, 3, ..] => {}
            _ if rest.len() == bytes.len() => return Err(NotAHello::NotTls),
            _ => return Err(NotAHello::Malformed),
        }
        let Some((&[_, _, _, high, low], behind)) = rest.split_first_chunk::<5>() else { break };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > RECORD_BYTES_MAX {
            return Err(NotAHello::Malformed);
        }
        let available = behind.len().min(length);
        message.extend_from_slice(&behind[..available]);
        if let Some(hello) = parse_message(&message)? {
            return Ok(Parse::Done(hello));
        }
        if available < length {
            break;
        }
        rest = &behind[length..];
    }
    if bytes.len() >= HELLO_BYTES_MAX { Err(NotAHello::TooLong) } else { Ok(Parse::NeedMore) }
}

/// None: there is more to come.
fn parse_message(message: &[u8]) -> Result<Option<ClientHello>, NotAHello> {
    let Some((&[kind, a, b, c], body)) = message.split_first_chunk::<4>() else {
        return if message.first().is_none_or(|&kind| kind == CLIENT_HELLO) {
            Ok(None)
        } else {
            Err(NotAHello::Malformed)
        };
    };
    if kind != CLIENT_HELLO {
        return Err(NotAHello::Malformed);
    }
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
    if length > HELLO_BYTES_MAX {
        return Err(NotAHello::TooLong);
    }
    let Some(body) = body.get(..length) else { return Ok(None) };
    parse_body(body).map(Some).ok_or(NotAHello::Malformed)
}

/// Version and random, session, cipher suites, compression methods, extensions.
fn parse_body(body: &[u8]) -> Option<ClientHello> {
    let rest = body.get(34..)?;
    let (_session, rest) = split_u8(rest)?;
    let (_suites, rest) = split_u16(rest)?;
    let (_compression, rest) = split_u8(rest)?;
    if rest.is_empty() {
        // TLS 1.2 without extensions.
        return Some(ClientHello::default());
    }
    let (mut extensions, rest) = split_u16(rest)?;
    if !rest.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    while !extensions.is_empty() {
        let (&[high, low], rest) = extensions.split_first_chunk::<2>()?;
        let (extension, rest) = split_u16(rest)?;
        if u16::from_be_bytes([high, low]) == SERVER_NAME {
            // RFC 8446 4.2: there is no extension twice.
            if hello.server_name.is_some() {
                return None;
            }
            hello.server_name = Some(parse_server_name(extension)?);
        }
        extensions = rest;
    }
    Some(hello)
}

/// A list of names, of which one is a host's (RFC 6066 3): no client sends more, and nobody defined another kind.
fn parse_server_name(extension: &[u8]) -> Option<String> {
    let (list, rest) = split_u16(extension)?;
    let (&kind, name) = list.split_first()?;
    let (name, behind) = split_u16(name)?;
    let allowed = |&b: &u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_host = kind == HOST_NAME && !name.is_empty() && name.iter().all(allowed);
    if !is_host || !rest.is_empty() || !behind.is_empty() {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    Some(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase())
}

/// Bytes behind their length in one byte, and what follows.
fn split_u8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(length.into())
}

/// The same with a length in two.
fn split_u16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(length).into())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello with these extensions, in records of so many bytes.
    pub(crate) fn hello(extensions: &[u8], record_bytes: usize) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([1, 9, 0, 2, 0x13, 1, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let mut message = vec![CLIENT_HELLO];
        message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
        message.extend(body);
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[HANDSHAKE_RECORD, 3, 1], &length[..], part].concat()
        };
        message.chunks(record_bytes).flat_map(record).collect()
    }

    pub(crate) fn server_name(name: &[u8]) -> Vec<u8> {
        let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
        let [outer, list, inner] = [name.len() + 5, name.len() + 3, name.len()].map(length);
        [&[0, 0], &outer[..], &list, &[HOST_NAME], &inner, name].concat()
    }

    fn extension(kind: u16, bytes: usize) -> Vec<u8> {
        let length = u16::try_from(bytes).unwrap().to_be_bytes();
        [&kind.to_be_bytes(), &length[..], &vec![0; bytes]].concat()
    }

    fn named(name: &str) -> Result<Parse<ClientHello>, NotAHello> {
        Ok(Parse::Done(ClientHello { server_name: Some(name.to_owned()) }))
    }

    #[test]
    fn the_host_is_found_behind_other_extensions_and_in_lower_case() {
        let extensions =
            [extension(0x0a0a, 0), server_name(b"Shop.Example.com."), extension(51, 1200)].concat();
        assert_eq!(parse(&hello(&extensions, 16_000)), named("shop.example.com"));
        assert_eq!(parse(&hello(&extension(43, 3), 16_000)), Ok(Parse::Done(ClientHello::default())));
    }

    #[test]
    fn what_is_no_hello_is_refused_as_soon_as_it_shows() {
        for (bytes, why) in [
            (&b"GET / HTTP/1.1"[..], NotAHello::NotTls),
            (b"\x16\x02", NotAHello::NotTls),
            (b"\x16\x03\x01\x00\x00", NotAHello::Malformed),
            (b"\x16\x03\x01\x40\x01", NotAHello::Malformed),
            (b"\x16\x03\x01\x00\x05\x02", NotAHello::Malformed),
            (b"\x16\x03\x01\x00\x05\x01\x01\x00\x00", NotAHello::TooLong),
            (b"\x16\x03\x01\x00\x01\x01\x17\x03\x03", NotAHello::Malformed),
        ] {
            assert_eq!(parse(bytes), Err(why), "{bytes:x?}");
        }
        let twice = [server_name(b"a"), server_name(b"b")].concat();
        for bad in [twice, server_name(b""), server_name(b"a b"), vec![0, 0, 0, 1, 0]] {
            assert_eq!(parse(&hello(&bad, 16_000)), Err(NotAHello::Malformed), "{bad:x?}");
        }
    }

    #[test]
    fn a_hello_has_at_most_16_kib() {
        let fixed = hello(&extension(21, 0), HELLO_BYTES_MAX).len() - 5 - 4;
        let with_body = |bytes: usize| hello(&extension(21, bytes - fixed), 8192);
        assert_eq!(parse(&with_body(HELLO_BYTES_MAX)), Ok(Parse::Done(ClientHello::default())));
        assert_eq!(parse(&with_body(HELLO_BYTES_MAX + 1)), Err(NotAHello::TooLong));
        // Records of one byte, in which the message would never end.
        let message = [CLIENT_HELLO, 0, 0x30, 0].into_iter().chain([0; 4000]);
        let drip: Vec<u8> = message.flat_map(|byte| [HANDSHAKE_RECORD, 3, 1, 0, 1, byte]).collect();
        assert_eq!(parse(&drip[..HELLO_BYTES_MAX - 1]), Ok(Parse::NeedMore));
        assert_eq!(parse(&drip[..HELLO_BYTES_MAX]), Err(NotAHello::TooLong));
    }

    proptest! {
        #[test]
        fn a_hello_is_parsed_in_any_records_and_from_no_sooner_than_its_last_byte(
            record_bytes in 1_usize..600,
            padding in 0_usize..400,
        ) {
            let bytes = hello(&[extension(21, padding), server_name(b"a.b")].concat(), record_bytes);
            for cut in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..cut]), Ok(Parse::NeedMore));
            }
            prop_assert_eq!(parse(&[&bytes[..], b"more"].concat()), named("a.b"));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, extensions in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = parse(&hello(&extensions, 50));
        }
    }
}
