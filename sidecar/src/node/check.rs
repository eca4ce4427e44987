//! The role's own check: whether its process serves.

mod damper;
mod grpc;
mod probe;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    config::Check,
    node::{shortage::LogPace, supervise::Children},
};

pub(crate) use damper::{Damping, News};

use damper::Damper;
use probe::Finding;

/// A check that is made for ever.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    pub(crate) check: Check,
    /// Where the process listens.
    pub(crate) addr: SocketAddr,
    /// Longest wait for an answer.
    pub(crate) timeout: Duration,
    pub(crate) damping: Damping,
    /// Who tells the ends of the check's programs.
    pub(crate) children: Children,
}

impl Watch {
    /// Checks for ever; tells what is news, and logs it.
    pub(crate) async fn run(self, mut tell: impl FnMut(News)) {
        let (check, addr) = (&self.check, self.addr);
        if *check == Check::None {
            return tell(News::Serves);
        }
        let started = Instant::now();
        let (mut damper, mut pace) = (Damper::new(self.damping), LogPace::default());
        loop {
            match probe::probe(check, addr, self.timeout, &self.children).await {
                Finding::Found(found) => {
                    let news = damper.apply(found, started.elapsed());
                    match news {
                        Some(News::Serves) => tracing::info!(%check, port = addr.port(), "role check passes"),
                        Some(News::Fails(why)) => {
                            tracing::warn!(%check, port = addr.port(), %why, "role check fails");
                        }
                        None => {}
                    }
                    news.into_iter().for_each(&mut tell);
                }
                Finding::Nothing(error) => {
                    if pace.pass(Instant::now().into_std()).is_some() {
                        tracing::warn!(%check, %error, "cannot check the role: it stays as it is");
                    }
                }
            }
            sleep(damper.pause(started.elapsed())).await;
        }
    }
}

/// Where to reach a role's process that may listen on every address.
pub(crate) fn address(advertised: SocketAddr, port: u16) -> SocketAddr {
    let ip = match advertised.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    (ip, port).into()
}
