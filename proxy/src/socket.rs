//! A TCP socket that joins the event loop only when it has to wait: a connection whose one request comes with it, and whose
//! answer fits in the kernel's buffer, never does.
//!
//! System calls are made directly and only when the kernel has something to say. Readiness is forgotten after a short read or
//! write, so a drained socket is not asked again before the event loop has news of it: there is no call that only finds out
//! that nothing is there.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    pin::pin,
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};
use tokio::{io::Interest, net::TcpStream, task::coop::unconstrained};

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

    /// None: what is left where a socket was taken away.
    pub(crate) fn lost() -> Self {
        Self(State::Lost)
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

    /// Neither bytes nor an end have come. No system call: readiness is what the event loop has seen.
    pub(crate) fn is_quiet(&mut self, context: &mut Context<'_>) -> bool {
        // Outside the task's budget: one that is used up makes every socket look quiet, those of the dead and the poisoned too.
        pin!(unconstrained(poll_fn(|context| self.poll_recv_ready(context)))).poll(context).is_pending()
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

    /// Reads without taking: the same bytes are there afterwards. 0 is the end.
    pub(crate) fn poll_peek_at(
        &mut self,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_call(context, Way::In, |socket| {
            let (count, _) = recv(socket, &mut *into, RecvFlags::PEEK)?;
            Ok((count, Rest::Perhaps))
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

    /// Makes a call whatever the event loop knows.
    ///
    /// # Errors
    /// The call's; `AGAIN` where it would block.
    pub(crate) fn call<T>(
        &self,
        call: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        Ok(call(self.fd().ok_or(Errno::NOTCONN)?)?)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn finish(&self) -> io::Result<()> {
        Ok(shutdown(self.fd().ok_or(Errno::NOTCONN)?, Shutdown::Write)?)
    }

    /// How many bytes the other side's kernel has not acknowledged yet (tcp(7), `SIOCOUTQ`); none of a connection that is lost.
    #[expect(unsafe_code, reason = "neither socket2 nor rustix knows the request")]
    pub(crate) fn unacknowledged_bytes(&self) -> Option<usize> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open while `self` is borrowed, and the kernel writes one `int`, to which the pointer is.
        let result = unsafe { libc::ioctl(self.fd()?.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        usize::try_from(bytes).ok().filter(|_| result == 0)
    }

    /// Has the kernel keep twice as much of what came, where something did that nobody has read yet.
    ///
    /// Linux from 6.6 on closes the window of a connection for which it has no memory, and then throws away the other side's
    /// acknowledgements with the segments behind the window (`tcp_select_window`, `ICSK_ACK_NOMEM`; `tcp_sequence`): what is sent on that
    /// connection stands still until somebody reads from it. A client that sends its next requests in small pieces while it takes
    /// an answer gets there.
    pub(crate) fn make_room(&self) {
        let has_unread =
            self.fd().is_some_and(|fd| rustix::io::ioctl_fionread(fd).is_ok_and(|bytes| bytes > 0));
        if has_unread && let Some(options) = self.options() {
            // The kernel doubles what it is given, within its own bounds.
            let _ = options.recv_buffer_size().and_then(|bytes| options.set_recv_buffer_size(bytes));
        }
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

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{TcpListener, TcpStream},
        os::fd::OwnedFd,
    };

    use super::Socket;

    #[test]
    fn only_a_socket_with_something_unread_gets_more_room_within_the_kernels_bounds() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        socket2::SockRef::from(&accepted).set_recv_buffer_size(8 << 10).unwrap();
        let socket = Socket::unwatched(OwnedFd::from(accepted));
        let room = || socket.options().unwrap().recv_buffer_size().unwrap();
        let before = room();
        socket.make_room();
        assert_eq!(room(), before, "nothing came");
        client.write_all(b"GET").unwrap();
        while rustix::io::ioctl_fionread(socket.fd().unwrap()).unwrap() == 0 {}
        socket.make_room();
        assert_eq!(room(), 2 * before);
        (0..32).for_each(|_| socket.make_room());
        assert!(room() < 1 << 30, "the kernel has a bound");
    }
}
