//! Datagrams in front of a role: each client's flow goes to one upstream for as long as it lives.
//!
//! ```text
//! client ─▶ end (one a worker, the kernel spreads clients) ─▶ flow ─▶ link (one a flow, connected) ─▶ upstream
//! ```
//!
//! [`flow`] and [`train`] are pure. A link is connected, so that what comes back can only be from that upstream, whom it is for is known
//! without a look, and the kernel tells whether anybody is there. Clients are never sent anything else than what an upstream sent.
//!
//! The bits by which routers tell of congestion (ECN) are not passed on: whoever asks for them takes that for a way without them.

mod end;
pub(crate) mod flow;
mod link;
mod listener;
mod train;

use std::{cell::RefCell, rc::Rc};

pub(crate) use end::bind;
use listener::Listener;
pub(crate) use listener::flows_count_max;

use crate::{accept::Service, worker::Worker};

/// Serves the clients of a socket until the listener is to close, and the last answer has come.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    socket: std::net::UdpSocket,
    service: Rc<RefCell<Service>>,
    closing: impl Future<Output = ()>,
) {
    match Listener::new(worker, socket, service) {
        Ok(listener) => listener.serve(closing).await,
        Err(error) => tracing::error!(%error, "a listener for datagrams cannot serve"),
    }
}
