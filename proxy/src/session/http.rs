//! An HTTP client's connection: idle, then one exchange after another.

use std::{
    future::poll_fn,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::net::TcpStream;

use super::exchange::{Exchange, Outcome, Session};
use crate::{log::record::End, worker::Worker};

/// Serves a client until either side is done with the connection. `role` is the position of the role in the directory.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    (client, peer): (TcpStream, SocketAddr),
    role: usize,
    role_name: Rc<str>,
) {
    let deadline = poll_fn(|context| Poll::Ready(worker.deadlines.register(context.waker()))).await;
    // A listener for both versions sees addresses of version 4 as mapped ones.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut session = Session { client, peer, deadline, worker, role, role_name };
    loop {
        session.deadline.set(session.worker.settings.timeouts.idle);
        if !poll_fn(|context| session.poll_idle(context)).await {
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
            let _ = socket2::SockRef::from(&self.session.client).set_linger(Some(Duration::ZERO));
        }
        self.session.worker.put_exchange(exchange);
    }
}

impl Session {
    /// Waits for a first byte without a buffer; false when the connection is to be closed.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        // Before all else: a request that has come is answered, even by a proxy that is asked to stop.
        if self.client.poll_read_ready(context).is_ready() {
            return Poll::Ready(true);
        }
        let is_over = self.worker.is_draining() || self.deadline.is_over();
        if is_over { Poll::Ready(false) } else { Poll::Pending }
    }
}
