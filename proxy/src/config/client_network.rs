//! Where clients come from, as allowed, denied and trusted ones are named.

use std::{net::IpAddr, str::FromStr};

use program::network::Network;

/// Some clients, by where they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientNetwork {
    /// Those of a network.
    Ip(Network),
    /// Those who have no address: of Unix sockets, unless a PROXY header gives them one.
    Unix,
}

impl ClientNetwork {
    /// Whether a client of this address, or of none, is one of them.
    pub fn contains(&self, client: Option<IpAddr>) -> bool {
        match (self, client) {
            (Self::Ip(network), Some(ip)) => network.contains(ip),
            (Self::Unix, client) => client.is_none(),
            (Self::Ip(_), None) => false,
        }
    }
}

impl FromStr for ClientNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unix:" => Ok(Self::Unix),
            _ => text
                .parse()
                .map(Self::Ip)
                .map_err(|error| format!("{error}, or unix: for clients without one")),
        }
    }
}

impl<'de> serde::Deserialize<'de> for ClientNetwork {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_address_is_in_no_network_but_that_of_unix_sockets() {
        let all: ClientNetwork = "0.0.0.0/0".parse().unwrap();
        let unix: ClientNetwork = "unix:".parse().unwrap();
        let client = Some("10.0.0.1".parse().unwrap());
        assert!(all.contains(client) && !all.contains(None));
        assert!(unix.contains(None) && !unix.contains(client));
        let error = "unix".parse::<ClientNetwork>().unwrap_err();
        assert!(error.contains("expected a CIDR") && error.contains("unix:"), "{error}");
    }
}
