//! Listeners: one for each worker at each address, and a session for each connection.

use std::{io, net::SocketAddr, rc::Rc, task::Waker, time::Duration};

use tokio::{net::TcpListener, task::spawn_local};

use crate::{
    config::Protocol,
    session::{exchange::Session, http::Http, tcp},
    worker::Worker,
};

/// Connections that the kernel keeps until they are accepted: a burst as large as a load generator makes.
const BACKLOG: i32 = 4096;

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
pub(crate) fn bind(addr: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
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
        Ok(socket.into())
    };
    (0..workers).map(bind_one).collect()
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
    let listener = match TcpListener::from_std(listening.socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "listener");
            return;
        }
    };
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
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
                let deadline = worker.deadlines.register(Waker::noop());
                spawn_local(Http::new(Session {
                    client,
                    deadline,
                    worker,
                    role,
                    role_name,
                    _counted: counted,
                }));
            }
            Protocol::Tcp => {
                spawn_local(async move {
                    let _counted = counted;
                    tcp::serve(worker, client, role, role_name).await;
                });
            }
        }
    }
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
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.clients.set(self.0.clients.get() - 1);
    }
}
