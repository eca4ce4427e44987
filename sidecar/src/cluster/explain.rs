//! What a node remembers of each name: the member's last state, since when, and by what evidence.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use feed::{
    Name,
    explain::Evidence,
    frame::{Member, MemberState},
};

use crate::cluster::peer::Peer;

/// Members remembered after they have gone; the one that has been gone for longest is forgotten first.
pub(crate) const GONE_MAX: usize = 1024;
/// Most processes remembered as forced to leave, the latest: an order is carried out within moments.
const FORCED_MAX: usize = 256;

/// One name's last state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Story {
    pub(crate) member: Member,
    pub(crate) since: Duration,
    pub(crate) evidence: Evidence,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Stories {
    by_name: BTreeMap<Name, Story>,
    /// How it was learned that they are down; taken when the picture loses them.
    downs: BTreeMap<Peer, Evidence>,
    gone_count: usize,
    /// Processes that an operator had forgotten, the latest last.
    forced: VecDeque<Peer>,
    /// When the members last sent a gossip datagram.
    heard: BTreeMap<SocketAddr, Option<Duration>>,
}

fn peer(member: &Member) -> Peer {
    Peer { addr: member.addr, instance: member.instance }
}

fn is_gone(member: &Member) -> bool {
    matches!(member.state, MemberState::Left | MemberState::Failed)
}

impl Stories {
    pub(crate) fn of(&self, name: &Name) -> Option<&Story> {
        self.by_name.get(name)
    }

    /// Whether only others say how this one ended.
    pub(crate) fn is_hearsay(&self, name: &Name) -> bool {
        self.of(name).is_some_and(|story| matches!(story.evidence, Evidence::Gossip | Evidence::Sync))
    }

    /// Notes why a process counts as down; the first reason stays.
    pub(crate) fn note_down(&mut self, peer: Peer, evidence: Evidence) {
        self.downs.entry(peer).or_insert(evidence);
    }

    /// Notes that a process was forced to leave.
    pub(crate) fn note_forced(&mut self, peer: Peer) {
        self.forced.retain(|forced| *forced != peer);
        self.forced.push_back(peer);
        if self.forced.len() > FORCED_MAX {
            self.forced.pop_front();
        }
    }

    /// Notes a gossip datagram. Who is no member is not remembered: the address is a stranger's word.
    pub(crate) fn note_heard(&mut self, addr: SocketAddr, now: Duration) {
        if let Some(heard) = self.heard.get_mut(&addr) {
            *heard = Some(now);
        }
    }

    /// When this address last sent a datagram.
    pub(crate) fn heard(&self, addr: SocketAddr) -> Option<Duration> {
        self.heard.get(&addr).copied().flatten()
    }

    /// Takes a change of the picture; gives it back as it is to be told. `advertised` is how the member's advert came.
    pub(crate) fn apply_change(&mut self, mut change: Member, advertised: Evidence, now: Duration) -> Member {
        let peer = peer(&change);
        let evidence = match change.state {
            MemberState::Joining
            | MemberState::Alone
            | MemberState::Checking
            | MemberState::Unhealthy
            | MemberState::Ready
            | MemberState::Draining => {
                // It is there again, whatever was ordered.
                self.forced.retain(|forced| *forced != peer);
                advertised
            }
            MemberState::Left if !self.forced.contains(&peer) => advertised,
            MemberState::Left | MemberState::Failed if self.forced.contains(&peer) => {
                change.state = MemberState::Left;
                Evidence::ForceLeave
            }
            MemberState::Left | MemberState::Failed => self.downs.get(&peer).copied().unwrap_or(advertised),
        };
        let story = Story { member: change.clone(), since: now, evidence };
        let before = self.by_name.insert(change.name.clone(), story);
        self.gone_count += usize::from(is_gone(&change));
        self.gone_count -= usize::from(before.is_some_and(|story| is_gone(&story.member)));
        change
    }

    /// A failed member that was forced to leave has left now; none if it had not failed.
    pub(crate) fn forget_failed(&mut self, name: &Name, peer_left: Peer, now: Duration) -> Option<Member> {
        let story = self.by_name.get_mut(name)?;
        let is_it = peer(&story.member) == peer_left && story.member.state == MemberState::Failed;
        is_it.then(|| {
            story.member.state = MemberState::Left;
            (story.since, story.evidence) = (now, Evidence::ForceLeave);
            story.member.clone()
        })
    }

    /// Whether somebody is active at this address.
    pub(crate) fn knows(&self, addr: SocketAddr) -> bool {
        self.heard.contains_key(&addr)
    }

    /// Notes whether somebody is active at this address.
    pub(crate) fn note_active(&mut self, addr: SocketAddr, is_active: bool) {
        if is_active {
            self.heard.entry(addr).or_default();
        } else {
            self.heard.remove(&addr);
        }
    }

    /// Forgets what no member needs any more.
    pub(crate) fn settle(&mut self) {
        self.downs.clear();
        while self.gone_count > GONE_MAX {
            let gone = self.by_name.values().filter(|story| is_gone(&story.member));
            let oldest = gone.min_by_key(|story| story.since).map(|story| story.member.name.clone());
            oldest.map(|name| self.by_name.remove(&name));
            self.gone_count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use feed::Tags;

    use super::*;

    fn member(n: usize, state: MemberState) -> Member {
        let addr = "10.0.0.1:7946".parse().unwrap();
        let (name, role) = (format!("n{n}").parse().unwrap(), "app".parse().unwrap());
        Member {
            name,
            role,
            addr,
            port: 0,
            admin_port: 0,
            state,
            instance: 1,
            tags: Tags::default(),
            routes: feed::Routes::default(),
            protocol: None,
            check: None,
        }
    }

    #[test]
    fn the_gone_are_remembered_up_to_the_limit() {
        let mut stories = Stories::default();
        for n in 0..=GONE_MAX {
            let now = Duration::from_secs(n as u64);
            stories.apply_change(member(n, MemberState::Failed), Evidence::Gossip, now);
            stories.settle();
            let first = stories.of(&"n0".parse().unwrap());
            assert_eq!(first.is_some(), n < GONE_MAX, "{n}");
        }
    }

    #[test]
    fn a_forced_process_counts_as_left_until_it_is_there_again() {
        let mut stories = Stories::default();
        let failed = member(1, MemberState::Failed);
        stories.note_forced(peer(&failed));
        let told = stories.apply_change(failed.clone(), Evidence::Gossip, Duration::ZERO);
        assert_eq!(told.state, MemberState::Left);
        stories.apply_change(member(1, MemberState::Ready), Evidence::Announcement, Duration::ZERO);
        stories.note_down(peer(&failed), Evidence::Lifeline);
        let told = stories.apply_change(failed, Evidence::Gossip, Duration::ZERO);
        assert_eq!(told.state, MemberState::Failed);
        assert_eq!(stories.of(&told.name).unwrap().evidence, Evidence::Lifeline);
    }

    #[test]
    fn the_latest_forced_processes_are_remembered_up_to_the_limit() {
        let process = |n: usize| {
            let addr = SocketAddr::from(([10, 0, 0, 1], 7946));
            Member { addr, instance: FORCED_MAX as u64 * 2 - n as u64, ..member(n, MemberState::Failed) }
        };
        let mut stories = Stories::default();
        // The first is ordered once more, and is the latest then.
        for n in (0..FORCED_MAX).chain([0, FORCED_MAX]) {
            stories.note_forced(peer(&process(n)));
        }
        let mut told =
            |n| stories.apply_change(process(n), Evidence::Gossip, Duration::ZERO).state == MemberState::Left;
        assert!(!told(1) && told(2) && told(0) && told(FORCED_MAX));
    }
}
