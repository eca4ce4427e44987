//! What people ask of the membership through the feed, and members of each other: events and queries.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use feed::{
    FromSidecar, Name, ToSidecar,
    event::{ANSWER_BYTES_MAX, Outcome, PAYLOAD_BYTES_MAX, UserEvent, truncate},
    frame::{Member, MemberState, Wait},
};
use rand::RngExt;

use super::{Membership, millis};
use crate::{
    cluster::{
        advert::Follows,
        broadcast::Broadcast,
        effect::Effect,
        event::{Origin, What},
        member_id::MemberId,
        query::{self, Asked, News, Query, QueryId, Reply},
    },
    wire::packet::{Kind, PacketError},
};

/// Queries that every sidecar answers itself.
pub(crate) const BUILT_IN: [&str; 3] = ["ping", "uptime", "version"];

/// Broadcasts under way beyond which events are left to the exchanges of states: gossip carries some hundreds a second, an exchange
/// all at once.
const GOSSIPED_MAX: usize = 64;

impl Membership {
    /// Takes a question; what is not answered here at once is answered later.
    pub(super) fn handle_question(&mut self, to: u64, question: ToSidecar, now: Duration) {
        let answer = match question {
            ToSidecar::Event { name, payload } if payload.len() <= PAYLOAD_BYTES_MAX => {
                let sent = self.send_event(What::User { name, payload }, now);
                sent.map(|time| Some(FromSidecar::Sent { time }))
            }
            ToSidecar::Query(query) if query.payload.len() <= PAYLOAD_BYTES_MAX => {
                let is_meant = |member: &feed::frame::Member| {
                    query.role.as_ref().is_none_or(|role| *role == member.role)
                        && query.node.as_ref().is_none_or(|node| *node == member.name)
                        && member.tags.include(&query.tags)
                };
                let meant = self.members().filter(|member| is_meant(member));
                let targets = meant.map(|member| (member.addr, member.name.clone())).collect();
                let asked = Asked::User { name: query.name, payload: query.payload };
                let deadline = now + query::timeout(query.timeout_ms);
                self.ask(to, asked, targets, Some(deadline), now)
            }
            ToSidecar::ForceLeave { name } => self.force_leave(&name, now).map(Some),
            ToSidecar::Explain { name } => self.explain(&name, now).map(Some),
            ToSidecar::Health {} => Ok(Some(FromSidecar::Health(self.own_health()))),
            ToSidecar::Event { payload, .. } | ToSidecar::Query(feed::event::Query { payload, .. }) => {
                Err(format!("a payload of {} bytes, over {PAYLOAD_BYTES_MAX}", payload.len()))
            }
            ToSidecar::Wait(wish) => {
                // What each of them is asked is about itself.
                let wish = Wait { visible: true, everywhere: false, ..wish };
                self.ask(to, Asked::Visible(wish), BTreeMap::new(), None, now)
            }
            _ => Err("not a question to the membership".to_owned()),
        };
        match answer {
            Ok(answer) => answer.into_iter().for_each(|frame| self.reply(to, frame, true)),
            Err(why) => self.reply(to, FromSidecar::Refused { why }, true),
        }
    }

    fn reply(&mut self, to: u64, frame: FromSidecar, is_last: bool) {
        self.effects.push_back(Effect::Reply { to, frame, is_last });
    }

    /// Sends an event to everybody, this node included; its Lamport time.
    pub(super) fn send_event(&mut self, what: What, now: Duration) -> Result<u64, String> {
        if !self.in_touch {
            return Err("this node has not found its cluster yet".to_owned());
        }
        let id = &self.config.id;
        let origin = Origin { addr: id.addr, instance: id.instance };
        let sent_ms = id.instance + millis(now);
        let event = self.events.borrow_mut().next_own(origin, id.node.clone(), sent_ms, what)?;
        let time = event.time;
        // foca would keep it for whoever comes, however late.
        let is_alone = self.foca.num_members() == 0;
        if is_alone || self.foca.custom_broadcast_backlog() >= GOSSIPED_MAX {
            self.events.borrow_mut().apply(event);
            self.hasten_sync(now);
        } else {
            let outcome = self.foca.add_broadcast(&Broadcast::Event(event).encode()).map(drop);
            self.note(outcome);
            let outcome = self.foca.gossip(&mut self.runtime);
            self.note(outcome);
        }
        Ok(time)
    }

    /// Tells the events that were heard.
    pub(super) fn tell_events(&mut self, now: Duration) {
        self.events.borrow_mut().forget();
        let fresh = self.events.borrow_mut().take_fresh();
        for event in fresh {
            match event.what {
                What::User { name, payload } => {
                    let (origin, time, sent_ms) = (event.node, event.time, event.sent_ms);
                    self.effects.push_back(Effect::Event(UserEvent { name, payload, origin, time, sent_ms }));
                }
                What::ForceLeave(id) => self.apply_force_leave(id, now),
            }
        }
    }

    fn ask(
        &mut self,
        to: u64,
        asked: Asked,
        targets: BTreeMap<SocketAddr, Name>,
        deadline: Option<Duration>,
        now: Duration,
    ) -> Result<Option<FromSidecar>, String> {
        let number = self.rng.random();
        if self.queries.ask(number, to, asked, targets, deadline, now) {
            Ok(None)
        } else {
            Err(format!("{} queries are under way; try again later", query::ASKING_MAX))
        }
    }

    /// Repeats queries, and ends those that are over.
    pub(super) fn advance_queries(&mut self, now: Duration) {
        if self.queries.next_deadline().is_none() {
            return;
        }
        let mut queries = std::mem::take(&mut self.queries);
        while let Some((to, news)) = queries.poll_over(now, |wish| self.consumers(&wish.role)) {
            self.tell_news(to, news);
        }
        for (to, query) in queries.poll_due(now, self.config.id.addr) {
            let bytes = self.envelope.encode(Kind::Query, &query.encode()).into();
            self.effects.push_back(Effect::Send { to, bytes });
        }
        self.queries = queries;
    }

    fn tell_news(&mut self, to: u64, news: News) {
        match news {
            News::Answer(answer) => self.reply(to, FromSidecar::Answer(answer), false),
            News::Over(tally) => self.reply(to, FromSidecar::Answered(tally), true),
            News::Visible(after) => self.reply(to, FromSidecar::Waited { after_ms: millis(after) }, true),
        }
    }

    /// The members, this one included, beside which somebody consumes the role's table.
    fn consumers(&self, role: &Name) -> BTreeMap<SocketAddr, Name> {
        let own = Some(self.config.id.clone()).filter(|_| self.own.follows.includes(role));
        let all = self.followers(role).into_iter().chain(own);
        all.map(|id| (id.addr, id.node)).collect()
    }

    /// The other live members beside which somebody consumes the role's table.
    pub(super) fn followers(&self, role: &Name) -> Vec<MemberId> {
        let adverts = self.adverts.borrow();
        let follows = |id: &MemberId| {
            adverts.of(id.addr, id.instance).is_some_and(|advert| {
                let serves = !matches!(advert.state, MemberState::Left | MemberState::Failed);
                serves && advert.follows.includes(role)
            })
        };
        self.foca.iter_members().map(foca::Member::id).filter(|id| follows(id)).cloned().collect()
    }

    /// The other members beside which somebody consumes tables, and those that drain: who knows of load, or of what holds it up.
    pub fn loaded(&self) -> impl Iterator<Item = &Member> {
        let adverts = self.adverts.borrow();
        self.members().filter(move |member| {
            let is_live = !matches!(member.state, MemberState::Left | MemberState::Failed);
            let advert = adverts.of(member.addr, member.instance);
            let has_consumer =
                advert.is_some_and(|a| !matches!(&a.follows, Follows::Roles(roles) if roles.is_empty()));
            is_live
                && member.addr != self.config.id.addr
                && (has_consumer || member.state == MemberState::Draining)
        })
    }

    pub(super) fn handle_query(&mut self, payload: &[u8], now: Duration) -> Result<(), PacketError> {
        let Query { id, asked } = Query::parse(payload).ok_or(PacketError::Truncated)?;
        // Answers go to members alone: a stranger could have them sent to somebody who never asked.
        let is_member = id.from == self.config.id.addr
            || self.foca.iter_members().any(|member| member.id().addr == id.from);
        if !is_member {
            return Err(PacketError::Foreign);
        }
        match self.queries.handle_query(id) {
            (Some(outcome), _) => self.send_outcome(id, outcome),
            (None, true) => match built_in(&asked, now) {
                Some(answer) => self.handle_outcome(id, Some(Outcome::Payload(answer))),
                None => self.effects.push_back(Effect::Asked { id, asked }),
            },
            (None, false) => {}
        }
        Ok(())
    }

    /// What came of a query that this node was asked.
    pub(super) fn handle_outcome(&mut self, id: QueryId, outcome: Option<Outcome>) {
        let outcome = outcome.map(|mut outcome| {
            let (Outcome::Payload(text) | Outcome::Error(text)) = &mut outcome;
            truncate(text, ANSWER_BYTES_MAX);
            outcome
        });
        self.queries.apply_outcome(id, outcome.as_ref());
        if let Some(outcome) = outcome {
            self.send_outcome(id, outcome);
        }
    }

    fn send_outcome(&mut self, id: QueryId, outcome: Outcome) {
        let reply = Reply { number: id.number, from: self.config.id.addr, outcome };
        let bytes = self.envelope.encode(Kind::Reply, &reply.encode()).into();
        self.effects.push_back(Effect::Send { to: id.from, bytes });
    }

    pub(super) fn handle_reply(&mut self, payload: &[u8], now: Duration) -> Result<(), PacketError> {
        let reply = Reply::parse(payload).ok_or(PacketError::Truncated)?;
        if let Some((to, news)) = self.queries.handle_reply(reply, now) {
            self.tell_news(to, news);
        }
        Ok(())
    }
}

fn built_in(asked: &Asked, now: Duration) -> Option<String> {
    let Asked::User { name, .. } = asked else { return None };
    match name.as_str() {
        "ping" => Some("ok".to_owned()),
        "uptime" => Some(format!("{}s", now.as_secs())),
        "version" => Some(env!("CARGO_PKG_VERSION").to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_called_built_in_is() {
        for name in BUILT_IN {
            let asked = Asked::User { name: name.parse().unwrap(), payload: String::new() };
            assert!(built_in(&asked, Duration::ZERO).is_some(), "{name}");
        }
    }

    #[test]
    fn strangers_are_not_answered() {
        let addr = "10.0.0.1:7946".parse().unwrap();
        let (node, role): (Name, Name) = ("a".parse().unwrap(), "dnsserver".parse().unwrap());
        let id = MemberId { addr, instance: 1, renewal: 0, node, role };
        let config = super::super::Config {
            id,
            port: 0,
            admin_port: 0,
            weight: 1,
            labels: crate::cluster::labels::Labels::default(),
            routes: feed::Routes::default(),
            cluster: "default".to_owned(),
            founds: true,
            drain_timeout: Duration::ZERO,
        };
        let mut node = Membership::new(config, 1);
        let mut handle = |from| {
            let asked = Asked::User { name: "ping".parse().unwrap(), payload: String::new() };
            let query = Query { id: QueryId { from, number: 1 }, asked };
            let packet = node.envelope.encode(Kind::Query, &query.encode());
            let outcome = node.handle(crate::cluster::input::Input::Datagram(&packet), Duration::ZERO);
            let sent = std::iter::from_fn(|| node.poll_effect());
            (outcome, sent.filter(|effect| matches!(effect, Effect::Send { .. })).count())
        };
        assert_eq!(handle("10.9.9.9:7946".parse().unwrap()), (Err(PacketError::Foreign), 0));
        assert_eq!(handle(addr), (Ok(()), 1));
    }
}
