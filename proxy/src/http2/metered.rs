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

use super::meter::Meter;
use crate::{
    flood::Flood,
    stream::{Io, Stream},
};

/// What was found out, for whoever serves the connection.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What its client goes on with: nothing more is read.
    pub(crate) flood: Cell<Option<Flood>>,
    /// What `h2` has told it that it has had enough of.
    pub(crate) told: Cell<Option<Flood>>,
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
}

impl Metered {
    /// `head_timeout` is what a client has for a head, and for any frame but those of bodies.
    pub(crate) fn new(io: Io<Stream>, found: Rc<Found>, head_timeout: Duration) -> Self {
        Self { io, meter: Meter::new(Instant::now()), found, unfinished: None, head_timeout }
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
            this.meter.give(&slice[..part]);
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
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
