//! The DNS role: names for whatever is in the cluster right now, answered from the role tables of a sidecar.
//!
//! ```text
//! sidecar ══ feed ══▶ follow ── tables ──▶ roster, zone ──▶ answer ◀── handler ◀── UDP, TCP
//!                                                                        └── other names ──▶ forward
//! ```
//!
//! `roster`, `zone` and `answer` are pure: tables and a question in, records out; `request` knows the wire format. It is no general name server: there are no zone
//! files, no cache, no transfers and no recursion, and nothing here decides who is a member.
//!
//! Reading order: [`origin`] → [`roster`] → [`zone`] → [`answer`] → [`request`] → `tally` → [`handler`] → [`upstreams`] → [`forward`] → `exchange` → [`follow`] → `udp` → `tcp` → [`server`] → [`config`].

pub mod answer;
mod complaint;
pub mod config;
mod connections;
mod exchange;
pub mod follow;
pub mod forward;
pub mod handler;
pub mod origin;
pub mod request;
pub mod roster;
pub mod server;
mod server_addr;
mod tally;
mod tcp;
mod udp;
pub mod upstreams;
pub mod zone;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

pub use config::Args;
pub use server::Server;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// An address cannot be listened on.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let server = Server::bind(args).await?;
    for addr in server.addrs() {
        tracing::info!("dns listening on {addr}");
    }
    server.serve(stop).await;
    Ok(())
}
