//! A connection to an upstream, with an ear on what comes.

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

use super::{
    frames::{Frames, kind},
    silence::Silence,
};
use crate::{link::Link, stream::Io};

/// The connection.
#[derive(Debug)]
pub(super) struct Listened {
    io: Io<Link>,
    frames: Frames,
    silence: Rc<RefCell<Silence>>,
}

impl Listened {
    pub(super) fn new(io: Io<Link>, silence: Rc<RefCell<Silence>>) -> Self {
        Self { io, frames: Frames::new(0), silence }
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        let mut is_answer = false;
        while let Some((frame, rest)) = self.frames.next(bytes) {
            bytes = rest;
            is_answer |= matches!(frame.kind, kind::HEADERS | kind::DATA);
        }
        self.silence.borrow_mut().hear(Instant::now(), is_answer);
    }
}

impl AsyncRead for Listened {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, into))?;
        this.hear(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Listened {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, slices)
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
