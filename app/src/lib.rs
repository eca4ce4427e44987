//! The two small services of the original system: the front, which asks an app, and the app, which says hello.
//!
//! ```text
//! GET /hello ──▶ front ── GET /hello/<front's node> ──▶ app     Hello frontserver1, I'm appserver1 !
//!                  ▲
//!             feed │ who the apps are
//! ```
//!
//! They show how an ordinary program lives behind Concertina. The app knows nothing of it but whom it tells what it has counted, and
//! finishes what it has begun when it is told to stop; the front follows the feed to find its apps. Neither is a general proxy:
//! that is the crate `proxy`.
//!
//! Everything here runs on one thread and spawns local tasks: call it from a tokio `LocalRuntime` or `LocalSet`.
//!
//! Reading order: `config` → `tally` → `serve` → `app` → `pool` → `call` → `memory` → `front`.

mod app;
mod call;
mod config;
mod front;
mod memory;
mod pool;
mod serve;
mod tally;

use std::{io, net::SocketAddr};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

pub use crate::{
    app::serve_app_until,
    config::{AppArgs, FrontArgs},
    front::serve_front_until,
};

/// Runs a front until SIGTERM or SIGINT, then finishes what is in flight.
///
/// # Errors
/// There is no name to run under, or the address cannot be listened on.
pub async fn run_front(args: FrontArgs) -> anyhow::Result<()> {
    let stop = stop_signal().context("cannot handle signals")?;
    let node = config::node_or_hostname(args.node)?;
    let listener = listen(args.listen).await?;
    tracing::info!(%node, listen = %args.listen, role = %args.app_role, "front listening");
    serve_front_until(listener, &node, args.feed, args.app_role, stop).await;
    Ok(())
}

/// Runs an app until SIGTERM or SIGINT, then finishes what is in flight.
///
/// # Errors
/// There is no name to run under, or the address cannot be listened on.
pub async fn run_app(args: AppArgs) -> anyhow::Result<()> {
    let stop = stop_signal().context("cannot handle signals")?;
    let node = config::node_or_hostname(args.node)?;
    let listener = listen(args.listen).await?;
    tracing::info!(%node, listen = %args.listen, "app listening");
    serve_app_until(listener, node, args.feed, stop).await;
    Ok(())
}

async fn listen(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| {
        let advice = program::advice::on_listening(&error);
        anyhow::anyhow!("--listen {addr}: cannot listen there: {error}; {advice}")
    })
}

/// Takes the signals over at once; the future is done when one of them has come.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
