//! Proofs that nothing is lost: clients with kept connections ask without pause while something happens to the cluster, and
//! so does `wrk`, and not one request may fail. In seconds by default; with `CONCERTINA_LONG=1` for minutes.

mod alarms;
mod faults;
mod lossless;
mod partition;
mod postgresql;
mod restarts;
mod routes;

use crate::support::length::short_or_long;

/// Connections that are kept by clients.
const CLIENTS: usize = 32;
