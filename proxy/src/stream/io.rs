//! A connection for whoever reads and writes it as tokio does.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Transport;

/// Bytes that are read at once from a connection that has little to say. Room has to be cleared before it is read into: eight kilobytes for a
/// request of forty bytes take longer than to understand it, and stay in memory while the connection is idle.
const READ_BYTES_MIN: usize = 1024;

/// How much more is read at once behind a read that filled its room.
const READ_GROWTH: usize = 4;

/// The connection.
#[derive(Debug)]
pub(crate) struct Io<T> {
    transport: T,
    /// Bytes that are read at once.
    read_bytes_max: usize,
}

impl<T> Io<T> {
    pub(crate) fn new(transport: T) -> Self {
        Self { transport, read_bytes_max: READ_BYTES_MIN }
    }
}

impl<T: Transport + Unpin> AsyncRead for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, room) = (into.filled().len(), into.remaining().min(this.read_bytes_max));
        ready!(this.transport.poll_read(context, into, this.read_bytes_max))?;
        let is_full = into.filled().len() - before >= room;
        this.read_bytes_max =
            if is_full { this.read_bytes_max.saturating_mul(READ_GROWTH) } else { READ_BYTES_MIN };
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport + Unpin> AsyncWrite for Io<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().transport.poll_send(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().transport.poll_send_slices(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().transport.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &mut self.get_mut().transport;
        ready!(stream.poll_flush(context))?;
        Poll::Ready(stream.finish())
    }
}
