//! What comes before a protocol, at the edges: PROXY headers both ways, and hosts of TLS clients.

use std::str::FromStr;

use feed::{Name, Route, route::Host};

use super::{ClientNetwork, text::read_as_text};

/// What holds there. The flags say what each is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeRules {
    /// Networks of proxies in front.
    pub proxy_protocol: Vec<ClientNetwork>,
    /// Roles whose endpoints are told where clients come from.
    pub send_proxy: Vec<SendProxy>,
    /// The roles of TLS clients, by host.
    pub sni: Vec<SniRule>,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Bytes.
    V2,
}

/// A role whose endpoints are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendProxy {
    /// The role.
    pub role: Name,
    /// How.
    pub version: ProxyVersion,
}

impl FromStr for SendProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| format!("{text:?}: {why}; expected ROLE=v1 or ROLE=v2");
        let (role, version) = text.split_once('=').ok_or_else(|| refused("no version"))?;
        let version = match version {
            "v1" => ProxyVersion::V1,
            "v2" => ProxyVersion::V2,
            _ => return Err(refused("unknown version")),
        };
        Ok(Self { role: role.parse().map_err(|error| refused(&format!("{error}")))?, version })
    }
}

/// The role of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SniRule {
    /// The host, as a route without a path.
    pub host: Route,
    /// The role.
    pub role: Name,
}

impl FromStr for SniRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| {
            format!(
                "{text:?}: {why}; expected HOST=ROLE, such as db.example.com=postgres or *.example.com=web"
            )
        };
        let (host, role) = text.split_once('=').ok_or_else(|| refused("no role"))?;
        let host: Route = host.parse().map_err(|error| refused(&format!("{error}")))?;
        if !host.path().is_empty() || *host.host() == Host::Any {
            return Err(refused("the host is a host alone"));
        }
        Ok(Self { host, role: role.parse().map_err(|error| refused(&format!("{error}")))? })
    }
}

read_as_text!(SendProxy, "ROLE=v1 or ROLE=v2");
read_as_text!(SniRule, "HOST=ROLE or *.SUFFIX=ROLE");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_told_by_a_version_and_a_host_has_a_role() {
        assert_eq!("pg=v2".parse::<SendProxy>().unwrap().version, ProxyVersion::V2);
        for bad in ["pg", "pg=", "pg=2", "p g=v1"] {
            assert!(bad.parse::<SendProxy>().unwrap_err().contains("expected ROLE=v1"), "{bad}");
        }
        let rule: SniRule = "*.Example.com=web".parse().unwrap();
        assert_eq!((rule.host.to_string().as_str(), rule.role.as_str()), ("*.example.com", "web"));
        for bad in ["a", "a/b=web", "=web", "/=web", "a:1=web", "a=w b"] {
            assert!(bad.parse::<SniRule>().unwrap_err().contains("expected HOST=ROLE"), "{bad}");
        }
    }
}
