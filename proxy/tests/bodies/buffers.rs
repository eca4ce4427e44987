//! The kernel's buffers of a socket, those of the proxy's own sockets included.

use std::{fmt, io, net::SocketAddr, os::fd::RawFd};

use rand::{RngExt, rngs::StdRng};
use rustix::{
    io::Errno,
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};
use socket2::SockRef;

/// As asked for; the kernel doubles them.
const SIZES: [usize; 5] = [4 * 1024, 8 * 1024, 16 * 1024, 64 * 1024, 256 * 1024];

/// None: the default, which grows by itself.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Buffers {
    send_bytes: Option<usize>,
    receive_bytes: Option<usize>,
}

impl Buffers {
    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        let mut size = || rng.random_bool(0.5).then(|| SIZES[rng.random_range(0..SIZES.len())]);
        Self { send_bytes: size(), receive_bytes: size() }
    }

    /// For a connection that is open: a receive buffer that shrinks then makes the kernel wait for its timers.
    pub(crate) fn draw_open(rng: &mut StdRng) -> Self {
        Self { receive_bytes: None, ..Self::draw(rng) }
    }

    /// One of each size to receive with, the default among them.
    pub(crate) fn receiving() -> impl Iterator<Item = Self> {
        let sizes = [None].into_iter().chain(SIZES.map(Some));
        sizes.map(|receive_bytes| Self { send_bytes: None, receive_bytes })
    }

    pub(crate) fn apply<'a>(self, socket: impl Into<SockRef<'a>>) -> io::Result<()> {
        let socket = socket.into();
        self.send_bytes.map_or(Ok(()), |bytes| socket.set_send_buffer_size(bytes))?;
        self.receive_bytes.map_or(Ok(()), |bytes| socket.set_recv_buffer_size(bytes))
    }

    /// Applies them to the sockets of this process that are bound to `local`: a proxy that runs in it has no others. What
    /// is accepted inherits them from the listener. Returns how many there were; an error where the kernel lends no
    /// descriptors.
    pub(crate) fn apply_to_own(mut next: impl FnMut() -> Self, local: SocketAddr) -> io::Result<usize> {
        let myself = pidfd_open(getpid(), PidfdFlags::empty())?;
        let mut count = 0;
        let names = std::fs::read_dir("/proc/self/fd")?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        for number in names.filter_map(|name| name.parse::<RawFd>().ok()).collect::<Vec<_>>() {
            let lent = match pidfd_getfd(&myself, number, PidfdGetfdFlags::empty()) {
                // It was closed meanwhile.
                Err(Errno::BADF) => continue,
                lent => lent?,
            };
            let socket = SockRef::from(&lent);
            if socket.local_addr().is_ok_and(|addr| addr.as_socket() == Some(local)) {
                next().apply(&lent)?;
                count += 1;
            }
        }
        Ok(count)
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |size: Option<usize>| size.map_or_else(|| "default".to_owned(), |bytes| bytes.to_string());
        write!(f, "buffers {}/{}", text(self.send_bytes), text(self.receive_bytes))
    }
}

#[test]
fn the_buffers_of_a_socket_of_this_process_are_set_by_its_address() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let local = listener.local_addr().expect("bound");
    let small = Buffers { send_bytes: Some(4096), receive_bytes: Some(4096) };
    match Buffers::apply_to_own(|| small, local) {
        Ok(count) => assert_eq!(count, 1),
        Err(error) => return eprintln!("the kernel lends no descriptors: {error}"),
    }
    let client = std::net::TcpStream::connect(local).expect("listening");
    let (accepted, _) = listener.accept().expect("connected");
    let size = |socket: &std::net::TcpStream| SockRef::from(socket).recv_buffer_size().expect("a socket");
    assert!(size(&accepted) < size(&client) && size(&accepted) <= 2 * 4096);
}
