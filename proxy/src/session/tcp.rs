//! A TCP client's connection: bytes both ways, each direction until it ends by itself.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::transfer::poll_fill;
use crate::{
    buffer::Buffer,
    deadline::Deadline,
    error::{AttemptFailure, Refusal},
    limits::ATTEMPTS_COUNT_MAX,
    pipe::Pipe,
    socket::Socket,
    upstream::Lease,
    worker::Worker,
};

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
    let mut ends = Ends { client: client.into(), upstream: upstream.into(), are_whole: false };
    match relay(&mut ends, &worker, &deadline).await {
        Ok(()) => ends.are_whole = true,
        Err(_) => worker.stats.truncated.add(1),
    }
}

/// Both sides' connections; they may be dropped at any time.
struct Ends {
    client: Socket,
    upstream: Socket,
    /// Each side has got what the other sent.
    are_whole: bool,
}

impl Drop for Ends {
    fn drop(&mut self) {
        for socket in [&self.client, &self.upstream].into_iter().filter(|_| !self.are_whole) {
            // A reset tells both what a clean end would hide: that what they got is not whole.
            let _ = socket.options().map(|options| options.set_linger(Some(Duration::ZERO)));
        }
    }
}

/// One direction: what was read from one side and not yet written to the other.
///
/// It holds a buffer or a pipe while bytes move, and neither while it waits for some.
#[derive(Default)]
struct Way {
    buffer: Option<Buffer>,
    /// In use since a read filled the buffer: there is much to move.
    pipe: Option<Pipe>,
    is_over: bool,
}

impl Way {
    /// Moves bytes until the sender has ended; then the receiver is told, whose own direction may go on for long.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        (from, to): (&mut Socket, &mut Socket),
        worker: &Worker,
        deadline: &Deadline,
    ) -> Poll<io::Result<()>> {
        while !self.is_over {
            ready!(self.poll_write(context, to, worker, deadline))?;
            let count = match self.poll_read(context, from, worker) {
                Poll::Ready(count) => count?,
                Poll::Pending => {
                    self.release(worker);
                    return Poll::Pending;
                }
            };
            deadline.set(worker.settings.timeouts.tunnel);
            if count == 0 {
                to.finish()?;
                self.is_over = true;
                self.release(worker);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        to: &mut Socket,
        worker: &Worker,
        deadline: &Deadline,
    ) -> Poll<io::Result<()>> {
        if let Some(buffer) = &mut self.buffer {
            // Whoever fills a buffer at once has more: the rest is not copied.
            let is_bulk = !buffer.has_spare();
            while !buffer.is_empty() {
                let count = ready!(to.poll_send(context, buffer.filled()))?;
                buffer.consume(count);
                deadline.set(worker.settings.timeouts.tunnel);
            }
            if is_bulk && self.pipe.is_none() {
                self.pipe = worker.pipes.take();
            }
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
            ready!(pipe.poll_drain(context, to))?;
            deadline.set(worker.settings.timeouts.tunnel);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Socket,
        worker: &Worker,
    ) -> Poll<io::Result<usize>> {
        if let Some(pipe) = &mut self.pipe {
            return pipe.poll_fill(context, from, usize::MAX);
        }
        ready!(from.poll_recv_ready(context))?;
        poll_fill(context, from, self.buffer.get_or_insert_with(|| worker.requests.take()))
    }

    /// Gives back what is empty.
    fn release(&mut self, worker: &Worker) {
        if let Some(buffer) = self.buffer.take_if(|buffer| buffer.is_empty()) {
            worker.requests.put(buffer);
        }
        if let Some(pipe) = self.pipe.take_if(|pipe| pipe.is_empty()) {
            worker.pipes.put(pipe);
        }
    }
}

/// Moves bytes both ways until both directions have ended: one side may close its own long before the other does.
async fn relay(ends: &mut Ends, worker: &Worker, deadline: &Deadline) -> io::Result<()> {
    let (mut there, mut back) = (Way::default(), Way::default());
    deadline.set(worker.settings.timeouts.tunnel);
    poll_fn(|context| {
        if deadline.is_over() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let Ends { client, upstream, .. } = &mut *ends;
        let is_there = there.poll(context, (client, upstream), worker, deadline)?.is_ready();
        let is_back = back.poll(context, (upstream, client), worker, deadline)?.is_ready();
        if is_there && is_back { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
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
