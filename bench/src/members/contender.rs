//! Who is measured: how an agent is started, and what its log says of members.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use crate::compare::contender::version_line;

/// What an agent says of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Joined,
    Failed,
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contender {
    Serf,
    Concertina,
}

/// A contender and its program.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) contender: Contender,
    pub(super) executable: PathBuf,
    pub(super) version: String,
}

impl Contender {
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Serf => "serf",
            Self::Concertina => "concertina",
        }
    }

    /// The signal at which an agent says goodbye. Serf has its graceful leave on SIGINT; SIGTERM ends it without one.
    pub(super) fn leave_signal(self) -> Signal {
        match self {
            Self::Serf => Signal::INT,
            Self::Concertina => Signal::TERM,
        }
    }

    /// What a line of the log says of which member.
    pub(super) fn news(self, line: &str) -> Option<(News, &str)> {
        let markers = match self {
            Self::Serf => ["EventMemberJoin: ", "EventMemberFailed: ", "EventMemberLeave: "],
            Self::Concertina => ["member joined name=", "member failed name=", "member left name="],
        };
        let all = [News::Joined, News::Failed, News::Left];
        let found = |(marker, news): (&str, News)| {
            let (_, rest) = line.split_once(marker)?;
            Some((news, rest.split_whitespace().next()?))
        };
        markers.into_iter().zip(all).find_map(found)
    }
}

impl Found {
    pub(super) fn new(contender: Contender, executable: PathBuf) -> anyhow::Result<Self> {
        let version = version_line(&executable, "--version")?;
        // Serf's has no name in front of it, and ends with a word for a build that was not tagged.
        let version = version.rsplit(' ').next().unwrap_or_default().trim_end_matches("-dev").to_owned();
        Ok(Self { contender, executable, version })
    }

    pub(super) fn title(&self) -> String {
        let name = match self.contender {
            Contender::Serf => "Serf",
            Contender::Concertina => "Concertina",
        };
        format!("{name} {}", self.version)
    }

    /// The command of one agent; who has no seed founds the cluster.
    pub(super) fn command(&self, name: &str, ip: Ipv4Addr, seed: Option<Ipv4Addr>, dir: &Path) -> Command {
        let mut command = Command::new(&self.executable);
        match self.contender {
            Contender::Serf => {
                command.args(["agent", "-log-level=info"]);
                command.arg(format!("-node={name}")).arg(format!("-bind={ip}:7946"));
                command.arg(format!("-rpc-addr={ip}:7373"));
                // With -join an agent that finds its seed busy stays alone or ends.
                command.args(seed.map(|seed| format!("-retry-join={seed}"))).arg("-retry-interval=1s");
            }
            Contender::Concertina => {
                // Settings of the caller would be taken for the agents' own.
                for (key, _) in std::env::vars_os() {
                    if key.to_string_lossy().starts_with("CONCERTINA_") {
                        command.env_remove(key);
                    }
                }
                command.args(["sidecar", "--role", if seed.is_some() { "app" } else { "dnsserver" }]);
                command.args(["--node", name, "--bind", &format!("{ip}:7946")]);
                command.arg("--feed").arg(dir.join(format!("{name}.sock")));
                command.args(seed.iter().flat_map(|seed| ["--join".to_owned(), seed.to_string()]));
            }
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_name_exactly_one_member() {
        let ours = |line| Contender::Concertina.news(line);
        let line = "2026-11-25T07:09:25.3Z  INFO member joined name=n10 role=app addr=127.7.0.2:7946";
        assert_eq!(ours(line), Some((News::Joined, "n10")));
        let line = "2026-11-25T07:09:29.6Z  WARN member failed name=n2 after=4.01s";
        assert_eq!(ours(line), Some((News::Failed, "n2")));
        assert_eq!(ours("2026-11-25T07:09:34.6Z  INFO member left name=n1"), Some((News::Left, "n1")));
        assert_eq!(ours("INFO member changed name=n2 state=\"ready\""), None);

        let serf = |line| Contender::Serf.news(line);
        let line = "    2026/11/25 07:09:45 [INFO] serf: EventMemberJoin: n2 127.78.0.2";
        assert_eq!(serf(line), Some((News::Joined, "n2")));
        assert_eq!(serf("[INFO] serf: EventMemberLeave: n31 127.78.0.2"), Some((News::Left, "n31")));
        assert_eq!(serf("[INFO] memberlist: Suspect n2 has failed, no acks received"), None);
    }
}
