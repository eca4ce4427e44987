//! What the endpoints of a role speak.

use std::str::FromStr;

use feed::Name;

use super::text::read_as_text;

/// What an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    /// HTTP/1.1 without TLS.
    #[default]
    Http,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 3.3).
    H2c,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 over TLS.
    H2,
}

impl UpstreamProtocol {
    /// Each request is a stream.
    pub(crate) fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }

    /// It is spoken over TLS.
    pub(crate) fn is_sealed(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }
}

/// A role and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleProtocol {
    /// The role.
    pub role: Name,
    /// What it speaks.
    pub protocol: UpstreamProtocol,
}

impl FromStr for RoleProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| format!("{text:?}: {why}; expected ROLE=http, https, h2c or h2");
        let (role, protocol) = text.split_once('=').ok_or_else(|| refused("no protocol"))?;
        let protocol = match protocol {
            "http" => UpstreamProtocol::Http,
            "h2c" => UpstreamProtocol::H2c,
            "https" => UpstreamProtocol::Https,
            "h2" => UpstreamProtocol::H2,
            _ => return Err(refused("unknown protocol")),
        };
        Ok(Self { role: role.parse().map_err(|error| refused(&format!("{error}")))?, protocol })
    }
}

read_as_text!(RoleProtocol, "ROLE=http, ROLE=https, ROLE=h2c or ROLE=h2");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_speaks_what_it_is_said_to_speak() {
        assert_eq!("rpc=h2c".parse::<RoleProtocol>().unwrap().protocol, UpstreamProtocol::H2c);
        assert_eq!("rpc=https".parse::<RoleProtocol>().unwrap().protocol, UpstreamProtocol::Https);
        assert_eq!("rpc=h2".parse::<RoleProtocol>().unwrap().protocol, UpstreamProtocol::H2);
        assert_eq!("rpc=http".parse::<RoleProtocol>().unwrap().protocol, UpstreamProtocol::Http);
        for bad in ["rpc", "rpc=", "rpc=h3", "r pc=h2c", "=h2c"] {
            assert!(bad.parse::<RoleProtocol>().unwrap_err().contains("expected ROLE=http"), "{bad}");
        }
    }
}
