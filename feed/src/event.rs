//! What people send each other through the cluster: events, which every member hears once, and queries, which members
//! answer.

use serde::{Deserialize, Serialize};

use crate::{Name, Tags};

/// Longest payload of an event or a query in bytes: with the longest names it still fits in one datagram.
pub const PAYLOAD_BYTES_MAX: usize = 512;

/// Longest answer to a query in bytes: it fits in one datagram.
pub const ANSWER_BYTES_MAX: usize = 1024;

/// An event as a member heard it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEvent {
    /// What it is called.
    pub name: Name,
    /// What it says.
    pub payload: String,
    /// The node that it was sent from.
    pub origin: Name,
    /// Its Lamport time: greater than that of every event that its origin had heard before. It orders what follows from each
    /// other; of two with one time, neither knew of the other.
    pub time: u64,
    /// When it was sent, in milliseconds since the Unix epoch by the origin's clock.
    pub sent_ms: u64,
}

/// A question to members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// What is asked.
    pub name: Name,
    /// And in more words.
    #[serde(default)]
    pub payload: String,
    /// Longest wait for answers, in milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Only members of this role.
    #[serde(default)]
    pub role: Option<Name>,
    /// Only this member.
    #[serde(default)]
    pub node: Option<Name>,
    /// Only members with all of these tags.
    #[serde(default)]
    pub tags: Tags,
}

/// One member's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    pub node: Name,
    /// Milliseconds from the question to the answer.
    pub after_ms: u64,
    /// What.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a query at one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// This is the answer.
    Payload(String),
    /// Nobody there can answer it, or whoever should have failed.
    Error(String),
}

/// The end of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Members that answered, other than by an error.
    pub answered: u32,
    /// Members that were asked.
    pub asked: u32,
}

/// Cuts a text at this many bytes, between two characters.
pub fn truncate(text: &mut String, bytes_max: usize) {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        for (bytes_max, cut) in [(0, ""), (1, ""), (2, "ü"), (3, "ü"), (4, "üü"), (9, "üü")] {
            let mut text = "üü".to_owned();
            truncate(&mut text, bytes_max);
            assert_eq!(text, cut, "{bytes_max}");
        }
    }

    #[test]
    fn answers_read_naturally() {
        let answer =
            Answer { node: "a".parse().unwrap(), after_ms: 3, outcome: Outcome::Payload("ok".into()) };
        assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"node":"a","after_ms":3,"payload":"ok"}"#);
    }
}
