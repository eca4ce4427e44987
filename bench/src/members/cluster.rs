//! Agents that know each other, each at its own loopback address, and waiting for what they say.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use super::{
    agent::Agent,
    contender::{Found, News},
};

/// How long anything may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often to look; the times are the lines' own.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// How long all is left alone once everybody knows everybody.
const REST: Duration = Duration::from_secs(3);

/// The cluster of one contender in one round.
pub(super) struct Cluster<'a> {
    found: &'a Found,
    subnet: [u8; 2],
    pub(super) agents: Vec<Agent>,
    dir: TempDir,
}

/// How a step ended.
pub(super) struct Seen {
    /// When the last agent had said it.
    pub(super) after: Duration,
    /// Who said something else instead, such as `failed` of an agent that left.
    pub(super) odd: Vec<String>,
}

impl<'a> Cluster<'a> {
    /// The agents of one cluster are at `127.subnet.1` and on.
    pub(super) fn new(found: &'a Found, subnet: [u8; 2]) -> anyhow::Result<Self> {
        let dir = TempDir::new().context("cannot create a directory for the agents")?;
        Ok(Self { found, subnet, agents: Vec::new(), dir })
    }

    /// One more agent, which is told of the first.
    pub(super) fn start_one(&mut self) -> anyhow::Result<()> {
        let count = u8::try_from(self.agents.len()).context("too many agents")?;
        let [a, b] = self.subnet;
        let ip = |last| Ipv4Addr::new(127, a, b, last);
        let seed = (count > 0).then(|| ip(1));
        let name = format!("n{}", count + 1);
        self.agents.push(Agent::start(self.found, &name, ip(count + 1), seed, self.dir.path())?);
        Ok(())
    }

    /// Until everybody knows everybody, and a little longer: what was just learned is still being passed on.
    pub(super) fn settle(&self) -> anyhow::Result<()> {
        let knows = |agent: &Agent, other: &Agent| agent.last(&other.name) == Some(News::Joined);
        let others_of = |agent| self.agents.iter().filter(move |other: &&Agent| other.name != agent);
        let pairs = || {
            self.agents
                .iter()
                .flat_map(|agent| others_of(agent.name.as_str()).map(move |other| (agent, other)))
        };
        let deadline = Instant::now() + STEP_TIMEOUT;
        while pairs().any(|(agent, other)| !knows(agent, other)) {
            if Instant::now() > deadline {
                let missing = pairs().filter(|(agent, other)| !knows(agent, other));
                bail!("not everybody knows everybody:\n{}", self.states(missing));
            }
            std::thread::sleep(LOOK_PERIOD);
        }
        std::thread::sleep(REST);
        Ok(())
    }

    /// From the start of the last agent until the others know it, and it knows them.
    pub(super) fn wait_known(&self) -> anyhow::Result<Seen> {
        let (newcomer, others) = self.agents.split_last().context("there is no agent")?;
        let pairs: Vec<(&Agent, &Agent)> =
            others.iter().flat_map(|other| [(other, newcomer), (newcomer, other)]).collect();
        self.wait(&pairs, newcomer.started(), News::Joined, &[])
    }

    /// Until all but `subject` have said it of `subject`, or one of the others.
    pub(super) fn wait_for(
        &self,
        subject: usize,
        since: Instant,
        wanted: News,
        others: &[News],
    ) -> anyhow::Result<Seen> {
        let subject = &self.agents[subject];
        let observers = self.agents.iter().filter(|agent| agent.name != subject.name);
        let pairs: Vec<(&Agent, &Agent)> = observers.map(|agent| (agent, subject)).collect();
        self.wait(&pairs, since, wanted, others)
    }

    fn wait(
        &self,
        pairs: &[(&Agent, &Agent)],
        since: Instant,
        wanted: News,
        others: &[News],
    ) -> anyhow::Result<Seen> {
        let accepted = [&[wanted], others].concat();
        let said = |(agent, subject): &(&Agent, &Agent)| agent.first(&subject.name, since, &accepted);
        let deadline = since + STEP_TIMEOUT;
        loop {
            let seen: Vec<_> = pairs.iter().map(said).collect();
            if let Some(events) = seen.into_iter().collect::<Option<Vec<_>>>() {
                let last = events.iter().map(|event| event.at).max().unwrap_or(since);
                let is_odd = |((agent, _), event): (&(&Agent, &Agent), &super::agent::Event)| {
                    (event.news != wanted).then(|| agent.name.clone())
                };
                let odd = pairs.iter().zip(&events).filter_map(is_odd).collect();
                return Ok(Seen { after: last.saturating_duration_since(since), odd });
            }
            if Instant::now() > deadline {
                let missing = pairs.iter().filter(|pair| said(pair).is_none()).copied();
                bail!("not everybody said {wanted:?} within a minute:\n{}", self.states(missing));
            }
            std::thread::sleep(LOOK_PERIOD);
        }
    }

    /// Who did not say it of whom, and the last that each of them did say.
    fn states<'b>(&self, missing: impl Iterator<Item = (&'b Agent, &'b Agent)>) -> String {
        let mut text = String::new();
        let mut quoted: Vec<&str> = Vec::new();
        for (agent, subject) in missing {
            let last = agent.last(&subject.name);
            text += &format!("  {}: {} of {}: last {last:?}\n", self.found.title(), agent.name, subject.name);
            if !quoted.contains(&agent.name.as_str()) {
                text += &agent.last_words();
                quoted.push(&agent.name);
            }
        }
        text
    }
}
