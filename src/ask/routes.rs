//! `concertina routes`: which routes services claim, and who has them.

use std::collections::BTreeMap;

use anyhow::bail;
use feed::{FromSidecar, Name, Route, Tags, ToSidecar, frame::MemberState};

use super::Target;
use crate::say::say;

#[derive(clap::Args)]
pub(crate) struct RoutesArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// A claim of a role.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
struct Claim {
    route: Route,
    role: Name,
    /// Nodes that make it and are ready.
    ready: usize,
    /// Who has the route instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    shadowed_by: Option<Name>,
}

/// Prints the claims, one a line, those before others that win where both match.
pub(crate) async fn routes(args: RoutesArgs) -> anyhow::Result<()> {
    let question = ToSidecar::Members { role: None, tags: Tags::default() };
    let FromSidecar::Members(members) = args.target.ask(question).await?.next().await? else {
        bail!("the sidecar answered something else than members");
    };
    // Of these alone proxies know: the others are in no table.
    let serving = members.iter().filter(|m| matches!(m.state, MemberState::Ready | MemberState::Draining));
    let claimed = serving.flat_map(|member| {
        let is_ready = member.state == MemberState::Ready;
        member.routes.iter().map(move |route| (route.clone(), member.role.clone(), is_ready))
    });
    let claims = claims(claimed);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&claims)?);
        return Ok(());
    }
    for Claim { route, role, ready, shadowed_by } in claims {
        let route = route.to_string();
        let what = shadowed_by.map_or_else(|| format!("{ready} ready"), |by| format!("shadowed by {by}"));
        say!("{route:<40} {role:<20} {what}", role = role.as_str());
    }
    Ok(())
}

/// Of two roles that claim one route, that of the first name has it, as at the proxies.
fn claims(claimed: impl Iterator<Item = (Route, Name, bool)>) -> Vec<Claim> {
    let mut ready: BTreeMap<(Route, Name), usize> = BTreeMap::new();
    for (route, role, is_ready) in claimed {
        *ready.entry((route, role)).or_default() += usize::from(is_ready);
    }
    let mut claims: Vec<Claim> = Vec::new();
    for ((route, role), ready) in ready {
        let winner = claims.iter().rev().take_while(|claim| claim.route == route).last();
        let shadowed_by = winner.map(|winner| winner.role.clone());
        claims.push(Claim { route, role, ready, shadowed_by });
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_three_roles_that_claim_one_route_the_first_has_it() {
        let claim = |route: &str, role: &str| (route.parse().unwrap(), role.parse().unwrap(), true);
        let all = [claim("/", "c"), claim("/", "a"), claim("/", "b"), claim("x", "b"), claim("x", "b")];
        let told: Vec<_> = claims(all.into_iter())
            .into_iter()
            .map(|c| {
                format!("{} {} {} {:?}", c.route, c.role, c.ready, c.shadowed_by.map(|by| by.to_string()))
            })
            .collect();
        assert_eq!(told, ["x b 2 None", "/ a 1 None", "/ b 1 Some(\"a\")", "/ c 1 Some(\"a\")"]);
    }
}
