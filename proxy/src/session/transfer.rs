//! The four system calls of a request: reads and writes that ask the kernel only when it has something to say.
//!
//! tokio forgets a socket's readiness after a short read or write, so a drained socket is not asked again before the event
//! loop has news of it: there is no call that only finds out that nothing is there.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{buffer::Buffer, deadline::Deadline, http1::Pieces, limits::PIECES_COUNT_MAX};

/// Reads once into the spare room of `buffer`; 0 is the end.
pub(crate) fn poll_fill(
    context: &mut Context<'_>,
    from: &mut TcpStream,
    buffer: &mut Buffer,
) -> Poll<io::Result<usize>> {
    debug_assert!(buffer.has_spare(), "a read of nothing looks like the end");
    let mut spare = ReadBuf::new(buffer.spare_mut());
    ready!(Pin::new(from).poll_read(context, &mut spare))?;
    let count = spare.filled().len();
    buffer.fill(count);
    Poll::Ready(Ok(count))
}

/// Writes until everything is written. Whoever takes a part of it gets `timeout` for the next: slow is not stuck.
pub(crate) fn poll_flush(
    context: &mut Context<'_>,
    to: &mut TcpStream,
    pieces: &mut Pieces,
    buffer: &[u8],
    (deadline, timeout): (&Deadline, Duration),
) -> Poll<io::Result<()>> {
    while !pieces.is_written() {
        let written = if let Some(slice) = pieces.single(buffer) {
            ready!(Pin::new(&mut *to).poll_write(context, slice))?
        } else {
            let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
            let count = pieces.slices(buffer, &mut slices);
            ready!(Pin::new(&mut *to).poll_write_vectored(context, &slices[..count]))?
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

/// Says that nothing more will be sent.
pub(crate) fn poll_finish(context: &mut Context<'_>, to: &mut TcpStream) -> Poll<io::Result<()>> {
    Pin::new(to).poll_shutdown(context)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, rc::Rc, task::Waker};

    use tokio::net::TcpListener;

    use super::*;
    use crate::deadline::Deadlines;

    #[tokio::test]
    async fn whoever_takes_a_part_gets_more_time_and_whoever_takes_nothing_does_not() {
        const TIMEOUT: Duration = Duration::from_millis(100);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
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
