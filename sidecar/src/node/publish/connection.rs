//! One connection to the feed, from its first line to its end: a consumer's, or a question's.

use std::collections::BTreeMap;

use feed::{
    FromSidecar, Name, RoleTable, Tags, ToSidecar,
    frame::{ConsumerHello, FeedError, QUESTION_BYTES_MAX, RECEIPT_BYTES_MAX, SidecarCodec, VERSION, Wait},
    ticket::TicketKeys,
};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::UnixStream,
    sync::{broadcast, mpsc, oneshot},
    time::{Duration, Instant, timeout},
};
use tokio_util::codec::Framed;

use super::{Board, Request, Subscription};
use crate::{
    cluster::advert::{FOLLOWED_ROLES_MAX, Follows},
    node::{
        key_orders::Order,
        link::unix_ms,
        seats::{Seat, Standing},
    },
};

/// How long a connection may take to say what it wants.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Changes that a monitor may lag behind before it is cut off.
const MONITOR_LAG_MAX: usize = 4096;
/// As much of what a consumer calls itself is kept, and of what was wrong with a frame.
const CONSUMER_CHARS_MAX: usize = 64;
const WHY_CHARS_MAX: usize = 200;

type Connection = Framed<UnixStream, SidecarCodec>;

impl Board {
    /// Serves whoever came, to the end.
    pub(super) async fn serve_connection(&self, socket: UnixStream, seat: &Seat<i32>) {
        let mut connection = Framed::new(socket, SidecarCodec::with_line_max(QUESTION_BYTES_MAX));
        let outcome = match timeout(FIRST_FRAME_TIMEOUT, connection.next()).await {
            Ok(Some(Ok(frame))) => {
                seat.note(Standing::Spoke);
                self.serve_frame(&mut connection, frame, seat).await
            }
            Ok(Some(Err(error))) => Err(error),
            Ok(None) => Ok(()),
            Err(_) => Err(FeedError::OutOfPlace("nothing said")),
        };
        match outcome {
            Ok(()) | Err(FeedError::Io(_) | FeedError::Closed) => {}
            Err(error) => {
                let why: String = error.to_string().chars().take(WHY_CHARS_MAX).collect();
                self.warn(&why);
                let _ = connection.send(FromSidecar::Refused { why }).await;
            }
        }
    }

    async fn serve_frame(
        &self,
        connection: &mut Connection,
        frame: ToSidecar,
        seat: &Seat<i32>,
    ) -> Result<(), FeedError> {
        match frame {
            ToSidecar::Hello(hello) => {
                let subscribed = Subscribed::new(self, &hello)?;
                *connection.codec_mut() = SidecarCodec::with_line_max(RECEIPT_BYTES_MAX);
                self.serve_consumer(connection, subscribed.id, hello.tickets, seat).await
            }
            ToSidecar::Members { role, tags } => {
                let mut members = self.members.borrow().clone();
                members.retain(|member| role.as_ref().is_none_or(|role| member.role == *role));
                members.retain(|member| member.tags.include(&tags));
                connection.send(FromSidecar::Members(members)).await
            }
            ToSidecar::Tags { set, delete } => {
                let tags = self.change_tags(set, &delete)?;
                connection.send(FromSidecar::Tags(tags)).await
            }
            ToSidecar::Monitor {} => self.serve_monitor(connection).await,
            question @ (ToSidecar::Event { .. }
            | ToSidecar::Query(_)
            | ToSidecar::ForceLeave { .. }
            | ToSidecar::Explain { .. }
            | ToSidecar::Health {}) => self.serve_question(connection, question).await,
            ToSidecar::Wait(wish) if wish.everywhere => {
                self.serve_question(connection, ToSidecar::Wait(wish)).await
            }
            ToSidecar::Wait(wish) => self.serve_wait(connection, &wish).await,
            ToSidecar::Leave {} => {
                let _ = self.requests.send(Request::Leave);
                connection.send(FromSidecar::Leaving {}).await
            }
            ToSidecar::Upgrade { timeout_ms } => {
                let (answers, heard) = mpsc::unbounded_channel();
                let patience = Duration::from_millis(timeout_ms);
                let _ = self.requests.send(Request::Upgrade(patience, answers));
                pass_answers(connection, heard).await
            }
            ToSidecar::Stats {} => {
                let (reply, stats) = oneshot::channel();
                let _ = self.requests.send(Request::Stats(reply));
                connection.send(FromSidecar::Stats(stats.await.map_err(|_| FeedError::Closed)?)).await
            }
            ToSidecar::Recall { id } => {
                let (reply, account) = oneshot::channel();
                let _ = self.requests.send(Request::Recall(id.into(), reply));
                connection.send(FromSidecar::Recalled(account.await.map_err(|_| FeedError::Closed)?)).await
            }
            ToSidecar::Keys(asked) => {
                let order = Order::parse(&asked).map_err(FeedError::Refused)?;
                let (reply, answers) = oneshot::channel();
                let _ = self.requests.send(Request::Keys(order, reply));
                connection.send(FromSidecar::Keys(answers.await.map_err(|_| FeedError::Closed)?)).await
            }
            ToSidecar::Applied(_) => Err(FeedError::OutOfPlace("applied before hello")),
        }
    }

    fn change_tags(&self, set: Tags, delete: &[String]) -> Result<Tags, FeedError> {
        let mut own = self.labels.borrow_mut();
        *own = own.changed(set, delete).map_err(|error| FeedError::Refused(error.to_string()))?;
        let _ = self.requests.send(Request::Labels(own.clone()));
        Ok(own.tags().clone())
    }

    async fn serve_consumer(
        &self,
        connection: &mut Connection,
        id: u64,
        wants_tickets: bool,
        seat: &Seat<i32>,
    ) -> Result<(), FeedError> {
        let mut epoch = self.epoch.subscribe();
        let mut sent: BTreeMap<Name, u64> = BTreeMap::new();
        let (mut said_synced, mut looked) = (false, None);
        let mut said_tickets: Option<TicketKeys> = None;
        connection.send(FromSidecar::Hello(self.hello.clone())).await?;
        loop {
            let now = *epoch.borrow_and_update();
            if wants_tickets && *self.tickets.borrow() != said_tickets {
                said_tickets.clone_from(&self.tickets.borrow());
                if let Some(keys) = said_tickets.clone() {
                    connection.send(FromSidecar::Tickets(keys)).await?;
                }
            }
            // A receipt is no news of any table, and there is one for each.
            let tables = Some((self.tables_published.get(), self.synced.get()));
            if looked != tables {
                looked = tables;
                for table in self.news(id, &mut sent) {
                    connection.send(FromSidecar::Table(table)).await?;
                }
            }
            if self.synced.get() && !said_synced && (!wants_tickets || said_tickets.is_some()) {
                said_synced = true;
                connection.send(FromSidecar::Synced { epoch: now }).await?;
            }
            tokio::select! {
                frame = connection.next() => match frame {
                    None => return Ok(()),
                    Some(Ok(ToSidecar::Applied(applied))) => if self.apply_receipt(id, applied) {
                        seat.note(Standing::Proven);
                    },
                    Some(Ok(_)) => return Err(FeedError::OutOfPlace("a question after hello")),
                    Some(Err(error)) => return Err(error),
                },
                _ = epoch.changed() => {}
            }
        }
    }

    /// The followed tables that are newer than what was sent. A role that is followed by name and unknown to a sidecar
    /// that knows the cluster counts as empty, so that the picture is complete with `synced`.
    fn news(&self, id: u64, sent: &mut BTreeMap<Name, u64>) -> Vec<RoleTable> {
        let tables = self.tables.borrow();
        let subscriptions = self.subscriptions.borrow();
        let Some(subscription) = subscriptions.get(&id) else { return Vec::new() };
        let known = tables.values().filter(|table| subscription.follows.includes(table.role())).cloned();
        let unknown = match &subscription.follows {
            Follows::Roles(roles) if self.synced.get() => roles.as_slice(),
            _ => &[],
        };
        let unknown = unknown.iter().filter(|role| !tables.contains_key(*role) && !sent.contains_key(*role));
        let empty = unknown.map(|role| RoleTable::new(role.clone(), 0, Vec::new()));
        let news =
            known.chain(empty).filter(|t| sent.get(t.role()).is_none_or(|sent| *sent < t.generation()));
        let news: Vec<RoleTable> = news.collect();
        sent.extend(news.iter().map(|table| (table.role().clone(), table.generation())));
        news
    }

    async fn serve_monitor(&self, connection: &mut Connection) -> Result<(), FeedError> {
        let mut changes = self.changes.get_or_init(|| broadcast::Sender::new(MONITOR_LAG_MAX)).subscribe();
        let members = self.members.borrow().clone();
        for member in members {
            connection.send(FromSidecar::Change(member)).await?;
        }
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(news) => connection.send(news).await?,
                    Err(_) => return Err(FeedError::OutOfPlace("a monitor that reads too slowly")),
                },
                frame = connection.next() => return match frame {
                    None => Ok(()),
                    Some(_) => Err(FeedError::OutOfPlace("a frame while monitoring")),
                },
            }
        }
    }

    /// Passes a question on, and its answers back, until there are no more or the asker is gone.
    async fn serve_question(
        &self,
        connection: &mut Connection,
        question: ToSidecar,
    ) -> Result<(), FeedError> {
        let to = self.next_id();
        let (answers, heard) = mpsc::unbounded_channel();
        let _ = self.requests.send(Request::Question { to, question, answers });
        let _asked = Asked { board: self, to };
        pass_answers(connection, heard).await
    }

    async fn serve_wait(&self, connection: &mut Connection, wish: &Wait) -> Result<(), FeedError> {
        let asked = Instant::now();
        let mut epoch = self.epoch.subscribe();
        while !self.fulfils(wish) {
            tokio::select! {
                _ = epoch.changed() => {}
                frame = connection.next() => return match frame {
                    None => Ok(()),
                    Some(_) => Err(FeedError::OutOfPlace("a frame while waiting")),
                },
            }
        }
        let after_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        connection.send(FromSidecar::Waited { after_ms }).await
    }
}

async fn pass_answers(
    connection: &mut Connection,
    mut heard: mpsc::UnboundedReceiver<FromSidecar>,
) -> Result<(), FeedError> {
    loop {
        tokio::select! {
            answer = heard.recv() => match answer {
                Some(answer) => connection.send(answer).await?,
                None => return Ok(()),
            },
            frame = connection.next() => return match frame {
                None => Ok(()),
                Some(_) => Err(FeedError::OutOfPlace("a frame after a question")),
            },
        }
    }
}

/// A consumer's subscription, for as long as its connection is served.
struct Subscribed<'a> {
    board: &'a Board,
    id: u64,
    consumer: String,
}

impl<'a> Subscribed<'a> {
    fn new(board: &'a Board, hello: &ConsumerHello) -> Result<Self, FeedError> {
        let follows = accept_hello(hello)?;
        let consumer: String = hello.name.chars().take(CONSUMER_CHARS_MAX).collect();
        let first = &hello.roles[..hello.roles.len().min(FOLLOWED_ROLES_MAX)];
        tracing::info!(consumer, roles = ?first, count = hello.roles.len(), "feed consumer came");
        let subscription = Subscription {
            name: consumer.clone(),
            seen_ms: BTreeMap::new(),
            since_ms: unix_ms(),
            follows,
            wants_tickets: hello.tickets,
            applied: BTreeMap::new(),
        };
        let id = board.next_id();
        board.subscriptions.borrow_mut().insert(id, subscription);
        if hello.tickets {
            board.bump();
        }
        let _ = board.requests.send(Request::Consumers);
        Ok(Self { board, id, consumer })
    }
}

impl Drop for Subscribed<'_> {
    fn drop(&mut self) {
        self.board.subscriptions.borrow_mut().remove(&self.id);
        self.board.bump();
        let _ = self.board.requests.send(Request::Consumers);
        tracing::info!(consumer = self.consumer, "feed consumer went");
    }
}

/// A question that the membership works on, for as long as somebody waits for its answers.
struct Asked<'a> {
    board: &'a Board,
    to: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let _ = self.board.requests.send(Request::Withdrawn(self.to));
    }
}

fn accept_hello(hello: &ConsumerHello) -> Result<Follows, FeedError> {
    if hello.version != VERSION {
        return Err(FeedError::Version { theirs: hello.version });
    }
    if hello.roles.iter().any(|role| role == "*") {
        return Ok(Follows::All);
    }
    let roles: Result<Vec<Name>, _> = hello.roles.iter().map(|role| role.parse()).collect();
    roles.map(Follows::Roles).map_err(|error: feed::name::NotAName| FeedError::Refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use feed::{
        Endpoint, EndpointState,
        frame::{Applied, ConsumerCodec, InFlight},
    };
    use futures_util::FutureExt;
    use tokio::{net::UnixListener, task::LocalSet};

    use super::*;
    use crate::cluster::labels::Labels;
    use crate::node::publish::{CONNECTIONS_MAX, CONNECTIONS_SHARE, Publisher};
    use crate::node::seats::Limits;

    struct Scene {
        publisher: Publisher,
        path: std::path::PathBuf,
        _dir: tempfile::TempDir,
        _requests: mpsc::UnboundedReceiver<Request>,
    }

    type Client = Framed<UnixStream, ConsumerCodec>;

    impl Scene {
        /// A feed with one table, of which an endpoint drains.
        fn start() -> Self {
            let (requests, _requests) = mpsc::unbounded_channel();
            let node = "node".parse().unwrap();
            let publisher = Publisher::new(node, "default".into(), Labels::default(), requests);
            let endpoint = Endpoint {
                node: "app1".parse().unwrap(),
                instance: 7,
                addr: "10.0.0.1:80".parse().unwrap(),
                state: EndpointState::Draining,
                weight: 100,
                since: 0.0,
                gossip_port: 1,
                tags: Tags::default(),
                routes: feed::Routes::default(),
                protocol: None,
            };
            publisher.publish_table(RoleTable::new("app".parse().unwrap(), 1, vec![endpoint]), None);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("feed.sock");
            tokio::task::spawn_local(publisher.clone().serve(UnixListener::bind(&path).unwrap()));
            Self { publisher, path, _dir: dir, _requests }
        }

        async fn dial(&self) -> Client {
            Framed::new(UnixStream::connect(&self.path).await.unwrap(), ConsumerCodec::default())
        }

        /// A consumer of everything that has heard of the table.
        async fn consumer(&self, name: &str) -> Client {
            let mut client = self.dial().await;
            let (name, roles) = (name.into(), vec!["*".into()]);
            let hello = ConsumerHello { version: VERSION, name, roles, tickets: false };
            client.send(ToSidecar::Hello(hello)).await.unwrap();
            while !matches!(client.next().await.unwrap().unwrap(), FromSidecar::Table(_)) {}
            client
        }
    }

    fn receipt(role: &str, instances: &[u64]) -> ToSidecar {
        let in_flight = |instance: &u64| InFlight { instance: *instance, addr: None, in_flight: 1 };
        let draining = instances.iter().map(in_flight).collect();
        ToSidecar::Applied(Applied { role: role.parse().unwrap(), generation: 1, draining })
    }

    #[tokio::test(flavor = "current_thread")]
    async fn silent_subscribers_of_one_process_are_in_each_others_way_alone() {
        LocalSet::new()
            .run_until(async {
                let scene = Scene::start();
                let mut proven = scene.consumer("proxy").await;
                proven.send(receipt("app", &[7])).await.unwrap();
                let share = Limits::within_descriptors(CONNECTIONS_MAX, CONNECTIONS_SHARE).of_source;
                let mut silent = Vec::new();
                for _ in 1..share {
                    silent.push(scene.consumer("silent").await);
                }
                let _one_more = scene.consumer("silent").await;
                assert!(silent[0].next().await.is_none(), "the one that was heard longest ago had to go");
                proven.send(receipt("app", &[])).await.unwrap();
                let mut asker = scene.dial().await;
                asker.send(ToSidecar::Members { role: None, tags: Tags::default() }).await.unwrap();
                assert!(matches!(asker.next().await, Some(Ok(FromSidecar::Members(_)))));
                let names: Vec<String> =
                    scene.publisher.0.subscriptions.borrow().values().map(|s| s.name.clone()).collect();
                assert_eq!((names.len(), names[0].as_str()), (share - 1, "proxy"));
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn ticket_keys_come_before_synced_to_who_asks_and_anew_when_they_change_and_to_nobody_else() {
        LocalSet::new()
            .run_until(async {
                let scene = Scene::start();
                scene.publisher.publish_synced();
                let mut other = scene.consumer("dns").await;
                let mut proxy = scene.dial().await;
                let (name, roles) = ("proxy".into(), Vec::new());
                let hello = ConsumerHello { version: VERSION, name, roles, tickets: true };
                proxy.send(ToSidecar::Hello(hello)).await.unwrap();
                scene.publisher.tickets_wanted().await;
                let keys = |lifetime_s| TicketKeys { lifetime_s, keys: Vec::new() };
                scene.publisher.publish_tickets(Some(keys(1)));
                let mut next = async || proxy.next().await.unwrap().unwrap();
                assert!(matches!(next().await, FromSidecar::Hello(_)));
                assert_eq!(next().await, FromSidecar::Tickets(keys(1)));
                assert!(matches!(next().await, FromSidecar::Synced { .. }));
                scene.publisher.publish_tickets(Some(keys(1)));
                scene.publisher.publish_tickets(Some(keys(2)));
                assert_eq!(next().await, FromSidecar::Tickets(keys(2)));
                assert!(matches!(other.next().await, Some(Ok(FromSidecar::Synced { .. }))));
                assert!(other.next().now_or_never().is_none());
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn no_more_is_kept_of_receipts_than_the_tables_have() {
        LocalSet::new()
            .run_until(async {
                let scene = Scene::start();
                let name = "n".repeat(CONSUMER_CHARS_MAX + 1);
                let mut consumer = scene.consumer(&name).await;
                for n in 0..100 {
                    consumer.send(receipt(&format!("unknown{n}"), &[n])).await.unwrap();
                }
                consumer.send(receipt("app", &[7, 7, 8])).await.unwrap();
                let mut epoch = scene.publisher.0.epoch.subscribe();
                let kept =
                    || scene.publisher.0.subscriptions.borrow().values().next().unwrap().applied.clone();
                while kept().is_empty() {
                    epoch.changed().await.unwrap();
                }
                let kept = kept();
                assert_eq!(kept.keys().map(Name::as_str).collect::<Vec<_>>(), ["app"]);
                assert_eq!(kept["app"].draining, [InFlight { instance: 7, addr: None, in_flight: 1 }]);
                let subscriptions = scene.publisher.0.subscriptions.borrow();
                assert_eq!(subscriptions.values().next().unwrap().name.len(), CONSUMER_CHARS_MAX);
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_first_line_at_its_limit_is_read_and_a_longer_one_refused() {
        LocalSet::new()
            .run_until(async {
                let scene = Scene::start();
                for (length, is_read) in [(QUESTION_BYTES_MAX, true), (QUESTION_BYTES_MAX + 1, false)] {
                    let mut client = scene.dial().await;
                    let question = "{\"members\":{}}";
                    let line = format!("{question}{}\n", " ".repeat(length - question.len()));
                    // It may be refused before it is all there.
                    let _ = tokio::io::AsyncWriteExt::write_all(client.get_mut(), line.as_bytes()).await;
                    let answer = client.next().await.unwrap().unwrap();
                    assert_eq!(matches!(answer, FromSidecar::Members(_)), is_read, "{answer:?}");
                }
            })
            .await;
    }
}
