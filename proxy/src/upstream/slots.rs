//! Who has which keys: consistent hashing by a table of slots.
//!
//! Every node comes to slots, one after the other, in a random order of its own, and the quicker the greater its weight. A slot belongs to
//! whoever comes there first, and a key to the owner of its slot. When a node comes to a slot depends on its name and its weight and
//! on nobody else. So a node that goes leaves its own slots alone to others, and has them again when it is back; and who has a key is
//! known at the cost of one look, however many nodes there are.
//!
//! This is rendezvous hashing, slot by slot, with a table as Maglev has one; Maglev's nodes take turns, and move slots of others when
//! one goes. Like the hash, the order never changes: all proxies agree, and all numbers are whole, so that they do on any machine.

use super::hash::mix;

/// How many slots there are: Maglev's usual table, to a power of two. A node's share is as exact as its number of slots lets it be:
/// to one part in a hundred of a dozen nodes, in ten of a thousand.
const SLOTS_COUNT: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 16;

/// How long a node of weight 1 takes from slot to slot.
const STEP_TIME: u64 = 1 << 40;

/// The golden ratio: multiples of it are spread as evenly as can be.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Each slot's owner, by position in the listing.
#[derive(Debug, Default)]
pub(crate) struct Slots(Box<[u16]>);

/// A node, as far as keys are concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    /// In the listing.
    pub(crate) position: usize,
    /// Of its name.
    pub(crate) hash: u64,
    pub(crate) weight: u16,
}

/// A node on its way.
struct Walk {
    position: u16,
    hash: u64,
    steps: u64,
    /// When it comes to the next slot, and how long it takes to the one after that.
    time: u64,
    step_time: u64,
}

impl Walk {
    fn new(node: Node) -> Self {
        let step_time = STEP_TIME / u64::from(node.weight);
        let position = u16::try_from(node.position).expect("tables have fewer endpoints than 2^16");
        // Not all at once: of equals, each is the first somewhere.
        let time = ((mix(!node.hash) >> 32) * (step_time >> 8)) >> 24;
        Self { position, hash: node.hash, steps: 0, time, step_time }
    }

    /// When it comes to which slot next, and in what order of equals.
    fn step(&mut self) -> (usize, Arrival) {
        let arrival = Arrival { time: self.time, hash: self.hash };
        self.steps += 1;
        self.time += self.step_time;
        (slot(self.hash.wrapping_add(self.steps.wrapping_mul(GOLDEN))), arrival)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Arrival {
    time: u64,
    hash: u64,
}

const NEVER: Arrival = Arrival { time: u64::MAX, hash: u64::MAX };

impl Slots {
    /// The slots of these nodes; those without weight have none.
    ///
    /// Whatever the number of nodes, a slot is come to about a dozen times until the last one has been, as coupons are collected until the
    /// last is found: this takes some milliseconds.
    pub(crate) fn new(nodes: impl Iterator<Item = Node>) -> Self {
        let mut walks: Vec<Walk> = nodes.filter(|node| node.weight > 0).map(Walk::new).collect();
        if walks.is_empty() {
            return Self::default();
        }
        let rate: u64 = walks.iter().map(|walk| STEP_TIME / walk.step_time).sum();
        // In this time all together take as many steps as there are slots.
        let round_time = (STEP_TIME << SLOT_BITS).div_ceil(rate);
        let mut first = vec![(NEVER, 0_u16); SLOTS_COUNT];
        let (mut empty, mut end) = (SLOTS_COUNT, 0);
        while empty > 0 {
            end += round_time;
            for walk in &mut walks {
                while walk.time <= end {
                    let (slot, arrival) = walk.step();
                    let owner = &mut first[slot];
                    empty -= usize::from(owner.0 == NEVER);
                    if arrival < owner.0 {
                        *owner = (arrival, walk.position);
                    }
                }
            }
        }
        Self(first.into_iter().map(|(_, position)| position).collect())
    }

    /// The owner of a key at the `turn`th try: where the one before cannot have it, all proxies try the same other.
    #[inline]
    pub(crate) fn owner(&self, key: u64, turn: u64) -> Option<usize> {
        self.0.get(slot(key.wrapping_add(turn.wrapping_mul(GOLDEN)))).map(|position| usize::from(*position))
    }
}

fn slot(hash: u64) -> usize {
    (mix(hash) >> (u64::BITS - SLOT_BITS)) as usize
}

// Positions are kept in 16 bits.
const _: () = assert!(feed::table::ENDPOINTS_MAX <= 1 << 16);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{super::hash::hash, *};

    fn node(position: usize, weight: u16) -> Node {
        Node { position, hash: hash(format!("appserver{position}").as_bytes()), weight }
    }

    fn nodes(weights: &[u16]) -> Vec<Node> {
        weights.iter().enumerate().map(|(position, weight)| node(position, *weight)).collect()
    }

    /// The owner of each slot by its hash, wherever it stands.
    fn owners(nodes: &[Node]) -> Vec<u64> {
        let hashes: BTreeMap<_, _> = nodes.iter().map(|node| (node.position, node.hash)).collect();
        Slots::new(nodes.iter().copied()).0.iter().map(|position| hashes[&usize::from(*position)]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn when_one_goes_its_keys_alone_move_and_when_it_is_back_it_has_them_again(
            weights in proptest::collection::vec(1..=200_u16, 2..12),
            gone in any::<proptest::sample::Index>(),
        ) {
            let mut nodes = nodes(&weights);
            let before = owners(&nodes);
            let mut gone = nodes.remove(gone.index(weights.len()));
            for (before, after) in before.iter().zip(owners(&nodes)) {
                prop_assert!(*before == gone.hash || *before == after);
            }
            // It restarted: the same name, elsewhere in the listing.
            gone.position = weights.len();
            nodes.push(gone);
            prop_assert_eq!(before, owners(&nodes));
        }

        #[test]
        fn when_a_weight_changes_keys_move_to_or_from_that_node_alone(
            weights in proptest::collection::vec(1..=200_u16, 2..12),
            weight in 1..=200_u16,
        ) {
            let mut nodes = nodes(&weights);
            let before = owners(&nodes);
            let is_more = weight >= nodes[0].weight;
            nodes[0].weight = weight;
            for (before, after) in before.into_iter().zip(owners(&nodes)) {
                let moved_to = if is_more { after } else { before };
                prop_assert!(before == after || moved_to == nodes[0].hash);
            }
        }
    }

    #[test]
    fn slots_are_spread_by_weight() {
        let share = |weights: &[u16], percent_off_max: f64| {
            let slots = Slots::new(nodes(weights).into_iter());
            let mut counts = vec![0_u32; weights.len()];
            slots.0.iter().for_each(|position| counts[usize::from(*position)] += 1);
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            for (count, weight) in counts.iter().zip(weights) {
                let wanted = SLOTS_COUNT as f64 * f64::from(*weight) / total;
                let off = (f64::from(*count) / wanted - 1.0).abs() * 100.0;
                assert!(off < percent_off_max, "{count} of {wanted}, {} nodes", weights.len());
            }
        };
        share(&[100], 0.01);
        share(&[100, 100, 100, 300], 2.0);
        share(&[10, 100], 4.0);
        share(&[1, u16::MAX], 100.0);
        share(&[100; 50], 10.0);
        share(&[100; 1000], 45.0);
    }

    #[test]
    fn as_many_as_a_table_holds_have_slots_whatever_their_weights() {
        let count = feed::table::ENDPOINTS_MAX;
        let mut weights = vec![u16::MAX; count];
        weights[0] = 1;
        weights[1] = 0;
        let slots = Slots::new(nodes(&weights).into_iter());
        assert!(slots.0.iter().all(|position| *position != 1) && slots.0.contains(&9_999));
    }

    #[test]
    fn nobody_has_a_key_where_there_is_nobody() {
        assert_eq!(Slots::new(nodes(&[0, 0]).into_iter()).owner(1, 0), None);
        assert_eq!(Slots::default().owner(u64::MAX, 7), None);
    }

    #[test]
    fn who_has_what_never_changes() {
        let slots = Slots::new(nodes(&[100, 100, 50, 300]).into_iter());
        let keys = (0..12_u64).map(|key| hash(&key.to_be_bytes()));
        let owners = |turn| keys.clone().map(|key| slots.owner(key, turn).unwrap()).collect::<Vec<_>>();
        assert_eq!(owners(0), [3, 0, 3, 3, 0, 3, 0, 0, 3, 1, 3, 1]);
        assert_eq!(owners(1), [3, 3, 3, 2, 0, 3, 3, 1, 0, 1, 1, 2]);
        let all: Vec<u8> = slots.0.iter().flat_map(|position| position.to_be_bytes()).collect();
        assert_eq!(hash(&all), 0xef90_fb7a_da3b_65ec);
    }
}
