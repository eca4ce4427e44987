//! Connections of TLS for one request each: `wrk` would make of full and resumed handshakes whatever it likes.

use std::{
    io::Read as _,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rustls::{ClientConfig, HandshakeKind, client::Resumption};

use super::{
    client,
    generator::Report,
    load::{Handshake, Shape},
    sealing::{self, Sealing},
};

/// Tickets that a client keeps for its one server; each is used once.
const TICKETS_COUNT: usize = 8;

/// Clients, ready to make one load.
pub(super) struct Handshakes {
    clients: Vec<Arc<ClientConfig>>,
    shape: Shape,
    handshake: Handshake,
    proxy: SocketAddr,
}

/// What one client has seen.
#[derive(Debug, Default)]
struct Seen {
    latencies_us: Vec<u64>,
    errors: u64,
}

impl Handshakes {
    /// As many clients as the load has connections.
    ///
    /// # Errors
    /// A certificate that no client can trust.
    pub(super) fn new(
        sealing: &Sealing,
        shape: &Shape,
        handshake: Handshake,
        proxy: SocketAddr,
    ) -> anyhow::Result<Self> {
        let client = |_| {
            sealing.client(match handshake {
                Handshake::Full => Resumption::disabled(),
                Handshake::Resumed => Resumption::in_memory_sessions(TICKETS_COUNT),
            })
        };
        let clients = (0..shape.connections).map(client).collect::<anyhow::Result<_>>()?;
        Ok(Self { clients, shape: *shape, handshake, proxy })
    }

    /// Makes the load for so long, on the core that the caller runs on. The first connection of each client gets it a ticket.
    ///
    /// # Errors
    /// A connection that cannot be made at all.
    pub(super) fn run(&self, time: Duration) -> anyhow::Result<Report> {
        let begun = Instant::now();
        let seen = thread::scope(|scope| {
            let clients: Vec<_> = self
                .clients
                .iter()
                .map(|client| scope.spawn(move || self.run_client(client, begun + time)))
                .collect();
            clients.into_iter().map(|client| client.join().ok()).collect::<Option<Vec<Seen>>>()
        });
        let seen = seen.context("a client has panicked")?;
        let duration = begun.elapsed();
        let errors = seen.iter().map(|seen| seen.errors).sum();
        let latencies_us = seen.into_iter().flat_map(|seen| seen.latencies_us).collect();
        Ok(summarise(latencies_us, errors, duration))
    }

    fn run_client(&self, client: &Arc<ClientConfig>, end: Instant) -> Seen {
        let mut seen = Seen::default();
        while Instant::now() < end {
            let begun = Instant::now();
            match self.ask(client) {
                Ok(HandshakeKind::Resumed) if self.handshake == Handshake::Full => seen.errors += 1,
                Ok(kind) => {
                    // Without the ticket of a connection before there is none to resume by.
                    let is_first = seen.latencies_us.is_empty();
                    let is_other = self.handshake == Handshake::Resumed && kind != HandshakeKind::Resumed;
                    seen.errors += u64::from(is_other && !is_first);
                }
                Err(_) => {
                    seen.errors += 1;
                    continue;
                }
            }
            let latency = begun.elapsed().as_micros();
            seen.latencies_us.push(u64::try_from(latency).unwrap_or(u64::MAX));
        }
        seen
    }

    /// One request on a connection of its own, to the end of both.
    fn ask(&self, client: &Arc<ClientConfig>) -> anyhow::Result<HandshakeKind> {
        let mut stream = sealing::connect(client.clone(), self.proxy)?;
        client::ask_on(&mut stream, self.proxy, &self.shape)?;
        // Tickets are read on the way to the end.
        let rest = stream.read(&mut [0; 64])?;
        ensure!(rest == 0, "{rest} bytes behind the answer");
        stream.conn.handshake_kind().context("an answer before the handshake's end")
    }
}

fn summarise(mut latencies_us: Vec<u64>, errors: u64, duration: Duration) -> Report {
    latencies_us.sort_unstable();
    let percentile = |percent: usize| latencies_us.get(latencies_us.len() * percent / 100).copied();
    Report {
        requests: latencies_us.len() as u64,
        duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
        errors,
        p50_us: percentile(50),
        p99_us: percentile(99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_the_middle_and_the_slowest_hundredth() {
        let report = summarise((0..200).rev().collect(), 3, Duration::from_secs(2));
        let expected =
            Report { requests: 200, duration_us: 2_000_000, errors: 3, p50_us: Some(100), p99_us: Some(198) };
        assert_eq!(report, expected);
        assert_eq!(summarise(Vec::new(), 0, Duration::ZERO), Report::default());
    }
}
