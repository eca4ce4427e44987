//! What the nodes of a local cluster see of each other.

use std::{
    convert::Infallible,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;
use feed::{
    FromSidecar, Name, Tags, ToSidecar,
    ask::ask,
    frame::{FeedError, Member, MemberState, Wait},
};

use super::{
    cluster::{Cluster, LOOK_PERIOD, VISIBLE_TIMEOUT},
    service::{Kind, Process, ServiceId},
    told::{Tell, Told},
};
use crate::say::escaped;

/// How often it is looked at what is waited for: people do not read faster.
const TELL_PERIOD: Duration = Duration::from_millis(500);
/// How many nodes are named.
const NAMED_MAX: usize = 3;

impl Cluster {
    /// Waits until the nodes that run of these services are what the proxy and the fronts act on.
    pub(super) async fn visible(&self, services: &[ServiceId], tell: Tell<'_>) -> anyhow::Result<()> {
        let started = Instant::now();
        for (at, service) in self.watchers(services) {
            let (name, role) = (self.layout.name(at), &self.layout.services.get(service).role);
            let count = self.running(service).len();
            let left = VISIBLE_TIMEOUT.saturating_sub(started.elapsed());
            let seen = async {
                tokio::select! {
                    seen = self.wait_at(at, role, count) => seen,
                    never = self.tell_unready(at, role, count, tell) => match never {},
                }
            };
            match tokio::time::timeout(left, seen).await {
                Ok(true) => {
                    let ms = started.elapsed().as_millis();
                    tell(Told::Line(format!("{name} sees {count} {role} after {ms} ms")));
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

    /// Tells, for ever, what a node waits for that is to see so many of a role.
    async fn tell_unready(&self, at: Kind, role: &Name, count: usize, tell: Tell<'_>) -> Infallible {
        let name = self.layout.name(at);
        loop {
            let question = ToSidecar::Members { role: Some(role.clone()), tags: Tags::default() };
            let members = match ask_once(&self.layout.feed(at), question).await {
                Ok(FromSidecar::Members(members)) => members,
                _ => Vec::new(),
            };
            let unready = unready(&members);
            tell(Told::Awaited(unready.unwrap_or_else(|| format!("{name} to see {count} {role}"))));
            tokio::time::sleep(TELL_PERIOD).await;
        }
    }

    /// Tells, for ever, what a node waits for that is to stop.
    pub(super) async fn tell_drain(&self, kind: Kind, tell: Tell<'_>) -> Infallible {
        let name = self.layout.name(kind);
        loop {
            let question = ToSidecar::Explain { name: name.clone() };
            let drain = match ask_once(&self.layout.feed(kind), question).await {
                Ok(FromSidecar::Explained(explanation)) => explanation.drain,
                _ => None,
            };
            let holders =
                drain.map(|drain| listed(drain.held_up_by.iter())).filter(|names| !names.is_empty());
            tell(Told::Awaited(match holders {
                Some(holders) => format!("{holders} to let go of {name}"),
                None => format!("{name} to stop"),
            }));
            tokio::time::sleep(TELL_PERIOD).await;
        }
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
    pub(super) async fn unlisted(&self, gone: Kind, tell: Tell<'_>) -> anyhow::Result<()> {
        let (name, started) = (self.layout.name(gone), Instant::now());
        tell(Told::Awaited(format!("every node to know that {name} has gone")));
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

/// Which of these have not passed their checks yet, or still drain.
fn unready(members: &[Member]) -> Option<String> {
    let of = |states: &[MemberState]| {
        listed(members.iter().filter(|member| states.contains(&member.state)).map(|member| &member.name))
    };
    let checking = of(&[MemberState::Joining, MemberState::Checking, MemberState::Unhealthy]);
    if !checking.is_empty() {
        return Some(format!("{checking} to pass the check"));
    }
    let draining = of(&[MemberState::Draining]);
    (!draining.is_empty()).then(|| format!("{draining} to drain"))
}

fn listed<'a>(names: impl Iterator<Item = &'a Name>) -> String {
    let names: Vec<&str> = names.map(Name::as_str).collect();
    let named = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len() - names.len().min(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

async fn ask_once(feed: &Path, question: ToSidecar) -> Result<FromSidecar, FeedError> {
    ask(feed, question).await?.next().await
}

#[cfg(test)]
mod tests {
    use feed::Routes;

    use super::*;

    fn member(name: &str, state: MemberState) -> Member {
        let (name, role) = (name.parse().unwrap(), "app".parse().unwrap());
        let addr = "127.0.0.1:1".parse().unwrap();
        Member {
            name,
            role,
            addr,
            port: 1,
            admin_port: 0,
            state,
            instance: 1,
            tags: Tags::default(),
            routes: Routes::default(),
            protocol: None,
            check: None,
        }
    }

    #[test]
    fn what_is_waited_for_are_checks_and_then_drains_and_few_are_named() {
        let (ready, draining) = (member("a0", MemberState::Ready), member("a9", MemberState::Draining));
        assert_eq!(unready(std::slice::from_ref(&ready)), None);
        assert_eq!(unready(&[ready.clone(), draining.clone()]).as_deref(), Some("a9 to drain"));
        let checking = |n: u8| member(&format!("a{n}"), MemberState::Checking);
        assert_eq!(unready(&[ready, draining, checking(1)]).as_deref(), Some("a1 to pass the check"));
        let many: Vec<Member> = (1..=5).map(checking).collect();
        assert_eq!(unready(&many[..3]).as_deref(), Some("a1, a2, a3 to pass the check"));
        assert_eq!(unready(&many).as_deref(), Some("a1, a2, a3 and 2 more to pass the check"));
    }
}
