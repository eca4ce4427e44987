//! What is told of members: to the log, to the feed, to the snapshot.

use std::{net::SocketAddr, time::Duration};

use feed::{
    Name,
    frame::{Member, MemberState},
};
use tokio::time::Instant;

use super::Driver;
use crate::node::link::unix_ms;

impl Driver {
    pub(super) fn warn_of_twins(&self, name: &Name, addrs: &[SocketAddr]) {
        let own = self.gate.borrow().own();
        let others: Vec<String> =
            addrs.iter().filter(|addr| **addr != own).map(SocketAddr::to_string).collect();
        let who = if *name == self.node { "another node is called" } else { "several nodes are called" };
        let served = addrs.last();
        tracing::warn!(?served, "{who} {name} ({}); each node needs a name of its own", others.join(", "));
    }

    pub(super) fn apply_change(&mut self, member: Member) {
        let (name, role, addr) = (&member.name, &member.role, member.addr);
        match member.state {
            MemberState::Failed => {
                let after = self.joined.remove(name).map_or(Duration::ZERO, |joined| joined.elapsed());
                let evidence = self.membership.evidence(name).map(tracing::field::debug);
                tracing::warn!(%name, ?after, evidence, "member failed");
            }
            MemberState::Left => {
                self.joined.remove(name);
                tracing::info!(%name, "member left");
            }
            state => {
                if !self.joined.contains_key(name) {
                    self.joined.insert(name.clone(), Instant::now());
                    // That this node is there is no news, and no success.
                    if *name != self.node {
                        tracing::info!(%name, %role, %addr, "member joined");
                    }
                }
                if state != MemberState::Joining {
                    let check = member.check.as_deref();
                    tracing::info!(%name, state = state.as_str(), check, "member changed");
                }
            }
        }
        self.recent.note_change(&member, unix_ms());
        self.publisher.publish_change(member);
    }

    /// The members as they are after changes: once for all that came together, since a newcomer to a large cluster learns of thousands.
    pub(super) fn publish_members(&self) {
        let members: Vec<Member> = self.membership.members().cloned().collect();
        if let Some(snapshot) = &self.snapshot {
            let others = members.iter().filter(|member| member.name != self.node).map(|member| member.addr);
            let others: Vec<SocketAddr> = others.collect();
            // Who is left alone will need the last others.
            snapshot.send_if_modified(|kept| {
                let news = !others.is_empty() && *kept != others;
                if news {
                    *kept = others;
                }
                news
            });
        }
        self.publisher.publish_members(members);
    }
}
