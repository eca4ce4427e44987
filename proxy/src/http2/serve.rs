//! A client's connection of HTTP/2: as many exchanges at a time as it has streams.

use std::{
    future::poll_fn,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Connection, SendResponse},
};
use http::Request;
use tokio::{task::JoinSet, time::timeout};

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
    let metered = Metered::new(Io(stream), Rc::clone(&found), header);
    let handshake = builder().handshake::<_, Bytes>(metered);
    let Ok(Ok(mut connection)) = timeout(header, handshake).await else {
        return worker.stats.clients_unheard.add(1);
    };
    let mut streams = JoinSet::new();
    let mut is_closing = false;
    loop {
        // While it has streams, these have times of their own.
        let patience = if is_closing { GOODBYE_TIMEOUT } else { worker.settings().timeouts.idle };
        tokio::select! {
            biased;
            accepted = poll_fn(|context| poll_accept(&mut connection, &found, context)) => match accepted {
                Ok((request, respond)) => {
                    match ask(request, respond) {
                        Ok(asked) => {
                            let (near, far) = memory::pair();
                            let inner = Inner { memory: far, certificate: certificate.clone() };
                            let client = (Stream::Memory(Box::new(inner)), peer);
                            let session = Session::new(client, Counted::new(worker.clone()), target.clone());
                            streams.spawn_local(serve_stream(session, asked, near, found.interims.clone()));
                        }
                        Err(reject) => worker.stats.note_refusal(Refusal::Request(reject)),
                    }
                }
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
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
            () = worker.draining(), if !is_closing => {
                connection.graceful_shutdown();
                is_closing = true;
            }
            () = tokio::time::sleep(patience), if streams.is_empty() => {
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

/// A request, and where its answer goes.
type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

/// Why there are no more requests.
enum End {
    /// The client has ended, or was sent away.
    Orderly,
    Error(h2::Error),
    Flood(Flood),
}

fn poll_accept(
    connection: &mut Connection<Metered, Bytes>,
    found: &Found,
    context: &mut Context<'_>,
) -> Poll<Result<Accepted, End>> {
    let accepted = connection.poll_accept(context);
    if let Some(flood) = found.flood.get() {
        return Poll::Ready(Err(End::Flood(flood)));
    }
    accepted.map(|accepted| accepted.ok_or(End::Orderly)?.map_err(End::Error))
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

async fn serve_stream(session: Session, asked: Asked, near: Memory, interims: Rc<Interims>) {
    let (peer, worker) = (session.peer, session.worker.clone());
    let patience = worker.settings().timeouts.body;
    let (relayed, ()) = tokio::join!(asked.relay(near, patience, interims), Http::new(session));
    if relayed == Err(StreamError::Stalled) {
        note_flood(&worker, peer, Flood::Stall);
    }
    if let Err(why) = relayed {
        tracing::debug!(?peer, %why, "a stream has ended early");
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
