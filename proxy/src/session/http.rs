//! An HTTP client's connection: idle, then one exchange after another.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{
    client::Session,
    exchange::{Exchange, Outcome},
    shelf,
};
use crate::log::record::End;

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
    /// Empty lines have come where a head is to begin: its time runs.
    is_blank: bool,
}

impl Http {
    /// The first request comes with the connection, most times: it is looked for before anything is waited for.
    pub(crate) fn new(session: Session) -> Self {
        session.deadline.set(session.worker.settings().timeouts.idle);
        let mut http = Self { session, exchange: None, is_whole: true, is_blank: false };
        http.begin_exchange();
        http
    }

    /// Nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.exchange.is_none()
    }

    fn begin_exchange(&mut self) {
        let mut exchange = self.exchange.take().unwrap_or_else(shelf::take);
        exchange.begin_record(&self.session);
        self.is_whole = false;
        self.exchange = Some(exchange);
    }

    /// Nothing has come but, perhaps, empty lines. They do not make the connection any younger: one every minute would hold it for ever.
    fn handle_idle(&mut self, is_blank: bool) {
        if is_blank && !self.is_blank {
            self.is_blank = true;
            self.session.deadline.hasten(self.session.worker.settings().timeouts.header);
        }
        self.end_exchange();
    }

    /// An exchange is over, and there may be another.
    fn handle_next(&mut self) {
        self.is_blank = false;
        self.session.deadline.set(self.session.worker.settings().timeouts.idle);
        let Some(exchange) = &mut self.exchange else { return };
        if exchange.has_more() || self.session.worker.is_draining() {
            // Whoever was told that the connection stays may have sent its next request already, and a proxy that is asked to stop
            // answers it.
            exchange.next();
            self.begin_exchange();
        } else {
            self.end_exchange();
        }
    }

    /// Gives the exchange back.
    fn end_exchange(&mut self) {
        let Some(mut exchange) = self.exchange.take() else { return };
        // Only the end of the worker ends an exchange that has not ended by itself, or that of the connection whose stream it is.
        let end = if self.session.worker.is_draining() { End::Stopped } else { End::ClientGone };
        exchange.end_notes(end, &self.session);
        exchange.end_record(end, &self.session);
        if !self.is_whole && exchange.is_telling() {
            // A reset tells the client what a clean end would hide: that its response is not whole.
            self.session.client.abort();
        }
        shelf::put(exchange, &self.session.worker);
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
                    let _ = this.session.client.say_goodbye();
                    return Poll::Ready(());
                }
                this.begin_exchange();
                continue;
            };
            let outcome = ready!(exchange.poll(context, &mut this.session));
            this.is_whole = outcome != Outcome::Abort;
            match outcome {
                Outcome::Next => this.handle_next(),
                Outcome::Idle { is_blank } => this.handle_idle(is_blank),
                Outcome::Close => {
                    let _ = this.session.client.say_goodbye();
                    return Poll::Ready(());
                }
                Outcome::Abort => return Poll::Ready(()),
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
        certificates::Store,
        config::{Given, Plan},
        listen::target::Target,
        upstream::directory::Directory,
        worker::{Counted, Room, Settings, Worker},
    };

    #[tokio::test]
    async fn a_request_that_has_come_keeps_its_connection_even_when_the_task_has_used_up_its_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let client = listener.accept().await.unwrap().0;
        let directory = Directory::new(&["app".parse().unwrap()], 1, |_| false);
        let settings = Settings::of(
            &Plan::new(Given::default()).unwrap(),
            &directory,
            Arc::new(Store::open(&Default::default()).unwrap()),
            Arc::default(),
        );
        let room = Room { clients_max: 1, pipes_max: 1, flows_max: 1 };
        let worker = Worker::new(settings, room, 0, &directory, Arc::default(), None, 1);
        let client = (client.into(), None);
        let mut session = Session::new(client, Counted::new(worker), Target::only(0, "app".into()));
        far.write_all(b"G").await.unwrap();
        poll_fn(|context| session.client.poll_recv_ready(context)).await.unwrap();
        session.worker.end_idle();
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
