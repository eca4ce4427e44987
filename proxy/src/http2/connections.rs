//! The connections of one worker to one upstream that speaks HTTP/2: few, kept, each with as many streams as both sides bear.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{
    Ping, PingPong,
    client::{Connection as Driver, SendRequest},
};
use http::uri::Scheme;
use tokio::{
    sync::Notify,
    task::spawn_local,
    time::{Instant, sleep},
};

use super::{
    listened::{FLOOD, Listened},
    origin::{read_request, relay, send_request},
    silence::{Silence, Turn},
};
use crate::{
    certificates::Seal,
    config::Address,
    deadline::within,
    dial::connect,
    error::AttemptFailure,
    limits::{
        H2_HEADERS_BYTES_MAX, H2_ORIGIN_ACK_TIMEOUT, H2_ORIGIN_CONNECTION_WINDOW_BYTES,
        H2_ORIGIN_STREAM_WINDOW_BYTES, H2_ORIGIN_STREAMS_COUNT_MAX, H2_SEND_BUFFER_BYTES_MAX,
    },
    link::{Link, Progress},
    socket::Socket,
    stats::Stats,
    stream::{Io, Memory, memory, tls::Shelves},
};

/// How often a request is given to another connection because the one that it was given to has begun to end.
const TURNS_COUNT_MAX: usize = 3;

/// Whom to connect to, and how.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) addr: Address,
    /// By what it is sealed; by nothing, if it is plain.
    pub(crate) seal: Option<Rc<Seal>>,
    pub(crate) shelf: Rc<Shelves>,
    /// How long a connection may take until it has room for a stream.
    pub(crate) patience: Duration,
    /// On the worker's clock.
    pub(crate) now_ms: u64,
    pub(crate) stats: Arc<Stats>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: RefCell<Vec<Rc<Connection>>>,
    /// The one that is being made.
    attempt: RefCell<Option<Rc<Attempt>>>,
    /// There is room, or an attempt is over.
    news: Notify,
    /// None is kept any more for others than those who use it.
    is_closed: Cell<bool>,
}

/// One that is being made.
#[derive(Debug)]
struct Attempt {
    failure: Cell<Option<AttemptFailure>>,
    seal: Option<Rc<Seal>>,
}

/// One that is made; it ends when nobody has a stream of it and it is not kept.
struct Connection {
    sender: SendRequest<Bytes>,
    seal: Option<Rc<Seal>>,
    streams_count: Cell<usize>,
    /// As many as the upstream bears at a time.
    streams_max: Cell<usize>,
    /// When a stream began there last.
    used_ms: Cell<u64>,
    is_used: Cell<bool>,
    silence: Rc<RefCell<Silence>>,
    /// It has not answered a ping, and ends.
    is_silent: Rc<Cell<bool>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("streams_count", &self.streams_count).finish_non_exhaustive()
    }
}

impl Connection {
    fn has_room(&self) -> bool {
        self.streams_count.get() < self.streams_max.get().min(H2_ORIGIN_STREAMS_COUNT_MAX as usize)
    }

    /// Another plan may have had others: what was trusted then need not be trusted now.
    fn is_sealed_as(&self, origin: &Origin) -> bool {
        is_same(self.seal.as_ref(), origin.seal.as_ref())
    }

    /// It may have other streams: the upstream has not said that it ends.
    fn is_lasting(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(self.sender.clone().poll_ready(&mut context), Poll::Ready(Ok(())))
    }
}

fn is_same(one: Option<&Rc<Seal>>, other: Option<&Rc<Seal>>) -> bool {
    one.map(Rc::as_ptr) == other.map(Rc::as_ptr)
}

/// Room for one stream; it is given back when this is dropped.
struct Slot {
    connection: Rc<Connection>,
    connections: Rc<Connections>,
    /// Others had streams there before.
    is_reused: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.streams_count.update(|count| count - 1);
        if self.connections.is_closed.get() {
            self.connections.sweep(u64::MAX);
        }
        self.connections.news.notify_waiters();
    }
}

impl Connections {
    /// A stream for one exchange, whose head is yet to come. There may be no connection for it: see [`Link::poll_connected`].
    pub(crate) fn open(self: &Rc<Self>, origin: Origin) -> Link {
        let (near, far) = memory::pair();
        let progress = Rc::<Progress>::default();
        spawn_local(self.clone().serve(origin, far, progress.clone()));
        Link::stream(near, progress)
    }

    /// Lets those go that nobody uses, and nobody has begun to use since `oldest_ms`.
    pub(crate) fn sweep(&self, oldest_ms: u64) {
        let is_kept = |it: &Rc<Connection>| it.streams_count.get() > 0 || it.used_ms.get() >= oldest_ms;
        self.open.borrow_mut().retain(is_kept);
    }

    /// Keeps none any longer than its streams last.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        self.sweep(u64::MAX);
    }

    async fn serve(self: Rc<Self>, origin: Origin, mut exchange: Memory, progress: Rc<Progress>) {
        let taken = tokio::select! {
            biased;
            // Nothing of the request comes before there is a connection.
            () = poll_fn(|context| exchange.poll_ended(context)) => return,
            taken = self.take(&origin) => taken,
        };
        let mut slot = match taken {
            Ok(slot) => slot,
            Err(failure) => return progress.fail(failure),
        };
        progress.note_connection(slot.is_reused);
        let (exchange, mut bytes) = (RefCell::new(exchange), BytesMut::new());
        let scheme = if origin.seal.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let Some(asked) = read_request(&exchange, &mut bytes, scheme).await else { return };
        for _ in 0..TURNS_COUNT_MAX {
            if let Ok(sent) = send_request(slot.connection.sender.clone(), &asked) {
                let is_silent = slot.connection.is_silent.clone();
                return relay(&exchange, bytes, (asked, sent), (&progress, &is_silent)).await;
            }
            match self.take(&origin).await {
                Ok(other) => slot = other,
                Err(_) => break,
            }
        }
        progress.note_unprocessed();
        exchange.borrow().abort();
    }

    /// Room for a stream, at a new connection if need be.
    async fn take(self: &Rc<Self>, origin: &Origin) -> Result<Slot, AttemptFailure> {
        loop {
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            if let Some(slot) = self.slot(origin) {
                return Ok(slot);
            }
            let attempt = self.attempt(origin);
            news.await;
            // Of one that was sealed otherwise, by the plan before, nothing follows for this one.
            if let Some(failure) = attempt.failure.get()
                && is_same(attempt.seal.as_ref(), origin.seal.as_ref())
            {
                return Err(failure);
            }
        }
    }

    /// Room for a stream at a connection that there is.
    fn slot(self: &Rc<Self>, origin: &Origin) -> Option<Slot> {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| connection.is_lasting());
        let connection =
            open.iter().find(|connection| connection.has_room() && connection.is_sealed_as(origin))?;
        let connection = connection.clone();
        if connection.streams_count.replace(connection.streams_count.get() + 1) == 0 {
            connection.silence.borrow_mut().begin(Instant::now());
        }
        connection.used_ms.set(origin.now_ms);
        let is_reused = connection.is_used.replace(true);
        Some(Slot { connection, connections: self.clone(), is_reused })
    }

    /// The attempt that is under way, which is begun if there is none.
    fn attempt(self: &Rc<Self>, origin: &Origin) -> Rc<Attempt> {
        let begin = || {
            let attempt = Rc::new(Attempt { failure: Cell::default(), seal: origin.seal.clone() });
            spawn_local(self.clone().run(attempt.clone(), origin.clone()));
            attempt
        };
        self.attempt.borrow_mut().get_or_insert_with(begin).clone()
    }

    /// Makes a connection, and serves it to its end.
    async fn run(self: Rc<Self>, attempt: Rc<Attempt>, origin: Origin) {
        let made = within(origin.patience, make(&origin)).await;
        let (connection, mut driver) = match made.unwrap_or(Err(AttemptFailure::ConnectTimeout)) {
            Ok(made) => made,
            Err(failure) => {
                attempt.failure.set(Some(failure));
                return self.end_attempt();
            }
        };
        let kept: Weak<Connection> = Rc::downgrade(&connection);
        let (silence, is_silent) = (connection.silence.clone(), connection.is_silent.clone());
        let given_up = watch(kept.clone(), silence, driver.ping_pong());
        self.open.borrow_mut().push(connection);
        self.end_attempt();
        // Those who waited take their streams first.
        tokio::task::yield_now().await;
        if self.is_closed.get() {
            self.sweep(u64::MAX);
        }
        let ended = poll_fn(|context| {
            let polled = Pin::new(&mut driver).poll(context);
            if let Some(connection) = kept.upgrade() {
                let streams_max = driver.max_concurrent_send_streams();
                if connection.streams_max.replace(streams_max) < streams_max {
                    self.news.notify_waiters();
                }
            }
            polled
        });
        tokio::select! {
            biased;
            ended = ended => match ended {
                Err(error) if error.get_io().is_some_and(|error| error.kind() == FLOOD) => {
                    tracing::info!(addr = %origin.addr, %error, "an upstream has had enough: its connection is given up");
                }
                Err(error) => {
                    tracing::debug!(addr = %origin.addr, %error, "a connection of HTTP/2 to an upstream has ended");
                }
                Ok(()) => {}
            },
            () = given_up => {
                tracing::info!(addr = %origin.addr, "an upstream has answered no ping: its connection is given up");
                is_silent.set(true);
            }
        }
        // Whoever has a stream there hears of it now.
        drop(driver);
        self.open.borrow_mut().retain(|other| !std::ptr::eq(Rc::as_ptr(other), kept.as_ptr()));
        self.news.notify_waiters();
    }

    fn end_attempt(&self) {
        self.attempt.take();
        self.news.notify_waiters();
    }
}

/// Pings an upstream that says nothing while it has streams; over when it does not answer.
async fn watch(kept: Weak<Connection>, silence: Rc<RefCell<Silence>>, pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        let has_streams = kept.upgrade().is_some_and(|connection| connection.streams_count.get() > 0);
        let turn = silence.borrow_mut().turn(Instant::now(), has_streams);
        match turn {
            Turn::GiveUp => return,
            // It ends anyway if it takes none.
            Turn::Ping => drop(pings.send_ping(Ping::opaque())),
            Turn::Wait(time) => tokio::select! {
                answered = poll_fn(|context| pings.poll_pong(context)) => match answered {
                    Ok(_) => silence.borrow_mut().answer(),
                    // The connection is over, as whoever drives it sees.
                    Err(_) => return std::future::pending().await,
                },
                () = sleep(time) => {}
            },
        }
    }
}

/// Makes a connection and waits until the upstream has said how many streams it bears.
async fn make(origin: &Origin) -> Result<(Rc<Connection>, Driver<Listened, Bytes>), AttemptFailure> {
    origin.stats.connects.add(1);
    let socket = connect(&origin.addr).map_err(|error| AttemptFailure::of_connect(&error))?;
    let mut link = Link::begin(socket, origin.seal.as_ref(), &origin.shelf)?;
    poll_fn(|context| link.poll_connected(context)).await?;
    if let Some(options) = link.socket().and_then(Socket::options) {
        // A socket at a file has no such thing, and no network either.
        let _ = options.set_tcp_user_timeout(Some(H2_ORIGIN_ACK_TIMEOUT));
    }
    let refused = |error: h2::Error| {
        tracing::debug!(addr = %origin.addr, %error, "an upstream does not speak HTTP/2");
        AttemptFailure::Handshake
    };
    let silence = Rc::new(RefCell::new(Silence::new(Instant::now())));
    let handshake = builder().handshake(Listened::new(Io::new(link), silence.clone()));
    let (sender, mut driver) = handshake.await.map_err(refused)?;
    let streams_max = poll_fn(|context| {
        if let Poll::Ready(ended) = Pin::new(&mut driver).poll(context) {
            return Poll::Ready(Err(ended.err()));
        }
        match driver.max_concurrent_send_streams() {
            0 => Poll::Pending,
            streams_max => Poll::Ready(Ok(streams_max)),
        }
    });
    let streams_max = streams_max.await.map_err(|error| match error {
        Some(error) => refused(error),
        None => AttemptFailure::Handshake,
    })?;
    let connection = Connection {
        sender,
        seal: origin.seal.clone(),
        streams_count: Cell::new(0),
        streams_max: Cell::new(streams_max),
        used_ms: Cell::new(origin.now_ms),
        is_used: Cell::new(false),
        silence,
        is_silent: Rc::default(),
    };
    Ok((Rc::new(connection), driver))
}

fn builder() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        // None, until the upstream has said how many it bears: those beyond would be refused.
        .initial_max_send_streams(0)
        .initial_window_size(H2_ORIGIN_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_ORIGIN_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(H2_HEADERS_BYTES_MAX)
        .max_send_buffer_size(H2_SEND_BUFFER_BYTES_MAX);
    builder
}

#[cfg(test)]
mod tests;
