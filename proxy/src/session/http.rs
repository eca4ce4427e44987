//! An HTTP client's connection: idle, then one exchange after another.

use std::{
    future::poll_fn,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use super::exchange::{Exchange, Outcome, Session};
use crate::{log::record::End, socket::Socket, upstream::is_quiet, worker::Worker};

/// Serves a client until either side is done with the connection. `role` is the position of the role in the directory.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    (client, peer): (Socket, SocketAddr),
    role: usize,
    role_name: Rc<str>,
) {
    let deadline = poll_fn(|context| Poll::Ready(worker.deadlines.register(context.waker()))).await;
    let since_ms = worker.deadlines.now_ms();
    let client_key = worker.client_key(role, peer);
    let mut session = Session { client, since_ms, peer, deadline, worker, role, role_name, client_key };
    // The first request comes with the connection, most times: it is looked for before anything is waited for.
    let mut is_new = true;
    loop {
        session.deadline.set(session.worker.settings.timeouts.idle);
        if !std::mem::take(&mut is_new) && !poll_fn(|context| session.poll_idle(context)).await {
            return;
        }
        let exchange = Some(session.worker.take_exchange());
        let mut exchanging = Exchanging { exchange, session: &mut session, is_whole: true };
        loop {
            let Exchanging { exchange: Some(exchange), session, is_whole } = &mut exchanging else { return };
            // From here on the time of the head runs, however its bytes trickle (slowloris); what ran before is over.
            session.deadline.set(session.worker.settings.timeouts.header);
            exchange.begin_record(session);
            *is_whole = false;
            let outcome = poll_fn(|context| exchange.poll(context, session)).await;
            *is_whole = outcome != Outcome::Abort;
            match outcome {
                Outcome::Next if exchange.has_more() => exchange.next(),
                Outcome::Next => break,
                Outcome::Close | Outcome::Abort => return,
            }
        }
    }
}

/// An exchange under way. It goes back to the worker whatever becomes of the session, which may be dropped at any time.
struct Exchanging<'a> {
    exchange: Option<Box<Exchange>>,
    session: &'a mut Session,
    /// The client has all that it is to get, and may believe it.
    is_whole: bool,
}

impl Drop for Exchanging<'_> {
    fn drop(&mut self) {
        let Some(mut exchange) = self.exchange.take() else { return };
        // Only the end of the worker ends an exchange that has not ended by itself.
        exchange.end_record(End::Stopped, self.session);
        if !self.is_whole && exchange.is_answering() {
            // A reset tells the client what a clean end would hide: that its response is not whole.
            let _ = self.session.client.options().map(|options| options.set_linger(Some(Duration::ZERO)));
        }
        self.session.worker.put_exchange(exchange);
    }
}

impl Session {
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

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, sync::Arc, task::Waker};

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
        let deadline = worker.deadlines.register(Waker::noop());
        let mut session = Session {
            client: client.into(),
            since_ms: 0,
            peer: "127.0.0.1:1".parse().unwrap(),
            deadline,
            worker,
            role: 0,
            role_name: "app".into(),
            client_key: None,
        };
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
