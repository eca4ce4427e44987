//! The sockets of the server and its life: listen, follow the feed, answer until asked to stop.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Instant,
};

use feed::{control, follow::Follow};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::net::TcpListener;

use crate::{
    config::Args,
    follow::SharedZone,
    forward::Forwarder,
    handler::Handler,
    tcp::{self, Places},
    udp::UdpEnd,
    upstreams::{Upstream, Upstreams},
    zone::{Settings, Zone},
};

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
    /// `--forward off` beside others.
    #[error("--forward has both off and somebody to ask: give one or the other")]
    OffAndOn,
    /// `--forward` to an address that is listened on.
    #[error("--forward {0} is this server itself: name one that knows the other names")]
    ForwardToSelf(SocketAddr),
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
    sockets: Vec<(UdpEnd, TcpListener)>,
    addrs: Vec<SocketAddr>,
    handler: Handler,
    follow: Follow,
    zone: SharedZone,
}

impl Server {
    /// Takes the addresses. Questions queue up until [`Server::serve`].
    ///
    /// # Errors
    /// An address is taken, not permitted or not of this machine; or `--forward` contradicts itself.
    pub async fn bind(args: Args) -> Result<Self, ServeError> {
        if args.forward.contains(&Upstream::Off) && args.forward.len() > 1 {
            return Err(ServeError::OffAndOn);
        }
        let mut sockets = Vec::new();
        let mut addrs = Vec::new();
        for addr in args.listen {
            let (addr, udp, tcp) = bind_both(addr).await?;
            addrs.push(addr);
            sockets.push((udp, tcp));
        }
        let zone = SharedZone::new(Zone::new(Settings { origin: args.zone, ttl: args.ttl }));
        let upstreams = Upstreams::new(args.forward, addrs.clone());
        if let Some(addr) = upstreams.own_server() {
            return Err(ServeError::ForwardToSelf(addr));
        }
        // Whoever looks at the log now learns what it is, and what it is not.
        upstreams.servers(Instant::now());
        let handler = Handler::new(zone.clone(), Forwarder::new(upstreams, args.forward_for));
        let follow = Follow { path: args.feed, name: "dns".into(), roles: vec!["*".into()] };
        Ok(Self { sockets, addrs, handler, follow, zone })
    }

    /// The addresses that are listened on, with the ports that were chosen for port 0.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Serves until `stop`; the addresses are free again when it returns. Everything is one task, so a panic of any
    /// part is a panic of this.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let places = Places::default();
        let (feed, told) = (self.follow.path.clone(), self.handler.clone());
        let mut serving = FuturesUnordered::new();
        for (udp, tcp) in self.sockets {
            serving.push(udp.serve(self.handler.clone()).boxed());
            serving.push(tcp::serve(tcp, self.handler.clone(), places.clone()).boxed());
        }
        tokio::select! {
            never = self.follow.run(self.zone) => match never {},
            Some(never) = serving.next() => match never {},
            never = control::serve_metrics(&feed, "dns", move || told.metrics()) => match never {},
            () = stop => {}
        }
    }
}

/// TCP and UDP sockets on the same port.
async fn bind_both(addr: SocketAddr) -> Result<(SocketAddr, UdpEnd, TcpListener), ServeError> {
    let failed = |transport| move |cause| ServeError::Listen { addr, transport, cause };
    let mut attempts = if addr.port() == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        let tcp = TcpListener::bind(addr).await.map_err(failed("TCP"))?;
        let bound = tcp.local_addr().map_err(failed("TCP"))?;
        attempts -= 1;
        match UdpEnd::bind(bound).await {
            Ok(udp) => return Ok((bound, udp, tcp)),
            Err(cause) if cause.kind() == ErrorKind::AddrInUse && attempts > 0 => {}
            Err(cause) => return Err(failed("UDP")(cause)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;

    fn args(listen: &str) -> Args {
        Args {
            listen: vec![listen.parse().unwrap()],
            zone: "concertina.internal.".parse().unwrap(),
            feed: "/nonexistent/feed.sock".into(),
            forward: vec![],
            forward_for: vec![],
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
    async fn somebody_and_nobody_cannot_be_asked_and_nobody_asks_itself() {
        let taken = UdpSocket::bind("127.0.53.5:0").await.unwrap().local_addr().unwrap();
        for (forward, hint) in
            [(vec!["9.9.9.9".into(), "off".into()], "off"), (vec![taken.to_string()], "itself")]
        {
            let forward = forward.iter().map(|upstream: &String| upstream.parse().unwrap()).collect();
            let error =
                Server::bind(Args { forward, ..args(&taken.to_string()) }).await.unwrap_err().to_string();
            assert!(error.contains("--forward") && error.contains(hint), "{error}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_asked_to_stop_gives_its_addresses_back() {
        let server = Server::bind(args("127.0.53.2:0")).await.unwrap();
        let addr = server.addrs()[0];
        server.serve(std::future::ready(())).await;
        assert!(Server::bind(args(&addr.to_string())).await.is_ok());
    }
}
