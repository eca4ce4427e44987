//! Proofs that nothing is lost: clients with kept connections ask without pause while something happens to the cluster, and
//! so does `wrk`, and not one request may fail. In seconds by default; with `CONCERTINA_LONG=1` for minutes.

mod alarms;
mod faults;

mod lossless;
mod partition;
mod restarts;

/// Connections that are kept by clients.
const CLIENTS: usize = 32;

/// How much of something: so much in seconds, so much when there is time.
fn short_or_long<T>(short: T, long: T) -> T {
    if std::env::var_os("CONCERTINA_LONG").is_some_and(|value| value == "1") { long } else { short }
}
