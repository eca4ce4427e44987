//! Accepting on a listener that strangers reach. Where it fails, for want of descriptors mostly, accepting pauses, and nothing else does.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::{Instant, sleep_until},
};

use crate::node::shortage::LogPace;

/// Pause after an accept that failed. What is short needs time to come back, and connections wait in the kernel meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// What accepts connections.
pub(crate) trait Listener {
    /// A connection, with what is known of its other end.
    type Accepted;

    async fn accept(&self) -> io::Result<Self::Accepted>;
}

impl Listener for TcpListener {
    type Accepted = (TcpStream, SocketAddr);

    async fn accept(&self) -> io::Result<Self::Accepted> {
        Self::accept(self).await
    }
}

impl Listener for UnixListener {
    type Accepted = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Intake<L> {
    listener: L,
    /// What it is for, in the log.
    name: &'static str,
    /// When accepting goes on after it failed.
    paused_until: Option<Instant>,
    pace: LogPace,
}

impl<L: Listener> Intake<L> {
    pub(crate) fn new(listener: L, name: &'static str) -> Self {
        Self { listener, name, paused_until: None, pace: LogPace::default() }
    }

    /// The next connection. The future may be dropped at any time: a pause is remembered, and nothing is lost.
    pub(crate) async fn accept(&mut self) -> L::Accepted {
        loop {
            if let Some(until) = self.paused_until {
                sleep_until(until).await;
                self.paused_until = None;
            }
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    let now = Instant::now();
                    self.paused_until = Some(now + PAUSE);
                    if let Some(held_back) = self.pace.pass(now.into_std()) {
                        tracing::warn!(%error, held_back, "{}: cannot accept, pausing", self.name);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rustix::io::Errno;

    use super::*;

    /// Fails so many times.
    struct Failing(Cell<u32>);

    impl Listener for Failing {
        type Accepted = ();

        async fn accept(&self) -> io::Result<()> {
            if self.0.get() == 0 {
                return Ok(());
            }
            self.0.set(self.0.get() - 1);
            Err(Errno::MFILE.into())
        }
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn who_cannot_accept_pauses_for_as_long_whoever_else_has_a_turn_meanwhile() {
        let started = Instant::now();
        let mut intake = Intake::new(Failing(Cell::new(3)), "test");
        let mut others = 0;
        loop {
            tokio::select! {
                () = intake.accept() => break,
                () = tokio::time::sleep(PAUSE / 10) => others += 1,
            }
        }
        assert_eq!(started.elapsed(), 3 * PAUSE);
        assert!(others >= 25, "{others}");
    }
}
