//! The secret of session tickets as it goes from sidecar to sidecar, and the keys for the proxies beside this one, as long as there are any
//! that want them.

mod asking;

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

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

/// What this sidecar holds, for who asks and who is asked.
#[derive(Clone)]
pub(crate) struct Tickets(Rc<RefCell<State>>);

struct State {
    started: Instant,
    epoch: TicketEpoch,
    holding: Holding,
    asking: Asking,
    handovers: Handovers,
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
            let other = self.publisher.any_other(self.gate.borrow().own(), &mut rand::rng());
            let step = self.tickets.0.borrow_mut().step(other.is_some(), now_ms);
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
