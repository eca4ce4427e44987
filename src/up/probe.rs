//! One HTTP request, to learn whether the cluster answers.

use std::{io, net::SocketAddr, time::Duration};

use crate::http::{self, Patience};

/// It is small, or something is wrong.
const PATIENCE: Patience = Patience { time: Duration::from_secs(2), bytes_max: 64 * 1024 };

/// Asks for `/hello`; the body of a 200, or what came instead.
pub(super) async fn hello(addr: SocketAddr) -> io::Result<String> {
    http::get(addr, &addr.to_string(), "/hello", PATIENCE).await
}
