//! One request that is kept, and how it is told.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use feed::{
    Name,
    recall::{Attempt, Cause, Drawn, Hop},
};

use super::notes::{Line, Times, Tried, Tries};
use crate::{
    http1::RequestId,
    limits::RECALL_DRAINING_COUNT_MAX,
    log::record::{End, Text},
    upstream::pick::{self, By},
};

/// A request that was.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: RequestId,
    pub(crate) cause: Cause,
    /// When it began, since the Unix epoch.
    pub(crate) began: Duration,
    pub(crate) client: Option<SocketAddr>,
    pub(crate) line: Option<Line>,
    /// Empty: of none.
    pub(crate) role: Rc<str>,
    pub(crate) tries: Tries,
    pub(crate) times: Times,
    pub(crate) whole: Duration,
    pub(crate) status: Option<u16>,
    pub(crate) end: End,
    pub(crate) draining: Draining,
}

/// What the lengths of the rings are measured by.
const _: () = assert!(size_of::<Kept>() <= 1600);

/// Nodes of the role that drained when it ended: the first ones.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    names: [Option<Name>; RECALL_DRAINING_COUNT_MAX],
    count: usize,
}

impl Draining {
    pub(crate) fn push(&mut self, name: &Name) {
        if let Some(place) = self.names.get_mut(self.count) {
            *place = Some(name.clone());
        }
        self.count += 1;
    }
}

impl Kept {
    pub(crate) fn at_us(&self) -> u64 {
        us(self.began)
    }
}

impl From<&Kept> for Hop {
    fn from(kept: &Kept) -> Self {
        let line = kept.line.as_ref();
        let [route, behind] = [0, 1].map(|at| Some(line?.routes[at].as_ref()?.to_string()));
        Self {
            node: None,
            program: feed::control::PROXY.to_owned(),
            id: kept.id.as_str().parse().ok(),
            at_us: kept.at_us(),
            cause: kept.cause,
            client: kept.client.map(|client| client.to_string()),
            method: line.map(|line| told(&line.method)).unwrap_or_default(),
            host: line.map(|line| told(&line.host)).unwrap_or_default(),
            path: line.map(|line| told(&line.path)).unwrap_or_default(),
            is_cut: line.is_some_and(|line| line.host.is_cut || line.path.is_cut),
            route,
            behind,
            role: kept.role.parse().ok(),
            attempts: kept.tries.iter().map(Attempt::from).collect(),
            attempts_untold: kept.tries.untold() as u64,
            queue_us: kept.times.queue.map(us),
            connect_us: kept.times.connect.map(us),
            first_byte_us: kept.times.first_byte.map(us),
            whole_us: us(kept.whole),
            status: kept.status,
            end: kept.end.word().to_owned(),
            draining: kept.draining.names.iter().flatten().cloned().collect(),
            draining_untold: kept.draining.count.saturating_sub(RECALL_DRAINING_COUNT_MAX) as u64,
        }
    }
}

impl From<&Tried> for Attempt {
    fn from(tried: &Tried) -> Self {
        let drawn = tried.picked.drawn.iter().zip(&tried.names);
        let tier = tried.picked.tier;
        let drawn = drawn.filter_map(|(drawn, node)| Some(drawn_of(drawn.as_ref()?, node.clone(), tier)));
        Self {
            node: tried.node.clone(),
            addr: tried.addr.to_string(),
            instance: tried.instance,
            by: word(tried.picked.by).to_owned(),
            generation: Some(tried.picked.generation).filter(|generation| *generation > 0),
            among: tried.picked.among,
            drawn: drawn.collect(),
            is_reused: tried.is_reused,
            failure: tried.failure.map(|(failure, _)| failure.word().to_owned()),
            failed_us: tried.failure.map(|(_, at)| us(at)),
        }
    }
}

fn drawn_of(drawn: &pick::Drawn, node: Option<Name>, tier: pick::Tier) -> Drawn {
    let pick::Drawn { id, in_flight, weight, grown_percent, is_ejected } = *drawn;
    let (addr, tier) = (id.addr.to_string(), tier.word().to_owned());
    Drawn { node, addr, in_flight, weight, grown_percent, tier, is_ejected }
}

fn word(by: By) -> &'static str {
    match by {
        By::Load => "load",
        By::Key => "key",
        By::Cookie => "cookie",
        By::Connection => "connection",
    }
}

/// A stranger's bytes: what is no visible ASCII stands as an escape.
fn told<const BYTES_MAX: usize>(text: &Text<BYTES_MAX>) -> String {
    text.bytes().escape_ascii().to_string()
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
