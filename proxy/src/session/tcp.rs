//! A TCP client's connection: bytes both ways, each direction until it ends by itself.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    deadline::Deadline,
    error::{AttemptFailure, Refusal},
    limits::ATTEMPTS_COUNT_MAX,
    upstream::Lease,
    worker::Worker,
};

/// Bytes moved at a time, each way.
const RELAY_BUFFER_BYTES: usize = 16 * 1024;

/// Serves a client until both directions have ended. `role` is the position of the role in the directory.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    (client, peer): (TcpStream, SocketAddr),
    role: usize,
    role_name: Rc<str>,
) {
    worker.stats.requests.add(1);
    // Nothing can be told to a client in an unknown protocol: closing is the answer.
    let key = worker.client_key(role, peer);
    let (_lease, upstream) = match connect(&worker, role, key).await {
        Ok(connected) => connected,
        Err(refusal) => {
            worker.stats.note_refusal(refusal);
            tracing::debug!(role = %role_name, ?refusal, "no upstream for a TCP client");
            return;
        }
    };
    let deadline = poll_fn(|context| Poll::Ready(worker.deadlines.register(context.waker()))).await;
    let mut ends = Ends { client, upstream, are_whole: false };
    let relayed = relay(&mut ends.client, &mut ends.upstream, &deadline, worker.settings.timeouts.tunnel);
    match relayed.await {
        Ok(()) => ends.are_whole = true,
        Err(_) => worker.stats.truncated.add(1),
    }
}

/// Both sides' connections; they may be dropped at any time.
struct Ends {
    client: TcpStream,
    upstream: TcpStream,
    /// Each side has got what the other sent.
    are_whole: bool,
}

impl Drop for Ends {
    fn drop(&mut self) {
        for stream in [&self.client, &self.upstream].into_iter().filter(|_| !self.are_whole) {
            // A reset tells both what a clean end would hide: that what they got is not whole.
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Copies both ways until both directions have ended: one side may close its own long before the other does.
async fn relay(
    client: &mut TcpStream,
    upstream: &mut TcpStream,
    deadline: &Deadline,
    timeout: Duration,
) -> io::Result<()> {
    deadline.set(timeout);
    let mut client = Timed { stream: client, deadline, timeout };
    let mut upstream = Timed { stream: upstream, deadline, timeout };
    let mut copying = pin!(tokio::io::copy_bidirectional_with_sizes(
        &mut client,
        &mut upstream,
        RELAY_BUFFER_BYTES,
        RELAY_BUFFER_BYTES,
    ));
    poll_fn(|context| {
        if deadline.is_over() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        copying.as_mut().poll(context).map_ok(drop)
    })
    .await
}

/// A stream that arms a deadline anew whenever something moves.
struct Timed<'a> {
    stream: &'a mut TcpStream,
    deadline: &'a Deadline,
    timeout: Duration,
}

impl AsyncRead for Timed<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut *self.stream).poll_read(context, buffer));
        self.deadline.set(self.timeout);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Timed<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.stream).poll_write(context, bytes));
        self.deadline.set(self.timeout);
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}

/// Connects to an upstream, trying others while they refuse.
async fn connect(worker: &Worker, role: usize, key: Option<u64>) -> Result<(Lease, TcpStream), Refusal> {
    let (timeouts, mut ticket) = (worker.settings.timeouts, None);
    let mut failed = Vec::new();
    loop {
        let leasing = poll_fn(|context| worker.poll_lease(context, role, (&failed, key), &mut ticket));
        let leased = timeout_at(Instant::now() + timeouts.queue, leasing).await;
        let lease = leased.map_err(|_| Refusal::QueueTimeout)??;
        worker.stats.connects.add(1);
        let endpoint = &lease.upstream.endpoint;
        let deadline = Instant::now() + timeouts.connect;
        let failure = match timeout_at(deadline, TcpStream::connect(endpoint.addr)).await {
            Ok(Ok(stream)) => {
                endpoint.health.apply_success();
                // Latency before throughput: whoever relays cannot know which bytes somebody waits for.
                let _ = stream.set_nodelay(true);
                return Ok((lease, stream));
            }
            Ok(Err(_)) => AttemptFailure::Connect,
            Err(_) => AttemptFailure::ConnectTimeout,
        };
        worker.note_failure(role, &lease, failure);
        failed.push(endpoint.instance);
        if failed.len() == usize::from(ATTEMPTS_COUNT_MAX) || !worker.take_retry(role) {
            return Err(failure.refusal());
        }
    }
}
