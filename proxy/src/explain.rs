//! What would become of a request, for `concertina explain request`: by the same parser, rules and choice, and nobody notices.
//!
//! ```text
//! Inquiry ─▶ listener ─▶ head ─▶ routes ─▶ rules ─▶ role ─▶ a worker's choice ─▶ Prospect
//! ```

use std::{collections::hash_map::RandomState, hash::BuildHasher, net::IpAddr};

use feed::{
    Name,
    recall::Which,
    request::{Answered, Choice, Inquiry, Matching, Prospect},
};

use crate::{
    config::{Balance, Listen, Plan, Protocol},
    error::Refusal,
    http1::{
        Parse, Pieces, Reject, Scheme,
        head::{Asked, Hop, parse_routed},
    },
    proxy::Proxy,
    route::{Key, Target, Verdict},
    upstream::{
        dice::Dice,
        follow::{Lead, Match, Sources},
        hash,
    },
};

/// What would become of it, as JSON.
pub(crate) async fn explain(proxy: &Proxy, inquiry: &Inquiry) -> String {
    let plan = proxy.plan();
    let mut told = prospect(&plan, proxy.sources(), inquiry);
    if let Some(role) = &told.role {
        let (key, by) = key_of(&plan.balance_of(role), inquiry.from);
        let choice = proxy.prospect(role, key).await;
        told.choice = choice.map(|choice| Choice { by: by.to_owned(), ..choice });
    }
    // Names and numbers can all be written.
    serde_json::to_string(&told).unwrap_or_default()
}

/// What is kept of the requests of this id at all workers, as JSON; the oldest first.
pub(crate) async fn recall(proxy: &Proxy, which: &Which) -> String {
    let told = proxy.recall(which).await;
    // Names and numbers can all be written.
    serde_json::to_string(&told).unwrap_or_default()
}

/// What can be said without a worker.
fn prospect(plan: &Plan, sources: &Sources, inquiry: &Inquiry) -> Prospect {
    let mut told = Prospect { is_repeatable: true, ..Prospect::default() };
    let Some((listen, is_port_its)) = listener(&plan.listen, inquiry) else { return told };
    (told.listener, told.is_port_its) = (Some(listen.to_string()), is_port_its);
    let Inquiry { method, target, host, .. } = inquiry;
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    let mut verdict = None;
    let parsed = parse_routed(&mut head, &mut Pieces::default(), |asked| {
        verdict = Some(match &listen.role {
            Some(role) => Ok(role.clone()),
            None => route(sources, inquiry, &asked, &mut told)?,
        });
        Ok(Hop::plain("role"))
    });
    match (parsed, verdict) {
        (Err(reject), _) => told.answer = Some(answered(Refusal::Request(reject), None)),
        (Ok(Parse::Done(head)), Some(Ok(role))) => {
            told.role = Some(role);
            told.is_repeatable &= head.method.is_repeatable();
        }
        (Ok(_), Some(Err(answer))) => told.answer = Some(answer),
        // Half of a head: more would be waited for.
        (Ok(_), _) => told.answer = Some(answered(Refusal::HeaderTimeout, None)),
    }
    told
}

/// By which listener it would come: that of its port, else one by which such requests can come.
fn listener<'a>(all: &'a [Listen], inquiry: &Inquiry) -> Option<(&'a Listen, bool)> {
    let usual = if inquiry.is_sealed { 443 } else { 80 };
    let port = inquiry.host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(usual);
    let is_fit = |listen: &&Listen| {
        listen.protocol.is_http() && inquiry.is_sealed == (listen.protocol == Protocol::Https)
    };
    let fit = || all.iter().filter(is_fit);
    let its = fit().find(|listen| listen.addr.ip().is_some_and(|addr| addr.port() == port));
    its.map(|listen| (listen, true)).or_else(|| fit().next().map(|listen| (listen, false)))
}

/// Where its route leads: to a role, or what the client is told.
fn route(
    sources: &Sources,
    inquiry: &Inquiry,
    asked: &Asked<'_>,
    told: &mut Prospect,
) -> Result<Result<Name, Answered>, Reject> {
    let key = Key::new(asked.host, asked.target).map_err(|_| Reject::Target)?;
    let found = sources.matches(&key);
    told.routes = found.iter().map(matching).collect();
    let rule = match &found.first().ok_or(Reject::NoRoute)?.by {
        Lead::Claim(role) => return Ok(Ok(role.clone())),
        Lead::File(rule) => rule,
    };
    told.is_repeatable = rule.retries;
    let roles = sources.directory().roles();
    let verdict = match sources.target(rule).ok_or(Reject::NoRoute)? {
        Target::Role(role) => Verdict::Role(role),
        Target::Ruled(rules) => {
            let client = (inquiry.from, if inquiry.is_sealed { Scheme::Https } else { Scheme::Http });
            let mut dice = Dice::new(RandomState::new().hash_one(0));
            rules.judge(client, asked, &mut dice, |role| roles.get(role).is_some_and(|role| role.is_served()))
        }
    };
    Ok(match verdict {
        Verdict::Role(role) => Ok(roles.get(role).ok_or(Reject::NoRoute)?.name.clone()),
        Verdict::Refused(refusal) => Err(answered(refusal, None)),
        Verdict::Redirected { location, is_permanent: true } => {
            Err(answered(Refusal::PermanentRedirect, Some(location)))
        }
        Verdict::Redirected { location, .. } => Err(answered(Refusal::TemporaryRedirect, Some(location))),
    })
}

fn matching(found: &Match) -> Matching {
    let (is_of_file, roles) = match &found.by {
        Lead::File(rule) => (true, rule.role_names().collect()),
        Lead::Claim(role) => (false, vec![role.clone()]),
    };
    Matching { route: found.route.to_string(), is_of_file, roles }
}

fn answered(refusal: Refusal, location: Option<String>) -> Answered {
    Answered { status: refusal.status().0, word: refusal.word().to_owned(), location }
}

/// By what the role's upstreams are chosen, and what that is called.
fn key_of(balance: &Balance, from: Option<IpAddr>) -> (Option<u64>, &'static str) {
    match (balance, from) {
        (Balance::P2c, _) => (None, "load"),
        (Balance::HashClient, Some(client)) => (Some(hash::client_key(client)), "the client's address"),
        (Balance::HashClient, None) => (None, "load, without the client's address"),
        (Balance::HashHeader(_), _) => (None, "load, without the field that is the key"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const FILE: &str = "
        listen = ['http://127.0.0.1:8080', 'tcp://127.0.0.1:81=web', 'http://127.0.0.1:82=web']
        upstream = ['web=127.0.0.1:1,127.0.0.1:2', 'api=127.0.0.1:3']
        balance = ['api=hash:client']
        route = [
            { match = '/', role = 'web' },
            { match = '*.b.c', redirect = { host = 'x.y' } },
            { match = 'a.b.c/api', role = 'api', allow = ['10.0.0.0/8'], retries = false, rate-limit = '1/s' },
        ]";

    fn told(method: &str, host: &str, target: &str) -> Prospect {
        let plan = Plan::new(program::file::parse("a.toml", FILE).unwrap()).unwrap();
        let sources = Sources::new(plan.clone().into(), Arc::default(), 1);
        let (method, host, target) = (method.into(), host.into(), target.into());
        let from = "10.0.0.1".parse().ok();
        prospect(&plan, &sources, &Inquiry { method, is_sealed: false, host, target, from })
    }

    #[test]
    fn the_route_that_wins_comes_first_and_then_those_behind_it() {
        let api = told("GET", "A.b.c:8080", "/%61pi/x?y");
        assert_eq!((api.listener.as_deref(), api.is_port_its), (Some("http://127.0.0.1:8080"), true));
        let routes: Vec<&str> = api.routes.iter().map(|found| found.route.as_str()).collect();
        assert_eq!(routes, ["a.b.c/api", "*.b.c", "/"]);
        assert!(api.answer.is_none() && !api.is_repeatable && api.role == "api".parse().ok());
        assert_eq!(told("GET", "a.b.c:8080", "/api"), api.clone(), "and no rate is used up by asking");
        let one = told("POST", "a.b.c:82", "/api");
        assert_eq!((one.role, one.routes.len(), one.is_repeatable), ("web".parse().ok(), 0, false));
        assert!(
            told("PUT", "a.b.c:82", "/").is_repeatable && !told("PROPFIND", "a.b.c:82", "/").is_repeatable
        );
    }

    #[test]
    fn what_the_proxy_itself_would_answer_is_told() {
        let answer = |host: &str, target: &str| told("GET", host, target).answer.unwrap();
        let there = answer("z.b.c:8080", "/p");
        assert_eq!((there.status, there.location.as_deref()), (307, Some("//x.y/p")));
        assert_eq!(answer("z:8080", "/a/../b").status, 400);
        assert_eq!(answer("z y:8080", "/").status, 400);
        let inquiry = |host: &str| Inquiry {
            method: "GET".into(),
            is_sealed: false,
            host: host.into(),
            target: "/api".into(),
            from: "192.0.2.1".parse().ok(),
        };
        let plan = Plan::new(program::file::parse("a.toml", FILE).unwrap()).unwrap();
        let sources = Sources::new(plan.clone().into(), Arc::default(), 1);
        let denied = prospect(&plan, &sources, &inquiry("a.b.c")).answer.unwrap();
        assert_eq!((denied.status, denied.word.as_str()), (403, "forbidden"));
        let sealed = Inquiry { is_sealed: true, ..inquiry("a.b.c") };
        assert_eq!(prospect(&plan, &sources, &sealed).listener, None);
    }
}
