//! Threads and signals: the proxy as a whole.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context;
use feed::{Endpoint, EndpointState, Name, RoleTable, follow::Follow};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    accept::{self, Listening},
    config::{Args, FixedTable, Listen},
    log::{Log, Tap},
    stats::Stats,
    upstream::{directory::Directory, follow::Follower},
    worker::{Settings, Worker},
};

/// How long a proxy that has just started lets clients wait for its first table instead of refusing them: a sidecar answers
/// within milliseconds.
const FIRST_TABLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a draining worker looks whether its last client is gone.
const DRAIN_LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Runs a proxy until it is asked to stop, then lets exchanges under way end.
///
/// # Errors
/// An address that cannot be listened on; the message names it.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut report = signal(SignalKind::user_defined1())?;
    // Without a file to open anew, the signal keeps its meaning.
    let mut hangup = args.access_log_file.as_ref().map(|_| signal(SignalKind::hangup())).transpose()?;
    let proxy = Proxy::start(args)?;
    let mut log_renamed = async || match &mut hangup {
        Some(hangup) => hangup.recv().await,
        None => std::future::pending().await,
    };
    tokio::select! {
        () = proxy.follow() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = async {
            loop {
                tokio::select! {
                    _ = report.recv() => tracing::info!("{}", proxy.summary()),
                    _ = log_renamed() => proxy.reopen_log(),
                }
            }
        } => {}
    }
    let summary = proxy.summary();
    proxy.stop();
    tracing::info!("stopped, {summary}");
    Ok(())
}

/// A running proxy.
pub struct Proxy {
    args: Args,
    directory: Arc<Directory>,
    /// Each worker's, and those of the access log's writer.
    stats: Vec<Arc<Stats>>,
    addrs: Vec<SocketAddr>,
    log: Option<Log>,
    stopping: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Binds the listeners and starts the workers.
    ///
    /// # Errors
    /// An address that cannot be listened on, a `--balance` that fits no listener, or settings that contradict each other.
    pub fn start(args: Args) -> anyhow::Result<Self> {
        args.check()?;
        args.check_balance()?;
        let workers = usize::from(args.workers.unwrap_or_else(available_cores));
        let mut roles: Vec<Name> = args.listen.iter().map(|listen| listen.role.clone()).collect();
        roles.sort();
        roles.dedup();
        let directory = Arc::new(Directory::new(&roles, workers));
        // Before the listeners: the first client must find what is known from the start.
        publish_fixed(&directory, &args.upstream);
        let stats: Vec<Arc<Stats>> = (0..=workers).map(|_| Arc::default()).collect();
        let role_names = roles.iter().map(Name::to_string).collect();
        let log = Log::start(&args, role_names, workers, stats[workers].clone())?;
        let (log, taps) = log.map_or((None, Vec::new()), |(log, taps)| (Some(log), taps));
        let mut proxy = Self {
            directory,
            stats,
            log,
            addrs: Vec::new(),
            stopping: watch::Sender::new(false),
            threads: Vec::new(),
            args,
        };
        let mut sockets: Vec<Vec<(Listen, std::net::TcpListener)>> =
            (0..workers).map(|_| Vec::new()).collect();
        for listen in &proxy.args.listen {
            let bound = accept::bind(listen.addr, listen.protocol, workers)
                .with_context(|| format!("--listen …{}={}: cannot listen there", listen.addr, listen.role))?;
            proxy.addrs.extend(bound.first().and_then(|socket| socket.local_addr().ok()));
            for (worker, socket) in sockets.iter_mut().zip(bound) {
                worker.push((listen.clone(), socket));
            }
        }
        let mut taps = taps.into_iter();
        for (id, sockets) in sockets.into_iter().enumerate() {
            proxy.threads.push(proxy.start_worker(id, sockets, taps.next())?);
        }
        for (listen, addr) in proxy.args.listen.iter().zip(&proxy.addrs) {
            tracing::info!(%addr, role = %listen.role, workers, "proxy listening");
        }
        Ok(proxy)
    }

    /// The listeners' addresses, in the order of the command line.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The counters in one line.
    pub fn summary(&self) -> String {
        Stats::summary(&self.stats.iter().map(|stats| &**stats))
    }

    /// Opens the access log's file anew: the old one has been renamed.
    pub fn reopen_log(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    /// Keeps the tables that are not fixed as the feed tells them; never ends.
    pub async fn follow(&self) {
        let is_fixed = |role: &Name| self.args.upstream.iter().any(|fixed| fixed.role == *role);
        let roles = self.directory.roles().iter().map(|role| &role.name);
        let followed: Vec<String> = roles.filter(|role| !is_fixed(role)).map(Name::to_string).collect();
        if followed.is_empty() {
            return std::future::pending().await;
        }
        let follow = Follow { path: self.args.feed.clone(), name: "proxy".into(), roles: followed };
        follow.run(Follower(self.directory.clone())).await;
    }

    /// Stops accepting, lets exchanges under way end, and ends the workers.
    pub fn stop(self) {
        self.stopping.send_replace(true);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        // After the workers: whatever they had to say is in their rings.
        if let Some(log) = self.log {
            log.stop();
        }
    }

    fn start_worker(
        &self,
        id: usize,
        sockets: Vec<(Listen, std::net::TcpListener)>,
        log: Option<Tap>,
    ) -> anyhow::Result<JoinHandle<()>> {
        let settings = Settings {
            timeouts: self.args.timeouts,
            half_closed: self.args.half_closed,
            clients_max: self.args.clients_max,
            rules: self.args.rules.clone(),
            body_bytes_max: self.args.body_bytes_max.unwrap_or(u64::MAX),
            forwarding: self.args.forwarded.with(self.args.trusted_hops),
            via: self.args.via.clone(),
        };
        let (directory, stats) = (self.directory.clone(), self.stats[id].clone());
        let mut stopping = self.stopping.subscribe();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let serve = move || {
            let mut runtime = runtime;
            let runtime = match runtime.enable_all().build_local(tokio::runtime::LocalOptions::default()) {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "no event loop for a worker");
                    return;
                }
            };
            runtime.block_on(async move {
                // Seeded by position and start: workers and proxies must not choose alike.
                let seed = std::collections::hash_map::RandomState::new();
                let seed = std::hash::BuildHasher::hash_one(&seed, id);
                let drain = settings.timeouts.drain;
                let worker = Worker::new(settings, id, &directory, stats, log, seed);
                worker.start_tasks(id, &directory);
                let accepting = start_accepting(id, &worker, &directory, sockets);
                let _ = stopping.wait_for(|stopping| *stopping).await;
                drop(accepting);
                drain_worker(&worker, drain).await;
            });
        };
        let thread = std::thread::Builder::new().name(format!("worker-{id}"));
        thread.spawn(serve).context("cannot start a worker thread")
    }
}

fn start_accepting(
    id: usize,
    worker: &Rc<Worker>,
    directory: &Directory,
    sockets: Vec<(Listen, std::net::TcpListener)>,
) -> tokio::task::JoinSet<()> {
    let mut accepting = tokio::task::JoinSet::new();
    for (listen, socket) in sockets {
        let Some(role) = directory.roles().iter().position(|role| role.name == listen.role) else { continue };
        let role_name = Rc::from(listen.role.as_str());
        let listening = Listening { protocol: listen.protocol, socket, role, role_name };
        let (worker, known) = (worker.clone(), directory.roles()[role].clone());
        accepting.spawn_local(async move {
            // The kernel takes connections meanwhile.
            let _ = tokio::time::timeout(FIRST_TABLE_TIMEOUT, known.first_table(id)).await;
            accept::accept(worker, listening).await;
        });
    }
    accepting
}

async fn drain_worker(worker: &Worker, timeout: Duration) {
    worker.drain();
    let deadline = Instant::now() + timeout;
    while worker.clients.get() > 0 && Instant::now() < deadline {
        tokio::time::sleep(DRAIN_LOOK_PERIOD).await;
    }
}

pub(crate) fn publish_fixed(directory: &Directory, tables: &[FixedTable]) {
    for fixed in tables {
        let endpoints = fixed.addrs.iter().enumerate().map(|(i, addr)| fixed_endpoint(i, *addr)).collect();
        if let Some(role) = directory.role(fixed.role.as_str()) {
            role.publish(&RoleTable::new(fixed.role.clone(), 1, endpoints));
        }
    }
}

/// An endpoint of a fixed table; its position stands for the instance, since it never changes. Its address is its name, so that it
/// has the same keys wherever in the table it stands.
fn fixed_endpoint(position: usize, addr: SocketAddr) -> Endpoint {
    Endpoint {
        node: format!("fixed-{}-{}", addr.ip(), addr.port())
            .replace(['.', ':'], "-")
            .parse()
            .expect("a short name within the grammar"),
        instance: position as u64 + 1,
        addr,
        state: EndpointState::Ready,
        weight: 100,
        since: 0.0,
        gossip_port: 0,
        tags: feed::Tags::default(),
    }
}

/// The cores that the process may use: affinity and the cgroup's quota both count.
fn available_cores() -> u16 {
    std::thread::available_parallelism().ok().and_then(|cores| u16::try_from(cores.get()).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests;
