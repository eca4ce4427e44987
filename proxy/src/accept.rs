//! Listeners: one for each worker at each address, and a session for each connection.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};
use tokio::{net::TcpStream, task::spawn_local};

use crate::{
    config::Protocol,
    session::{
        http::{Http, Session},
        tcp,
    },
    socket::Socket,
    worker::Worker,
};

/// Connections that the kernel keeps until they are accepted: a burst as large as a load generator makes.
const BACKLOG: i32 = 4096;

/// How long the kernel keeps a connection to itself that says nothing, in seconds; then it is accepted like any other.
const DEFER_ACCEPT_SECS: libc::c_int = 1;

/// Pause when the process is out of descriptors: time for sessions to end, instead of a loop that burns a core.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

/// A listener of one worker.
pub(crate) struct Listening {
    pub(crate) protocol: Protocol,
    pub(crate) socket: std::net::TcpListener,
    /// Position of the role in the directory.
    pub(crate) role: usize,
    pub(crate) role_name: Rc<str>,
}

/// Binds `addr` for so many workers: each gets a queue of its own, and the kernel spreads connections over them.
pub(crate) fn bind(
    addr: SocketAddr,
    protocol: Protocol,
    workers: usize,
) -> io::Result<Vec<std::net::TcpListener>> {
    if addr.port() != 0 {
        // Shared ports hide a second proxy at the same address; a look without sharing finds it.
        let probe = socket(addr)?;
        probe.bind(&addr.into())?;
        probe.listen(1)?;
    }
    // A port that the kernel chooses is the first worker's, held from then on: nobody else can be given it.
    let mut addr = addr;
    let bind_one = |_| {
        let socket = socket(addr)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it: one system call for the listener instead of one for each connection.
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        addr = socket.local_addr()?.as_socket().unwrap_or(addr);
        socket.listen(BACKLOG)?;
        if protocol == Protocol::Http {
            defer_accept(&socket)?;
        }
        Ok(socket.into())
    };
    (0..workers).map(bind_one).collect()
}

/// Has connections accepted with their first bytes (tcp(7), `TCP_DEFER_ACCEPT`; Apache does the same): the request is then read
/// without waiting, and a connection for one request never joins the event loop. Only for protocols in which the client speaks
/// first.
#[expect(unsafe_code, reason = "neither socket2 nor rustix knows the option")]
fn defer_accept(socket: &socket2::Socket) -> io::Result<()> {
    let value = DEFER_ACCEPT_SECS;
    let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    // SAFETY: the descriptor is open while `socket` is borrowed; the pointer is to `value`, which outlives the call, and `size` is
    // its size.
    let result = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, value, size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn socket(addr: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

/// Accepts for ever.
pub(crate) async fn accept(worker: Rc<Worker>, listening: Listening) {
    let mut listener = Socket::unwatched(listening.socket.into());
    loop {
        let (client, peer) = match poll_fn(|context| poll_accept(context, &mut listener)).await {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
        };
        if worker.clients.get() >= worker.settings.clients_max {
            worker.stats.clients_refused.add(1);
            continue;
        }
        worker.stats.clients.add(1);
        let counted = Counted::new(worker.clone());
        let (worker, role, role_name) = (worker.clone(), listening.role, listening.role_name.clone());
        let protocol = listening.protocol;
        match protocol {
            Protocol::Http => {
                let client = (Socket::unwatched(client), peer);
                spawn_local(Http::new(Session::new(client, counted, (role, role_name))));
            }
            Protocol::Tcp => {
                spawn_local(async move {
                    let _counted = counted;
                    match TcpStream::from_std(client.into()) {
                        Ok(client) => tcp::serve(worker, (client, peer), role, role_name).await,
                        Err(error) => tracing::warn!(%error, "client"),
                    }
                });
            }
        }
    }
}

/// Those who were accepted get their turn, however many are behind them: the listener has a budget like every socket.
fn poll_accept(context: &mut Context<'_>, listener: &mut Socket) -> Poll<io::Result<(OwnedFd, SocketAddr)>> {
    listener.poll_read_with(context, |socket| {
        let (client, peer) = acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
        // Whoever is gone already has no address any more.
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(Errno::CONNABORTED)?;
        // A listener for both versions sees addresses of version 4 as mapped ones.
        Ok((client, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
    })
}

/// Errors of a connection that died in the queue, not of the listener (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// One of the worker's clients, for as long as this lives.
pub(crate) struct Counted(Rc<Worker>);

impl Counted {
    pub(crate) fn new(worker: Rc<Worker>) -> Self {
        worker.clients.set(worker.clients.get() + 1);
        Self(worker)
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.clients.set(self.0.clients.get() - 1);
    }
}
