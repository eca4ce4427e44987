//! A TCP socket that joins the event loop only when it has to wait: a connection whose one request comes with it, and whose
//! answer fits in the kernel's buffer, never does.
//!
//! System calls are made directly and only when the kernel has something to say. Readiness is forgotten after a short read or
//! write, so a drained socket is not asked again before the event loop has news of it: there is no call that only finds out
//! that nothing is there.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};
use tokio::{io::Interest, net::TcpStream};

#[derive(Debug)]
pub(crate) struct Socket(State);

#[derive(Debug)]
enum State {
    /// Not blocking, and unknown to the event loop.
    Unwatched(OwnedFd),
    Watched(TcpStream),
    /// Taken by an event loop that then refused it.
    Lost,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    In,
    Out,
}

/// What a system call left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Perhaps there is more to read, or more room to write.
    Perhaps,
    /// There was less than was asked for: nothing until the event loop has news.
    None,
}

impl Rest {
    fn of(count: usize, asked: usize) -> Self {
        // A read of nothing is the end, which stays.
        if 0 < count && count < asked { Self::None } else { Self::Perhaps }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self(State::Watched(stream))
    }
}

impl Socket {
    /// A socket that does not block.
    pub(crate) fn unwatched(socket: OwnedFd) -> Self {
        Self(State::Unwatched(socket))
    }

    pub(crate) fn is_watched(&self) -> bool {
        matches!(self.0, State::Watched(_))
    }

    /// Joins the event loop.
    ///
    /// # Errors
    /// The event loop's; the connection is lost then.
    pub(crate) fn watch(&mut self) -> io::Result<&TcpStream> {
        if let State::Unwatched(_) = self.0
            && let State::Unwatched(socket) = std::mem::replace(&mut self.0, State::Lost)
        {
            self.0 = State::Watched(TcpStream::from_std(socket.into())?);
        }
        match &self.0 {
            State::Watched(stream) => Ok(stream),
            State::Unwatched(_) | State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Whether there is something to read, the end included. No system call.
    pub(crate) fn poll_recv_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch()?.poll_read_ready(context)
    }

    /// Whether there is room to write, or a connection that was begun is made or refused. No system call.
    pub(crate) fn poll_send_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch()?.poll_write_ready(context)
    }

    /// Reads once; 0 is the end.
    pub(crate) fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let asked = into.len();
        self.poll_call(context, Way::In, |socket| {
            let (count, _) = recv(socket, &mut *into, RecvFlags::empty())?;
            Ok((count, Rest::of(count, asked)))
        })
    }

    /// Takes a look at the next byte: afterwards readiness is what the kernel says.
    pub(crate) fn poll_peek(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_call(context, Way::In, |socket| {
            recv(socket, &mut [0; 1][..], RecvFlags::PEEK)?;
            Ok(((), Rest::Perhaps))
        })
    }

    /// Writes once.
    pub(crate) fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_call(context, Way::Out, |socket| {
            let count = send(socket, bytes, SendFlags::NOSIGNAL)?;
            Ok((count, Rest::of(count, bytes.len())))
        })
    }

    /// Writes several slices at once.
    pub(crate) fn poll_send_slices(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let asked = slices.iter().map(|slice| slice.len()).sum();
        self.poll_call(context, Way::Out, |socket| {
            let count = rustix::io::writev(socket, slices)?;
            Ok((count, Rest::of(count, asked)))
        })
    }

    /// Any call that reads, or writes, and says `AGAIN` when it would block. A short count of such a call says nothing.
    pub(crate) fn poll_read_with<T>(
        &mut self,
        context: &mut Context<'_>,
        mut call: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Poll<io::Result<T>> {
        self.poll_call(context, Way::In, |socket| Ok((call(socket)?, Rest::Perhaps)))
    }

    /// See [`Socket::poll_read_with`].
    pub(crate) fn poll_write_with<T>(
        &mut self,
        context: &mut Context<'_>,
        mut call: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Poll<io::Result<T>> {
        self.poll_call(context, Way::Out, |socket| Ok((call(socket)?, Rest::Perhaps)))
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn finish(&self) -> io::Result<()> {
        Ok(shutdown(self.fd().ok_or(Errno::NOTCONN)?, Shutdown::Write)?)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            State::Unwatched(socket) => Some(socket.as_fd()),
            State::Watched(stream) => Some(stream.as_fd()),
            State::Lost => None,
        }
    }

    /// Whatever else the kernel knows of it, while it lasts.
    pub(crate) fn options(&self) -> Option<socket2::SockRef<'_>> {
        match &self.0 {
            State::Unwatched(socket) => Some(socket.into()),
            State::Watched(stream) => Some(stream.into()),
            State::Lost => None,
        }
    }

    fn poll_call<T>(
        &mut self,
        context: &mut Context<'_>,
        way: Way,
        mut call: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<(T, Rest)>,
    ) -> Poll<io::Result<T>> {
        if let State::Unwatched(socket) = &self.0 {
            match call(socket.as_fd()) {
                Ok((done, _)) => return Poll::Ready(Ok(done)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        let stream = self.watch()?;
        loop {
            let interest = match way {
                Way::In => {
                    ready!(stream.poll_read_ready(context))?;
                    Interest::READABLE
                }
                Way::Out => {
                    ready!(stream.poll_write_ready(context))?;
                    Interest::WRITABLE
                }
            };
            let mut done = None;
            // The event loop forgets the readiness that it knew before the call when it hears that the call would block.
            let tried = stream.try_io(interest, || {
                let (value, rest) = call(stream.as_fd())?;
                done = Some(value);
                if rest == Rest::None { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (done, tried) {
                (Some(value), _) => return Poll::Ready(Ok(value)),
                (None, Err(error)) if is_to_be_tried_again(&error) => {}
                (None, Err(error)) => return Poll::Ready(Err(error)),
                (None, Ok(())) => debug_assert!(false, "a call that succeeded has a value"),
            }
        }
    }
}

fn is_to_be_tried_again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
