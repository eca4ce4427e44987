//! The name of a proxy in Via.

use std::str::FromStr;

use feed::name::NAME_BYTES_MAX;

use super::text::read_as_text;

/// A name for Via (RFC 9110 7.6.3): a host, with or without port, or a word that stands for one. No longer than the names that
/// the room for added fields is measured by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via(String);

read_as_text!(Via, "letters, digits and -._:[]");

impl Via {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Via {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "{text:?} is not a name for Via: expected 1 to {NAME_BYTES_MAX} of letters, digits and -._:[]"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn via_names_cannot_break_out_of_their_field() {
        for good in ["p", "edge-1.example.com:80", "[::1]:80", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(good.parse::<Via>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\r\nX: y", "a,b", "(a)", "\u{e4}", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(bad.parse::<Via>().is_err_and(|error| error.contains("is not a name for Via")), "{bad}");
        }
    }
}
