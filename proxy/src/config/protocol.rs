//! What the endpoints of a role speak.

use std::str::FromStr;

use feed::{EndpointProtocol, Name};

use super::text::read_as_text;

/// A role and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleProtocol {
    /// The role.
    pub role: Name,
    /// What it speaks.
    pub protocol: EndpointProtocol,
}

impl FromStr for RoleProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| format!("{text:?}: {why}; expected ROLE=http, https, h2c or h2");
        let (role, protocol) = text.split_once('=').ok_or_else(|| refused("no protocol"))?;
        let protocol = protocol.parse().map_err(|_| refused("unknown protocol"))?;
        Ok(Self { role: role.parse().map_err(|error| refused(&format!("{error}")))?, protocol })
    }
}

read_as_text!(RoleProtocol, "ROLE=http, ROLE=https, ROLE=h2c or ROLE=h2");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_speaks_what_it_is_said_to_speak() {
        assert_eq!("rpc=h2c".parse::<RoleProtocol>().unwrap().protocol, EndpointProtocol::H2c);
        assert_eq!("rpc=https".parse::<RoleProtocol>().unwrap().protocol, EndpointProtocol::Https);
        assert_eq!("rpc=h2".parse::<RoleProtocol>().unwrap().protocol, EndpointProtocol::H2);
        assert_eq!("rpc=http".parse::<RoleProtocol>().unwrap().protocol, EndpointProtocol::Http);
        for bad in ["rpc", "rpc=", "rpc=h3", "r pc=h2c", "=h2c"] {
            assert!(bad.parse::<RoleProtocol>().unwrap_err().contains("expected ROLE=http"), "{bad}");
        }
    }
}
