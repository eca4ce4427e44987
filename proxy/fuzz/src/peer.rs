//! Ends of connections to the proxy, as plain sockets beside its event loop.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use socket2::SockRef;

/// Turns of the event loop after which nothing moves any more if nothing has moved in them: a wake-up, and what it wakes.
pub const QUIET_TURNS_COUNT: usize = 6;

/// One of the script's ends of a connection.
#[derive(Debug, Default)]
pub struct Side {
    pub sent: Vec<u8>,
    pub received: Vec<u8>,
    /// How it ended towards the proxy.
    pub ended: Option<Ending>,
    /// How the proxy ended it.
    pub seen: Option<Ending>,
}

/// How a direction of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Closed,
    Reset,
}

/// One end, whose other end is the proxy's.
pub struct Peer {
    stream: TcpStream,
    pub side: Side,
}

impl Peer {
    /// Nothing waits on it.
    ///
    /// # Panics
    /// It is no socket.
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        // Thousands of connections a second must not leave their ports behind.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
        Self { stream, side: Side::default() }
    }

    /// What there was of it; its end is closed.
    pub fn into_side(self) -> Side {
        self.side
    }

    /// Sends as much as there is room for.
    pub fn send(&mut self, bytes: &[u8]) {
        if self.side.ended.is_none()
            && let Ok(count) = self.stream.write(bytes)
        {
            self.side.sent.extend_from_slice(&bytes[..count]);
        }
    }

    /// Closes its half.
    pub fn close(&mut self) {
        if self.side.ended.is_none() && self.stream.shutdown(Shutdown::Write).is_ok() {
            self.side.ended = Some(Ending::Closed);
        }
    }

    /// Reads what has come; false: nothing.
    pub fn receive(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let mut moved = false;
        while self.side.seen.is_none() {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.side.seen = Some(Ending::Closed),
                Ok(count) => self.side.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.side.seen = Some(Ending::Reset),
            }
            moved = true;
        }
        moved
    }
}

/// Both ends of a connection: a plain one, and the proxy's.
///
/// # Panics
/// There are no sockets.
pub fn pair() -> (TcpStream, tokio::net::TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a socket");
    let near = TcpStream::connect(listener.local_addr().expect("a socket")).expect("a socket");
    let (far, _) = listener.accept().expect("a socket");
    far.set_nonblocking(true).expect("a socket");
    (near, tokio::net::TcpStream::from_std(far).expect("a socket"))
}
