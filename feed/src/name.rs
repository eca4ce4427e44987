//! Names of nodes and roles: DNS labels, so that everything which can join can also be looked up.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Longest name in bytes: the limit of a DNS label (RFC 1035 2.3.4).
pub const NAME_BYTES_MAX: usize = 63;

/// The name of a node or of a role: 1 to 63 of `a-z`, `0-9`, `-` and `_`, in lower case.
///
/// Upper case is folded when a name is made, since DNS compares without case and two nodes that differ in case
/// alone could not both be found. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a name: expected 1 to 63 letters, digits, '-' or '_', beginning with a letter, digit or '_'"
)]
pub struct NotAName {
    text: String,
}

impl Name {
    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let well_formed =
            (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-');
        if !well_formed {
            // The text may come from a stranger: quote only as much of it as helps.
            return Err(NotAName { text: text.chars().take(80).collect() });
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_at_most_63_bytes() {
        assert!("a".repeat(NAME_BYTES_MAX).parse::<Name>().is_ok());
        assert!("a".repeat(NAME_BYTES_MAX + 1).parse::<Name>().is_err());
        assert!("".parse::<Name>().is_err());
    }

    #[test]
    fn names_are_folded_to_lower_case() {
        assert_eq!("Web-1".parse::<Name>().unwrap().as_str(), "web-1");
    }

    #[test]
    fn what_dns_could_not_carry_is_refused_and_named() {
        for bad in ["-a", "a b", "a/b", "../x", "a.b", "ü", "a\n"] {
            let error = bad.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains("is not a name"), "{bad}: {error}");
        }
    }
}
