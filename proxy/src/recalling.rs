//! What is noted of requests that go well, by itself, for benchmarks: the steps of an exchange, without one.

use std::time::Duration;

use feed::{
    EndpointId, Name,
    recall::{Among, Cause},
};

use crate::{
    config::Address,
    http1::RequestId,
    log::record::End,
    recall::{Draining, Kept, Memory, Notes, Tried},
    upstream::{
        dice::Dice,
        pick::{By, Drawn, Picked, Tier},
    },
};

/// A worker's memory, and one request after another.
pub struct Recalling {
    memory: Memory,
    notes: Notes,
    dice: Dice,
    picked: Picked,
    node: Name,
    addr: Address,
}

impl Default for Recalling {
    fn default() -> Self {
        let addr = ([10, 0, 0, 1], 80).into();
        let id = EndpointId { instance: 1, addr };
        let drawn = Drawn { id, in_flight: 3, weight: 100, grown_percent: 100, is_ejected: false };
        let among = Some(Among { endpoints: 2, ..Among::default() });
        Self {
            memory: Memory::new(),
            notes: Notes::default(),
            dice: Dice::new(1),
            picked: Picked {
                by: By::Load,
                generation: 7,
                among,
                tier: Tier::Healthy,
                drawn: [Some(drawn); 2],
            },
            node: "app1".parse().expect("a name"),
            addr: addr.into(),
        }
    }
}

impl Recalling {
    /// An id as workers make them.
    pub fn id(&mut self) -> RequestId {
        RequestId::of_bits(1, self.dice.roll())
    }

    /// A request of this head, with its id; one in 64 is kept. True if it was.
    pub fn pass(&mut self, head: &[u8]) -> bool {
        let id = self.id();
        let notes = &mut self.notes;
        notes.begin(&id);
        if notes.is_sampled {
            notes.note_line(head, |_, _| [None, None]);
        }
        notes.picked = Some(self.picked);
        notes.times.first_byte = Some(Duration::from_micros(70));
        let is_kept = notes.is_sampled;
        if is_kept {
            self.keep(id);
        }
        self.notes.reset();
        is_kept
    }

    #[cold]
    fn keep(&mut self, id: RequestId) {
        if let Some(picked) = self.notes.picked.take() {
            self.notes.tries.push(Tried {
                node: self.node.clone(),
                addr: self.addr.clone(),
                instance: 1,
                picked,
                names: [Some(self.node.clone()), Some(self.node.clone())],
                is_reused: true,
                failure: None,
            });
        }
        self.memory.keep(Kept {
            id,
            cause: Cause::Sampled,
            began: Duration::from_secs(1),
            client: None,
            line: self.notes.line.take(),
            role: "app".into(),
            tries: std::mem::take(&mut self.notes.tries),
            times: self.notes.times,
            whole: Duration::from_micros(80),
            status: Some(200),
            end: End::Done,
            draining: Draining::default(),
        });
    }
}
