//! What became of a request: asked by its id, and told by every program that keeps something of it.
//!
//! Who passes requests on keeps the last ones that went wrong, and a sample of all others. Which requests belong to the sample follows
//! from their ids alone, so that every hop keeps the same ones.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Name;

/// Bytes of an id: as long as a SHA-256 in hexadecimal; UUIDs have 36.
pub const ID_BYTES_MAX: usize = 64;

/// One request in so many belongs to the sample.
pub const SAMPLED_OF: u64 = 64;

/// Hops that one process tells of an id: whoever chooses ids may give one to many requests.
pub const HOPS_COUNT_MAX: usize = 32;

/// Requests that one process tells of those that failed: a page shows fewer, and a hundred processes have room in one answer.
pub const FAILED_COUNT_MAX: usize = 16;

/// The word that asks for the last requests that failed. It is no id.
const FAILED: &str = "!failed";

/// What a request is called, as X-Request-ID says it: visible ASCII without quotes, backslashes and separators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RequestId(String);

/// A text that is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an id as X-Request-ID has it: 1 to {ID_BYTES_MAX} letters, digits and any of -._~:+/=@")]
pub struct NotAnId;

impl RequestId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:+/=@".contains(&byte);
        let is_id = (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_fit);
        if is_id { Ok(Self(text.to_owned())) } else { Err(NotAnId) }
    }
}

impl TryFrom<String> for RequestId {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
        text.parse()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which requests are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those of an id.
    Of(RequestId),
    /// The last that failed.
    Failed,
}

impl Which {
    /// Whether a request is one of them that has this id and is kept for this cause.
    pub fn is(&self, id: &str, cause: Cause) -> bool {
        match self {
            Self::Of(which) => which.as_str() == id,
            Self::Failed => cause == Cause::Failed,
        }
    }

    /// How many of them one process tells: the newest.
    pub fn hops_count_max(&self) -> usize {
        match self {
            Self::Of(_) => HOPS_COUNT_MAX,
            Self::Failed => FAILED_COUNT_MAX,
        }
    }
}

impl From<RequestId> for Which {
    fn from(id: RequestId) -> Self {
        Self::Of(id)
    }
}

impl FromStr for Which {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if text == FAILED { Ok(Self::Failed) } else { text.parse().map(Self::Of) }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Of(id) => id.as_str(),
            Self::Failed => FAILED,
        })
    }
}

/// Whether the request of this id belongs to the sample, by its last eight bytes: in ids of every kind these differ from one to the next.
#[inline]
pub fn is_sampled(id: &[u8]) -> bool {
    let mut last = [0; 8];
    match id.last_chunk() {
        Some(chunk) => last = *chunk,
        None => last[..id.len()].copy_from_slice(id),
    }
    // Every bit that differs moves the highest bits of the product (Fibonacci hashing).
    u64::from_le_bytes(last).wrapping_mul(0x9e37_79b9_7f4a_7c15) < u64::MAX / SAMPLED_OF
}

/// Why something is kept of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An attempt has failed, the answer was an error of the server (5xx), or it was not whole.
    Failed,
    /// It was refused for what it asked, or its client has gone before it was answered.
    Refused,
    /// It belongs to the sample.
    Sampled,
}

/// What one process keeps of a request that passed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The node, as its sidecar says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// The program: `proxy` or `front`.
    pub program: String,
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RequestId>,
    /// When it began, in microseconds since the Unix epoch, by the clock there.
    pub at_us: u64,
    /// Why it is kept.
    pub cause: Cause,
    /// Who sent it, as this hop sees it.
    pub client: Option<String>,
    /// Its method,
    pub method: String,
    /// its host, as it was sent,
    pub host: String,
    /// and its path, without the query.
    pub path: String,
    /// Host or path were longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
    /// The route that matches it; none where the listener is for one role.
    pub route: Option<String>,
    /// The next best route that matches it, which would have it if the first were not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Whose it was.
    pub role: Option<Name>,
    /// Whom it was given to, in that order: the first ones, and the last.
    pub attempts: Vec<Attempt>,
    /// Attempts that are left out between them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts_untold: u64,
    /// How long it waited for an endpoint with room, in microseconds.
    pub queue_us: Option<u64>,
    /// How long the last connection took that was made for it.
    pub connect_us: Option<u64>,
    /// When the first byte of an answer came, from its beginning on.
    pub first_byte_us: Option<u64>,
    /// How long it took in all.
    pub whole_us: u64,
    /// What the client was told; none: nothing.
    pub status: Option<u16>,
    /// How it ended, as in the access log.
    pub end: String,
    /// Endpoints of the role that drained when it ended; the first ones, by name.
    pub draining: Vec<Name>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub draining_untold: u64,
}

/// An endpoint that a request was given to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its node.
    pub node: Name,
    /// Where it was dialled.
    pub addr: String,
    /// When the node started, in milliseconds since the Unix epoch.
    pub instance: u64,
    /// By what it was chosen: `load`, `key`, `cookie`, or `connection` where the client's connection is bound to it.
    pub by: String,
    /// Of the table that it was chosen from.
    pub generation: Option<u64>,
    /// How the endpoints of that table stood; none: it was not chosen among others, or nobody has counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub among: Option<Among>,
    /// Those that were drawn for the choice, the chosen one among them.
    pub drawn: Vec<Drawn>,
    /// Its connection had served others before.
    pub is_reused: bool,
    /// Why it failed; none: it has not, or how the request ended says it.
    pub failure: Option<String>,
    /// When that was, in microseconds from the beginning of the request on.
    pub failed_us: Option<u64>,
}

/// Endpoints of a role by what keeps them from being chosen. They are counted once in a tenth of a second, and very many more rarely.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Among {
    /// All.
    pub endpoints: u32,
    /// Those that are spared: ejected, or refusing.
    pub spared: u32,
    /// Those that are at their limit.
    pub full: u32,
    /// Those that drain.
    pub draining: u32,
}

/// An endpoint as it was when it was drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// Its node; none: it is in no table any more.
    pub node: Option<Name>,
    /// Its address in the table.
    pub addr: String,
    /// Requests and connections under way there, of all workers.
    pub in_flight: u32,
    /// Its weight,
    pub weight: u16,
    /// and how much of it counts, in percent: a new one begins with little.
    pub grown_percent: u8,
    /// How good a choice it was, as a [`Candidate`](crate::request::Candidate) has it; empty: nobody has looked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tier: String,
    /// It had failed, and not served since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_ejected: bool,
}

/// What is kept of one cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// How many there are,
    pub count: u64,
    /// and for how many there is room. The next takes the place of the oldest.
    pub room: u64,
    /// Since when none was overwritten, in microseconds since the Unix epoch; none: since the process started.
    pub since_us: Option<u64>,
}

/// A process that keeps something, and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeper {
    /// Its node; none: it has no sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// The program.
    pub program: String,
    /// What it keeps in all, by cause.
    pub kept: BTreeMap<Cause, Kept>,
    /// It gives no ids to requests and takes none, so that it keeps nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_nameless: bool,
}

/// What several processes say of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// All that they keep of it, the oldest first.
    pub hops: Vec<Hop>,
    /// Who was asked and has answered.
    pub keepers: Vec<Keeper>,
    /// Who was asked and has not, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missing: BTreeMap<Name, String>,
}

impl Account {
    /// Adds what a process has said.
    pub fn note(&mut self, node: Option<&Name>, program: &str, told: Recalled) {
        let Recalled { hops, kept, is_nameless } = told;
        self.hops.extend(hops.into_iter().map(|hop| Hop { node: node.cloned(), ..hop }));
        self.keepers.push(Keeper { node: node.cloned(), program: program.to_owned(), kept, is_nameless });
        self.sort();
    }

    /// Adds what another node has gathered.
    pub fn add(&mut self, other: Self) {
        self.hops.extend(other.hops);
        self.keepers.extend(other.keepers);
        self.missing.extend(other.missing);
        self.sort();
    }

    /// By the clocks of their nodes, which may differ.
    fn sort(&mut self) {
        self.hops.sort_by_key(|hop| hop.at_us);
        self.keepers.sort_by(|a, b| (&a.node, &a.program).cmp(&(&b.node, &b.program)));
    }
}

/// What one process says when it is asked for a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recalled {
    /// All that it keeps of it.
    pub hops: Vec<Hop>,
    /// What it keeps in all.
    pub kept: BTreeMap<Cause, Kept>,
    /// It gives no ids to requests and takes none, so that it keeps nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_nameless: bool,
}

impl Recalled {
    /// Adds what another part of the same process has said, and keeps so many hops: the newest, in the order in which they came.
    pub fn add(&mut self, other: Self, hops_count_max: usize) {
        self.hops.extend(other.hops);
        self.hops.sort_by_key(|hop| hop.at_us);
        self.hops.drain(..self.hops.len().saturating_sub(hops_count_max));
        self.is_nameless |= other.is_nameless;
        for (cause, more) in other.kept {
            let kept = self.kept.entry(cause).or_insert(Kept { count: 0, room: 0, since_us: None });
            kept.count += more.count;
            kept.room += more.room;
            kept.since_us = kept.since_us.max(more.since_us);
        }
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_64_characters_that_mean_nothing_to_a_log() {
        assert!("x".repeat(ID_BYTES_MAX).parse::<RequestId>().is_ok());
        for bad in ["", "a b", "a\"", "a\\", "a,b", "\u{e4}", &"x".repeat(ID_BYTES_MAX + 1)] {
            assert_eq!(bad.parse::<RequestId>(), Err(NotAnId), "{bad}");
            assert!(serde_json::from_value::<RequestId>(bad.into()).is_err());
        }
    }

    #[test]
    fn what_is_asked_for_is_read_as_it_is_written() {
        for (which, is_first, is_second) in
            [(Which::Failed, true, false), ("a-1".parse().unwrap(), true, true)]
        {
            assert_eq!(which.to_string().parse(), Ok(which.clone()));
            assert_eq!(which.is("a-1", Cause::Failed), is_first);
            assert_eq!(which.is("a-1", Cause::Sampled), is_second);
        }
        assert_eq!("!faile".parse::<Which>(), Err(NotAnId));
    }

    #[test]
    fn one_id_in_64_is_of_the_sample_whatever_ids_look_like() {
        let share =
            |id: &dyn Fn(u64) -> String| (0..64_000).filter(|i| is_sampled(id(*i).as_bytes())).count();
        for (what, count) in [
            ("numbers", share(&|i| i.to_string())),
            ("counted", share(&|i| format!("request-{i:08}"))),
            (
                "hexadecimal",
                share(&|i| {
                    format!(
                        "{:032x}",
                        u128::from(i) << 64 | u128::from(i.wrapping_mul(0x2545_f491_4f6c_dd1d))
                    )
                }),
            ),
        ] {
            assert!((700..1300).contains(&count), "{what}: {count}");
        }
        assert_eq!(is_sampled(b"12345678"), is_sampled(b"x12345678"), "the last eight bytes decide");
    }

    #[test]
    fn a_hop_of_before_is_read_and_what_nobody_has_looked_at_is_not_said() {
        let before = r#"{"program":"front","at_us":1,"cause":"sampled","client":null,"method":"GET","host":"a","path":"/","route":null,
            "role":null,"attempts":[{"node":"a","addr":"b","instance":1,"by":"load","generation":null,"is_reused":false,"failure":null,
            "failed_us":null,"drawn":[{"node":null,"addr":"b","in_flight":0,"weight":1,"grown_percent":100}]}],
            "queue_us":null,"connect_us":null,"first_byte_us":null,"whole_us":1,"status":200,"end":"done","draining":[]}"#;
        let hop: Hop = serde_json::from_str(before).unwrap();
        assert_eq!((hop.behind.as_ref(), hop.attempts[0].among), (None, None));
        let again = serde_json::to_value(&hop).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(before).unwrap());
    }

    #[test]
    fn parts_of_a_process_add_up_to_what_all_of_them_keep() {
        let part = |count, since_us| Recalled {
            kept: [(Cause::Failed, Kept { count, room: 4, since_us })].into(),
            ..Recalled::default()
        };
        let mut all = Recalled::default();
        [part(4, Some(7)), part(1, None), part(4, Some(9))].into_iter().for_each(|part| all.add(part, 1));
        assert_eq!(all.kept[&Cause::Failed], Kept { count: 9, room: 12, since_us: Some(9) });
    }
}
