//! An HTTP client's connection: idle, then one exchange after another.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use super::exchange::{Exchange, Outcome};
use crate::{
    accept::Counted, config::Timeouts, deadline::Deadline, log::record::End, socket::Socket,
    upstream::is_quiet, worker::Worker,
};

/// What lives as long as the client's connection. An idle one holds nothing else: every byte here counts.
pub(crate) struct Session {
    pub(crate) client: Socket,
    /// The client's address; one of version 4 is never written as one of version 6.
    pub(crate) peer: SocketAddr,
    /// When it was accepted, on the workers' clock.
    pub(crate) since_ms: u64,
    pub(crate) deadline: Deadline,
    pub(crate) worker: Rc<Worker>,
    /// Position of the role in the directory.
    pub(crate) role: usize,
    pub(crate) role_name: Rc<str>,
    /// Held, not read.
    _counted: Counted,
}

impl Session {
    /// A client that was accepted just now, for a role and its position in the directory.
    pub(crate) fn new(
        (client, peer): (Socket, SocketAddr),
        counted: Counted,
        (role, role_name): (usize, Rc<str>),
    ) -> Self {
        let worker = counted.worker().clone();
        let deadline = worker.deadlines.register(Waker::noop());
        let since_ms = worker.deadlines.now_ms();
        Self { client, peer, since_ms, deadline, worker, role, role_name, _counted: counted }
    }

    /// Waits for a first byte without a buffer; false when the connection is to be closed.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        // Before all else: a request that has come is answered, even by a proxy that is asked to stop.
        if self.client.poll_recv_ready(context).is_ready() {
            return Poll::Ready(true);
        }
        let is_over = self.worker.is_draining() || self.deadline.is_over();
        // A task that has used up its budget sees no bytes where there are some; it is polled again soon.
        if is_over && is_quiet(&mut self.client, context) { Poll::Ready(false) } else { Poll::Pending }
    }
}

/// A client's connection until either side is done with it; it may be dropped at any time.
///
/// Written out instead of an `async fn`, which would keep room for each value beside where it came from: all of this is held
/// by every idle connection.
pub(crate) struct Http {
    session: Session,
    /// None: the connection is idle.
    exchange: Option<Box<Exchange>>,
    /// The client has all that it is to get, and may believe it.
    is_whole: bool,
}

impl Http {
    /// The first request comes with the connection, most times: it is looked for before anything is waited for.
    pub(crate) fn new(session: Session) -> Self {
        let mut http = Self { session, exchange: None, is_whole: true };
        http.begin_exchange();
        http
    }

    fn begin_exchange(&mut self) {
        let mut exchange = self.exchange.take().unwrap_or_else(|| self.session.worker.take_exchange());
        // From here on the time of the head runs, however its bytes trickle (slowloris); what ran before is over.
        self.session.deadline.set(self.session.worker.settings.timeouts.header);
        exchange.begin_record(&self.session);
        self.is_whole = false;
        self.exchange = Some(exchange);
    }

    /// Gives the exchange back.
    fn end_exchange(&mut self) {
        let Some(mut exchange) = self.exchange.take() else { return };
        // Only the end of the worker ends an exchange that has not ended by itself.
        exchange.end_record(End::Stopped, &self.session);
        if !self.is_whole && exchange.is_answering() {
            // A reset tells the client what a clean end would hide: that its response is not whole.
            let _ = self.session.client.options().map(|options| options.set_linger(Some(Duration::ZERO)));
        }
        self.session.worker.put_exchange(exchange);
    }
}

impl Future for Http {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.session.deadline.wake_by(context.waker());
        loop {
            let Some(exchange) = &mut this.exchange else {
                if !ready!(this.session.poll_idle(context)) {
                    return Poll::Ready(());
                }
                this.begin_exchange();
                continue;
            };
            let outcome = ready!(exchange.poll(context, &mut this.session));
            this.is_whole = outcome != Outcome::Abort;
            match outcome {
                Outcome::Next if exchange.has_more() => {
                    exchange.next();
                    this.begin_exchange();
                }
                Outcome::Next => {
                    let Timeouts { idle, .. } = this.session.worker.settings.timeouts;
                    this.session.deadline.set(idle);
                    this.end_exchange();
                }
                Outcome::Close | Outcome::Abort => return Poll::Ready(()),
            }
        }
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.end_exchange();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::Arc};

    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
        task::coop::consume_budget,
    };

    use super::*;
    use crate::{
        config::{HalfClosed, Timeouts, UpstreamRules},
        upstream::directory::Directory,
        worker::Settings,
    };

    #[tokio::test]
    async fn a_request_that_has_come_keeps_its_connection_even_when_the_task_has_used_up_its_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let client = listener.accept().await.unwrap().0;
        let settings = Settings {
            timeouts: Timeouts::default(),
            half_closed: HalfClosed::Abort,
            clients_max: 1,
            rules: UpstreamRules::default(),
            body_bytes_max: u64::MAX,
            forwarding: None,
            via: None,
        };
        let directory = Directory::new(&["app".parse().unwrap()], 1);
        let worker = Worker::new(settings, 0, &directory, Arc::default(), None, 1);
        let client = (client.into(), "127.0.0.1:1".parse().unwrap());
        let mut session = Session::new(client, Counted::new(worker), (0, "app".into()));
        far.write_all(b"G").await.unwrap();
        poll_fn(|context| session.client.poll_recv_ready(context)).await.unwrap();
        session.worker.drain();
        poll_fn(|context| {
            while pin!(consume_budget()).poll(context).is_ready() {}
            assert!(session.poll_idle(context).is_pending(), "neither seen nor given up");
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
        assert!(poll_fn(|context| session.poll_idle(context)).await);
    }
}
