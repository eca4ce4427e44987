//! A client's connection: plain, or sealed by TLS. Nothing else knows which, but for whoever wants to move its bytes past our memory.
//!
//! What a plain one has taken has left, as far as this process is concerned. A sealed one holds what it has taken until
//! [`Transport::poll_flush`] says otherwise: before that nothing is counted, pooled or finished.

#[path = "stream/io.rs"]
mod async_io;
pub(crate) mod memory;
pub(crate) mod tls;

use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, net::TcpStream};

use crate::{certificates::Certificate, http1::Scheme, socket::Socket};
pub(crate) use async_io::Io;
pub(crate) use memory::Memory;
pub(crate) use tls::Tls;

/// What bytes are read from and written to.
pub(crate) trait Transport {
    /// Reads once; 0 is an orderly end.
    fn poll_recv(&mut self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>>;

    /// The same for a buffer that need not be cleared, and so many bytes at most where some of it has to be.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
        bytes_max: usize,
    ) -> Poll<io::Result<()>>;

    /// Takes as much as there is room for.
    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// The same of several slices.
    fn poll_send_slices(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Ready when all that was taken has left.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// How much of what was taken has not.
    fn unsent_bytes(&self) -> usize;

    /// Says that nothing more will be sent, behind everything that was taken.
    ///
    /// # Errors
    /// The connection is broken.
    fn finish(&mut self) -> io::Result<()>;

    /// The connection below, where the bytes on it are those that are read and written: for splice(2).
    fn raw(&mut self) -> Option<&mut Socket>;
}

impl Transport for Socket {
    #[inline]
    fn poll_recv(&mut self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_recv(context, into)
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
        bytes_max: usize,
    ) -> Poll<io::Result<()>> {
        // Clearing is dear where there is nothing to read, as whoever reads until there is nothing finds each time.
        ready!(self.poll_recv_ready(context))?;
        let room = into.initialize_unfilled_to(into.remaining().min(bytes_max));
        let count = ready!(self.poll_recv(context, room))?;
        into.advance(count);
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(context, bytes)
    }

    #[inline]
    fn poll_send_slices(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send_slices(context, slices)
    }

    #[inline]
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn unsent_bytes(&self) -> usize {
        0
    }

    fn finish(&mut self) -> io::Result<()> {
        Self::finish(self)
    }

    #[inline]
    fn raw(&mut self) -> Option<&mut Socket> {
        Some(self)
    }
}

/// A client's connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Socket),
    Tls(Box<Tls>),
    /// A stream of HTTP/2, whose connection is another.
    Memory(Box<Inner>),
}

/// A stream of HTTP/2, as the exchange sees it that serves it.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) memory: Memory,
    /// What the client of its connection was shown; none where that is plain.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

// An idle plain client costs what it did.
const _: () = assert!(size_of::<Stream>() <= size_of::<Socket>() + 8);

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        Self::Plain(socket)
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream.into())
    }
}

impl Transport for Stream {
    #[inline]
    fn poll_recv(&mut self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_recv(context, into),
            Self::Tls(tls) => tls.poll_recv(context, into),
            Self::Memory(inner) => inner.memory.poll_recv(context, into),
        }
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
        bytes_max: usize,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read(context, into, bytes_max),
            Self::Tls(tls) => tls.poll_read(context, into),
            Self::Memory(inner) => inner.memory.poll_read(context, into),
        }
    }

    #[inline]
    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_send(context, bytes),
            Self::Tls(tls) => tls.poll_send(context, &[IoSlice::new(bytes)]),
            Self::Memory(inner) => inner.memory.poll_send(context, bytes),
        }
    }

    #[inline]
    fn poll_send_slices(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_send_slices(context, slices),
            Self::Tls(tls) => tls.poll_send(context, slices),
            Self::Memory(inner) => inner.memory.poll_send_slices(context, slices),
        }
    }

    #[inline]
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) | Self::Memory(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => tls.poll_flush(context),
        }
    }

    #[inline]
    fn unsent_bytes(&self) -> usize {
        match self {
            Self::Plain(_) | Self::Memory(_) => 0,
            Self::Tls(tls) => tls.unsent_bytes(),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.finish(),
            Self::Tls(tls) => tls.finish(),
            Self::Memory(inner) => {
                inner.memory.finish();
                Ok(())
            }
        }
    }

    #[inline]
    fn raw(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) | Self::Memory(_) => None,
        }
    }
}

impl Stream {
    /// What the client was shown; none of a plain one.
    #[inline]
    pub(crate) fn certificate(&self) -> Option<&Arc<Certificate>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls.certificate()),
            Self::Memory(inner) => inner.certificate.as_ref(),
        }
    }

    /// It is a stream of HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Memory(_))
    }

    /// What URLs call it.
    pub(crate) fn scheme(&self) -> Scheme {
        if self.certificate().is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// Whether there is something to read, the end included.
    pub(crate) fn poll_recv_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_recv_ready(context),
            Self::Tls(tls) => tls.poll_recv_ready(context),
            Self::Memory(inner) => inner.memory.poll_recv_ready(context),
        }
    }

    /// Neither bytes nor an end have come.
    pub(crate) fn is_quiet(&mut self, context: &mut Context<'_>) -> bool {
        match self {
            Self::Plain(socket) => socket.is_quiet(context),
            Self::Tls(tls) => !tls.has_opened() && tls.socket_mut().is_quiet(context),
            Self::Memory(inner) => inner.memory.poll_recv_ready(context).is_pending(),
        }
    }

    /// A part of something has come that is nothing yet.
    pub(crate) fn has_part(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.has_part())
    }

    /// Whether news of it come by themselves.
    pub(crate) fn is_watched(&self) -> bool {
        self.socket().is_none_or(Socket::is_watched)
    }

    /// Has it end without an end: what the client got is not whole, and it is to know.
    pub(crate) fn abort(&self) {
        match self {
            Self::Memory(inner) => inner.memory.abort(),
            Self::Plain(_) | Self::Tls(_) => {
                let _ = self.options().map(|options| options.set_linger(Some(Duration::ZERO)));
            }
        }
    }

    /// Says so in the protocol alone, where that has a word for it: an end that is none of the connection.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn say_end(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) | Self::Memory(_) => Ok(()),
            Self::Tls(tls) => tls.say_end(),
        }
    }

    /// The same where it is to be closed at once, as far as the kernel takes it.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn say_goodbye(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) | Self::Memory(_) => Ok(()),
            Self::Tls(tls) => tls.finish(),
        }
    }

    /// Bytes that were taken and that the other side has not acknowledged.
    pub(crate) fn unacknowledged_bytes(&self) -> Option<usize> {
        match self {
            Self::Memory(inner) => Some(inner.memory.unread_bytes()),
            Self::Plain(socket) => socket.unacknowledged_bytes(),
            Self::Tls(tls) => tls.socket().unacknowledged_bytes().map(|bytes| bytes + tls.unsent_bytes()),
        }
    }

    /// See [`Socket::make_room`].
    pub(crate) fn make_room(&self) {
        self.socket().into_iter().for_each(Socket::make_room);
    }

    /// Whatever else the kernel knows of it, while it lasts.
    pub(crate) fn options(&self) -> Option<socket2::SockRef<'_>> {
        self.socket()?.options()
    }

    fn socket(&self) -> Option<&Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(tls) => Some(tls.socket()),
            Self::Memory(_) => None,
        }
    }
}
