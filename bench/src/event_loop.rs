//! The event loop of the two servers: one thread, epoll. Sockets are registered once, for everything, edge-triggered, so that
//! a request costs them no call but those that move its bytes.
//!
//! Sockets are left blocking and every transfer says `DONTWAIT`: that saves the call which would make them otherwise.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags},
};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted: the largest load opens 512 at once, and a refused one would be an error.
const BACKLOG_COUNT: i32 = 4096;

/// Events taken at a time: all that 512 busy connections can cause.
const EVENTS_COUNT: usize = 512;

/// Bytes read at a time: a response of 64 KiB with its head in one read.
pub(crate) const READ_BYTES: usize = 128 * 1024;

/// What an event of the listener carries; connections carry less.
const LISTENER: u64 = u64::MAX;

/// What to wait for, always.
const INTEREST: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// The other side will send no more, or the connection is broken: a read finds out which.
const ENDED: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

/// Where sockets are registered.
pub(crate) struct Registry(OwnedFd);

impl Registry {
    /// Reports on this socket from now on, under this token.
    pub(crate) fn add(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.0, socket, EventData::new_u64(token), INTEREST)?)
    }
}

/// What became possible on a socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// A short read does not mean that nothing follows: the end does.
    pub(crate) ended: bool,
}

impl From<EventFlags> for Ready {
    fn from(flags: EventFlags) -> Self {
        let ended = flags.intersects(ENDED);
        Self {
            readable: ended || flags.contains(EventFlags::IN),
            writable: flags.contains(EventFlags::OUT),
            ended,
        }
    }
}

/// What the loop serves. After an event a connection may be forgotten, and its token given to another one only in
/// [`Serve::handle_accepted`]: events that were still queued for it then find nobody.
pub(crate) trait Serve {
    /// Takes a new connection.
    fn handle_accepted(&mut self, registry: &Registry, socket: OwnedFd) -> io::Result<()>;
    /// Does what has become possible.
    fn handle_ready(&mut self, token: u64, ready: Ready);
}

/// A listener whose connections send small writes at once; the option is inherited from it.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG_COUNT)?;
    Ok(socket.into())
}

/// Serves until something fails that is not one connection's affair.
pub(crate) fn run(listener: &std::net::TcpListener, server: &mut impl Serve) -> io::Result<Infallible> {
    let registry = Registry(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    listener.set_nonblocking(true)?;
    // Level-triggered: one accept for each report, and no call that only learns that nobody is waiting.
    epoll::add(&registry.0, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut events = Vec::with_capacity(EVENTS_COUNT);
    loop {
        events.clear();
        match epoll::wait(&registry.0, rustix::buffer::spare_capacity(&mut events), None) {
            Err(Errno::INTR) => continue,
            outcome => outcome?,
        };
        let mut is_called = false;
        for event in &events {
            let (token, flags) = (event.data.u64(), event.flags);
            if token == LISTENER { is_called = true } else { server.handle_ready(token, flags.into()) }
        }
        if is_called {
            match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(socket) => server.handle_accepted(&registry, socket)?,
                Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads what is there; none when nothing is.
pub(crate) fn read(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT) {
        Ok((bytes, _)) => Ok(Some(bytes)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes as much as fits, which may be nothing.
pub(crate) fn write(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN) => Ok(0),
        outcome => Ok(outcome?),
    }
}
