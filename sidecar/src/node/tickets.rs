//! The secret of session tickets as it goes from sidecar to sidecar, and the keys for the proxies beside this one, as long as there are any
//! that want them.

mod asking;

use std::{cell::RefCell, collections::BTreeSet, net::SocketAddr, rc::Rc, time::Duration};

use feed::Name;
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use tokio::{
    task::spawn_local,
    time::{Instant, sleep, timeout},
};

use self::asking::{Asking, Handovers, Step};
use crate::{
    config::Args,
    node::{
        link::{SharedGate, unix_ms},
        publish::Publisher,
        survey::ask,
    },
    wire::{
        packet::{Envelope, Kind, PacketError},
        tickets::{
            TicketEpoch,
            handover::{Answer, Asked, HandoverError, Question, encode, parse},
            holding::Holding,
            ticket_keys,
        },
    },
};

/// How often it is looked whether the keys of the cluster, or the clock, have changed.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How long a member may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is said at most that somebody counts epochs otherwise: it stays so until an operator does something.
const WARN_PERIOD: Duration = Duration::from_secs(3600);

/// Most members of which it is known that they count epochs otherwise. Beyond that all are asked again: they come and go.
const APART_COUNT_MAX: usize = 1024;

/// What this sidecar holds, for who asks and who is asked.
#[derive(Clone)]
pub(crate) struct Tickets(Rc<RefCell<State>>);

struct State {
    started: Instant,
    epoch: TicketEpoch,
    holding: Holding,
    asking: Asking,
    handovers: Handovers,
    /// Members that count epochs otherwise, as they have said.
    apart: BTreeSet<Name>,
    warn_at: Duration,
}

impl Tickets {
    /// Of a sidecar that waits for nobody, if it founds the cluster.
    fn new(epoch: TicketEpoch, founds: bool) -> Self {
        Self(Rc::new(RefCell::new(State {
            started: Instant::now(),
            epoch,
            holding: Holding::new(epoch),
            asking: Asking::new(founds),
            handovers: Handovers::default(),
            apart: BTreeSet::new(),
            warn_at: Duration::ZERO,
        })))
    }

    /// The packet that answers another sidecar.
    ///
    /// # Errors
    /// It has asked for nothing, or there are no keys here.
    pub(crate) fn answer(
        &self,
        payload: &[u8],
        gate: &SharedGate,
        envelope: &Envelope,
    ) -> Result<Vec<u8>, PacketError> {
        if gate.borrow().ring().is_none() {
            return Err(PacketError::Kind(Kind::Tickets as u8));
        }
        let answer = self.0.borrow_mut().answer(&parse(payload)?, unix_ms())?;
        Ok(envelope.encode(Kind::Tickets, &encode(&answer)))
    }
}

impl State {
    fn answer(&mut self, question: &Question, now_ms: u64) -> Result<Answer, PacketError> {
        let now = self.started.elapsed();
        if question.is_ahead_of(&mut self.holding, now_ms) {
            self.asking.hurry(now);
        }
        let Self { holding, handovers, .. } = self;
        match question.answer(holding, now_ms, || handovers.take(now)) {
            Err(HandoverError::NoRandomness) => Ok(Answer::NotNow),
            answer => answer.map_err(|_| PacketError::Malformed),
        }
    }

    fn question(&mut self, now_ms: u64) -> Result<Asked, HandoverError> {
        Asked::new(self.holding.count(now_ms), self.holding.id(now_ms))
    }

    fn step(&mut self, has_others: bool, now_ms: u64) -> Step {
        let has_lineage = self.holding.id(now_ms).is_some();
        self.asking.step(has_lineage, has_others, self.started.elapsed())
    }

    /// Takes what a member has answered; whether that was news.
    fn hear(
        &mut self,
        node: &Name,
        asked: Asked,
        answer: Answer,
        now_ms: u64,
    ) -> Result<bool, HandoverError> {
        if matches!(answer, Answer::Apart(_)) {
            if self.apart.len() >= APART_COUNT_MAX {
                self.apart.clear();
            }
            self.apart.insert(node.clone());
        } else {
            self.apart.remove(node);
        }
        match answer {
            Answer::Keep | Answer::NotNow => Ok(false),
            Answer::Apart(theirs) => {
                self.warn_of(node, &format!("{theirs:?}"));
                Ok(false)
            }
            Answer::Take { public, sealed } => {
                let had_one = self.holding.id(now_ms).is_some();
                let taken = self.holding.take(asked.open(&public, sealed)?, now_ms);
                match taken {
                    Ok(true) if had_one => {
                        tracing::info!(from = %node, "took over an older secret of session tickets");
                    }
                    Ok(_) => tracing::debug!(from = %node, "was handed the secret of session tickets"),
                    Err(far) => self.warn_of(node, &far.to_string()),
                }
                Ok(taken == Ok(true))
            }
        }
    }

    fn warn_of(&mut self, node: &Name, theirs: &str) {
        let now = self.started.elapsed();
        if now >= self.warn_at {
            self.warn_at = now + WARN_PERIOD;
            tracing::warn!(
                %node, theirs,
                "sessions do not resume between here and there: is one of the clocks wrong, or --ticket-epoch another?"
            );
        }
    }
}

/// Keeps what is held, and what is published of it, right, as long as this program runs.
pub(crate) fn keep(args: &Args, founds: bool, publisher: &Publisher, gate: &SharedGate) -> Tickets {
    let tickets = Tickets::new(args.ticket_epoch, founds);
    let keeper = Keeper {
        tickets: tickets.clone(),
        publisher: publisher.clone(),
        gate: gate.clone(),
        envelope: Envelope::new(&args.cluster),
        cluster: args.cluster.clone(),
    };
    spawn_local(keeper.keep());
    tickets
}

struct Keeper {
    tickets: Tickets,
    publisher: Publisher,
    gate: SharedGate,
    envelope: Envelope,
    cluster: String,
}

impl Keeper {
    /// Never ends, unless there are no keys.
    async fn keep(self) {
        if self.gate.borrow().ring().is_none() {
            // A proxy is told that there are none.
            self.publisher.tickets_wanted().await;
            return self.publish(unix_ms());
        }
        self.publisher.in_touch().await;
        loop {
            let now_ms = unix_ms();
            self.publish(now_ms);
            let (step, other) = {
                let mut state = self.tickets.0.borrow_mut();
                // Those that have nothing to hand over would be asked in vain, ever more seldom.
                let other =
                    self.publisher.any_other(self.gate.borrow().own(), &state.apart, &mut rand::rng());
                (state.step(other.is_some(), now_ms), other)
            };
            match (step, other) {
                (Step::Draw, _) => {
                    self.tickets.0.borrow_mut().holding.draw(&mut UnwrapErr(SysRng), now_ms);
                    tracing::debug!("drew a secret of session tickets");
                }
                (Step::Ask, Some((node, addr))) => self.ask(&node, addr).await,
                (Step::Wait(wait), _) => self.wait(wait).await,
                // Nobody is asked where there is nobody.
                (Step::Ask, None) => self.wait(LOOK_PERIOD).await,
            }
        }
    }

    /// Tells the proxies here what seals and opens now. What nobody wants is not derived, and what was is let go of.
    fn publish(&self, now_ms: u64) {
        if !self.publisher.wants_tickets() {
            return self.publisher.publish_tickets(None);
        }
        let (gate, mut state) = (self.gate.borrow(), self.tickets.0.borrow_mut());
        let secrets = state.holding.secrets(now_ms);
        // A newcomer's proxy waits for the first ones; one that has some goes on with them until there are others.
        if !secrets.is_empty() || gate.ring().is_none() {
            let keys = ticket_keys(gate.ring(), &self.cluster, state.epoch, &secrets);
            self.publisher.publish_tickets(Some(keys));
        }
    }

    /// Waits for so long at most, or until there is something to look at.
    async fn wait(&self, wait: Duration) {
        let left = self.tickets.0.borrow().epoch.left(unix_ms());
        let has_wants = self.publisher.wants_tickets();
        tokio::select! {
            () = sleep(wait.min(LOOK_PERIOD).min(left)) => {}
            () = self.publisher.tickets_wanted(), if !has_wants => {}
        }
    }

    async fn ask(&self, node: &Name, addr: SocketAddr) {
        let asked = self.ask_in_time(node, addr).await;
        let is_news = asked.unwrap_or_else(|why| {
            tracing::debug!(%node, why, "asked for the secret of session tickets");
            false
        });
        let mut state = self.tickets.0.borrow_mut();
        let now = state.started.elapsed();
        state.asking.note(is_news, now, &mut rand::rng());
    }

    /// Asks a member; whether it had news.
    async fn ask_in_time(&self, node: &Name, addr: SocketAddr) -> Result<bool, String> {
        let asked = self.tickets.0.borrow_mut().question(unix_ms()).map_err(|error| error.to_string())?;
        let question = encode(asked.question());
        let asking = ask(addr, &self.gate, &self.envelope, (Kind::Tickets, &question));
        let answer = timeout(ANSWER_TIMEOUT, asking).await.map_err(|late| late.to_string())?;
        let answer = answer.and_then(|payload| Ok(parse(&payload)?)).map_err(|error| error.to_string())?;
        let heard = self.tickets.0.borrow_mut().hear(node, asked, answer, unix_ms());
        heard.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        node::tickets::asking::HANDOVERS_COUNT_MAX,
        wire::{
            access::Access,
            gate::Gate,
            keyring::{Keyring, tests::key},
        },
    };

    fn gate(has_keys: bool) -> SharedGate {
        let keys = has_keys.then(|| Keyring::new(key(1)));
        let own = "10.0.0.1:7946".parse().unwrap();
        Rc::new(RefCell::new(Gate::new("default", own, Access::default(), keys, [1; 16])))
    }

    fn holding() -> Tickets {
        let tickets = Tickets::new("8h".parse().unwrap(), true);
        tickets.0.borrow_mut().holding.draw(&mut UnwrapErr(SysRng), unix_ms());
        tickets
    }

    /// What the one that is asked says to the other, as it travels.
    fn answered(asker: &Tickets, other: &Tickets) -> (Asked, Answer) {
        let (envelope, asked) = (Envelope::new("default"), asker.0.borrow_mut().question(unix_ms()).unwrap());
        let packet = other.answer(&encode(asked.question()), &gate(true), &envelope).unwrap();
        let Ok((Kind::Tickets, payload)) = envelope.parse(&packet) else { panic!("another kind") };
        (asked, parse(payload).unwrap())
    }

    #[test]
    fn what_is_no_question_is_malformed_and_without_keys_there_is_none() {
        let (tickets, envelope) = (holding(), Envelope::new("default"));
        let question = encode(tickets.0.borrow_mut().question(unix_ms()).unwrap().question());
        let said = |payload: &[u8], has_keys| tickets.answer(payload, &gate(has_keys), &envelope).err();
        assert_eq!(said(&question, true), None);
        assert_eq!(said(&question, false), Some(PacketError::Kind(36)));
        for wrong in [&b""[..], b"\xff", &question[..9], &[&question[..], b"x"].concat()] {
            assert_eq!(said(wrong, true), Some(PacketError::Malformed), "{wrong:?}");
        }
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn two_that_ask_each_other_hold_one_secret_and_the_second_knows_that_it_should_ask() {
        let node = "proxy1".parse().unwrap();
        let (a, b) = (holding(), holding());
        let heard = [(&a, &b), (&b, &a)].map(|(asker, other)| {
            let (asked, answer) = answered(asker, other);
            asker.0.borrow_mut().hear(&node, asked, answer, unix_ms()).unwrap()
        });
        assert_eq!(heard.iter().filter(|is_news| **is_news).count(), 1);
        let secrets = [&a, &b].map(|tickets| tickets.0.borrow_mut().holding.secrets(unix_ms())[0].clone());
        assert_eq!(secrets[0], secrets[1]);
        let newcomer = Tickets::new("8h".parse().unwrap(), false);
        newcomer.0.borrow_mut().asking.note(false, Duration::ZERO, &mut rand::rng());
        assert_eq!(answered(&a, &newcomer).1, Answer::NotNow);
        let state = &mut *newcomer.0.borrow_mut();
        assert_eq!(state.asking.step(false, true, Duration::ZERO), Step::Ask);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn within_a_second_so_many_are_handed_a_lineage_and_the_next_one_is_put_off() {
        let (here, newcomer) = (holding(), Tickets::new("8h".parse().unwrap(), false));
        let is_handed = || matches!(answered(&newcomer, &here).1, Answer::Take { .. });
        assert!((0..HANDOVERS_COUNT_MAX).all(|_| is_handed()));
        assert_eq!(answered(&newcomer, &here).1, Answer::NotNow);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(is_handed());
    }
}
