//! Tags: what an operator says of a node, as `key=value` pairs. No program here gives them a meaning.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 32;
/// Longest value in bytes. With its key it fits in one string of a DNS TXT record, which has 255.
pub const VALUE_BYTES_MAX: usize = 128;
/// Most tags of a node.
pub const TAGS_MAX: usize = 16;
/// Longest list of tags in bytes, written as `k=v,k=v`: a node's advert carries it, and has to fit in a packet.
pub const TAGS_BYTES_MAX: usize = 256;

/// One tag, well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    key: String,
    value: String,
}

/// The tags of a node, at most [`TAGS_MAX`] and [`TAGS_BYTES_MAX`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Tags(BTreeMap<String, String>);

/// Why tags are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// Not a tag.
    #[error(
        "{0:?} is not a tag: expected KEY=VALUE, with a key of 1 to {KEY_BYTES_MAX} letters, digits, '-', '_' or '.', \
         and a value of up to {VALUE_BYTES_MAX} bytes without comma, quote, backslash or control character"
    )]
    Malformed(String),
    /// More than a node may have.
    #[error("{0} tags, over {TAGS_MAX}")]
    TooMany(usize),
    /// More than an advert has room for.
    #[error("tags of {0} bytes, written as k=v,k=v; over {TAGS_BYTES_MAX}")]
    TooLong(usize),
}

impl Tag {
    fn new(key: &str, value: &str) -> Result<Self, TagError> {
        let is_key = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        // A comma separates tags where several are written in one text; the others would have to be escaped in JSON.
        let is_value = |c: char| !c.is_control() && !",\"\\".contains(c);
        let well_formed = (1..=KEY_BYTES_MAX).contains(&key.len())
            && key.bytes().all(is_key)
            && value.len() <= VALUE_BYTES_MAX
            && value.chars().all(is_value);
        if well_formed {
            Ok(Self { key: key.to_owned(), value: value.to_owned() })
        } else {
            // The text may come from a stranger: quote only as much of it as helps.
            Err(TagError::Malformed(format!("{key}={value}").chars().take(80).collect()))
        }
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let (key, value) = text.split_once('=').ok_or_else(|| TagError::Malformed(text.to_owned()))?;
        Self::new(key, value)
    }
}

impl Tags {
    /// These tags; of two with one key the later counts.
    ///
    /// # Errors
    /// More or longer ones than a node may have.
    pub fn new(tags: impl IntoIterator<Item = Tag>) -> Result<Self, TagError> {
        Self(tags.into_iter().map(|tag| (tag.key, tag.value)).collect()).bounded()
    }

    /// These tags with others set and some deleted.
    ///
    /// # Errors
    /// More or longer ones than a node may have.
    pub fn changed(&self, set: Self, delete: &[String]) -> Result<Self, TagError> {
        let mut changed = self.clone();
        changed.0.retain(|key, _| !delete.contains(key));
        changed.0.extend(set.0);
        changed.bounded()
    }

    /// Whether all of the others are among these, with the same values.
    pub fn include(&self, others: &Self) -> bool {
        others.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    fn bounded(self) -> Result<Self, TagError> {
        // Each with its '=' and a comma, the last without.
        let length = self.0.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>().saturating_sub(1);
        match self.0.len() {
            count if count > TAGS_MAX => Err(TagError::TooMany(count)),
            _ if length > TAGS_BYTES_MAX => Err(TagError::TooLong(length)),
            _ => Ok(self),
        }
    }
}

impl TryFrom<BTreeMap<String, String>> for Tags {
    type Error = TagError;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, TagError> {
        let tags: Result<Vec<Tag>, _> = map.iter().map(|(key, value)| Tag::new(key, value)).collect();
        Self::new(tags?)
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}={value}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(text: &str) -> Result<Tags, TagError> {
        Tags::new(text.split(',').map(|tag| tag.parse().unwrap()))
    }

    #[test]
    fn keys_and_values_are_taken_up_to_their_limits() {
        let tag =
            |key: usize, value: usize| format!("{}={}", "k".repeat(key), "v".repeat(value)).parse::<Tag>();
        assert!(tag(KEY_BYTES_MAX, VALUE_BYTES_MAX).is_ok());
        assert!(tag(KEY_BYTES_MAX + 1, 1).is_err());
        assert!(tag(1, VALUE_BYTES_MAX + 1).is_err());
        assert!(tag(1, 0).is_ok(), "an empty value is one");
    }

    #[test]
    fn a_node_has_tags_up_to_the_limits() {
        let many = |n: usize| tags(&(0..n).map(|i| format!("k{i}=")).collect::<Vec<_>>().join(","));
        assert!(many(TAGS_MAX).is_ok());
        assert_eq!(many(TAGS_MAX + 1), Err(TagError::TooMany(TAGS_MAX + 1)));
        let long = |n: usize| tags(&format!("a={0},b={0},c={1}", "v".repeat(100), "v".repeat(n - 208)));
        assert_eq!(long(TAGS_BYTES_MAX).unwrap().to_string().len(), TAGS_BYTES_MAX);
        assert_eq!(long(TAGS_BYTES_MAX + 1), Err(TagError::TooLong(TAGS_BYTES_MAX + 1)));
    }

    #[test]
    fn what_is_no_tag_is_refused_and_named() {
        for bad in ["", "zone", "=x", "a b=c", "a=b,c", "a=\"", "a=\\", "a=\n"] {
            let error = bad.parse::<Tag>().unwrap_err().to_string();
            assert!(error.contains("is not a tag: expected KEY=VALUE"), "{bad}: {error}");
        }
        assert!("a=b=c d".parse::<Tag>().is_ok());
    }

    #[test]
    fn tags_are_set_deleted_and_compared() {
        let before = tags("zone=a,disk=ssd").unwrap();
        let after = before.changed(tags("zone=b,rack=7").unwrap(), &["disk".into(), "none".into()]).unwrap();
        assert_eq!(after.to_string(), "rack=7,zone=b");
        assert!(after.include(&tags("zone=b").unwrap()) && after.include(&Tags::default()));
        assert!(!after.include(&tags("zone=a").unwrap()) && !after.include(&tags("disk=ssd").unwrap()));
    }

    #[test]
    fn tags_from_a_stranger_are_checked() {
        assert!(serde_json::from_str::<Tags>(r#"{"a b":"c"}"#).is_err());
        assert!(serde_json::from_str::<Tags>(r#"{"a":"b"}"#).is_ok());
    }
}
