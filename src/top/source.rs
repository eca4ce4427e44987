//! Where looks at the cluster come from: the admin port of any node.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, bail};
use feed::{FromSidecar, Tags, ToSidecar};

use super::look::Look;
use crate::{
    ask::Target,
    http::{self, Patience},
};

/// The cluster is asked for a second at most; a machine that is busy has two more.
pub(super) const PATIENCE: Patience = Patience { time: Duration::from_secs(3), bytes_max: 32 * 1024 * 1024 };

/// An admin port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At {
    host: String,
    port: u16,
}

impl At {
    /// The usual port of this machine.
    fn usual() -> Self {
        Self::of(Ipv4Addr::LOCALHOST.into(), sidecar::config::ADMIN_PORT)
    }

    pub(super) fn of(ip: IpAddr, port: u16) -> Self {
        Self { host: ip.to_string(), port }
    }
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?}: expected the admin port of a node, such as 10.0.0.7:9790 or http://node1:9790/"
            )
        };
        let place = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (place, sidecar::config::ADMIN_PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
        if host.is_empty() || !host.chars().all(is_host) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The admin port of the node that is asked other things, too; the usual one if there is no such node.
pub(super) async fn find(target: &Target) -> anyhow::Result<At> {
    let health = async {
        match target.ask(ToSidecar::Health {}).await?.next().await? {
            FromSidecar::Health(health) => Ok(health),
            _ => bail!("the sidecar answered something else than its health"),
        }
    };
    let node = match health.await {
        Ok(health) => health.node,
        Err(error) if target.is_named() || look(&At::usual()).await.is_err() => {
            return Err(
                error.context("the admin port of a node is asked, such as `concertina top 10.0.0.7:9790`")
            );
        }
        Err(_) => return Ok(At::usual()),
    };
    let all = ToSidecar::Members { role: None, tags: Tags::default() };
    let FromSidecar::Members(members) = target.ask(all).await?.next().await? else {
        bail!("the sidecar answered something else than members");
    };
    let member = members.into_iter().find(|member| member.name == node);
    let member = member.with_context(|| format!("{node} does not list itself"))?;
    if member.admin_port == 0 {
        return Ok(At::usual());
    }
    Ok(At::of(member.addr.ip(), member.admin_port))
}

/// Looks at the cluster once.
pub(super) async fn look(at: &At) -> anyhow::Result<Look> {
    let host = at.to_string();
    let get = async |path: &str| http::get((at.host.as_str(), at.port), &host, path, PATIENCE).await;
    let asked = async { Ok::<_, io::Error>((get("/state").await?, get("/load").await?)) };
    let (state, load) = asked.await.with_context(|| format!("no answer from {at}"))?;
    Ok(Look::read(&state, &load)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_port_is_named_as_people_and_the_launcher_name_it() {
        for (text, told) in [
            ("10.0.0.7:9000", "10.0.0.7:9000"),
            ("http://127.89.1.1:9790/", "127.89.1.1:9790"),
            ("node1", "node1:9790"),
            ("[::1]:9791", "[::1]:9791"),
            ("::1", "[::1]:9790"),
        ] {
            assert_eq!(text.parse::<At>().unwrap().to_string(), told);
        }
        for wrong in ["", "http://", "node1:x", "node1:99999", "a b:1", "https://node1", "a/b", "n\n:1"] {
            assert!(wrong.parse::<At>().is_err(), "{wrong:?}");
        }
    }
}
