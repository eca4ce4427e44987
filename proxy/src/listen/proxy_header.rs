//! The PROXY protocol, versions 1 and 2: one header in front of everything else, by which a proxy passes its client's address on
//! (HAProxy, `doc/proxy-protocol.txt`).

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::http1::Parse;

/// Longest header of version 1: the specification's worst case with its CR LF.
pub const V1_BYTES_MAX: usize = 107;

/// Longest header of version 2 that is taken. Addresses take 52 bytes; what follows (TLS details, unique ids) is for others, and rarely has
/// a kilobyte.
pub const V2_BYTES_MAX: usize = 4096;

/// A header of version 1 for a connection without addresses.
pub const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// The same of version 2: a client's connection of an unspecified family.
pub const V2_UNKNOWN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;

/// A header at the front of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length; what is behind it is the client's.
    pub bytes: usize,
    /// Whose connection it is.
    pub origin: Origin,
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// That of a client of the proxy in front.
    Client {
        /// Its address.
        source: SocketAddr,
        /// Where it had connected to.
        destination: SocketAddr,
    },
    /// The proxy's own, such as a health check, or that of a client without an address: the socket's addresses hold.
    Socket,
}

/// Why there is no header that can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAHeader {
    /// The connection begins with something else.
    #[error("no PROXY header")]
    Absent,
    /// It breaks the rules.
    #[error("malformed PROXY header")]
    Malformed,
    /// It is longer than the limit.
    #[error("PROXY header too long")]
    TooLong,
}

/// Parses the header at the start of `bytes`.
///
/// # Errors
/// There is none, or none that can be believed; never as long as more bytes could make one.
pub fn parse(bytes: &[u8]) -> Result<Parse<ProxyHeader>, NotAHeader> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(V2_SIGNATURE) {
        return if bytes.len() < V2_FIXED_BYTES { Ok(Parse::NeedMore) } else { parse_v2(bytes) };
    }
    if begins(b"PROXY ") {
        return if bytes.len() < 6 { Ok(Parse::NeedMore) } else { parse_v1(bytes) };
    }
    Err(NotAHeader::Absent)
}

fn parse_v1(bytes: &[u8]) -> Result<Parse<ProxyHeader>, NotAHeader> {
    let Some(end) = bytes.iter().take(V1_BYTES_MAX).position(|&byte| byte == b'\n') else {
        return if bytes.len() < V1_BYTES_MAX { Ok(Parse::NeedMore) } else { Err(NotAHeader::TooLong) };
    };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or(NotAHeader::Malformed)?;
    let words: Vec<&str> = line.split(' ').collect();
    let origin = match words[..] {
        // What follows UNKNOWN is to be ignored.
        ["PROXY", "UNKNOWN", ..] => Origin::Socket,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let addr = |ip: &str, port| parse_v1_addr(ip, port, family == "TCP6");
            match (addr(source, source_port), addr(destination, destination_port)) {
                (Some(source), Some(destination)) => Origin::Client { source, destination },
                _ => return Err(NotAHeader::Malformed),
            }
        }
        _ => return Err(NotAHeader::Malformed),
    };
    Ok(Parse::Done(ProxyHeader { bytes: end + 1, origin }))
}

fn parse_v1_addr(ip: &str, port: &str, is_v6: bool) -> Option<SocketAddr> {
    let ip: IpAddr = ip.parse().ok()?;
    // `parse` alone would take a plus sign, and zeros in front.
    let is_canonical = port == "0" || !port.starts_with(['0', '+']);
    let port = port.parse().ok().filter(|_| is_canonical)?;
    (ip.is_ipv6() == is_v6).then(|| SocketAddr::new(ip.to_canonical(), port))
}

fn parse_v2(bytes: &[u8]) -> Result<Parse<ProxyHeader>, NotAHeader> {
    let (version, command) = (bytes[12] >> 4, bytes[12] & 0xf);
    let (family, transport) = (bytes[13] >> 4, bytes[13] & 0xf);
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if version != 2 || command > 1 || family > 3 || transport > 2 {
        return Err(NotAHeader::Malformed);
    }
    if length > V2_BYTES_MAX {
        return Err(NotAHeader::TooLong);
    }
    let Some(payload) = bytes.get(V2_FIXED_BYTES..length) else { return Ok(Parse::NeedMore) };
    let origin = match (command, family) {
        // LOCAL: the proxy itself. Unspecified, and Unix: no address that could be told.
        (0, _) | (1, 0 | 3) => Origin::Socket,
        (1, 1) => parse_v2_addrs::<4>(payload).ok_or(NotAHeader::Malformed)?,
        _ => parse_v2_addrs::<16>(payload).ok_or(NotAHeader::Malformed)?,
    };
    Ok(Parse::Done(ProxyHeader { bytes: length, origin }))
}

/// Two addresses of so many bytes, then two ports; what follows is for others.
fn parse_v2_addrs<const N: usize>(payload: &[u8]) -> Option<Origin>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = payload.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let ([a, b, c, d], _) = rest.split_first_chunk::<4>()?;
    let addr = |ip: [u8; N], port| SocketAddr::new(IpAddr::from(ip).to_canonical(), u16::from_be_bytes(port));
    Some(Origin::Client { source: addr(*source, [*a, *b]), destination: addr(*destination, [*c, *d]) })
}

/// A header of version 1 for a client's connection.
pub fn encode_v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (family, source, destination) = match same_family(source, destination) {
        Pair::V4(source, destination) => ("TCP4", source.into(), destination.into()),
        Pair::V6(source, destination) => ("TCP6", SocketAddr::from(source), SocketAddr::from(destination)),
    };
    let (from, to) = (source.port(), destination.port());
    format!("PROXY {family} {} {} {from} {to}\r\n", source.ip(), destination.ip()).into_bytes()
}

/// A header of version 2 for a client's connection.
pub fn encode_v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut bytes = V2_SIGNATURE.to_vec();
    match same_family(source, destination) {
        Pair::V4(source, destination) => {
            bytes.extend([0x21, 0x11, 0, 12]);
            bytes.extend(source.ip().octets());
            bytes.extend(destination.ip().octets());
        }
        Pair::V6(source, destination) => {
            bytes.extend([0x21, 0x21, 0, 36]);
            bytes.extend(source.ip().octets());
            bytes.extend(destination.ip().octets());
        }
    }
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes
}

enum Pair {
    V4(SocketAddrV4, SocketAddrV4),
    V6(SocketAddrV6, SocketAddrV6),
}

/// A header has addresses of one version: where there are two, that of version 4 is mapped.
fn same_family(source: SocketAddr, destination: SocketAddr) -> Pair {
    let v6 = |addr: SocketAddr| match addr {
        SocketAddr::V4(addr) => SocketAddrV6::new(addr.ip().to_ipv6_mapped(), addr.port(), 0, 0),
        SocketAddr::V6(addr) => addr,
    };
    match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => Pair::V4(source, destination),
        _ => Pair::V6(v6(source), v6(destination)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(source: &str, destination: &str) -> Origin {
        Origin::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn done(bytes: &[u8]) -> ProxyHeader {
        match parse(bytes) {
            Ok(Parse::Done(header)) => header,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn version_1_is_a_line() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nGET /";
        let header = done(line);
        assert_eq!(header.origin, client("192.0.2.1:56324", "198.51.100.7:443"));
        assert_eq!(&line[header.bytes..], b"GET /");
        assert_eq!(done(b"PROXY TCP6 ::1 ::2 1 2\r\n").origin, client("[::1]:1", "[::2]:2"));
        assert_eq!(done(b"PROXY UNKNOWN whatever is here\r\n").origin, Origin::Socket);
        for bad in [
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        ] {
            assert_eq!(parse(bad.as_bytes()), Err(NotAHeader::Malformed), "{bad}");
        }
        for other in ["GET / HTTP/1.1\r\n", "proxy TCP4", "\r\n\r\nG", "\x16\x03\x01"] {
            assert_eq!(parse(other.as_bytes()), Err(NotAHeader::Absent), "{other}");
        }
    }

    #[test]
    fn version_1_has_at_most_107_bytes() {
        let line = |bytes: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(bytes - 16));
        assert_eq!(done(line(V1_BYTES_MAX).as_bytes()).bytes, V1_BYTES_MAX);
        assert_eq!(parse(line(V1_BYTES_MAX + 1).as_bytes()), Err(NotAHeader::TooLong));
    }

    #[test]
    fn version_2_may_be_local_and_have_more_than_addresses() {
        let mut bytes = encode_v2("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        bytes[15] += 3;
        bytes.extend([4, 0, 0]);
        assert_eq!(done(&bytes), ProxyHeader { bytes: 31, origin: client("192.0.2.1:1", "192.0.2.2:2") });
        bytes[12] = 0x20;
        assert_eq!(done(&bytes).origin, Origin::Socket, "LOCAL");
        for (at, byte) in [(12, 0x11), (12, 0x22), (13, 0x41), (13, 0x13)] {
            let mut bad = bytes.clone();
            bad[at] = byte;
            assert_eq!(parse(&bad), Err(NotAHeader::Malformed), "{at}: {byte:x}");
        }
        let mut short = encode_v2("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        short[15] = 11;
        assert_eq!(parse(&short), Err(NotAHeader::Malformed));
    }

    #[test]
    fn a_header_without_addresses_gives_none() {
        for header in [V1_UNKNOWN, V2_UNKNOWN] {
            assert_eq!(done(header), ProxyHeader { bytes: header.len(), origin: Origin::Socket });
        }
    }

    #[test]
    fn version_2_has_at_most_4096_bytes() {
        let header = |bytes: usize| {
            let length = u16::try_from(bytes - V2_FIXED_BYTES).unwrap().to_be_bytes();
            [V2_SIGNATURE, &[0x20, 0], &length, &vec![0; bytes - V2_FIXED_BYTES]].concat()
        };
        assert_eq!(done(&header(V2_BYTES_MAX)).bytes, V2_BYTES_MAX);
        assert_eq!(parse(&header(V2_BYTES_MAX + 1)), Err(NotAHeader::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed_from_no_sooner_than_its_last_byte(source: SocketAddr, destination: SocketAddr) {
            let canonical = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
            let (source, destination) = (canonical(source), canonical(destination));
            for bytes in [encode_v1(source, destination), encode_v2(source, destination)] {
                for cut in 0..bytes.len() {
                    prop_assert_eq!(parse(&bytes[..cut]), Ok(Parse::NeedMore));
                }
                let header = ProxyHeader { bytes: bytes.len(), origin: Origin::Client { source, destination } };
                prop_assert_eq!(parse(&bytes), Ok(Parse::Done(header)));
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>, signed: bool) {
            if signed {
                bytes.splice(0..0, V2_SIGNATURE.iter().copied());
            }
            let _ = parse(&bytes);
        }
    }
}
