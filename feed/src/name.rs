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
pub enum NotAName {
    /// Not a label.
    #[error(
        "{0:?} is not a name: expected 1 to 63 letters, digits, '-' or '_', beginning with a letter, digit or '_' and not ending with '-'"
    )]
    Malformed(String),
    /// What inet_aton(3) takes for an address, and with it nearly everything that takes a host's name.
    #[error(
        "{0:?} is not a name: programs read it as an IPv4 address; expected one with a letter in it, like n{0}"
    )]
    Number(String),
    /// Nobody asks the DNS for it (RFC 6761 6.3).
    #[error("\"localhost\" is not a name: to every program it is its own machine; expected any other")]
    Localhost,
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
        // The text may come from a stranger: quote only as much of it as helps.
        let quoted = || text.chars().take(80).collect();
        match text {
            _ if !is_label(text) || text.ends_with('-') => return Err(NotAName::Malformed(quoted())),
            _ if is_number(text) => return Err(NotAName::Number(quoted())),
            _ if text.eq_ignore_ascii_case("localhost") => return Err(NotAName::Localhost),
            _ => {}
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

/// Whether it is a label of some name in the DNS. Not each is a [`Name`]: ours have to be found where they stand alone.
pub fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-')
}

/// Whether it is a number of 32 bits to inet_aton(3). Longer ones are names to it: a container's hostname is twelve hex digits,
/// which may all be decimal.
fn is_number(text: &str) -> bool {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()) && digits.len() <= 8,
        None => text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u32>().is_ok() && text.len() < 12,
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
        for bad in ["-a", "a-", "a b", "a/b", "../x", "a.b", "ü", "a\n"] {
            let error = bad.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains("is not a name: expected 1 to 63"), "{bad}: {error}");
        }
    }

    #[test]
    fn what_no_program_looks_up_is_refused_with_what_would_be_right() {
        for bad in ["0", "10", "4294967295", "010", "0x7f", "0XFFFFFFFF", "0x"] {
            let error = bad.parse::<Name>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("expected one with a letter in it, like n{bad}")), "{error}");
        }
        assert_eq!("LocalHost".parse::<Name>(), Err(NotAName::Localhost));
        for good in ["4294967296", "123456789012", "000000000012", "0x100000000", "10a", "n10", "localhost1"]
        {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
    }
}
