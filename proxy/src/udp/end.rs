//! Sockets for datagrams, and many datagrams in one call.

use std::{
    cell::Cell,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::{
    io::{Interest, Ready},
    net::UdpSocket,
};

use super::train::Train;

/// What a socket is asked to hold for us: a burst of a few thousand datagrams. The kernel grants what `net.core.rmem_max` and `wmem_max`
/// allow.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Messages in a call.
const MESSAGES_COUNT_MAX: usize = 16;

/// Room for a message: the kernel may hand over a train as one.
const MESSAGE_BYTES_MAX: usize = 1 << 16;

/// Datagrams that long and shorter leave in trains: no way that is longer than a machine carries more in a packet. Longer ones leave
/// alone, in fragments if need be.
const CAR_BYTES_MAX: usize = 1472;

/// Binds `addr` for so many workers: the kernel has each client's datagrams go to the same one.
/// `is_probed` if nobody else may have it.
///
/// # Errors
/// The address is taken, not permitted or not of this machine.
pub(crate) fn bind(
    addr: SocketAddr,
    workers: usize,
    is_probed: bool,
) -> io::Result<Vec<std::net::UdpSocket>> {
    if is_probed && addr.port() != 0 {
        // Shared ports hide a second proxy at the same address; a look without sharing finds it.
        socket(addr)?.bind(&addr.into())?;
    }
    // A port that the kernel chooses is the first worker's, held from then on: nobody else can be given it.
    let mut addr = addr;
    let bind_one = |_| {
        let socket = socket(addr)?;
        socket.set_reuse_port(true)?;
        // Less is granted silently.
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.bind(&addr.into())?;
        addr = socket.local_addr()?.as_socket().unwrap_or(addr);
        Ok(socket.into())
    };
    (0..workers).map(bind_one).collect()
}

/// A socket whose datagrams go to and come from this address alone.
pub(super) fn connect(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(addr)?;
    socket.connect(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

fn socket(addr: SocketAddr) -> io::Result<socket2::Socket> {
    let kind = socket2::Type::DGRAM.nonblocking();
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(addr), kind, Some(socket2::Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

/// A worker's socket of a listener.
#[derive(Debug)]
pub(super) struct End {
    pub(super) socket: UdpSocket,
    pub(super) state: UdpSocketState,
    /// The longest datagrams that can be sent in trains.
    car_bytes_max: Cell<usize>,
}

impl End {
    /// Takes a socket that was bound.
    ///
    /// # Errors
    /// The event loop's, or of a kernel that does not know which of its addresses a datagram came to.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let socket = UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new((&socket).into())?;
        allow_fragments(&socket)?;
        let car_bytes_max = Cell::new(if state.max_gso_segments() > 1 { CAR_BYTES_MAX } else { 0 });
        Ok(Self { socket, state, car_bytes_max })
    }

    pub(super) fn car_bytes_max(&self) -> usize {
        self.car_bytes_max.get()
    }

    /// Sends to `client`, from the address that it spoke to. How many datagrams could not be sent.
    pub(super) fn send(&self, client: SocketAddr, local: Option<IpAddr>, train: Train<'_>) -> usize {
        let send = |train: Train<'_>, src_ip| {
            self.state.try_send((&self.socket).into(), &transmit(client, src_ip, train))
        };
        let sent = self.send_train(train, |train| match send(train, local) {
            // Nobody can send from there, as from a broadcast address.
            Err(error) if local.is_some() && train.is_single() && !is_busy(&error) => send(train, None),
            sent => sent,
        });
        sent.unwrap_or(train.cars_count())
    }

    /// Sends a train whole, or where that is refused each datagram alone. How many could not be sent.
    ///
    /// # Errors
    /// That of the first call.
    pub(super) fn send_train(
        &self,
        train: Train<'_>,
        mut send: impl FnMut(Train<'_>) -> io::Result<()>,
    ) -> io::Result<usize> {
        match send(train) {
            Ok(()) => return Ok(0),
            Err(error) if train.is_single() || !is_of_train(&error) => return Err(error),
            Err(_) => {}
        }
        let mut lost = 0;
        for bytes in train.cars() {
            lost += usize::from(send(Train { bytes, car_bytes: bytes.len() }).is_err());
        }
        if lost == 0 {
            // Alone they go: the way carries less in a packet, or its driver knows no trains.
            self.car_bytes_max.set(self.car_bytes_max.get().min(train.car_bytes - 1));
        }
        Ok(lost)
    }
}

/// A train for this address.
pub(super) fn transmit(destination: SocketAddr, src_ip: Option<IpAddr>, train: Train<'_>) -> Transmit<'_> {
    let segment_size = (!train.is_single()).then_some(train.car_bytes);
    Transmit { destination, ecn: None, contents: train.bytes, segment_size, src_ip }
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn is_of_train(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO))
}

/// Room for what one call receives.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    metas: [RecvMeta; MESSAGES_COUNT_MAX],
}

impl Default for Batch {
    fn default() -> Self {
        // Only what is used becomes memory.
        Self {
            bytes: vec![0; MESSAGES_COUNT_MAX * MESSAGE_BYTES_MAX],
            metas: [RecvMeta::default(); MESSAGES_COUNT_MAX],
        }
    }
}

/// What came in one piece from one sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: Option<IpAddr>,
    pub(super) train: Train<'a>,
}

impl Batch {
    /// Receives what there is, after the event loop has said what. A short batch means drained: no call is made only to hear that
    /// nothing is there.
    ///
    /// # Errors
    /// `WouldBlock`, or the socket's.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        state: &UdpSocketState,
        ready: Ready,
    ) -> io::Result<usize> {
        let mut received = None;
        // One of the two: of both at once, the event loop forgets neither.
        let interest = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
        let tried = socket.try_io(interest, || {
            let mut rooms = self.bytes.chunks_mut(MESSAGE_BYTES_MAX);
            let mut rooms: [_; MESSAGES_COUNT_MAX] =
                std::array::from_fn(|_| IoSliceMut::new(rooms.next().unwrap_or_default()));
            let count = state.recv(socket.into(), &mut rooms, &mut self.metas)?;
            received = Some(count);
            if count < MESSAGES_COUNT_MAX { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (received, tried) {
            (Some(count), _) => Ok(count),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Ok(0),
        }
    }

    /// The message at this position of those that were received.
    pub(super) fn message(&self, position: usize) -> Message<'_> {
        let meta = &self.metas[position];
        let bytes = &self.bytes[position * MESSAGE_BYTES_MAX..][..meta.len.min(MESSAGE_BYTES_MAX)];
        Message { from: meta.addr, to: meta.dst_ip, train: Train { bytes, car_bytes: meta.stride } }
    }
}

/// Has datagrams that are too long for the way leave in fragments, as those of any program do: answers of DNS may be long. Whoever
/// finds out what its way carries, as QUIC does, sends none.
fn allow_fragments(socket: &UdpSocket) -> io::Result<()> {
    set_option(socket, (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER), libc::IP_PMTUDISC_WANT)?;
    if socket.local_addr()?.is_ipv6() {
        set_option(socket, (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER), libc::IPV6_PMTUDISC_WANT)?;
        set_option(socket, (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG), 0)?;
    }
    Ok(())
}

/// Has the kernel hand over what comes in trains.
///
/// # Errors
/// A kernel before 5.0.
pub(super) fn receive_trains(socket: &UdpSocket) -> io::Result<()> {
    set_option(socket, (libc::SOL_UDP, libc::UDP_GRO), 1)
}

#[expect(unsafe_code, reason = "neither socket2 nor rustix knows these options")]
fn set_option(
    socket: &UdpSocket,
    (level, name): (libc::c_int, libc::c_int),
    value: libc::c_int,
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    // SAFETY: the descriptor is open while `socket` is borrowed; the pointer is to `value`, which outlives the call, and `size` is
    // its size.
    let result = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
