//! What the nodes of a local cluster see of each other.

use std::{path::Path, time::Instant};

use anyhow::bail;
use feed::{
    FromSidecar, Name, Tags, ToSidecar,
    ask::ask,
    frame::{FeedError, MemberState, Wait},
};

use super::{
    cluster::{Cluster, LOOK_PERIOD, Tell, VISIBLE_TIMEOUT},
    service::{Kind, Process, ServiceId},
};
use crate::say::escaped;

impl Cluster {
    /// Waits until the nodes that run of these services are what the proxy and the fronts act on.
    pub(super) async fn visible(&self, services: &[ServiceId], tell: Tell<'_>) -> anyhow::Result<()> {
        let started = Instant::now();
        for (at, service) in self.watchers(services) {
            let (name, role) = (self.layout.name(at), &self.layout.services.get(service).role);
            let count = self.running(service).len();
            let left = VISIBLE_TIMEOUT.saturating_sub(started.elapsed());
            match tokio::time::timeout(left, self.wait_at(at, role, count)).await {
                Ok(true) => {
                    tell(format!("{name} sees {count} {role} after {} ms", started.elapsed().as_millis()));
                }
                Ok(false) => {}
                Err(_) => bail!(
                    "{name} does not see {count} {role} after {VISIBLE_TIMEOUT:?}{}; see the logs in {}",
                    self.failing_checks(at, role).await,
                    self.layout.dir.display()
                ),
            }
        }
        Ok(())
    }

    /// Who acts on the tables of these services. A front that has just come has to know its apps.
    fn watchers(&self, services: &[ServiceId]) -> Vec<(Kind, ServiceId)> {
        let process = |service: ServiceId| &self.layout.services.get(service).process;
        let is_example = |service: &ServiceId| matches!(process(*service), Process::Front | Process::App);
        let all = self.layout.services.ids();
        let concerned = all.filter(|id| services.contains(id) || services.iter().any(is_example));
        let fronts = self.layout.services.ids().filter(|id| *process(*id) == Process::Front);
        let fronts: Vec<Kind> = fronts.flat_map(|front| self.running(front)).collect();
        let mut watchers = Vec::new();
        for service in concerned {
            match process(service) {
                Process::App => watchers.extend(fronts.iter().map(|front| (*front, service))),
                Process::Front | Process::Program(_) => watchers.push((Kind::Proxy, service)),
            }
        }
        watchers
    }

    /// Why nodes of a role are not ready, where a node knows it.
    async fn failing_checks(&self, at: Kind, role: &Name) -> String {
        let mut said = String::new();
        let question = ToSidecar::Members { role: Some(role.clone()), tags: Tags::default() };
        if let Ok(FromSidecar::Members(members)) = ask_once(&self.layout.feed(at), question).await {
            for member in members {
                if let Some(why) = member.check {
                    said.push_str(&format!("; {}: {}", member.name, escaped(&why)));
                }
            }
        }
        said
    }

    /// Waits for as long as it takes; false: the node does not run and sees nothing.
    async fn wait_at(&self, at: Kind, role: &Name, count: usize) -> bool {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let wish = Wait {
            role: role.clone(),
            min: count,
            max: Some(count),
            visible: true,
            everywhere: false,
            tags: Tags::default(),
        };
        while self.is_awake(at) {
            let answer = ask_once(&self.layout.feed(at), ToSidecar::Wait(wish.clone())).await;
            if let Ok(FromSidecar::Waited { .. }) = answer {
                return true;
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
        false
    }

    /// Waits until nobody lists a node as alive any more that has ended. Tables are quicker than what people are told.
    pub(super) async fn unlisted(&self, gone: Kind) -> anyhow::Result<()> {
        let (name, started) = (self.layout.name(gone), Instant::now());
        let awake: Vec<Kind> = self.kinds().into_iter().filter(|kind| self.is_awake(*kind)).collect();
        for at in awake {
            let left = VISIBLE_TIMEOUT.saturating_sub(started.elapsed());
            let looks = async {
                while self.is_awake(at) && self.lists(at, &name).await {
                    tokio::time::sleep(LOOK_PERIOD).await;
                }
            };
            if tokio::time::timeout(left, looks).await.is_err() {
                bail!("{} still lists {name} after {VISIBLE_TIMEOUT:?}", self.layout.name(at));
            }
        }
        Ok(())
    }

    /// Whether a node lists one of this name as alive.
    async fn lists(&self, at: Kind, name: &Name) -> bool {
        let question = ToSidecar::Members { role: None, tags: Tags::default() };
        let Ok(FromSidecar::Members(members)) = ask_once(&self.layout.feed(at), question).await else {
            return false;
        };
        let is_alive = |state| !matches!(state, MemberState::Left | MemberState::Failed);
        members.iter().any(|member| member.name == *name && is_alive(member.state))
    }
}

async fn ask_once(feed: &Path, question: ToSidecar) -> Result<FromSidecar, FeedError> {
    ask(feed, question).await?.next().await
}
