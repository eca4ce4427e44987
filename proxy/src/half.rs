//! One way of an exchange: a message between the socket on which it comes and the socket on which it leaves.
//!
//! ```text
//! from ─▶ buffer ─▶ pieces ─▶ to        heads, small bodies, chunks
//!      └▶ pipe ───────────────▶ to      the rest of a large body of known length, past our own memory
//! ```
//!
//! A body is *done* when its last byte has come. It has *left* when its last byte was taken by the socket on the other side. Between the two
//! lies whatever a full receiver has not taken yet, and only what has left may be counted, answered for, or followed by another message.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use crate::{
    buffer::Buffer,
    http1::{Body, BodyKind, Pieces, Reject},
    limits::{PIECES_COUNT_MAX, SPLICE_BYTES_MIN},
    link::Link,
    pipe::{Pipe, Pipes},
    socket::Socket,
    stream::{Stream, Transport},
};

/// A message on its way; `Head` is what was decided about it.
#[derive(Debug)]
pub(crate) struct Half<Head> {
    /// What came, what follows the message included.
    pub(crate) buffer: Option<Buffer>,
    /// How much of an incomplete head was searched for its end.
    pub(crate) scanned: usize,
    pub(crate) head: Option<Head>,
    /// What of the buffer passes, and what was added to it.
    pub(crate) pieces: Pieces,
    body: Body,
    /// How much of the buffer the pieces cover.
    covered: usize,
    /// Filled only while the buffer is empty and the pieces are written.
    pipe: Option<Pipe>,
    /// What the other side's transport has taken and holds still.
    unsent_bytes: usize,
    /// The other side takes no more of it.
    is_cut: bool,
    /// Something came or left since somebody asked.
    has_moved: bool,
}

impl<Head> Default for Half<Head> {
    fn default() -> Self {
        Self {
            buffer: None,
            scanned: 0,
            head: None,
            pieces: Pieces::default(),
            body: Body::default(),
            covered: 0,
            pipe: None,
            unsent_bytes: 0,
            is_cut: false,
            has_moved: false,
        }
    }
}

impl<Head> Half<Head> {
    /// Makes ready for the next message; the buffer stays, with what there is of it.
    pub(crate) fn reset(&mut self) {
        debug_assert!(self.pipe.is_none(), "given back by whoever gives the upstream back");
        (self.scanned, self.head, self.body, self.covered) = (0, None, Body::default(), 0);
        (self.unsent_bytes, self.is_cut, self.has_moved) = (0, false, false);
        self.pieces.clear();
    }

    /// Where in the body the next byte is that has not come.
    pub(crate) fn kind(&self) -> BodyKind {
        self.body.kind()
    }

    /// All of it has come.
    pub(crate) fn is_done(&self) -> bool {
        self.body.is_done()
    }

    /// All that has come has left.
    pub(crate) fn is_flushed(&self) -> bool {
        self.pieces.is_written() && self.unsent_bytes == 0 && self.pipe.as_ref().is_none_or(Pipe::is_empty)
    }

    /// A part of what has come has left, or may have, and not all.
    pub(crate) fn is_leaving(&self) -> bool {
        self.pieces.is_begun() || self.unsent_bytes > 0
    }

    /// All of it has left.
    pub(crate) fn has_left(&self) -> bool {
        self.is_done() && self.is_flushed() && !self.is_cut
    }

    /// Bytes of the body's data that have come.
    pub(crate) fn data_bytes_in(&self) -> u64 {
        self.body.data_bytes()
    }

    /// Bytes of the body's data that have left, but for the framing among those that have not.
    pub(crate) fn data_bytes_out(&self) -> u64 {
        let waiting =
            self.pieces.unwritten_bytes() + self.unsent_bytes + self.pipe.as_ref().map_or(0, Pipe::bytes);
        self.body.data_bytes().saturating_sub(waiting as u64)
    }

    /// The other side takes no more of it: what comes is thrown away from now on.
    pub(crate) fn cut(&mut self) {
        self.is_cut = true;
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Begins again from the first byte, for another receiver. All of it must be in the buffer.
    pub(crate) fn rewind(&mut self) {
        self.pieces.rewind();
        self.is_cut = false;
    }

    /// Whether something came or left since this was asked last.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    /// Has the next question answered with yes.
    pub(crate) fn note_moved(&mut self) {
        self.has_moved = true;
    }

    /// The head is known, and this is the body behind it. What there is of that becomes pieces.
    ///
    /// # Errors
    /// Why the message is refused.
    pub(crate) fn begin_body(&mut self, body: Body, head_bytes: usize) -> Result<(), Reject> {
        self.body = body;
        let filled = self.buffer.as_ref().map_or(&[][..], Buffer::filled);
        self.covered = self.body.scan(filled, head_bytes, &mut self.pieces)?;
        Ok(())
    }

    /// So much at the front of the buffer is a message of its own, whose pieces are there: an interim response.
    pub(crate) fn cover(&mut self, bytes: usize) {
        self.covered = bytes;
    }

    /// From here on it is bytes until the connection ends.
    pub(crate) fn become_tunnel(&mut self, body: Body) {
        self.body = body;
    }

    /// The connection on which it came has ended, and with it a body that has no other end.
    pub(crate) fn end_body(&mut self) {
        self.body.end();
    }

    /// Turns what is in the buffer into pieces; what was there before must have left.
    ///
    /// # Errors
    /// Why the message is refused.
    pub(crate) fn scan(&mut self) -> Result<(), Reject> {
        debug_assert!(self.covered == 0 && self.pieces.is_written());
        let filled = self.buffer.as_ref().map_or(&[][..], Buffer::filled);
        self.covered = self.body.scan(filled, 0, &mut self.pieces)?;
        Ok(())
    }

    /// Forgets what has left, or is thrown away.
    pub(crate) fn consume(&mut self) {
        debug_assert!(self.is_flushed() || self.is_cut);
        let covered = std::mem::take(&mut self.covered);
        if let Some(buffer) = &mut self.buffer {
            buffer.consume(covered);
        }
        self.pieces.clear();
        // Of a receiver that is gone.
        self.pipe.take_if(|pipe| !pipe.is_empty());
    }

    /// Takes the pipe away, for another message.
    pub(crate) fn take_pipe(&mut self) -> Option<Pipe> {
        self.pipe.take()
    }

    /// Writes until all that has come has left; at once when it is cut.
    pub(crate) fn poll_flush(
        &mut self,
        context: &mut Context<'_>,
        to: &mut impl Transport,
    ) -> Poll<io::Result<()>> {
        if self.is_cut {
            return Poll::Ready(Ok(()));
        }
        let buffer = self.buffer.as_ref().map_or(&[][..], Buffer::filled);
        while !self.pieces.is_written() {
            let sent = if let Some(slice) = self.pieces.single(buffer) {
                to.poll_send(context, slice)
            } else {
                let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
                let count = self.pieces.slices(buffer, &mut slices);
                to.poll_send_slices(context, &slices[..count])
            };
            let Poll::Ready(written) = sent else {
                // A transport that takes nothing new may have got rid of some of what it holds.
                self.note_unsent(to.unsent_bytes());
                return Poll::Pending;
            };
            let written = written?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pieces.advance(written);
            self.has_moved = true;
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
            let to = to.raw().ok_or(io::ErrorKind::InvalidInput)?;
            ready!(pipe.poll_drain(context, to))?;
            self.has_moved = true;
        }
        self.poll_unsent(context, to)
    }

    /// Waits until all that the other side's transport has taken has left.
    fn poll_unsent(&mut self, context: &mut Context<'_>, to: &mut impl Transport) -> Poll<io::Result<()>> {
        let flushed = to.poll_flush(context);
        self.note_unsent(to.unsent_bytes());
        flushed
    }

    fn note_unsent(&mut self, bytes: usize) {
        self.has_moved |= bytes < self.unsent_bytes;
        self.unsent_bytes = bytes;
    }

    /// Says behind all of it that nothing more comes, to a client whose connection has a word for that.
    pub(crate) fn poll_end(&mut self, context: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        to.say_end()?;
        self.poll_unsent(context, to)
    }

    /// Whether what comes next goes through a pipe, which is taken if need be: the rest of a large body of known length is moved without a
    /// copy between two sockets. A smaller one costs less through a buffer that is in the cache.
    pub(crate) fn is_piped(&mut self, pipes: &Pipes) -> bool {
        let is_large = matches!(self.kind(), BodyKind::Length(bytes) if bytes >= SPLICE_BYTES_MIN);
        let is_possible = !self.is_cut && self.buffer.as_ref().is_none_or(Buffer::is_empty);
        if self.pipe.is_none() && is_large && is_possible {
            self.pipe = pipes.take();
        }
        self.pipe.is_some() && is_possible && matches!(self.kind(), BodyKind::Length(_))
    }

    /// Reads once into the pipe; 0 is the end.
    pub(crate) fn poll_fill_pipe(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Socket,
    ) -> Poll<io::Result<usize>> {
        let (Some(pipe), BodyKind::Length(left)) = (&mut self.pipe, self.body.kind()) else {
            debug_assert!(false, "asked before: is_piped");
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let count = ready!(pipe.poll_fill(context, from, left))?;
        self.body.skip(count as u64);
        self.has_moved = true;
        if self.body.is_done() {
            // What was not asked for is not known to be absent: whoever uses the connection next must not find it.
            let _ = from.poll_peek(context);
        }
        Poll::Ready(Ok(count))
    }

    /// Reads once into the buffer, which must have room; 0 is the end.
    pub(crate) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        from: &mut impl Transport,
    ) -> Poll<io::Result<usize>> {
        let Some(buffer) = &mut self.buffer else {
            debug_assert!(false, "nothing can be read into no buffer");
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        debug_assert!(buffer.has_spare(), "a read of nothing looks like the end");
        let count = ready!(from.poll_recv(context, buffer.spare_mut()))?;
        buffer.fill(count);
        self.has_moved = true;
        Poll::Ready(Ok(count))
    }
}

/// An upstream's connection after an exchange of which both ways are over: all of the request has left on it, all of the response has come
/// and left, and no byte is over. Only such a one may serve another request, which is why a pool takes nothing else.
#[derive(Debug)]
pub(crate) struct Settled(Link);

impl Settled {
    /// None where the upstream is owed bytes, or owes some, or sent too many: its connection is closed then. Otherwise the next
    /// request, cookies included, would be read as the end of this one's body (request smuggling).
    pub(crate) fn after<A, B>(upstream: Link, request: &Half<A>, response: &Half<B>) -> Option<Self> {
        let is_surplus =
            response.buffer.as_ref().map_or(0, |buffer| buffer.filled().len()) > response.covered;
        (upstream.is_own() && request.has_left() && response.has_left() && !is_surplus)
            .then_some(Self(upstream))
    }

    pub(crate) fn into_link(self) -> Link {
        self.0
    }

    #[cfg(test)]
    pub(crate) fn unused(socket: Socket) -> Self {
        Self(socket.into())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::http1::Framing;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    async fn moved<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        std::future::poll_fn(|context| poll(context)).await
    }

    #[tokio::test]
    async fn what_is_in_the_pipe_has_come_and_not_left_and_its_connection_is_not_settled() {
        const BYTES: usize = 4 << 20;
        let ((mut source, from), (to, mut sink)) = (pair().await, pair().await);
        let (mut from, mut to) = (Socket::from(from), Socket::from(to));
        let sending = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut source, &vec![7; BYTES]).await.unwrap();
            source
        });
        let mut half = Half::<()>::default();
        half.begin_body(Body::new(Framing::Length(BYTES as u64), true), 0).unwrap();
        let pipes = Pipes::new(1);
        // The receiver reads nothing until its buffers and the pipe are full, and the rest has come.
        let mut received = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while !half.is_done() {
            assert!(half.is_piped(&pipes));
            assert!(moved(|context| half.poll_fill_pipe(context, &mut from)).await.unwrap() > 0);
            while !half.is_done() && half.poll_flush(&mut context, &mut to).is_pending() {
                sink.read_buf(&mut received).await.unwrap();
            }
        }
        assert!(!half.is_flushed() && !half.has_left());
        assert!(half.data_bytes_out() < BYTES as u64, "what has not left is not counted");
        let (unused, _far) = pair().await;
        assert!(Settled::after(Socket::from(unused).into(), &half, &Half::<()>::default()).is_none());
        let reading = tokio::spawn(async move {
            while received.len() < BYTES {
                assert!(sink.read_buf(&mut received).await.unwrap() > 0);
            }
            received
        });
        moved(|context| half.poll_flush(context, &mut to)).await.unwrap();
        assert!(half.has_left() && half.data_bytes_out() == BYTES as u64);
        assert!(reading.await.unwrap().iter().all(|&byte| byte == 7));
        let (unused, _far) = pair().await;
        assert!(Settled::after(Socket::from(unused).into(), &half, &Half::<()>::default()).is_some());
        drop(sending.await.unwrap());
    }

    #[tokio::test]
    async fn what_was_cut_has_never_left() {
        let mut half = Half::<()>::default();
        assert!(half.has_left(), "a message without a body");
        half.cut();
        let (unused, _far) = pair().await;
        assert!(Settled::after(Socket::from(unused).into(), &half, &Half::<()>::default()).is_none());
        half.rewind();
        assert!(half.has_left());
    }

    #[tokio::test]
    async fn whoever_takes_a_part_has_moved_and_whoever_takes_nothing_has_not() {
        let (near, _reads_nothing) = pair().await;
        let mut to = Socket::from(near);
        let mut half = Half::<()> { buffer: Some(Buffer::new(64 << 20)), ..Half::default() };
        half.buffer.as_mut().unwrap().fill(64 << 20);
        half.begin_body(Body::new(Framing::UntilClose, true), 0).unwrap();
        let mut flush = async || {
            let flushed = |context: &mut Context<'_>| Poll::Ready(half.poll_flush(context, &mut to));
            assert!(std::future::poll_fn(flushed).await.is_pending());
            half.take_moved()
        };
        assert!(flush().await);
        while flush().await {}
        assert!(!flush().await);
    }
}
