//! A client's connection of HTTP/2: as many exchanges at a time as it has streams.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use h2::{
    Reason, RecvStream,
    server::{Connection, SendResponse},
};
use http::Request;
use tokio::{
    task::coop::{consume_budget, unconstrained},
    time::{sleep, timeout},
};

use super::{
    exchange::{Asked, StreamError, ask},
    interim::Interims,
    metered::{Found, Metered},
};
use crate::{
    error::Refusal,
    flood::Flood,
    limits::{
        H2_CONNECTION_WINDOW_BYTES, H2_DATA_SHORTFALL_BYTES_MAX, H2_HEADERS_BYTES_MAX,
        H2_LOCAL_RESETS_COUNT_MAX, H2_RESETS_COUNT_MAX, H2_SEND_BUFFER_BYTES_MAX, H2_STREAM_WINDOW_BYTES,
        H2_STREAMS_COUNT_MAX,
    },
    listen::target::Target,
    session::{client::Session, http::Http},
    stream::{Inner, Io, Memory, Stream, memory},
    worker::{Counted, Worker},
};

/// How long a client without streams may take to hear that its connection ends, and one that floods that it has had enough.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Room for the heads of most requests.
const HEAD_BYTES: usize = 512;

/// Who has connected, and to what.
pub(crate) struct Client {
    pub(crate) stream: Stream,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) target: Target,
}

/// Serves a connection until it ends, is idle for too long, or the proxy stops: then no stream that the client believes to be served is
/// lost, because it is told which was the last (RFC 9113 6.8).
pub(crate) async fn serve(counted: Counted, client: Client) {
    let worker = counted.worker().clone();
    let header = worker.settings().timeouts.header;
    let Client { stream, peer, target } = client;
    let certificate = stream.certificate().cloned();
    let found = Rc::<Found>::default();
    let metered = Metered::new(Io::new(stream), Rc::clone(&found), header);
    let handshake = builder().handshake::<_, Bytes>(metered);
    // In a place of its own, which is given back: every idle connection would keep the room.
    let Ok(Ok(mut connection)) = Box::pin(timeout(header, handshake)).await else {
        return worker.stats.clients_unheard.add(1);
    };
    let mut streams = Streams::new();
    let mut is_closing = false;
    loop {
        // While it has streams, these have times of their own.
        let patience = if is_closing { GOODBYE_TIMEOUT } else { worker.settings().timeouts.idle };
        tokio::select! {
            biased;
            turn = poll_fn(|context| poll_turn((&mut connection, &mut streams), &found, context)) => match turn {
                Ok(Some((request, respond))) => {
                    let mut head = BytesMut::with_capacity(HEAD_BYTES);
                    match ask(request, respond, &mut head) {
                        Ok(asked) => {
                            let (near, far) = memory::pair();
                            near.begin(head);
                            let inner = Inner { memory: far, certificate: certificate.clone() };
                            let client = (Stream::Memory(Box::new(inner)), peer);
                            let session = Session::new(client, Counted::new(worker.clone()), target.clone());
                            let exchange = Http::new(session);
                            streams.push(Served::new(exchange, asked, near, found.interims.clone(), (peer, worker.clone())));
                        }
                        Err(reject) => worker.stats.note_refusal(Refusal::Request(reject)),
                    }
                    // A client whose requests are answered at once, as those that are refused are, may always have another.
                    consume_budget().await;
                }
                Ok(None) => {}
                Err(End::Orderly) => break,
                Err(End::Error(error)) => {
                    note_end(&worker, peer, &error, found.told.get());
                    return;
                }
                Err(End::Flood(flood)) => {
                    note_flood(&worker, peer, flood);
                    // Nothing more is answered, and nobody asked.
                    drop(streams);
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    let _ = timeout(GOODBYE_TIMEOUT, poll_fn(|context| connection.poll_closed(context))).await;
                    return;
                }
            },
            () = worker.draining(), if !is_closing => {
                connection.graceful_shutdown();
                is_closing = true;
            }
            () = async { sleep(patience).await }, if streams.is_empty() => {
                if is_closing {
                    // It does not answer, and has nothing under way.
                    return;
                }
                connection.graceful_shutdown();
                is_closing = true;
            }
        }
    }
}

/// Its streams. They are no tasks of their own: what many of them say in a turn leaves in one write, and none has to be told of another's end.
type Streams = FuturesUnordered<Served>;

/// What a turn has brought: a request, and where its answer goes; none where the last of the streams has ended.
type Turn = Option<(Request<RecvStream>, SendResponse<Bytes>)>;

/// Why there are no more requests.
enum End {
    /// The client has ended, or was sent away.
    Orderly,
    Error(h2::Error),
    Flood(Flood),
}

/// The streams before the connection: it sends what they have said.
fn poll_turn(
    (connection, streams): (&mut Connection<Metered, Bytes>, &mut Streams),
    found: &Found,
    context: &mut Context<'_>,
) -> Poll<Result<Turn, End>> {
    let was_serving = !streams.is_empty();
    while let Poll::Ready(Some(())) = streams.poll_next_unpin(context) {}
    // Outside the task's budget, which they may have used up: what they say must not pile up. Windows and the meter bound what is read.
    let accepted = pin!(unconstrained(poll_fn(|context| connection.poll_accept(context)))).poll(context);
    if let Some(flood) = found.flood.get() {
        return Poll::Ready(Err(End::Flood(flood)));
    }
    match accepted {
        Poll::Ready(Some(Ok(asked))) => Poll::Ready(Ok(Some(asked))),
        Poll::Ready(Some(Err(error))) => Poll::Ready(Err(End::Error(error))),
        Poll::Ready(None) => Poll::Ready(Err(End::Orderly)),
        Poll::Pending if was_serving && streams.is_empty() => Poll::Ready(Ok(None)),
        Poll::Pending => Poll::Pending,
    }
}

fn builder() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(H2_STREAMS_COUNT_MAX)
        .initial_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(H2_HEADERS_BYTES_MAX)
        .max_pending_accept_reset_streams(H2_RESETS_COUNT_MAX)
        .max_local_error_reset_streams(Some(H2_LOCAL_RESETS_COUNT_MAX))
        .data_frame_budget(H2_DATA_SHORTFALL_BYTES_MAX)
        .max_send_buffer_size(H2_SEND_BUFFER_BYTES_MAX)
        .enable_connect_protocol();
    builder
}

/// An exchange and its relay on the way to their ends. The relay goes behind the exchange, and the exchange once more behind its end: so a turn
/// is enough for an answer that has come, and nobody wakes anybody.
///
/// Written out instead of an `async fn`, which would keep room for each value beside where it came from.
struct Served {
    /// Until it is over.
    exchange: Option<Http>,
    relay: Pin<Box<dyn Future<Output = Result<(), StreamError>>>>,
    /// How the relay has ended.
    relayed: Option<Result<(), StreamError>>,
    has_body: bool,
    peer: Option<SocketAddr>,
    worker: Rc<Worker>,
}

impl Served {
    fn new(
        exchange: Http,
        asked: Asked,
        near: Memory,
        interims: Rc<Interims>,
        (peer, worker): (Option<SocketAddr>, Rc<Worker>),
    ) -> Self {
        let has_body = asked.has_body();
        let relay = Box::pin(asked.relay(near, worker.settings().timeouts.body, interims));
        Self { exchange: Some(exchange), relay, relayed: None, has_body, peer, worker }
    }

    /// One that is over goes at once: its end is what the relay waits for.
    fn poll_exchange(&mut self, context: &mut Context<'_>) {
        if self.exchange.as_mut().is_some_and(|exchange| Pin::new(exchange).poll(context).is_ready()) {
            self.exchange = None;
        }
    }

    fn poll_relay(&mut self, context: &mut Context<'_>) {
        if self.relayed.is_none()
            && let Poll::Ready(relayed) = self.relay.as_mut().poll(context)
        {
            self.relayed = Some(relayed);
        }
    }
}

impl Future for Served {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.has_body {
            // What has come of it goes with its head, and can be sent once more with that.
            this.poll_relay(context);
        }
        this.poll_exchange(context);
        this.poll_relay(context);
        if this.relayed.is_some() {
            // There is no other request.
            this.exchange.take_if(|exchange| exchange.is_idle());
            this.poll_exchange(context);
        }
        let (None, Some(relayed)) = (&this.exchange, this.relayed) else { return Poll::Pending };
        if relayed == Err(StreamError::Stalled) {
            note_flood(&this.worker, this.peer, Flood::Stall);
        }
        if let Err(why) = relayed {
            tracing::debug!(peer = ?this.peer, %why, "a stream has ended early");
        }
        Poll::Ready(())
    }
}

/// Takes note of how a connection ended, whose client was told that it has had enough of this.
fn note_end(worker: &Worker, peer: Option<SocketAddr>, error: &h2::Error, told: Option<Flood>) {
    if let Some(flood) = told {
        note_flood(worker, peer, flood);
    }
    tracing::debug!(?peer, %error, "a connection of HTTP/2 has ended");
}

fn note_flood(worker: &Worker, peer: Option<SocketAddr>, flood: Flood) {
    worker.stats.note_flood(flood);
    tracing::debug!(?peer, flood = flood.word(), "a client of HTTP/2 has had enough");
}
