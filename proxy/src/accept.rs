//! Listeners: one for each worker at each address, and a session for each connection.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, acceptfrom_with},
};
use tokio::{task::spawn_local, time::timeout};

use crate::{
    config::{Address, ClientNetwork, Listen, Protocol},
    deadline::within,
    error::{Refusal, Told},
    held::{Held, share},
    http2,
    listen::{
        client_hello::{DECODE_ERROR, UNRECOGNIZED_NAME},
        greet::{self, GreetError, Way},
        target::Target,
        unix,
    },
    session::{client::Session, http::Http, tcp},
    socket::Socket,
    stats::Handshake,
    stream::{Stream, Tls, tls::HandshakeError},
    worker::{Counted, Worker},
};

/// Connections that the kernel keeps until they are accepted: a burst as large as a load generator makes.
const BACKLOG: i32 = 4096;

/// How long the kernel keeps a connection to itself that says nothing, in seconds; then it is accepted like any other.
const DEFER_ACCEPT_SECS: libc::c_int = 1;

/// Pause when the process is out of descriptors: time for sessions to end, instead of a loop that burns a core.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

/// How long a client may take to hear that it is not served.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

/// What clients of a listener are served, until another plan says otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) protocol: Protocol,
    pub(crate) target: Target,
}

/// Listens for so many workers: for each, what it accepts from. Unless the sockets were given to this process, each worker gets a queue
/// of its own, and the kernel spreads connections over them; a file has one queue, from which all accept.
pub(crate) fn bind(
    listen: &Listen,
    workers: usize,
    held: &mut Held,
) -> io::Result<Vec<Vec<socket2::Socket>>> {
    let Listen { addr, protocol, mode, .. } = listen;
    if let Some(given) = held.take(addr, workers)? {
        if let (Some(path), Some(mode)) = (addr.unix(), *mode) {
            unix::set_mode(path, mode)?;
        }
        given.iter().flatten().try_for_each(|socket| prepare(socket, addr, *protocol))?;
        return Ok(given);
    }
    let prepare = |socket: &socket2::Socket| prepare(socket, addr, *protocol);
    let bound = match addr {
        Address::Ip(ip) => {
            let bound = bind_ip(*ip, workers)?;
            bound.iter().try_for_each(prepare)?;
            bound
        }
        Address::Unix(path) => vec![unix::bind(path, *mode, prepare)?],
    };
    held.keep(addr, &bound);
    share(&bound, workers)
}

fn bind_ip(addr: SocketAddr, workers: usize) -> io::Result<Vec<socket2::Socket>> {
    if addr.port() != 0 {
        // Shared ports hide a second proxy at the same address; a look without sharing finds it.
        let probe = socket(addr)?;
        probe.bind(&addr.into())?;
        probe.listen(1)?;
    }
    // A port that the kernel chooses is the first worker's, held from then on: nobody else can be given it.
    let mut at = addr;
    let bind_one = |_| {
        let socket = socket(at)?;
        socket.set_reuse_port(true)?;
        socket.bind(&at.into())?;
        at = socket.local_addr()?.as_socket().unwrap_or(at);
        Ok(socket)
    };
    (0..workers).map(bind_one).collect()
}

/// Has a socket listen as the protocol needs it, whatever it did before.
fn prepare(socket: &socket2::Socket, addr: &Address, protocol: Protocol) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if addr.unix().is_some() {
        return socket.listen(BACKLOG);
    }
    // Accepted sockets inherit it: one system call for the listener instead of one for each connection.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    defer_accept(socket, protocol != Protocol::Tcp)
}

/// Has connections accepted with their first bytes (tcp(7), `TCP_DEFER_ACCEPT`; Apache does the same): the request is then read
/// without waiting, and a connection for one request never joins the event loop. Only for protocols in which the client speaks
/// first.
#[expect(unsafe_code, reason = "neither socket2 nor rustix knows the option")]
pub(crate) fn defer_accept(socket: &impl AsFd, is_deferred: bool) -> io::Result<()> {
    let value = if is_deferred { DEFER_ACCEPT_SECS } else { 0 };
    let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    // SAFETY: the descriptor is open while `socket` is borrowed; the pointer is to `value`, which outlives the call, and `size` is
    // its size.
    let result = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, value, size)
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

/// Accepts until the listener is to close, and then whoever waits in the kernel's queue: closing it would reset them.
pub(crate) async fn accept(
    worker: Rc<Worker>,
    socket: socket2::Socket,
    service: Rc<RefCell<Service>>,
    closing: impl Future<Output = ()>,
) {
    let mut listener = Socket::unwatched(socket.into());
    let serve = |accepted| serve(&worker, accepted, service.borrow().clone());
    let accepting = async {
        let mut complaint = Complaint::default();
        loop {
            worker.wait_for_room().await;
            match poll_fn(|context| poll_accept(context, &mut listener)).await {
                Ok(accepted) => serve(accepted),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if complaint.is_due() {
                        tracing::warn!(%error, "no connection can be accepted: those that come wait");
                    }
                    worker.close_idle();
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        never = accepting => never,
        () = closing => {}
    }
    loop {
        match listener.call(accept_one) {
            Ok(accepted) => serve(accepted),
            Err(error) if is_of_one_connection(&error) => {}
            Err(_) => return,
        }
    }
}

fn serve(worker: &Rc<Worker>, (client, peer): (OwnedFd, Option<SocketAddr>), service: Service) {
    worker.stats.clients.add(1);
    let counted = Counted::new(worker.clone());
    let Service { protocol, target } = service;
    let ip = peer.map(|peer| peer.ip());
    let is_front = |network: &ClientNetwork| network.contains(ip);
    let is_proxied = worker.settings().edges.proxy_protocol.iter().any(is_front);
    let client = Socket::unwatched(client);
    if protocol == Protocol::Http && !is_proxied {
        spawn_local(Http::new(Session::new((client.into(), peer), counted, target)));
        return;
    }
    spawn_local(async move {
        let worker = counted.worker().clone();
        if let Err(why) = serve_greeted(counted, (client, peer), is_proxied, protocol, target).await {
            worker.stats.clients_unheard.add(1);
            tracing::debug!(?peer, %why, "closed before its protocol began");
        }
    });
}

/// Serves a connection before whose protocol something comes, or may come.
async fn serve_greeted(
    counted: Counted,
    (mut client, peer): (Socket, Option<SocketAddr>),
    is_proxied: bool,
    protocol: Protocol,
    mut target: Target,
) -> Result<(), GreetError> {
    let (worker, header) = (counted.worker().clone(), counted.worker().settings().timeouts.header);
    let mut way = peer.map(|source| {
        let destination = client.options().and_then(|options| options.local_addr().ok()?.as_socket());
        Way { source, destination: destination.unwrap_or(source) }
    });
    if is_proxied {
        way = greet::read_proxy_header(&mut client, way, header).await?;
    }
    if protocol == Protocol::Tls {
        match greet::read_client_hello(&mut client, header).await {
            Ok(hello) => target = worker.target_of(hello.server_name.as_deref(), target),
            Err(why) => {
                tell(&mut client, &DECODE_ERROR).await;
                return Err(why);
            }
        }
        if target.is_routed {
            tell(&mut client, &UNRECOGNIZED_NAME).await;
            return Ok(());
        }
    }
    let source = way.map(|way| way.source);
    match protocol {
        Protocol::Http => Http::new(Session::new((client.into(), source), counted, target)).await,
        Protocol::H2c => {
            let client = http2::Client { stream: client.into(), peer: source, target };
            spawn_local(http2::serve(counted, client));
        }
        Protocol::Https => serve_sealed(counted, (client, source), header, target).await?,
        Protocol::Tcp | Protocol::Tls => {
            tcp::serve(worker, (client, way), target.role, target.role_name).await;
        }
        // Datagrams come on no connection: `udp` has them.
        Protocol::Udp => {}
    }
    Ok(())
}

/// Serves a client whose TLS ends here, once it has shaken hands.
async fn serve_sealed(
    counted: Counted,
    (client, peer): (Socket, Option<SocketAddr>),
    patience: Duration,
    target: Target,
) -> Result<(), GreetError> {
    let worker = counted.worker().clone();
    let certificates = worker.settings().certificates.get();
    let accepting = Tls::accept(client, &certificates, &worker.sealed, &worker.handshakes);
    let (under_way, is_full) = worker.handshakes_under_way.begin();
    worker.stats.handshakes_evicted.add(is_full.into());
    let accepted = tokio::select! {
        accepted = within(patience, accepting) => accepted,
        () = under_way.evicted() => {
            worker.stats.handshakes.note(Handshake::Evicted);
            return Err(GreetError::Evicted);
        }
    };
    drop(under_way);
    worker.stats.handshakes.note(match &accepted {
        Ok(Ok(tls)) => tls.handshake(),
        Ok(Err(refused)) => (&refused.why).into(),
        Err(_) => Handshake::Timeout,
    });
    match accepted {
        Ok(Ok(tls)) => {
            // A task of its own: this one has grown with what it has waited for.
            if tls.is_http2() {
                let client = http2::Client { stream: Stream::Tls(tls), peer, target };
                spawn_local(http2::serve(counted, client));
            } else {
                spawn_local(Http::new(Session::new((Stream::Tls(tls), peer), counted, target)));
            }
            Ok(())
        }
        Ok(Err(mut refused)) => {
            if matches!(refused.why, HandshakeError::PlainHttp) {
                let refusal = Refusal::PlainHttp;
                worker.stats.note_refusal(refusal);
                let date = worker.date.get();
                let told = Told {
                    role: "",
                    to_head: false,
                    date: &date,
                    location: None,
                    request_id: None,
                    is_last: true,
                };
                refused.last_word = refusal.response(told).into();
            }
            tell(&mut refused.socket, &refused.last_word).await;
            Err(refused.why.into())
        }
        Err(_) => Err(GreetError::Timeout),
    }
}

/// Says a last word to a client. What it has said is read, so that closing does not reset the connection before the word is heard.
async fn tell(client: &mut Socket, alert: &[u8]) {
    let mut room = [0; 4096];
    let told = async {
        let _ = poll_fn(|context| client.poll_send(context, alert)).await;
        let _ = client.finish();
        while poll_fn(|context| client.poll_recv(context, &mut room)).await.is_ok_and(|count| count > 0) {}
    };
    let _ = timeout(LAST_WORD_TIMEOUT, told).await;
}

/// Says the same thing at most once a second.
#[derive(Debug, Default)]
struct Complaint {
    last: Option<Instant>,
}

impl Complaint {
    fn is_due(&mut self) -> bool {
        let is_due = self.last.is_none_or(|last| last.elapsed() >= Duration::from_secs(1));
        if is_due {
            self.last = Some(Instant::now());
        }
        is_due
    }
}

/// Those who were accepted get their turn, however many are behind them: the listener has a budget like every socket.
fn poll_accept(
    context: &mut Context<'_>,
    listener: &mut Socket,
) -> Poll<io::Result<(OwnedFd, Option<SocketAddr>)>> {
    listener.poll_read_with(context, accept_one)
}

/// A client and its address, of which one at a Unix socket has none.
fn accept_one(listener: BorrowedFd<'_>) -> rustix::io::Result<(OwnedFd, Option<SocketAddr>)> {
    let (client, peer) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    // Whoever is gone already has no address any more.
    let peer = peer.ok_or(Errno::CONNABORTED)?;
    if peer.address_family() == AddressFamily::UNIX {
        return Ok((client, None));
    }
    let peer = SocketAddr::try_from(peer).map_err(|_| Errno::CONNABORTED)?;
    // A listener for both versions sees addresses of version 4 as mapped ones.
    Ok((client, Some(SocketAddr::new(peer.ip().to_canonical(), peer.port()))))
}

/// Errors of a connection that died in the queue, not of the listener (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
