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
        let refused = |why: &str| format!("{text:?}: {why}; expected ROLE=http or ROLE=h2c");
        let (role, protocol) = text.split_once('=').ok_or_else(|| refused("no protocol"))?;
        let protocol = match protocol {
            "http" => UpstreamProtocol::Http,
            "h2c" => UpstreamProtocol::H2c,
            _ => return Err(refused("unknown protocol")),
        };
        Ok(Self { role: role.parse().map_err(|error| refused(&format!("{error}")))?, protocol })
    }
}

read_as_text!(RoleProtocol, "ROLE=http or ROLE=h2c");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_speaks_what_it_is_said_to_speak() {
        assert_eq!("rpc=h2c".parse::<RoleProtocol>().unwrap().protocol, UpstreamProtocol::H2c);
        assert_eq!("rpc=http".parse::<RoleProtocol>().unwrap().protocol, UpstreamProtocol::Http);
        for bad in ["rpc", "rpc=", "rpc=h3", "r pc=h2c", "=h2c"] {
            assert!(bad.parse::<RoleProtocol>().unwrap_err().contains("expected ROLE=http"), "{bad}");
        }
    }
}
