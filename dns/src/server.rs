//! The sockets of the server and its life: listen, follow the feed, answer until asked to stop.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use feed::follow::Follow;
use hickory_server::net::NetError;
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

use crate::{config::Args, follow::Follower, forward::Forwarder, handler::Handler, zone::Settings};

/// How long a TCP connection may stay silent. A client that has a question asks it at once; RFC 7766 section 6.2.3
/// recommends seconds.
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers queued per TCP connection. Its questions are answered one after the other, so one is in use.
const TCP_ANSWERS_MAX: usize = 4;

/// Ports tried, where the system chooses, until one is free for TCP and UDP.
const PORT_ATTEMPTS: u32 = 16;

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("cannot listen on {addr} over {transport}: {cause}; {}", advice(cause))]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// UDP or TCP.
        transport: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// A socket that was being served ended.
    #[error("a listening socket failed: {0}")]
    Socket(String),
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        ErrorKind::AddrInUse => {
            "another program has the port (`ss -lnp` shows which): stop it, or choose another --listen"
        }
        ErrorKind::PermissionDenied => {
            "ports below 1024 take root or CAP_NET_BIND_SERVICE: grant it, or choose a higher port with --listen"
        }
        ErrorKind::AddrNotAvailable => {
            "no interface has the address (`ip addr` shows them): choose one of those, or 0.0.0.0, with --listen"
        }
        _ => "choose another --listen",
    }
}

/// A server that has its sockets.
#[derive(Debug)]
pub struct Server {
    sockets: Vec<(UdpSocket, TcpListener)>,
    addrs: Vec<SocketAddr>,
    handler: Handler,
    follow: Follow,
    follower: Follower,
}

impl Server {
    /// Takes the addresses. Questions queue up until [`Server::serve`].
    ///
    /// # Errors
    /// An address is taken, not permitted or not of this machine.
    pub async fn bind(args: Args) -> Result<Self, ServeError> {
        let mut sockets = Vec::new();
        let mut addrs = Vec::new();
        for addr in args.listen {
            let (addr, udp, tcp) = bind_both(addr).await?;
            addrs.push(addr);
            sockets.push((udp, tcp));
        }
        let follower = Follower::new(Settings { origin: args.zone, ttl: args.ttl });
        let handler = Handler::new(follower.current(), Forwarder::new(args.forward));
        let follow = Follow { path: args.feed, name: "dns".into(), roles: vec!["*".into()] };
        Ok(Self { sockets, addrs, handler, follow, follower })
    }

    /// The addresses that are listened on, with the ports that were chosen for port 0.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Serves until `stop`; the addresses are free again when it returns.
    ///
    /// # Errors
    /// A socket failed for good.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        // One `hickory-server` a socket: it reports that a socket has ended only when all of its sockets have.
        let mut serving = JoinSet::new();
        let mut stops = Vec::new();
        for (udp, tcp) in self.sockets {
            let mut over_udp = hickory_server::Server::new(self.handler.clone());
            over_udp.register_socket(udp);
            let mut over_tcp = hickory_server::Server::new(self.handler.clone());
            over_tcp.register_listener(tcp, TCP_IDLE_TIMEOUT, TCP_ANSWERS_MAX);
            for mut server in [over_udp, over_tcp] {
                stops.push(server.shutdown_token().clone());
                serving.spawn(async move { server.block_until_done().await });
            }
        }
        tokio::select! {
            never = self.follow.run(self.follower) => match never {},
            Some(ended) = serving.join_next() => {
                let ended = ended.unwrap_or_else(|panic| Err(NetError::from(panic.to_string())));
                return Err(ServeError::Socket(
                    ended.err().map_or_else(|| "closed".into(), |error| error.to_string()),
                ));
            }
            () = stop => {}
        }
        for stop in stops {
            stop.cancel();
        }
        while serving.join_next().await.is_some() {}
        Ok(())
    }
}

/// TCP and UDP sockets on the same port.
async fn bind_both(addr: SocketAddr) -> Result<(SocketAddr, UdpSocket, TcpListener), ServeError> {
    let failed = |transport| move |cause| ServeError::Listen { addr, transport, cause };
    let mut attempts = if addr.port() == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        let tcp = TcpListener::bind(addr).await.map_err(failed("TCP"))?;
        let bound = tcp.local_addr().map_err(failed("TCP"))?;
        attempts -= 1;
        match UdpSocket::bind(bound).await {
            Ok(udp) => return Ok((bound, udp, tcp)),
            Err(cause) if cause.kind() == ErrorKind::AddrInUse && attempts > 0 => {}
            Err(cause) => return Err(failed("UDP")(cause)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(listen: &str) -> Args {
        Args {
            listen: vec![listen.parse().unwrap()],
            zone: "concertina.internal.".parse().unwrap(),
            feed: "/nonexistent/feed.sock".into(),
            forward: vec![],
            ttl: 0,
        }
    }

    #[tokio::test]
    async fn a_taken_address_is_named_with_the_cause_and_what_to_do() {
        // Here and below an address of its own: on 127.0.0.1 another test may hold the port over TCP.
        let taken = UdpSocket::bind("127.0.53.1:0").await.unwrap();
        let addr = taken.local_addr().unwrap().to_string();
        let error = Server::bind(args(&addr)).await.unwrap_err().to_string();
        for part in [addr.as_str(), "UDP", "in use", "--listen"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused() {
        let error = Server::bind(args("192.0.2.1:0")).await.unwrap_err().to_string();
        assert!(error.contains("192.0.2.1") && error.contains("ip addr"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_is_asked_to_stop_gives_its_addresses_back() {
        let server = Server::bind(args("127.0.53.2:0")).await.unwrap();
        let addr = server.addrs()[0];
        server.serve(std::future::ready(())).await.unwrap();
        assert!(Server::bind(args(&addr.to_string())).await.is_ok());
    }
}
