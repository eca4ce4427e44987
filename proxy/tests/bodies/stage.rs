//! Where scenes are played: a runtime, a proxy, and the listener of its only upstream.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Parser as _;
use proxy::{Args, Proxy};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinSet,
};

use crate::{buffers::Buffers, ledger::Ledger, scene::rng_of, sealed::Trust};

/// Clients at a time.
const CLIENTS_COUNT: usize = 24;

/// Scenes that fail before no others are begun.
const FAILED_COUNT_MAX: usize = 10;

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

/// What the proxy speaks, and where another one is found that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speaks {
    scheme: &'static str,
    proxy_variable: &'static str,
    port_variable: &'static str,
}

pub(crate) const HTTP: Speaks =
    Speaks { scheme: "http", proxy_variable: "BODIES_PROXY", port_variable: "BODIES_ORIGIN_PORT" };

pub(crate) const HTTPS: Speaks = Speaks {
    scheme: "https",
    proxy_variable: "BODIES_HTTPS_PROXY",
    port_variable: "BODIES_HTTPS_ORIGIN_PORT",
};

pub(crate) const H2C: Speaks =
    Speaks { scheme: "h2c", proxy_variable: "BODIES_H2C_PROXY", port_variable: "BODIES_H2C_ORIGIN_PORT" };

pub(crate) const TCP: Speaks =
    Speaks { scheme: "tcp", proxy_variable: "BODIES_TCP_PROXY", port_variable: "BODIES_TCP_ORIGIN_PORT" };

impl Speaks {
    /// Another proxy that is to be played through.
    pub(crate) fn other_proxy(self) -> Option<SocketAddr> {
        std::env::var(self.proxy_variable).ok().map(|text| text.parse().expect("an address"))
    }

    fn origin_port(self) -> u16 {
        std::env::var(self.port_variable).map_or(0, |text| text.parse().expect("a port"))
    }
}

pub(crate) struct Stage {
    pub(crate) addr: SocketAddr,
    /// None: it is another's.
    proxy: Option<Proxy>,
    is_over: watch::Sender<bool>,
}

impl Stage {
    /// Plays on a new one.
    pub(crate) fn run(
        speaks: Speaks,
        seed: u64,
        play: impl AsyncFnOnce(Self, Vec<TcpListener>, watch::Receiver<bool>),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (is_over, seen) = watch::channel(false);
            let (stage, listeners) = match speaks.other_proxy() {
                Some(addr) => {
                    let listener = listen(speaks.origin_port(), Buffers::default());
                    (Self { addr, proxy: None, is_over }, vec![listener])
                }
                None => {
                    let listeners: Vec<_> = Buffers::receiving().map(|buffers| listen(0, buffers)).collect();
                    (Self::start(speaks, &listeners, seed, is_over), listeners)
                }
            };
            play(stage, listeners, seen).await;
        });
    }

    fn start(speaks: Speaks, origins: &[TcpListener], seed: u64, is_over: watch::Sender<bool>) -> Self {
        let origins: Vec<_> =
            origins.iter().map(|origin| origin.local_addr().expect("bound").to_string()).collect();
        let trust = (speaks.scheme == HTTPS.scheme).then(|| Trust::new(&["bodies"]));
        let certificate =
            trust.as_ref().map_or_else(String::new, |it| format!("--certificate {}", it.pair()));
        let flags = format!(
            "proxy --listen {}://127.0.0.1:0=app --upstream app={} --workers 2 --timeouts drain=10ms {certificate}",
            speaks.scheme,
            origins.join(","),
        );
        let args = Flags::try_parse_from(flags.split_whitespace()).expect("flags").args;
        let proxy = Proxy::start(&args).expect("a proxy");
        let addr = proxy.addrs()[0];
        // What a worker accepts has its listener's buffers.
        let mut rng = rng_of(seed, usize::MAX);
        if let Err(error) = Buffers::apply_to_own(|| Buffers::draw(&mut rng), addr) {
            eprintln!("the kernel lends no descriptors, the proxy's buffers stay as they are: {error}");
        }
        let addr = trust.map_or(addr, |trust| trust.seal_to(addr, "bodies", Some(seed)));
        Self { addr, proxy: Some(proxy), is_over }
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.proxy.is_some()
    }

    /// Stops the proxy and waits for the origin: whatever was sent has come then.
    pub(crate) async fn end(self, mut serving: JoinSet<()>) {
        if let Some(proxy) = self.proxy {
            tokio::task::spawn_blocking(|| proxy.stop()).await.expect("the proxy stops");
        }
        self.is_over.send_replace(true);
        while let Some(served) = serving.join_next().await {
            served.expect("the origin ends");
        }
    }
}

/// A listener of the origin. What it accepts inherits its buffers.
fn listen(port: u16, buffers: Buffers) -> TcpListener {
    let listen = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        buffers.apply(&socket)?;
        socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
        socket.listen(1024)
    };
    listen().expect("a port for the origin")
}

/// Plays each, [`CLIENTS_COUNT`] at a time, until so many have failed that it is clear enough.
pub(crate) async fn play_side_by_side<F>(count: usize, ledger: &Ledger, play: impl Fn(usize) -> F + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut clients = JoinSet::new();
    for number in (0..count).take_while(|_| ledger.failed_count() < FAILED_COUNT_MAX) {
        if clients.len() == CLIENTS_COUNT {
            clients.join_next().await.expect("some").expect("a client that ends");
        }
        clients.spawn(play(number));
    }
    while let Some(played) = clients.join_next().await {
        played.expect("a client that ends");
    }
}
