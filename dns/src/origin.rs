//! The name of the zone.

use std::{fmt, str::FromStr};

use hickory_proto::rr::{LowerName, Name as DomainName};

/// Longest zone in bytes. A domain name has at most 255 (RFC 1035 section 2.3.4), and
/// `<63 bytes of node>.node.<zone>` has to fit.
const ORIGIN_BYTES_MAX: usize = 180;

/// The name of a zone: absolute, in lower case, and short enough for every name below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(LowerName);

/// Why a text is not an [`Origin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a domain name other than the root, of at most {ORIGIN_BYTES_MAX} bytes, like concertina.internal."
)]
pub struct NotAnOrigin;

impl FromStr for Origin {
    type Err = NotAnOrigin;

    fn from_str(text: &str) -> Result<Self, NotAnOrigin> {
        let mut name = DomainName::from_ascii(text).map_err(|_| NotAnOrigin)?;
        name.set_fqdn(true);
        if name.is_root() || name.len() > ORIGIN_BYTES_MAX {
            return Err(NotAnOrigin);
        }
        Ok(Self(LowerName::new(&name)))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Origin {
    /// The zone's name.
    pub fn name(&self) -> &DomainName {
        &self.0
    }

    /// Whether the name is the zone's or below it.
    pub fn contains(&self, name: &LowerName) -> bool {
        self.0.zone_of(name)
    }

    /// Whether the zone is below the name.
    pub fn is_within(&self, name: &LowerName) -> bool {
        name.zone_of(&self.0)
    }

    /// The name with these labels below the zone.
    pub fn below(&self, labels: &[&str]) -> DomainName {
        DomainName::from_labels(labels.iter().map(|label| label.as_bytes()))
            .and_then(|name| name.append_domain(&self.0))
            .expect("a Name is a label, and ORIGIN_BYTES_MAX leaves room for it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_leaves_room_for_the_longest_name() {
        let labels = format!("{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(51));
        let origin: Origin = labels.parse().unwrap();
        assert_eq!(origin.name().len(), ORIGIN_BYTES_MAX);
        assert!(origin.below(&["n".repeat(63).as_str(), "node"]).len() < 255);
        assert!(format!("{labels}c").parse::<Origin>().is_err());
    }
}
