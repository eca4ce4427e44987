//! A TCP client's connection: bytes both ways, each direction until it ends by itself.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::{RecvFlags, recv};
use tokio::{
    io::Interest,
    time::{Instant, timeout_at},
};

use super::{attempt::start_connect, attempts::Attempts};
use crate::{
    buffer::Shelf,
    config::{HalfClosed, ProxyVersion},
    deadline::{Deadline, TICK},
    dial::poll_connected,
    error::{AttemptFailure, Refusal},
    half::Half,
    http1::{Body, Framing},
    listen::{
        greet::Way,
        proxy_header::{V1_UNKNOWN, V2_UNKNOWN, encode_v1, encode_v2},
    },
    socket::Socket,
    upstream::Lease,
    worker::Worker,
};

/// Serves a client until both directions have ended. `role` is the position of the role in the directory.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    (mut client, way): (Socket, Option<Way>),
    role: usize,
    role_name: Rc<str>,
) {
    let key = worker.client_key(role, way.map(|way| way.source));
    let connected = tokio::select! {
        biased;
        connected = connect(&worker, role, key) => connected,
        // It gives its place in the queue back.
        () = gone(&mut client, worker.settings().half_closed) => return worker.stats.clients_gone.add(1),
    };
    let (lease, upstream) = match connected {
        Ok(connected) => connected,
        // Nothing can be told to a client in an unknown protocol: closing is the answer.
        Err(refusal) => {
            worker.stats.note_refusal(refusal);
            tracing::debug!(role = %role_name, ?refusal, "no upstream for a TCP client");
            return;
        }
    };
    let deadline = poll_fn(|context| Poll::Ready(worker.deadlines.register(context.waker()))).await;
    let timeout = worker.settings().timeouts.tunnel;
    deadline.set(timeout);
    let mut tunnel = Tunnel::new(client, upstream, worker.clone());
    if let Some(header) = proxy_header(&worker, &role_name, way) {
        // Before the client's first byte; what is added to a message has room for it.
        let fits = tunnel.request.pieces.add(&header);
        debug_assert!(fits.is_ok(), "the longest header has 107 bytes");
    }
    let ended = poll_fn(|context| match tunnel.poll(context, &deadline, timeout) {
        // Its node has left: the drain has waited for this client as long as it does, and a database that waits for its clients could
        // not stop in peace.
        Poll::Pending if lease.upstream.endpoint.health.is_released() => {
            Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
        }
        polled => polled,
    });
    if ended.await.is_err() {
        worker.stats.truncated.add(1);
    }
    worker.stats.bytes_in.add(tunnel.request.data_bytes_in());
    worker.stats.bytes_out.add(tunnel.response.data_bytes_out());
}

/// What the role's endpoints are told of a client before its first byte.
fn proxy_header(worker: &Worker, role: &str, way: Option<Way>) -> Option<Vec<u8>> {
    let settings = worker.settings();
    let told = settings.edges.send_proxy.iter().find(|told| told.role.as_str() == role)?;
    Some(match (told.version, way) {
        (ProxyVersion::V1, Some(way)) => encode_v1(way.source, way.destination),
        (ProxyVersion::V2, Some(way)) => encode_v2(way.source, way.destination),
        (ProxyVersion::V1, None) => V1_UNKNOWN.to_vec(),
        (ProxyVersion::V2, None) => V2_UNKNOWN.to_vec(),
    })
}

/// Both sides' connections; they may be dropped at any time. A direction that waits for bytes holds no buffer.
struct Tunnel {
    client: Socket,
    upstream: Socket,
    /// From the client to the upstream,
    request: Half<()>,
    /// and back.
    response: Half<()>,
    worker: Rc<Worker>,
}

impl Tunnel {
    fn new(client: Socket, upstream: Socket, worker: Rc<Worker>) -> Self {
        let half = || {
            let mut half = Half::default();
            half.become_tunnel(Body::new(Framing::UntilClose, true));
            half
        };
        Self { client, upstream, request: half(), response: half(), worker }
    }

    /// Moves what there is both ways; ready when both have ended, for one side may close its own long before the other does.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        deadline: &Deadline,
        timeout: Duration,
    ) -> Poll<io::Result<()>> {
        let shelf = &self.worker.responses;
        let mut poll_request = |half: &mut Half<()>| {
            let passes_end = !half.is_cut();
            poll_way(context, half, (&mut self.client, &mut self.upstream), (shelf, passes_end))
        };
        let mut request = poll_request(&mut self.request);
        if matches!(request, Poll::Ready(Err(_))) && !self.request.is_flushed() {
            // The upstream takes no more, but may have said why: that comes first, and what the client sends meanwhile is thrown away.
            self.request.cut();
            request = poll_request(&mut self.request);
        }
        let (request, is_cut) = (request?, self.request.is_cut());
        // The end of a connection that is broken proves nothing: the client is told by a reset.
        let sockets = (&mut self.upstream, &mut self.client);
        let response = poll_way(context, &mut self.response, sockets, (shelf, !is_cut))?;
        if is_cut && response.is_ready() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if request.is_ready() && response.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if self.request.take_moved() | self.response.take_moved() {
            deadline.set(timeout);
        }
        // After the sockets: what came while the process stood still has come in time.
        if deadline.is_over() { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let is_whole = self.request.has_left() && self.response.has_left();
        for socket in [&self.client, &self.upstream].into_iter().filter(|_| !is_whole) {
            // A reset tells both what a clean end would hide: that what they got is not whole.
            let _ = socket.options().map(|options| options.set_linger(Some(Duration::ZERO)));
        }
        for buffer in [self.request.buffer.take(), self.response.buffer.take()].into_iter().flatten() {
            self.worker.responses.put(buffer);
        }
    }
}

/// Moves what there is one way; ready when all of it has left and its end was passed on.
fn poll_way(
    context: &mut Context<'_>,
    half: &mut Half<()>,
    (from, to): (&mut Socket, &mut Socket),
    (shelf, passes_end): (&Shelf, bool),
) -> Poll<io::Result<()>> {
    loop {
        ready!(half.poll_flush(context, to))?;
        half.consume();
        if half.is_done() {
            return Poll::Ready(Ok(()));
        }
        if from.poll_recv_ready(context)?.is_pending() {
            if let Some(buffer) = half.buffer.take() {
                shelf.put(buffer);
            }
            return Poll::Pending;
        }
        half.buffer.get_or_insert_with(|| shelf.take());
        if ready!(half.poll_fill(context, from))? == 0 {
            half.end_body();
            return Poll::Ready(if passes_end { to.finish() } else { Ok(()) });
        } else {
            half.scan().map_err(io::Error::other)?;
        }
    }
}

/// Waits until a client for which there is no upstream yet has gone away. Its bytes stay where they are, so that the look at them
/// is repeated rather than waited for.
async fn gone(client: &mut Socket, half_closed: HalfClosed) {
    loop {
        let Ok(watched) = client.watch() else { return };
        let Ok(ready) = watched.ready(Interest::READABLE | Interest::ERROR).await else { return };
        let is_half_closed = ready.is_read_closed() && half_closed == HalfClosed::Abort;
        if ready.is_error() || is_half_closed && has_said_nothing(client) {
            return;
        }
        tokio::time::sleep(TICK).await;
    }
}

/// One that says all it has to say and closes its sending side has a message to deliver: syslog, Graphite, `nc -N`.
fn has_said_nothing(client: &Socket) -> bool {
    let peeked = client.call(|socket| recv(socket, &mut [0; 1][..], RecvFlags::PEEK));
    !matches!(peeked, Ok((1.., _)))
}

/// Connects to an upstream, trying others while they refuse.
async fn connect(worker: &Worker, role: usize, key: Option<u64>) -> Result<(Lease, Socket), Refusal> {
    let (timeouts, mut ticket) = (worker.settings().timeouts, None);
    let mut attempts = Attempts::default();
    loop {
        let leasing =
            poll_fn(|context| worker.poll_lease(context, role, (attempts.avoid(), key), &mut ticket));
        let leased = timeout_at(Instant::now() + timeouts.queue, leasing).await;
        let (lease, _) = leased.map_err(|_| Refusal::QueueTimeout)??;
        worker.stats.connects.add(1);
        let endpoint = &lease.upstream.endpoint;
        let connecting = async {
            let mut socket = start_connect(&endpoint.addr, worker)?;
            poll_fn(|context| poll_connected(context, &mut socket)).await?;
            Ok(socket)
        };
        let failure = match timeout_at(Instant::now() + timeouts.connect, connecting).await {
            Ok(Ok(socket)) => {
                worker.note_accepted(role, &lease);
                return Ok((lease, socket));
            }
            Ok(Err(failure)) => failure,
            Err(_) => AttemptFailure::ConnectTimeout,
        };
        attempts.apply_failure(failure, false, &lease, (role, worker))?;
        drop(lease);
        while attempts.is_paused(worker.deadlines.now_ms()) {
            tokio::time::sleep(TICK).await;
        }
    }
}
