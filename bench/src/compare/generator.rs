//! Who makes the load, and what it has seen of it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

use super::{
    h2load::H2load,
    handshakes::Handshakes,
    load::{Shape, Way},
    sealing::Sealing,
    wrk::Wrk,
};

/// Programs that make load.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) wrk: PathBuf,
    /// For HTTP/2, where it is installed.
    pub(super) h2load: Option<PathBuf>,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Report {
    pub(super) requests: u64,
    pub(super) duration_us: u64,
    /// Connections, reads, writes, statuses and times that were not as they should be.
    pub(super) errors: u64,
    /// Of the latencies; none where nobody tells.
    pub(super) p50_us: Option<u64>,
    pub(super) p99_us: Option<u64>,
}

/// One of them, ready to make one load.
pub(super) enum Generator {
    Wrk(Wrk),
    H2load(H2load),
    Handshakes(Handshakes),
}

impl Generator {
    pub(super) fn new(
        programs: &Programs,
        dir: &Path,
        sealing: Option<&Sealing>,
        shape: &Shape,
        proxy: SocketAddr,
    ) -> anyhow::Result<Self> {
        Ok(match shape.way {
            Way::Plain | Way::Tcp | Way::Sealed => Self::Wrk(Wrk::new(&programs.wrk, dir, shape, proxy)?),
            Way::Http2 { streams } => {
                let executable = programs.h2load.as_deref().context("h2load is missing")?;
                Self::H2load(H2load::new(executable, shape, streams, proxy))
            }
            Way::Handshake(handshake) => {
                let sealing = sealing.context("a handshake without a certificate")?;
                Self::Handshakes(Handshakes::new(sealing, shape, handshake, proxy)?)
            }
        })
    }

    /// Makes the load for so long, on the core that the caller runs on.
    pub(super) fn run(&self, time: Duration) -> anyhow::Result<Report> {
        match self {
            Self::Wrk(wrk) => wrk.run(time),
            Self::H2load(h2load) => h2load.run(time),
            Self::Handshakes(handshakes) => handshakes.run(time),
        }
    }
}

/// What a program that makes requests is told to ask for.
pub(super) fn url(shape: &Shape, proxy: SocketAddr) -> String {
    let scheme = if shape.way.is_sealed() { "https" } else { "http" };
    format!("{scheme}://{proxy}{}", shape.path)
}
