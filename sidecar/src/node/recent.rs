//! What has happened in the cluster lately, for whoever comes to look: the last changes of members, and the last events.
//!
//! Whoever reaches the admin port may look, and a payload may be a secret between an event's sender and its handlers: it is left out.

use std::collections::VecDeque;

use feed::{
    Name,
    event::UserEvent,
    frame::{Member, MemberState},
};
use serde::Serialize;

/// So many are kept of both together.
const COUNT_MAX: usize = 64;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Happening {
    /// Counts them, so that who looks twice sees what is new.
    number: u64,
    /// When this node heard of it, in milliseconds since the Unix epoch.
    at_ms: u64,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Change { name: Name, role: Name, state: MemberState },
    Event { name: Name, origin: Name },
}

/// The last ones, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    count: u64,
    last: VecDeque<Happening>,
}

impl Recent {
    pub(crate) fn note_change(&mut self, member: &Member, at_ms: u64) {
        let what = What::Change { name: member.name.clone(), role: member.role.clone(), state: member.state };
        self.note(what, at_ms);
    }

    pub(crate) fn note_event(&mut self, event: &UserEvent, at_ms: u64) {
        self.note(What::Event { name: event.name.clone(), origin: event.origin.clone() }, at_ms);
    }

    fn note(&mut self, what: What, at_ms: u64) {
        if self.last.len() == COUNT_MAX {
            self.last.pop_front();
        }
        self.count += 1;
        self.last.push_back(Happening { number: self.count, at_ms, what });
    }

    /// All that are remembered, oldest first.
    pub(crate) fn all(&self) -> &VecDeque<Happening> {
        &self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered_in_their_order_without_payloads() {
        let mut recent = Recent::default();
        for time in 1..=COUNT_MAX as u64 + 1 {
            let event = UserEvent {
                name: "deploy".parse().unwrap(),
                payload: "secret".into(),
                origin: "app1".parse().unwrap(),
                time,
                sent_ms: 1,
            };
            recent.note_event(&event, 10 + time);
        }
        assert_eq!(recent.all().len(), COUNT_MAX);
        let told = serde_json::to_string(&recent.all()[0]).unwrap();
        assert_eq!(told, r#"{"number":2,"at_ms":12,"event":{"name":"deploy","origin":"app1"}}"#);
    }
}
