//! The flows of one UDP listener at one worker: who they are, how long they live, and which of them goes when there are too many.
//!
//! UDP has no end that could be seen, so a flow lives until nothing has come either way for a while. Most flows of the most usual
//! protocol, DNS, are over long before: one question, one answer. Those are not kept from anything that needs their place, neither a new
//! flow where the table is full nor an endpoint that drains; a flow that may still be under way is.
//!
//! Two lists, each in the order of last use, so that whatever happens to a flow costs the same however many there are.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use slab::Slab;

/// How long a question and its answer are followed by silence until nothing more is to come where the place is needed. A QUIC client
/// that has heard a server's first word speaks again within a round trip, and within a second where that was lost (RFC 9002 6.2.2).
pub(crate) const ANSWERED_QUIET_MS: u64 = 2000;

/// How long an upstream that is lost may have been silent and keep its flows: while it answers, whoever calls it lost is wrong.
pub(crate) const LOST_SILENCE_MS: u64 = 1000;

/// How long whoever stops waits for an answer: what takes longer is asked again by whoever asked.
pub(crate) const ANSWER_PATIENCE_MS: u64 = 500;

/// A client, and which of our addresses it speaks to, where the listener has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) client: SocketAddr,
    pub(crate) local: Option<IpAddr>,
}

/// How far a flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The client has spoken once.
    Asked,
    /// It has been answered, and has said no more.
    Answered,
    /// There was more than a question and its answer.
    Open,
}

/// Who has spoken last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

#[derive(Debug)]
struct Entry<T> {
    key: Key,
    flow: T,
    stage: Stage,
    last: Side,
    /// When anybody has spoken last.
    used_ms: u64,
    older: Option<usize>,
    newer: Option<usize>,
}

/// Flows of one kind by last use.
#[derive(Debug, Default)]
struct List {
    oldest: Option<usize>,
    newest: Option<usize>,
}

/// All flows, with something for each that the driver needs.
#[derive(Debug)]
pub(crate) struct Flows<T> {
    positions: HashMap<Key, usize>,
    entries: Slab<Entry<T>>,
    answered: List,
    others: List,
}

/// A flow that had to go for another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Evicted<T> {
    /// It had had its answer.
    Answered(T),
    /// It may have been under way.
    Living(T),
}

/// What is known of the upstream of a flow whose client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    /// It has drained, or has waited for that as long as it does, and has left.
    pub(crate) is_released: bool,
    /// The newest table has it as a suspect, or not at all.
    pub(crate) is_lost: bool,
    /// For how long it has said nothing to this client.
    pub(crate) silent_ms: u64,
}

impl Standing {
    /// Whether the flow goes on elsewhere. One that drains keeps its flows.
    pub(crate) fn is_to_be_left(self) -> bool {
        self.is_released || self.is_lost && self.silent_ms >= LOST_SILENCE_MS
    }
}

impl<T> Flows<T> {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self {
            positions: HashMap::new(),
            entries: Slab::new(),
            answered: List::default(),
            others: List::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&T> {
        Some(&self.entries[*self.positions.get(key)?].flow)
    }

    /// Begins a flow, by a datagram of its client, where there may be so many. Returns who had to go for it: whoever has been silent for
    /// longest, of those that have had their answer, if there are any.
    pub(crate) fn insert(&mut self, key: Key, flow: T, count_max: usize, now_ms: u64) -> Option<Evicted<T>> {
        debug_assert!(!self.positions.contains_key(&key), "a client has one flow");
        let evicted = (self.entries.len() >= count_max).then(|| self.evict()).flatten();
        let entry = Entry {
            key,
            flow,
            stage: Stage::Asked,
            last: Side::Client,
            used_ms: now_ms,
            older: None,
            newer: None,
        };
        let position = self.entries.insert(entry);
        self.positions.insert(key, position);
        self.append(position);
        evicted
    }

    /// Ends a flow to make room.
    pub(crate) fn evict(&mut self) -> Option<Evicted<T>> {
        if let Some(oldest) = self.answered.oldest {
            return Some(Evicted::Answered(self.end(oldest)));
        }
        self.others.oldest.map(|oldest| Evicted::Living(self.end(oldest)))
    }

    /// The client has spoken again.
    pub(crate) fn apply_client(&mut self, key: &Key, now_ms: u64) {
        self.apply(key, now_ms, Side::Client, |_| Stage::Open);
    }

    /// The upstream has spoken.
    pub(crate) fn apply_upstream(&mut self, key: &Key, now_ms: u64) {
        let answered = |stage| if stage == Stage::Asked { Stage::Answered } else { stage };
        self.apply(key, now_ms, Side::Upstream, answered);
    }

    /// Ends a flow.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<T> {
        self.positions.get(key).copied().map(|position| self.end(position))
    }

    /// Ends one that has been silent for so long, if there is one.
    pub(crate) fn expire(&mut self, idle_ms: u64, now_ms: u64) -> Option<T> {
        let is_over = |&at: &usize| now_ms.saturating_sub(self.entries[at].used_ms) >= idle_ms;
        let oldest = [self.answered.oldest, self.others.oldest].into_iter().flatten().find(is_over);
        oldest.map(|oldest| self.end(oldest))
    }

    /// Ends those that have had their answer, where their upstream `is_leaving`. How many there were.
    pub(crate) fn end_answered(&mut self, now_ms: u64, is_leaving: impl Fn(&T) -> bool) -> usize {
        let before = self.entries.len();
        let mut next = self.answered.oldest;
        while let Some(at) = next {
            let entry = &self.entries[at];
            if now_ms.saturating_sub(entry.used_ms) < ANSWERED_QUIET_MS {
                break;
            }
            next = entry.newer;
            if is_leaving(&entry.flow) {
                self.end(at);
            }
        }
        before - self.entries.len()
    }

    /// Whether a client still waits for an answer that may come.
    pub(crate) fn is_any_asking(&self, now_ms: u64) -> bool {
        self.entries.iter().any(|(_, entry)| {
            entry.last == Side::Client && now_ms.saturating_sub(entry.used_ms) < ANSWER_PATIENCE_MS
        })
    }

    /// Ends all.
    pub(crate) fn clear(&mut self) {
        self.positions.clear();
        self.entries.clear();
        (self.answered, self.others) = (List::default(), List::default());
    }

    fn apply(&mut self, key: &Key, now_ms: u64, side: Side, advance: impl Fn(Stage) -> Stage) {
        let Some(&position) = self.positions.get(key) else { return };
        self.unlink(position);
        let entry = &mut self.entries[position];
        (entry.used_ms, entry.last, entry.stage) = (now_ms, side, advance(entry.stage));
        self.append(position);
    }

    fn list(&mut self, stage: Stage) -> &mut List {
        match stage {
            Stage::Answered => &mut self.answered,
            Stage::Asked | Stage::Open => &mut self.others,
        }
    }

    /// Makes it the newest of its kind.
    fn append(&mut self, position: usize) {
        let stage = self.entries[position].stage;
        let older = self.list(stage).newest.replace(position);
        self.entries[position].older = older;
        match older {
            Some(older) => self.entries[older].newer = Some(position),
            None => self.list(stage).oldest = Some(position),
        }
    }

    fn unlink(&mut self, position: usize) {
        let entry = &mut self.entries[position];
        let (stage, older, newer) = (entry.stage, entry.older.take(), entry.newer.take());
        match older {
            Some(older) => self.entries[older].newer = newer,
            None => self.list(stage).oldest = newer,
        }
        match newer {
            Some(newer) => self.entries[newer].older = older,
            None => self.list(stage).newest = older,
        }
    }

    fn end(&mut self, position: usize) -> T {
        self.unlink(position);
        let entry = self.entries.remove(position);
        self.positions.remove(&entry.key);
        entry.flow
    }
}

#[cfg(test)]
mod tests;
