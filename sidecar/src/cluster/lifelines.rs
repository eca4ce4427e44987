//! Which members a node holds lifelines to (`node::lifeline`): by rendezvous hash, so that a change of members moves few.

use std::net::SocketAddr;

use super::peer::Peer;
use crate::wire::fnv::Fnv;

/// Lifelines that one node holds. Each is watched from both ends, so a death is seen by about twice as many.
pub(crate) const LIFELINES_COUNT: usize = 3;

/// The peers to hold lifelines to: those that score highest with this node, so that each pair decides alike at any time and a
/// change of membership moves few of them.
pub(crate) fn choose(own: SocketAddr, members: impl Iterator<Item = Peer>) -> Vec<Peer> {
    let mut scored: Vec<(u64, Peer)> = members.map(|peer| (score(own, peer.addr), peer)).collect();
    scored.sort_unstable_by(|a, b| b.cmp(a));
    scored.truncate(LIFELINES_COUNT);
    let mut chosen: Vec<Peer> = scored.into_iter().map(|(_, peer)| peer).collect();
    chosen.sort_unstable();
    chosen
}

fn score(own: SocketAddr, peer: SocketAddr) -> u64 {
    Fnv::new(0).addr(own).addr(peer).finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn peers(count: u8) -> Vec<Peer> {
        (0..count).map(|n| Peer { addr: SocketAddr::from(([10, 0, 0, n], 7946)), instance: 1 }).collect()
    }

    #[test]
    fn everybody_is_held_by_somebody_and_nobody_by_nearly_all() {
        let all = peers(100);
        let mut held: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        for own in &all {
            let chosen = choose(own.addr, all.iter().copied().filter(|peer| peer != own));
            assert_eq!(chosen.len(), LIFELINES_COUNT);
            chosen.iter().for_each(|peer| *held.entry(peer.addr).or_default() += 1);
        }
        assert!(held.len() > 90, "{} are held", held.len());
        assert!(held.values().all(|count| *count < 15), "{held:?}");
    }

    #[test]
    fn one_more_member_moves_few_lifelines() {
        let (before, after) = (peers(50), peers(51));
        let chosen =
            |own: &Peer, all: &[Peer]| choose(own.addr, all.iter().copied().filter(|peer| peer != own));
        let moved = before.iter().filter(|own| chosen(own, &before) != chosen(own, &after)).count();
        assert!(moved < 12, "{moved} of 50 moved");
    }
}
