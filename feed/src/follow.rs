//! Following a sidecar for ever: dial, subscribe, hand tables to the consumer, report what it applied.
//!
//! While the socket is down the consumer keeps its last tables; the dial is repeated with backoff.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    path::PathBuf,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{net::UnixStream, time::Instant};
use tokio_util::codec::Framed;

use crate::{
    EndpointId, Name, RoleTable,
    frame::{
        Applied, ConsumerCodec, ConsumerHello, FeedError, FromSidecar, InFlight, SidecarHello, ToSidecar,
        VERSION,
    },
    subscriber::{Change, Subscriber},
    ticket::TicketKeys,
};

/// First pause before dialling again; doubles up to [`REDIAL_PAUSE_MAX`]. A sidecar restarts in tens of
/// milliseconds, and a connect to a missing socket costs two system calls.
const REDIAL_PAUSE_MIN: Duration = Duration::from_millis(20);
const REDIAL_PAUSE_MAX: Duration = Duration::from_millis(500);

/// A connection that ends sooner was none: the pause goes on growing, and nothing is said of it again. A sidecar that speaks and
/// then breaks the protocol is no reason to dial and complain for ever without a breath.
const CONNECTION_TIME_MIN: Duration = Duration::from_secs(1);

/// How often in-flight counts are looked at while something drains: the delay that a drain adds at most.
const DRAIN_LOOK_PERIOD: Duration = Duration::from_millis(10);

/// A program that acts on tables.
pub trait Consumer {
    /// The sidecar introduced itself.
    fn handle_hello(&mut self, hello: &SidecarHello) {
        let _ = hello;
    }

    /// The sidecar has told all that the cluster knows: a role without a table has nobody.
    fn handle_synced(&mut self) {}

    /// Whether it seals session tickets, and wants the cluster's keys for that.
    fn wants_tickets(&self) -> bool {
        false
    }

    /// Takes the keys of session tickets, all that there are from now on.
    fn apply_tickets(&mut self, keys: &TicketKeys) {
        let _ = keys;
    }

    /// Takes a changed table. When the future is done, nothing that the table leaves out or drains is chosen for
    /// new work any more.
    fn apply_table(&mut self, table: &RoleTable) -> impl Future<Output = ()>;

    /// Work under way at the draining endpoints of the role, and at others where that is simpler; who is missing has none. Asked a
    /// hundred times a second while something drains: one pass over what the consumer has of the role.
    fn in_flight(&self, role: &Name) -> HashMap<EndpointId, u32>;
}

/// Whom to follow and as whom.
#[derive(Debug, Clone)]
pub struct Follow {
    /// The sidecar's socket.
    pub path: PathBuf,
    /// What the consumer calls itself in the sidecar's log.
    pub name: String,
    /// The roles to follow; `*` for all.
    pub roles: Vec<String>,
}

impl Follow {
    /// Follows for ever: this future never completes. Dropping it ends the subscription.
    pub async fn run(self, mut consumer: impl Consumer) -> std::convert::Infallible {
        let mut subscriber = Subscriber::default();
        let mut pause = REDIAL_PAUSE_MIN;
        let mut complained = false;
        loop {
            let dialled = Instant::now();
            let ended = match UnixStream::connect(&self.path).await {
                Ok(socket) => self.connected(socket, &mut subscriber, &mut consumer).await,
                Err(error) => Err(error.into()),
            };
            if dialled.elapsed() >= CONNECTION_TIME_MIN {
                (pause, complained) = (REDIAL_PAUSE_MIN, false);
            }
            if let Err(error) = ended
                && !complained
            {
                let feed = self.path.display();
                if subscriber.tables().is_empty() {
                    tracing::warn!(%feed, %error, "no feed yet, waiting for the sidecar");
                } else {
                    tracing::warn!(%feed, %error, "feed down, serving with the last tables");
                }
                complained = true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REDIAL_PAUSE_MAX);
        }
    }

    async fn connected(
        &self,
        socket: UnixStream,
        subscriber: &mut Subscriber,
        consumer: &mut impl Consumer,
    ) -> Result<(), FeedError> {
        let mut socket = Framed::new(socket, ConsumerCodec::default());
        subscriber.handle_connected();
        let (name, roles) = (self.name.clone(), self.roles.clone());
        let hello = ConsumerHello { version: VERSION, name, roles, tickets: consumer.wants_tickets() };
        socket.send(ToSidecar::Hello(hello)).await?;
        let mut receipts = Receipts::default();
        loop {
            let frame = tokio::select! {
                frame = socket.next() => Some(frame.ok_or(FeedError::Closed)??),
                () = tokio::time::sleep(DRAIN_LOOK_PERIOD), if receipts.has_draining() => None,
            };
            if let Some(frame) = frame {
                let is_synced = matches!(frame, FromSidecar::Synced { .. });
                receipts.note_frame(&frame, subscriber.tables());
                match subscriber.handle_frame(frame)? {
                    Change::Greeted(hello) => consumer.handle_hello(&hello),
                    Change::Tickets(keys) => consumer.apply_tickets(&keys),
                    Change::Tables(tables) => {
                        for table in &tables {
                            consumer.apply_table(table).await;
                        }
                    }
                }
                if is_synced {
                    consumer.handle_synced();
                }
            }
            for receipt in receipts.take_due(subscriber.tables(), consumer) {
                socket.feed(ToSidecar::Applied(receipt)).await?;
            }
            socket.flush().await?;
        }
    }
}

/// What a connection's sidecar has been told. Each frame concerns one role, and so do the receipts that follow from it: to look through
/// all roles after each frame would take a sidecar with thousands of them seconds to introduce.
#[derive(Debug, Default)]
struct Receipts {
    sent: BTreeMap<Name, Applied>,
    /// The roles whose draining endpoints have work under way.
    draining: BTreeSet<Name>,
    /// The roles that were heard of since the last receipts.
    heard: Vec<Name>,
}

impl Receipts {
    /// Whether the counts are to be looked at again soon.
    fn has_draining(&self) -> bool {
        !self.draining.is_empty()
    }

    /// Takes note of whose receipts may follow from a frame. With `synced` the picture is complete, and that is everybody of whom the
    /// consumer has a table: those included that are emptied by it.
    fn note_frame(&mut self, frame: &FromSidecar, tables: &BTreeMap<Name, RoleTable>) {
        match frame {
            FromSidecar::Table(table) => self.heard.push(table.role().clone()),
            FromSidecar::Synced { .. } => self.heard.extend(tables.keys().cloned()),
            _ => {}
        }
    }

    /// The receipts that say anything new.
    fn take_due(&mut self, tables: &BTreeMap<Name, RoleTable>, consumer: &impl Consumer) -> Vec<Applied> {
        let heard = std::mem::take(&mut self.heard);
        let roles = std::mem::take(&mut self.draining).into_iter().chain(heard);
        let tables = roles.filter_map(|role| tables.get(&role));
        let receipts = tables.map(|table| receipt(table, consumer));
        let note = |receipt: Applied| {
            if receipt.draining.iter().any(|draining| draining.in_flight > 0) {
                self.draining.insert(receipt.role.clone());
            }
            let known = self.sent.insert(receipt.role.clone(), receipt.clone());
            (known.as_ref() != Some(&receipt)).then_some(receipt)
        };
        receipts.filter_map(note).collect()
    }
}

fn receipt(table: &RoleTable, consumer: &impl Consumer) -> Applied {
    let mut draining = table.draining().peekable();
    // Most tables have none, and the consumer need not look.
    let in_flight = draining.peek().map(|_| consumer.in_flight(table.role())).unwrap_or_default();
    let count = |id: EndpointId| InFlight::new(id, in_flight.get(&id).copied().unwrap_or(0));
    Applied {
        role: table.role().clone(),
        generation: table.generation(),
        draining: draining.map(|endpoint| count(endpoint.id())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{EndpointState, table::tests::endpoint};

    /// Counts how often it is asked.
    #[derive(Default)]
    struct Busy {
        in_flight: HashMap<EndpointId, u32>,
        asked: Cell<usize>,
    }

    impl Consumer for Busy {
        async fn apply_table(&mut self, _: &RoleTable) {}

        fn in_flight(&self, _: &Name) -> HashMap<EndpointId, u32> {
            self.asked.update(|asked| asked + 1);
            self.in_flight.clone()
        }
    }

    fn table(role: &str, generation: u64, endpoints: Vec<crate::Endpoint>) -> RoleTable {
        RoleTable::new(role.parse().unwrap(), generation, endpoints)
    }

    /// What follows from this frame, once these are the tables.
    fn receipts(
        receipts: &mut Receipts,
        frame: &FromSidecar,
        tables: &BTreeMap<Name, RoleTable>,
        busy: &Busy,
    ) -> Vec<Applied> {
        receipts.note_frame(frame, tables);
        receipts.take_due(tables, busy)
    }

    #[test]
    fn a_frame_costs_its_own_role_only_however_many_there_are() {
        let (mut told, busy) = (Receipts::default(), Busy::default());
        let mut draining = endpoint("a", 1);
        draining.state = EndpointState::Draining;
        let all = (0..100).map(|n| table(&format!("role{n}"), 1, vec![draining.clone()]));
        let mut tables = BTreeMap::new();
        for table in all {
            tables.insert(table.role().clone(), table.clone());
            assert_eq!(receipts(&mut told, &FromSidecar::Table(table), &tables, &busy).len(), 1);
        }
        assert_eq!(busy.asked.get(), 100);
        let synced = FromSidecar::Synced { epoch: 1 };
        assert!(receipts(&mut told, &synced, &tables, &busy).is_empty(), "they are told already");
        assert_eq!(busy.asked.get(), 200);
    }

    #[test]
    fn what_is_under_way_at_draining_endpoints_is_told_until_it_is_over_twins_apart() {
        let drains = |addr: &str| crate::Endpoint {
            addr: addr.parse().unwrap(),
            state: EndpointState::Draining,
            ..endpoint(&addr.replace(['.', ':'], "-"), 1)
        };
        let twins = [drains("10.0.0.1:80"), drains("10.0.0.2:80")];
        let (mut told, mut busy) = (Receipts::default(), Busy::default());
        let app = table("app", 7, twins.to_vec());
        let tables = BTreeMap::from([(app.role().clone(), app.clone())]);
        busy.in_flight.insert(twins[1].id(), 3);
        let first = receipts(&mut told, &FromSidecar::Table(app), &tables, &busy);
        let counts = [InFlight::new(twins[0].id(), 0), InFlight::new(twins[1].id(), 3)];
        assert_eq!((first[0].generation, &first[0].draining[..]), (7, &counts[..]));
        assert!(told.has_draining() && told.take_due(&tables, &busy).is_empty(), "nothing new");
        busy.in_flight.clear();
        let last = told.take_due(&tables, &busy);
        assert!(last[0].draining.iter().all(|draining| draining.in_flight == 0) && !told.has_draining());
        assert!(told.take_due(&tables, &busy).is_empty());
    }
}
