//! A connection whose bytes are sealed in TLS records. Only here is rustls driven.
//!
//! ```text
//! socket ─▶ incoming ─▶ rustls ─▶ reader's buffer, or what does not fit: opened
//! socket ◀─ outgoing ◀─ rustls ◀─ slices, up to a record gathered at a time
//! ```
//!
//! All three buffers are lent from the worker's shelf while there is something in them: an idle connection holds the state of rustls and
//! nothing else. `incoming` holds a part of a record at most: whatever is whole is opened as it comes, so that nothing waits in memory
//! for news of the socket, which need not come.

mod client;
mod collector;
mod handshake;
mod records;
mod shelves;

use std::{
    io::{self, IoSlice},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::server::UnbufferedServerConnection;
use tokio::io::ReadBuf;

use crate::{
    buffer::Buffer,
    certificates::{Certificate, HTTP2_NAME},
    limits::{RECORD_BYTES_MAX, RECORD_OVERHEAD_BYTES_MAX, SEALED_BUFFER_BYTES},
    socket::Socket,
};
pub(crate) use client::OriginTls;
pub(crate) use collector::{CollectorTls, NoTls};
pub(crate) use handshake::{HandshakeError, Turns};
use records::{Driven, Side, Word};
pub(crate) use shelves::Shelves;
use shelves::give_back_if_empty;

/// Room that is kept in a buffer for messages of TLS itself: a change of keys, an alert.
const CONTROL_BYTES: usize = SEALED_BUFFER_BYTES - 5 * (RECORD_BYTES_MAX + RECORD_OVERHEAD_BYTES_MAX);

/// What the other side has said of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// Nothing.
    Nothing,
    /// close_notify: what came is whole.
    End,
    /// What came is not TLS, or not what was sent.
    Nonsense,
}

/// A client's TLS connection after its handshake; with it goes what the client was shown.
pub(crate) type Tls = Sealed<UnbufferedServerConnection, Arc<Certificate>>;

/// A TLS connection, of either side.
pub(crate) struct Sealed<C: Side, P> {
    socket: Socket,
    connection: C,
    /// What is to be known of it.
    party: P,
    shelf: Rc<Shelves>,
    /// A part of a record at most.
    incoming: Option<Buffer>,
    /// What was opened and not read.
    opened: Option<Buffer>,
    /// What was sealed and has not left.
    outgoing: Option<Buffer>,
    heard: Heard,
    /// The other side was told that nothing more comes.
    has_said_end: bool,
    /// The connection below is to end as well, once everything has left.
    is_finishing: bool,
}

impl<C: Side, P> std::fmt::Debug for Sealed<C, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Tls {
    /// What the client was shown.
    pub(crate) fn certificate(&self) -> &Arc<Certificate> {
        &self.party
    }

    /// Whether both sides want HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.connection.alpn_protocol() == Some(HTTP2_NAME)
    }
}

impl<C: Side, P> Sealed<C, P> {
    fn new(socket: Socket, connection: C, party: P, shelf: Rc<Shelves>) -> Self {
        Self {
            socket,
            connection,
            party,
            shelf,
            incoming: None,
            opened: None,
            outgoing: None,
            heard: Heard::Nothing,
            has_said_end: false,
            is_finishing: false,
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(crate) fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// There is something to read that the socket knows nothing of any more, an end or an error included.
    pub(crate) fn has_opened(&self) -> bool {
        self.opened.is_some() || self.heard != Heard::Nothing
    }

    /// A part of a record has come.
    pub(super) fn has_part(&self) -> bool {
        self.incoming.is_some()
    }

    pub(crate) fn unsent_bytes(&self) -> usize {
        self.outgoing.as_ref().map_or(0, |outgoing| outgoing.filled().len())
    }

    /// Whether there may be something to read. What waits for the rest of a record waits in little room.
    pub(crate) fn poll_recv_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // First what was opened: no news of the socket will tell of it.
        if self.has_opened() {
            return Poll::Ready(Ok(()));
        }
        let polled = self.socket.poll_recv_ready(context);
        if polled.is_pending()
            && let Some(part) = self.incoming.take()
        {
            self.incoming = Some(self.shelf.shrink(part));
        }
        polled
    }

    pub(crate) fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(opened) = &mut self.opened {
                let count = opened.filled().len().min(into.len());
                into[..count].copy_from_slice(&opened.filled()[..count]);
                opened.consume(count);
                give_back_if_empty(&mut self.opened, &self.shelf);
                return Poll::Ready(Ok(count));
            }
            match self.heard {
                Heard::Nothing => {}
                Heard::End => return Poll::Ready(Ok(0)),
                Heard::Nonsense => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            // Without close_notify it is no end: whoever cuts the connection must not look like whoever has said all.
            if ready!(self.poll_fill_incoming(context))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let driven = self.drive(into, Word::Nothing);
            if self.outgoing.is_some() {
                // An alert, or that there is no other handshake: nobody else will have it sent. What is left of it leaves before what
                // is sent next.
                let _ = self.poll_flush(context);
            }
            match driven {
                Ok(Driven { opened_bytes: 0, .. }) => {}
                Ok(Driven { opened_bytes, .. }) => return Poll::Ready(Ok(opened_bytes)),
                Err(error) => tracing::debug!(%error, "a TLS connection does not keep to the protocol"),
            }
        }
    }

    /// The same for a buffer that need not be cleared. Nothing is lent where there is nothing to read.
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_recv_ready(context))?;
        // Into no room: all that is opened waits.
        ready!(self.poll_recv(context, &mut []))?;
        if let Some(opened) = &mut self.opened {
            let count = opened.filled().len().min(into.remaining());
            into.put_slice(&opened.filled()[..count]);
            opened.consume(count);
            give_back_if_empty(&mut self.opened, &self.shelf);
        }
        Poll::Ready(Ok(()))
    }

    /// Seals as much as there is room for. What was sealed before must have left first.
    pub(crate) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.unsent_bytes() > CONTROL_BYTES / 2 {
            ready!(self.poll_flush(context))?;
        }
        if self.has_said_end || self.heard == Heard::Nonsense {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let driven = self.drive(&mut [], Word::Slices(slices)).map_err(io::Error::other)?;
        if let Poll::Ready(Err(error)) = self.poll_flush(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(driven.taken_bytes))
    }

    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(outgoing) = &mut self.outgoing {
            let count = ready!(self.socket.poll_send(context, outgoing.filled()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outgoing.consume(count);
            give_back_if_empty(&mut self.outgoing, &self.shelf);
        }
        if std::mem::take(&mut self.is_finishing) {
            self.socket.finish()?;
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will come; that, too, has to be flushed.
    pub(super) fn say_end(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.has_said_end, true) && self.heard != Heard::Nonsense {
            self.drive(&mut [], Word::End).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// The same, and that of the connection below as soon as everything has left.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if self.has_said_end && !self.is_finishing && self.outgoing.is_none() {
            return self.socket.finish();
        }
        self.say_end()?;
        self.is_finishing = true;
        // Nobody waits for it where the kernel has room, which it has nearly always.
        while let Some(outgoing) = &mut self.outgoing {
            let sent = self.socket.call(|socket| {
                rustix::net::send(socket, outgoing.filled(), rustix::net::SendFlags::NOSIGNAL)
            });
            match sent {
                Ok(count) if count > 0 => outgoing.consume(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
            give_back_if_empty(&mut self.outgoing, &self.shelf);
        }
        self.is_finishing = false;
        self.socket.finish()
    }

    /// Reads once; 0 is the end of the connection below.
    fn poll_fill_incoming(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self { socket, incoming, shelf, .. } = self;
        let room = incoming.take().map_or_else(|| shelf.take(), |part| shelf.grow(part));
        let buffer = incoming.insert(room);
        buffer.compact();
        if !buffer.has_spare() {
            // No record is so long: rustls has refused it before.
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let polled = socket.poll_recv(context, buffer.spare_mut());
        if let Poll::Ready(Ok(count)) = polled {
            buffer.fill(count);
        } else if let Some(part) = incoming.take_if(|buffer| !buffer.is_empty()) {
            *incoming = Some(shelf.shrink(part));
        }
        give_back_if_empty(incoming, shelf);
        polled
    }
}

impl<C: Side, P> Drop for Sealed<C, P> {
    fn drop(&mut self) {
        let buffers = [self.incoming.take(), self.opened.take(), self.outgoing.take()];
        buffers.into_iter().flatten().for_each(|buffer| self.shelf.put(buffer));
    }
}
