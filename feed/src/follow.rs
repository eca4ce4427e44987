//! Following a sidecar for ever: dial, subscribe, hand tables to the consumer, report what it applied.
//!
//! While the socket is down the consumer keeps its last tables; the dial is repeated with backoff.

use std::{collections::BTreeMap, future::Future, path::PathBuf, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::net::UnixStream;
use tokio_util::codec::Framed;

use crate::{
    Name, RoleTable,
    frame::{Applied, ConsumerCodec, ConsumerHello, FeedError, InFlight, SidecarHello, ToSidecar, VERSION},
    subscriber::{Change, Subscriber},
};

/// First pause before dialling again; doubles up to [`REDIAL_PAUSE_MAX`]. A sidecar restarts in tens of
/// milliseconds, and a connect to a missing socket costs two system calls.
const REDIAL_PAUSE_MIN: Duration = Duration::from_millis(20);
const REDIAL_PAUSE_MAX: Duration = Duration::from_millis(500);

/// How often in-flight counts are looked at while something drains: the delay that a drain adds at most.
const DRAIN_LOOK_PERIOD: Duration = Duration::from_millis(10);

/// A program that acts on tables.
pub trait Consumer {
    /// The sidecar introduced itself.
    fn handle_hello(&mut self, hello: &SidecarHello) {
        let _ = hello;
    }

    /// Takes a changed table. When the future is done, nothing that the table leaves out or drains is chosen for
    /// new work any more.
    fn apply_table(&mut self, table: &RoleTable) -> impl Future<Output = ()>;

    /// Work under way at this endpoint.
    fn in_flight(&self, role: &Name, instance: u64) -> u32;
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
            let ended = match UnixStream::connect(&self.path).await {
                Ok(socket) => {
                    let ended = self.connected(socket, &mut subscriber, &mut consumer, &mut pause).await;
                    complained = false;
                    ended
                }
                Err(error) => Err(error.into()),
            };
            if let Err(error) = ended
                && !complained
            {
                tracing::warn!(feed = %self.path.display(), %error, "feed down, serving with the last tables");
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
        pause: &mut Duration,
    ) -> Result<(), FeedError> {
        let mut socket = Framed::new(socket, ConsumerCodec::default());
        subscriber.handle_connected();
        let hello = ConsumerHello { version: VERSION, name: self.name.clone(), roles: self.roles.clone() };
        socket.send(ToSidecar::Hello(hello)).await?;
        let mut reported: BTreeMap<Name, Applied> = BTreeMap::new();
        loop {
            let draining = reported.values().any(|r| r.draining.iter().any(|d| d.in_flight > 0));
            let frame = tokio::select! {
                frame = socket.next() => Some(frame.ok_or(FeedError::Closed)??),
                () = tokio::time::sleep(DRAIN_LOOK_PERIOD), if draining => None,
            };
            match frame.map(|frame| subscriber.handle_frame(frame)).transpose()? {
                Some(Change::Greeted(hello)) => {
                    consumer.handle_hello(&hello);
                    *pause = REDIAL_PAUSE_MIN;
                }
                Some(Change::Tables(tables)) => {
                    for table in &tables {
                        consumer.apply_table(table).await;
                    }
                }
                None => {}
            }
            for table in subscriber.tables().values() {
                let now = receipt(table, consumer);
                if reported.get(table.role()) != Some(&now) {
                    reported.insert(table.role().clone(), now.clone());
                    socket.send(ToSidecar::Applied(now)).await?;
                }
            }
        }
    }
}

fn receipt(table: &RoleTable, consumer: &impl Consumer) -> Applied {
    let in_flight = |instance| consumer.in_flight(table.role(), instance);
    Applied {
        role: table.role().clone(),
        generation: table.generation(),
        draining: table
            .draining()
            .map(|e| InFlight { instance: e.instance, in_flight: in_flight(e.instance) })
            .collect(),
    }
}
