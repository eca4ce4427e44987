//! Moving bytes between a socket and a buffer, and from socket to socket.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll, ready},
    time::Duration,
};

use crate::{
    buffer::Buffer,
    deadline::Deadline,
    http1::{Body, BodyKind, Pieces},
    limits::{PIECES_COUNT_MAX, SPLICE_BYTES_MIN},
    pipe::{Pipe, Pipes},
    socket::Socket,
};

/// Reads once into the spare room of `buffer`; 0 is the end.
pub(crate) fn poll_fill(
    context: &mut Context<'_>,
    from: &mut Socket,
    buffer: &mut Buffer,
) -> Poll<io::Result<usize>> {
    debug_assert!(buffer.has_spare(), "a read of nothing looks like the end");
    let count = ready!(from.poll_recv(context, buffer.spare_mut()))?;
    buffer.fill(count);
    Poll::Ready(Ok(count))
}

/// Writes until everything is written. Whoever takes a part of it gets `timeout` for the next: slow is not stuck.
pub(crate) fn poll_flush(
    context: &mut Context<'_>,
    to: &mut Socket,
    pieces: &mut Pieces,
    buffer: &[u8],
    (deadline, timeout): (&Deadline, Duration),
) -> Poll<io::Result<()>> {
    while !pieces.is_written() {
        let written = if let Some(slice) = pieces.single(buffer) {
            ready!(to.poll_send(context, slice))?
        } else {
            let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
            let count = pieces.slices(buffer, &mut slices);
            ready!(to.poll_send_slices(context, &slices[..count]))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        pieces.advance(written);
        if !pieces.is_written() {
            deadline.set(timeout);
        }
    }
    Poll::Ready(Ok(()))
}

/// Whose side of a transfer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    From,
    To,
}

/// Takes a pipe for the rest of a body, if that is large enough and of known length. Between the two sockets it is then moved
/// without a copy; a smaller one costs less through a buffer that is in the cache.
pub(crate) fn take_pipe<'a>(pipe: &'a mut Option<Pipe>, body: &Body, pipes: &Pipes) -> Option<&'a mut Pipe> {
    if pipe.is_none() && matches!(body.kind(), BodyKind::Length(bytes) if bytes >= SPLICE_BYTES_MIN) {
        *pipe = pipes.take();
    }
    pipe.as_mut()
}

/// Moves the rest of a body of known length; ready when `to` has all of it.
pub(crate) fn poll_splice(
    context: &mut Context<'_>,
    (from, to): (&mut Socket, &mut Socket),
    pipe: &mut Pipe,
    body: &mut Body,
    (deadline, timeout): (&Deadline, Duration),
) -> Poll<Result<(), Side>> {
    loop {
        while !pipe.is_empty() {
            ready!(pipe.poll_drain(context, to)).map_err(|_| Side::To)?;
            deadline.set(timeout);
        }
        let BodyKind::Length(left) = body.kind() else {
            // What was not asked for is not known to be absent: whoever uses the connection next must not find it.
            let _ = from.poll_peek(context);
            return Poll::Ready(Ok(()));
        };
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let count = ready!(pipe.poll_fill(context, from, left)).map_err(|_| Side::From)?;
        if count == 0 {
            return Poll::Ready(Err(Side::From));
        }
        body.skip(count as u64);
        deadline.set(timeout);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, rc::Rc, task::Waker};

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::deadline::Deadlines;

    #[tokio::test]
    async fn whoever_takes_a_part_gets_more_time_and_whoever_takes_nothing_does_not() {
        const TIMEOUT: Duration = Duration::from_millis(100);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = Socket::from(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let _reads_nothing = listener.accept().await.unwrap();
        let (buffer, mut pieces) = (vec![0; 64 << 20], Pieces::default());
        pieces.push(0..buffer.len()).unwrap();
        let all = Rc::new(Deadlines::default());
        let deadline = all.register(Waker::noop());
        deadline.set(TIMEOUT);
        all.tick(90);
        let mut flush = async || {
            let flushed = |context: &mut Context<'_>| {
                Poll::Ready(poll_flush(context, &mut stream, &mut pieces, &buffer, (&deadline, TIMEOUT)))
            };
            assert!(poll_fn(flushed).await.is_pending());
        };
        flush().await;
        all.tick(180);
        flush().await;
        assert!(!deadline.is_over(), "a part was taken at 90 ms");
        all.tick(190);
        assert!(deadline.is_over(), "nothing was taken since");
    }
}
