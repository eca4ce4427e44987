//! Protocols: what an endpoint speaks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What an endpoint speaks to whoever passes requests on to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointProtocol {
    /// HTTP/1.1 without TLS.
    #[default]
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 3.3).
    H2c,
    /// HTTP/2 over TLS.
    H2,
}

/// Why a text is not an [`EndpointProtocol`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a protocol: expected http, https, h2c or h2")]
pub struct NotAProtocol(String);

impl EndpointProtocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Http, Self::Https, Self::H2c, Self::H2];

    /// The word that flags, files and the feed use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
            Self::H2 => "h2",
        }
    }

    /// Each request is a stream.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }

    /// It is spoken over TLS.
    pub fn is_sealed(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }
}

impl FromStr for EndpointProtocol {
    type Err = NotAProtocol;

    fn from_str(text: &str) -> Result<Self, NotAProtocol> {
        let found = Self::ALL.into_iter().find(|protocol| protocol.as_str() == text);
        // The text may come from a stranger: quote only as much of it as helps.
        found.ok_or_else(|| NotAProtocol(text.chars().take(80).collect()))
    }
}

impl fmt::Display for EndpointProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_one_of_four_words_wherever_it_is_written() {
        for protocol in EndpointProtocol::ALL {
            let word = protocol.to_string();
            assert_eq!(word.parse(), Ok(protocol));
            assert_eq!(serde_json::to_string(&protocol).unwrap(), format!("\"{word}\""));
            assert_eq!(serde_json::from_str::<EndpointProtocol>(&format!("\"{word}\"")).unwrap(), protocol);
        }
        for bad in ["", "HTTP", "h3", "http/1.1", "https "] {
            let error = bad.parse::<EndpointProtocol>().unwrap_err().to_string();
            assert!(error.ends_with("is not a protocol: expected http, https, h2c or h2"), "{error}");
        }
    }
}
