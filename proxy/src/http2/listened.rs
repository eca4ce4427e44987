//! A connection to an upstream, with an ear on what comes: whether it is there, and whether it says more than anybody needs.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{frames::kind, meter::Meter, silence::Silence};
use crate::{limits::H2_INTERIMS_COUNT_MAX, link::Link, stream::Io};

/// What may be spent of an upstream's credit at once before its streams take what has come: of those heads that no window bounds no more
/// wait than for a client.
const TURN_PRICE_MAX: i32 = H2_INTERIMS_COUNT_MAX as i32;

/// How a connection ends whose upstream has had enough.
pub(super) const FLOOD: io::ErrorKind = io::ErrorKind::QuotaExceeded;

/// The connection.
#[derive(Debug)]
pub(super) struct Listened {
    io: Io<Link>,
    meter: Meter,
    /// Enough has come at once.
    is_turn_over: bool,
    silence: Rc<RefCell<Silence>>,
    /// There was no room for what is to be sent.
    was_full: bool,
}

impl Listened {
    pub(super) fn new(io: Io<Link>, silence: Rc<RefCell<Silence>>) -> Self {
        let meter = Meter::of_upstream(std::time::Instant::now());
        Self { io, meter, is_turn_over: false, silence, was_full: false }
    }

    /// Whoever makes room is there: a ping waits behind all that is to be sent before it.
    fn note_written<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => self.was_full = true,
            Poll::Ready(_) if std::mem::take(&mut self.was_full) => {
                self.silence.borrow_mut().hear(Instant::now(), false);
            }
            Poll::Ready(_) => {}
        }
        written
    }

    fn hear(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut is_answer, credit) = (false, self.meter.credit());
        let heard = self.meter.take_and_tell(bytes, std::time::Instant::now, |frame| {
            is_answer |= matches!(frame.kind, kind::HEADERS | kind::DATA);
        });
        self.silence.borrow_mut().hear(Instant::now(), is_answer);
        self.is_turn_over = credit.saturating_sub(self.meter.credit()) >= TURN_PRICE_MAX;
        heard.map_err(|flood| io::Error::new(FLOOD, format!("a flood: {}", flood.word())))
    }

    fn note_sent(&mut self, slices: &[IoSlice<'_>], written: &Poll<io::Result<usize>>) {
        let Poll::Ready(Ok(written)) = written else { return };
        let mut left = *written;
        for slice in slices {
            let part = left.min(slice.len());
            self.meter.give(&slice[..part], |_| ());
            left -= part;
        }
    }
}

impl AsyncRead for Listened {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.is_turn_over) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, into))?;
        Poll::Ready(this.hear(&into.filled()[before..]))
    }
}

impl AsyncWrite for Listened {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(context, slices);
        this.note_sent(slices, &written);
        this.note_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(context);
        this.note_written(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::{
        http2::silence::Turn,
        limits::{H2_ORIGIN_PONG_TIMEOUT, H2_ORIGIN_SILENCE},
        stream::memory,
    };

    #[tokio::test(start_paused = true)]
    async fn whoever_makes_room_for_what_waits_before_a_ping_is_there() {
        let (near, mut far) = memory::pair();
        let silence = Rc::new(RefCell::new(Silence::new(Instant::now())));
        let mut listened = Listened::new(Io::new(Link::stream(near, Rc::default())), silence.clone());
        let mut context = Context::from_waker(Waker::noop());
        let mut write = || Pin::new(&mut listened).poll_write(&mut context, &[0; 4096]);
        while write().is_ready() {}
        let turn = || silence.borrow_mut().turn(Instant::now(), true);
        tokio::time::advance(H2_ORIGIN_SILENCE).await;
        assert_eq!(turn(), Turn::Ping);
        tokio::time::advance(H2_ORIGIN_PONG_TIMEOUT / 2).await;
        let mut context = Context::from_waker(Waker::noop());
        let taken = far.poll_read_with(&mut context, |bytes| (bytes.len(), bytes.len()));
        assert!(matches!(taken, Poll::Ready(Ok(1..))));
        assert!(write().is_ready());
        tokio::time::advance(H2_ORIGIN_PONG_TIMEOUT / 2).await;
        assert!(matches!(turn(), Turn::Wait(_)), "it has taken something since");
        while write().is_ready() {}
        tokio::time::advance(H2_ORIGIN_PONG_TIMEOUT).await;
        assert_eq!(turn(), Turn::GiveUp, "and nothing any more");
    }
}
