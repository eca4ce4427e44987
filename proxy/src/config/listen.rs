//! Listeners, and roles whose endpoints are given.

use std::{fmt, str::FromStr};

use feed::Name;

use super::{Address, text::read_as_text};

/// The mode of a Unix socket of which nothing else is said: its user and group may connect.
pub const SOCKET_MODE: u32 = 0o660;

/// What the mode of a Unix socket is behind.
const MODE_KEY: &str = "?mode=";

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and 1.1.
    Http,
    /// The same, sealed by TLS that ends here.
    Https,
    /// HTTP/2 without TLS, of clients that know it (RFC 9113 3.3).
    H2c,
    /// Bytes.
    Tcp,
    /// TLS, whose first message says for which host, and of which nothing else is read.
    Tls,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// Its clients connect: there is a listener for streams, beside which one for datagrams can have the same address.
    pub(crate) fn is_of_streams(self) -> bool {
        self != Self::Udp
    }
}

/// A listener and the role it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where.
    pub addr: Address,
    /// For whom; none: for whoever claims the request.
    pub role: Option<Name>,
    /// The mode of a Unix socket, if it was said.
    pub mode: Option<u32>,
}

impl Protocol {
    /// Whether heads are read.
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https | Self::H2c)
    }
}

impl Listen {
    /// The mode that a Unix socket has.
    pub(crate) fn socket_mode(&self) -> u32 {
        self.mode.unwrap_or(SOCKET_MODE)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::H2c => "h2c",
            Protocol::Https => "https",
            Protocol::Tcp => "tcp",
            Protocol::Tls => "tls",
            Protocol::Udp => "udp",
        };
        write!(f, "{scheme}://{}", self.addr)?;
        self.role.as_ref().map_or(Ok(()), |role| write!(f, "={role}"))?;
        self.mode.map_or(Ok(()), |mode| write!(f, "{MODE_KEY}{mode:o}"))
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| {
            format!(
                "{text:?}: {why}; expected http://ADDR:PORT=ROLE, https://ADDR:PORT=ROLE, h2c://ADDR:PORT=ROLE, tcp://ADDR:PORT=ROLE or udp://ADDR:PORT=ROLE, or http://ADDR:PORT, https://ADDR:PORT or tls://ADDR:PORT for what services claim; or http://unix:/PATH=ROLE?mode=660 and the like"
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refused("no scheme"))?;
        let protocol = match scheme {
            "http" => Protocol::Http,
            "h2c" => Protocol::H2c,
            "https" => Protocol::Https,
            "tcp" => Protocol::Tcp,
            "tls" => Protocol::Tls,
            "udp" => Protocol::Udp,
            _ => return Err(refused("unknown scheme")),
        };
        let (rest, mode) = match rest.split_once(MODE_KEY) {
            Some((rest, mode)) => {
                let mode = parse_mode(mode).ok_or_else(|| refused("the mode is not three octal digits"))?;
                (rest, Some(mode))
            }
            None => (rest, None),
        };
        let (addr, role) = rest.split_once('=').map_or((rest, None), |(addr, role)| (addr, Some(role)));
        let addr: Address = addr.parse().map_err(|error: String| refused(&error))?;
        match addr {
            Address::Ip(_) if mode.is_some() => return Err(refused("only a Unix socket has a mode")),
            Address::Unix(_) if protocol == Protocol::Udp => {
                return Err(refused("datagrams have an IP address"));
            }
            _ => {}
        }
        let role = role.map(str::parse).transpose().map_err(|error| refused(&format!("{error}")))?;
        if matches!(protocol, Protocol::Tcp | Protocol::Udp) && role.is_none() {
            return Err(refused("no role, and bytes have no host to route them by"));
        }
        Ok(Self { protocol, addr, role, mode })
    }
}

/// As chmod(1) has it, without anything but who may read and write.
fn parse_mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
    let is_mode = digits.len() == 3 && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    u32::from_str_radix(digits, 8).ok().filter(|_| is_mode)
}

/// A role whose endpoints never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedTable {
    /// The role.
    pub role: Name,
    /// Its endpoints.
    pub addrs: Vec<Address>,
}

impl FromStr for FixedTable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            |why: &str| format!("{text:?}: {why}; expected ROLE=IP:PORT,IP:PORT or ROLE=unix:/PATH");
        let (role, addrs) = text.split_once('=').ok_or_else(|| refused("no role"))?;
        let role = role.parse().map_err(|error| refused(&format!("{error}")))?;
        let addrs: Result<_, String> = addrs.split(',').map(str::parse).collect();
        Ok(Self { role, addrs: addrs.map_err(|error| refused(&error))? })
    }
}

read_as_text!(
    Listen,
    "http://ADDR:PORT[=ROLE], https://ADDR:PORT[=ROLE], h2c://ADDR:PORT[=ROLE], tcp://ADDR:PORT=ROLE, udp://ADDR:PORT=ROLE or tls://ADDR:PORT[=DEFAULT-ROLE]; or http://unix:/PATH[=ROLE][?mode=660] and the like"
);
read_as_text!(FixedTable, "ROLE=IP:PORT,IP:PORT or ROLE=unix:/PATH");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_names_protocol_address_and_role() {
        let listen: Listen = "tcp://[::1]:5432=postgres".parse().unwrap();
        assert_eq!(
            (listen.protocol, listen.addr.ip().unwrap().port(), listen.role.as_ref().unwrap().as_str()),
            (Protocol::Tcp, 5432, "postgres")
        );
        assert_eq!(listen.to_string(), "tcp://[::1]:5432=postgres");
        assert_eq!("udp://[::]:53=dns".parse::<Listen>().unwrap().to_string(), "udp://[::]:53=dns");
        for (bad, why) in [
            ("0.0.0.0:80=front", "no scheme"),
            ("ftp://0.0.0.0:80=front", "unknown scheme"),
            ("tcp://0.0.0.0:80", "no role"),
            ("udp://0.0.0.0:53", "no role"),
            ("http://localhost:80=front", "IP:PORT"),
            ("http://0.0.0.0:80=a b", "is not a name"),
        ] {
            let error = bad.parse::<Listen>().unwrap_err();
            assert!(error.contains(why) && error.contains("expected http://"), "{error}");
        }
    }

    #[test]
    fn a_unix_socket_stands_where_an_address_does_and_may_have_a_mode() {
        for text in [
            "http://unix:/run/shop.sock=shop",
            "http://unix:/run/shop.sock",
            "tcp://unix:/run/db.sock=db?mode=600",
            "https://unix:/run/shop.sock?mode=666",
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        let listen: Listen = "http://unix:/run/shop.sock=shop?mode=0640".parse().unwrap();
        assert_eq!((listen.mode, listen.role.unwrap().as_str()), (Some(0o640), "shop"));
        for (bad, why) in [
            ("http://unix:run/shop.sock", "absolute"),
            ("udp://unix:/run/dns.sock=dns", "datagrams"),
            ("tcp://unix:/run/db.sock", "no role"),
            ("http://unix:/run/a.sock?mode=66", "octal"),
            ("http://unix:/run/a.sock?mode=668", "octal"),
            ("http://unix:/run/a.sock?mode=4660", "octal"),
            ("http://unix:/run/a.sock?user=a", "without"),
            ("http://0.0.0.0:80=a?mode=660", "only a Unix socket"),
        ] {
            let error = bad.parse::<Listen>().unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_fixed_table_names_a_role_and_addresses() {
        let table: FixedTable = "front=127.0.0.1:1,127.0.0.1:2".parse().unwrap();
        assert_eq!(table.addrs.len(), 2);
        let table: FixedTable = "app=unix:/run/a.sock,unix:/run/b.sock".parse().unwrap();
        assert_eq!(table.addrs[1].to_string(), "unix:/run/b.sock");
        assert!("front=".parse::<FixedTable>().is_err());
        assert!("127.0.0.1:1".parse::<FixedTable>().unwrap_err().contains("no role"));
    }
}
