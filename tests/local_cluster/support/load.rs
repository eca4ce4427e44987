//! Clients that ask without pause and keep the count of what goes wrong, with `wrk` beside them.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    http::{Connection, Response},
    wait::until,
    wrk::Wrk,
};

/// How long a client waits for an answer. A front waits 10 s for an app.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client that fails so often has seen enough.
const FAILURES_MAX: usize = 10;

/// A few requests of `wrk` are enough: the clients here are the ones that are seen to go on, and all of `wrk`'s may be
/// inside of what says nothing.
const WRK_REQUESTS_MIN: u64 = 1;

/// Running clients, each with one connection that it keeps.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<String>>>,
    /// None: it is not installed.
    wrk: Option<Wrk>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    answers: AtomicU64,
}

impl Load {
    pub(crate) fn start(addr: SocketAddr, clients: usize) -> Self {
        Self::start_by(clients, Wrk::command(addr, PATIENCE), move || {
            Connection::open_patiently(addr, PATIENCE)
        })
    }

    /// The same for clients that connect in their own way, each in a thread of its own, and for `wrk` as it is told.
    pub(crate) fn start_by<F>(clients: usize, wrk: Command, open: F) -> Self
    where
        F: Fn() -> io::Result<Connection> + Clone + Send + 'static,
    {
        let wrk = Wrk::start(wrk);
        let shared = Arc::new(Shared::default());
        let client = |_| {
            let (shared, open) = (shared.clone(), open.clone());
            thread::spawn(move || shared.ask(open))
        };
        Self { clients: (0..clients).map(client).collect(), shared, wrk }
    }

    /// How many requests were answered with 200 so far.
    pub(crate) fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// Waits until as many requests were answered as there are clients, counted from now.
    pub(crate) fn goes_on(&self) {
        let before = self.answers();
        until("answers to every client", || {
            (self.answers() >= before + self.clients.len() as u64).then_some(())
        });
    }

    /// Stops, and prints how many requests were served while this happened, none of which may have failed.
    pub(crate) fn assert_lossless(mut self, while_this: &str) {
        let (shared, wrk) = (self.shared.clone(), self.wrk.take());
        let failures = self.stop();
        let answers = shared.answers.load(Ordering::Relaxed);
        println!("{while_this}: {answers} requests served, {} failed", failures.len());
        // A hundred clients say the same.
        let distinct: BTreeSet<String> = failures.into_iter().collect();
        assert_eq!(distinct, BTreeSet::new(), "{while_this}: beside {answers} requests that were served");
        if let Some(wrk) = wrk {
            wrk.assert_lossless(while_this, WRK_REQUESTS_MIN);
        }
    }

    /// Stops; everything that went wrong.
    pub(crate) fn stop(mut self) -> Vec<String> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.clients.drain(..).flat_map(|client| client.join().unwrap()).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that fails before the end leaves no load on the others.
        self.shared.stopping.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn ask(&self, open: impl Fn() -> io::Result<Connection>) -> Vec<String> {
        let mut failures = Vec::new();
        let mut kept = None;
        while !self.stopping.load(Ordering::Relaxed) && failures.len() < FAILURES_MAX {
            match ask_once(&open, &mut kept) {
                Ok(response) if response.status == 200 => {
                    self.answers.fetch_add(1, Ordering::Relaxed);
                }
                Ok(response) => failures.push(format!("{} {}", response.status, response.body.trim_end())),
                Err(error) => failures.push(error.to_string()),
            }
        }
        failures
    }
}

/// Asks on the connection that is kept, which the server may close only after it has said so.
fn ask_once(
    open: &impl Fn() -> io::Result<Connection>,
    kept: &mut Option<Connection>,
) -> io::Result<Response> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => open()?,
    };
    let response = connection.get("/hello")?;
    if !response.is_last() {
        *kept = Some(connection);
    }
    Ok(response)
}
