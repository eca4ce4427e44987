//! An exchange's way to its upstream: a socket of its own, or one stream of a connection that other exchanges use, too.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use tokio::io::ReadBuf;

use crate::{
    certificates::Seal,
    dial::poll_connected,
    error::AttemptFailure,
    socket::Socket,
    stream::{
        Memory, Transport,
        tls::{OriginTls, Shelves},
    },
};

/// The way.
#[derive(Debug)]
pub(crate) enum Link {
    Plain(Socket),
    Tls(Box<Shaking>),
    Stream(Box<Streamed>),
}

// Whoever speaks HTTP/1 to upstreams pays nothing for those that do not.
const _: () = assert!(size_of::<Link>() <= size_of::<Socket>() + 8);

/// A connection over TLS, from its first step on.
#[derive(Debug)]
pub(crate) struct Shaking {
    tls: OriginTls,
    /// Its connection below is made.
    is_connected: bool,
}

/// A stream of HTTP/2, as the exchange sees it that uses it: a connection of HTTP/1 in memory.
#[derive(Debug)]
pub(crate) struct Streamed {
    memory: Memory,
    progress: Rc<Progress>,
}

/// How far a stream has come, told by whoever serves it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    reached: Cell<Reached>,
    waiter: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Reached {
    #[default]
    Nothing,
    /// There is a connection with room for it, which has served others before, or not.
    Connection {
        is_reused: bool,
    },
    Failed(AttemptFailure),
    /// The upstream has said that it did not look at it.
    Unprocessed,
    /// The upstream has ended it, and not the connection.
    Reset,
    /// The upstream has not even answered a ping.
    Silent,
}

impl Progress {
    /// There is a connection with room for the stream.
    pub(crate) fn note_connection(&self, is_reused: bool) {
        self.set(Reached::Connection { is_reused });
    }

    /// There is none.
    pub(crate) fn fail(&self, failure: AttemptFailure) {
        self.set(Reached::Failed(failure));
    }

    /// Nobody has looked at the request, and it may be sent to anybody (RFC 9113 8.7).
    pub(crate) fn note_unprocessed(&self) {
        self.set(Reached::Unprocessed);
    }

    /// The upstream has ended the stream alone: that is not the age of a connection.
    pub(crate) fn note_reset(&self) {
        self.set(Reached::Reset);
    }

    /// The upstream has not even answered a ping: its connection is given up.
    pub(crate) fn note_silent(&self) {
        self.set(Reached::Silent);
    }

    fn set(&self, reached: Reached) {
        self.reached.set(reached);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    fn poll_connected(&self, context: &Context<'_>) -> Poll<Result<(), AttemptFailure>> {
        match self.reached.get() {
            Reached::Nothing => {
                self.waiter.replace(Some(context.waker().clone()));
                Poll::Pending
            }
            Reached::Connection { .. } | Reached::Unprocessed | Reached::Reset | Reached::Silent => {
                Poll::Ready(Ok(()))
            }
            Reached::Failed(failure) => Poll::Ready(Err(failure)),
        }
    }
}

impl Link {
    /// A stream that somebody serves at the other side of this memory, and tells how far it has come.
    pub(crate) fn stream(memory: Memory, progress: Rc<Progress>) -> Self {
        Self::Stream(Box::new(Streamed { memory, progress }))
    }

    /// A connection that was begun, and that is to be sealed, if anything is said of that.
    ///
    /// # Errors
    /// It cannot be.
    pub(crate) fn begin(
        socket: Socket,
        seal: Option<&Rc<Seal>>,
        shelf: &Rc<Shelves>,
    ) -> Result<Self, AttemptFailure> {
        let Some(seal) = seal else { return Ok(Self::Plain(socket)) };
        let tls = OriginTls::begin(socket, seal.clone(), shelf.clone()).map_err(AttemptFailure::Tls)?;
        Ok(Self::Tls(Box::new(Shaking { tls, is_connected: false })))
    }

    /// It is sealed by this, or plain if that is nothing. Another plan has had others: what was trusted then need not be trusted now.
    #[inline]
    pub(crate) fn is_sealed_by(&self, seal: Option<&Rc<Seal>>) -> bool {
        match (self, seal) {
            (Self::Tls(shaking), Some(seal)) => Rc::ptr_eq(shaking.tls.seal(), seal),
            (Self::Tls(_), None) | (Self::Plain(_), Some(_)) => false,
            (Self::Plain(_), None) | (Self::Stream(_), _) => true,
        }
    }

    /// It may serve other exchanges. A stream has served its one; its connection is kept elsewhere.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Self::Plain(_) | Self::Tls(_))
    }

    /// It is a stream of HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Says to the other side that it is closed for good, as far as the kernel takes it: it is owed nothing.
    pub(crate) fn say_goodbye(&mut self) {
        if let Self::Tls(shaking) = self {
            // Whoever has gone need not be told.
            let _ = shaking.tls.finish();
        }
    }

    /// The socket below, where there is one.
    pub(crate) fn socket(&self) -> Option<&Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(shaking) => Some(shaking.tls.socket()),
            Self::Stream(_) => None,
        }
    }

    /// A socket of its own, on which the bytes are those that are read and written.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Waits until a connection that was begun is made, well or badly.
    pub(crate) fn poll_connected(&mut self, context: &mut Context<'_>) -> Poll<Result<(), AttemptFailure>> {
        match self {
            Self::Plain(socket) => poll_connected(context, socket),
            Self::Tls(shaking) => shaking.poll_connected(context),
            Self::Stream(stream) => stream.progress.poll_connected(context),
        }
    }

    /// Its connection was made for another exchange.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Tls(_) => false,
            Self::Stream(stream) => {
                matches!(stream.progress.reached.get(), Reached::Connection { is_reused: true })
            }
        }
    }

    /// The upstream has said that it did not look at the request.
    pub(crate) fn is_unprocessed(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.progress.reached.get() == Reached::Unprocessed)
    }

    /// The upstream has ended the stream, and not its connection.
    pub(crate) fn is_reset(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.progress.reached.get() == Reached::Reset)
    }

    /// The upstream has not even answered a ping.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.progress.reached.get() == Reached::Silent)
    }

    /// Whether there is something to read, the end included.
    #[inline]
    pub(crate) fn poll_recv_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_recv_ready(context),
            Self::Tls(shaking) => shaking.tls.poll_recv_ready(context),
            Self::Stream(stream) => stream.memory.poll_recv_ready(context),
        }
    }

    /// Neither bytes nor an end have come.
    pub(crate) fn is_quiet(&mut self, context: &mut Context<'_>) -> bool {
        match self {
            Self::Plain(socket) => socket.is_quiet(context),
            Self::Tls(shaking) => shaking.tls.is_quiet(context),
            Self::Stream(stream) => stream.memory.poll_recv_ready(context).is_pending(),
        }
    }

    /// Bytes that were taken and that the other side has not acknowledged.
    pub(crate) fn unacknowledged_bytes(&self) -> Option<usize> {
        match self {
            Self::Plain(socket) => socket.unacknowledged_bytes(),
            Self::Tls(shaking) => {
                let tls = &shaking.tls;
                tls.socket().unacknowledged_bytes().map(|bytes| bytes + tls.unsent_bytes())
            }
            Self::Stream(stream) => Some(stream.memory.unread_bytes()),
        }
    }

    /// See [`Socket::make_room`].
    pub(crate) fn make_room(&self) {
        self.socket().into_iter().for_each(Socket::make_room);
    }
}

impl Shaking {
    fn poll_connected(&mut self, context: &mut Context<'_>) -> Poll<Result<(), AttemptFailure>> {
        if !self.is_connected {
            ready!(poll_connected(context, self.tls.socket_mut()))?;
            self.is_connected = true;
        }
        self.tls.poll_handshake(context).map_err(AttemptFailure::Tls)
    }
}

impl From<Socket> for Link {
    fn from(socket: Socket) -> Self {
        Self::Plain(socket)
    }
}

impl Transport for Link {
    #[inline]
    fn poll_recv(&mut self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_recv(context, into),
            Self::Tls(shaking) => shaking.tls.poll_recv(context, into),
            Self::Stream(stream) => stream.memory.poll_recv(context, into),
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
            Self::Tls(shaking) => shaking.tls.poll_read(context, into),
            Self::Stream(stream) => stream.memory.poll_read(context, into),
        }
    }

    #[inline]
    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_send(context, bytes),
            Self::Tls(shaking) => shaking.tls.poll_send(context, &[IoSlice::new(bytes)]),
            Self::Stream(stream) => stream.memory.poll_send(context, bytes),
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
            Self::Tls(shaking) => shaking.tls.poll_send(context, slices),
            Self::Stream(stream) => stream.memory.poll_send_slices(context, slices),
        }
    }

    #[inline]
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) | Self::Stream(_) => Poll::Ready(Ok(())),
            Self::Tls(shaking) => shaking.tls.poll_flush(context),
        }
    }

    #[inline]
    fn unsent_bytes(&self) -> usize {
        match self {
            Self::Plain(_) | Self::Stream(_) => 0,
            Self::Tls(shaking) => shaking.tls.unsent_bytes(),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.finish(),
            Self::Tls(shaking) => shaking.tls.finish(),
            Self::Stream(stream) => {
                stream.memory.finish();
                Ok(())
            }
        }
    }

    #[inline]
    fn raw(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) | Self::Stream(_) => None,
        }
    }
}
