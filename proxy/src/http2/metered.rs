//! A client's connection whose frames are metered as they pass.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{interim::Interims, meter::Meter};
use crate::{
    flood::Flood,
    limits::DISCARDED_BYTES_MAX,
    stream::{Io, Stream},
};

/// How long a client whose connection has ended may take to end it, too.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that are thrown away at once.
const DISCARD_BYTES: usize = 4096;

/// What was found out, for whoever serves the connection.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What its client goes on with: nothing more is read.
    pub(crate) flood: Cell<Option<Flood>>,
    /// What `h2` has told it that it has had enough of.
    pub(crate) told: Cell<Option<Flood>>,
    /// What waits of interim answers.
    pub(super) interims: Rc<Interims>,
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Metered {
    io: Io<Stream>,
    meter: Meter,
    found: Rc<Found>,
    /// For what is not finished: which, and until when. Nothing else has a timer here.
    unfinished: Option<(u64, Pin<Box<Sleep>>)>,
    head_timeout: Duration,
    /// Since it has ended: until when it waits for its client's end.
    lingers: Option<Pin<Box<Sleep>>>,
    discarded_bytes: usize,
}

impl Metered {
    /// `head_timeout` is what a client has for a head, and for any frame but those of bodies.
    pub(crate) fn new(io: Io<Stream>, found: Rc<Found>, head_timeout: Duration) -> Self {
        let meter = Meter::new(Instant::now());
        Self { io, meter, found, unfinished: None, head_timeout, lingers: None, discarded_bytes: 0 }
    }

    /// Nothing more has come: what has begun has to end in time.
    fn poll_unfinished(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(count) = self.meter.unfinished() else {
            self.unfinished = None;
            return Poll::Pending;
        };
        if self.unfinished.as_ref().is_none_or(|(other, _)| *other != count) {
            self.unfinished = Some((count, Box::pin(sleep(self.head_timeout))));
        }
        self.unfinished.as_mut().map_or(Poll::Pending, |(_, sleep)| sleep.as_mut().poll(context))
    }
}

impl Metered {
    /// Closing with bytes unread would reset the connection, and the reset may overtake the last answers (RFC 9112 9.6): clients grant room
    /// while they read them, and who cannot write any more may not read on.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // It has a word of its own for the end, which may have to wait.
        let _ = Pin::new(&mut self.io).poll_flush(context);
        let time = self.lingers.get_or_insert_with(|| Box::pin(sleep(LINGER_TIMEOUT)));
        let mut bytes = [0; DISCARD_BYTES];
        while self.discarded_bytes < DISCARDED_BYTES_MAX {
            let mut into = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.io).poll_read(context, &mut into) {
                Poll::Pending => return time.as_mut().poll(context),
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                    self.discarded_bytes += into.filled().len();
                }
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Metered {
    /// Once something was found out, nothing more is read.
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.found.flood.get().is_some() {
            return Poll::Pending;
        }
        let before = into.filled().len();
        match Pin::new(&mut this.io).poll_read(context, into) {
            Poll::Pending => {
                ready!(this.poll_unfinished(context));
                this.found.flood.set(Some(Flood::Head));
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => match this.meter.take(&into.filled()[before..], Instant::now) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(flood) => {
                    into.set_filled(before);
                    this.found.flood.set(Some(flood));
                    Poll::Pending
                }
            },
        }
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(context, slices))?;
        let mut left = written;
        for slice in slices {
            let part = left.min(slice.len());
            this.meter.give(&slice[..part], |stream| this.found.interims.note_left(stream));
            left -= part;
        }
        this.found.told.set(this.meter.told());
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingers.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(context))?;
        }
        this.poll_linger(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::stream::{Inner, Memory, memory};

    fn metered() -> (Metered, Memory) {
        let (client, memory) = memory::pair();
        let stream = Stream::Memory(Box::new(Inner { memory, certificate: None }));
        (Metered::new(Io::new(stream), Rc::default(), Duration::from_secs(1)), client)
    }

    fn shut(metered: &mut Metered) -> Poll<io::Result<()>> {
        Pin::new(metered).poll_shutdown(&mut Context::from_waker(Waker::noop()))
    }

    fn send(client: &mut Memory, bytes: usize) {
        let sent = client.poll_send(&mut Context::from_waker(Waker::noop()), &vec![0; bytes]);
        assert!(matches!(sent, Poll::Ready(Ok(count)) if count == bytes), "{sent:?}");
    }

    #[tokio::test]
    async fn a_connection_that_ends_reads_until_its_client_ends_it() {
        let (mut metered, mut client) = metered();
        assert!(shut(&mut metered).is_pending());
        assert!(client.poll_ended(&mut Context::from_waker(Waker::noop())).is_ready(), "the client is told");
        send(&mut client, 13);
        assert!(shut(&mut metered).is_pending());
        assert_eq!(client.unread_bytes(), 0);
        client.finish();
        assert!(shut(&mut metered).is_ready());
    }

    #[tokio::test]
    async fn so_much_is_thrown_away_and_no_more() {
        let (mut metered, mut client) = metered();
        let mut left = DISCARDED_BYTES_MAX - 1;
        while left > 0 {
            let bytes = left.min(DISCARD_BYTES);
            send(&mut client, bytes);
            assert!(shut(&mut metered).is_pending(), "{left} left");
            left -= bytes;
        }
        send(&mut client, 1);
        assert!(shut(&mut metered).is_ready());
    }
}
