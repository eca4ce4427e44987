//! A connection to an upstream, from its first step to the kernel's word that it is made.

use std::{
    io,
    task::{Context, Poll, ready},
};

use socket2::{Domain, Protocol, SockAddr, Socket as Socket2, Type};

use crate::{config::Address, error::AttemptFailure, socket::Socket};

const NONBLOCKING: Type = Type::STREAM.nonblocking();

/// Begins to connect.
///
/// # Errors
/// There is nothing to connect with, or nobody there.
pub(crate) fn connect(addr: &Address) -> io::Result<Socket> {
    let (socket, to) = match addr {
        Address::Ip(addr) => {
            let socket = Socket2::new(Domain::for_address(*addr), NONBLOCKING, Some(Protocol::TCP))?;
            // Latency before throughput: whoever relays cannot know which bytes somebody waits for.
            socket.set_tcp_nodelay(true)?;
            (socket, (*addr).into())
        }
        Address::Unix(path) => {
            (Socket2::new(Domain::UNIX, NONBLOCKING, None)?, SockAddr::unix(path.as_path())?)
        }
    };
    match socket.connect(&to) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(Socket::unwatched(socket.into())),
    }
}

/// Waits until a connection that was begun is made, well or badly.
pub(crate) fn poll_connected(
    context: &mut Context<'_>,
    socket: &mut Socket,
) -> Poll<Result<(), AttemptFailure>> {
    let connected = ready!(socket.poll_send_ready(context)).and_then(|()| {
        let options = socket.options().ok_or(io::ErrorKind::NotConnected)?;
        options.take_error()?.map_or(Ok(()), Err)
    });
    Poll::Ready(connected.map_err(|error| AttemptFailure::of_connect(&error)))
}
