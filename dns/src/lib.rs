//! The DNS role: names for whatever is in the cluster right now, answered from the role tables of a sidecar.
//!
//! ```text
//! sidecar ══ feed ══▶ follow ── tables ──▶ zone ── snapshot ──▶ answer ◀── handler ◀── UDP, TCP
//!                                                                            └── other names ──▶ forward
//! ```
//!
//! `zone` and `answer` are pure: tables and a question in, records out. `handler` is where they meet
//! `hickory-server`, which owns the sockets and the wire format. It is no general name server: there are no zone
//! files, no cache, no transfers and no recursion, and nothing here decides who is a member.
//!
//! Reading order: [`origin`] → [`zone`] → [`answer`] → [`handler`] → [`forward`] → [`follow`] → [`server`] → [`config`].

pub mod answer;
pub mod config;
pub mod follow;
pub mod forward;
pub mod handler;
pub mod origin;
pub mod server;
pub mod zone;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

pub use config::Args;
pub use server::Server;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// An address cannot be listened on, or a socket fails for good.
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
    server.serve(stop).await?;
    Ok(())
}
