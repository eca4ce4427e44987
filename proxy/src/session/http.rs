//! An HTTP client's connection: idle, then one exchange after another.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::exchange::{Exchange, Outcome, Session};
use crate::config::Timeouts;

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
    pub(crate) fn new(session: Session) -> Self {
        session.deadline.set(session.worker.settings.timeouts.idle);
        Self { session, exchange: None, is_whole: true }
    }

    /// Gives the exchange back.
    fn end_exchange(&mut self) {
        let Some(exchange) = self.exchange.take() else { return };
        if !self.is_whole && exchange.is_answering() {
            // A reset tells the client what a clean end would hide: that its response is not whole.
            let _ = socket2::SockRef::from(&self.session.client).set_linger(Some(Duration::ZERO));
        }
        self.session.worker.put_exchange(exchange);
    }
}

impl Future for Http {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.session.deadline.wake_by(context.waker());
        let Timeouts { header, idle, .. } = this.session.worker.settings.timeouts;
        loop {
            let Some(exchange) = &mut this.exchange else {
                if !ready!(this.session.poll_idle(context)) {
                    return Poll::Ready(());
                }
                // From here on the time of the head runs, however its bytes trickle (slowloris).
                this.session.deadline.set(header);
                this.is_whole = false;
                this.exchange = Some(this.session.worker.take_exchange());
                continue;
            };
            let outcome = ready!(exchange.poll(context, &mut this.session));
            this.is_whole = outcome != Outcome::Abort;
            match outcome {
                Outcome::Next if exchange.has_more() => {
                    exchange.next();
                    this.session.deadline.set(header);
                    this.is_whole = false;
                }
                Outcome::Next => {
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
