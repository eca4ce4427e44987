//! `concertina explain request ID`: what became of a request, at each hop that keeps something of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use feed::{
    FromSidecar, ToSidecar, control,
    recall::{Account, Among, Attempt, Cause, Hop, Keeper, RequestId, SAMPLED_OF},
};

use super::{About, Target};
use crate::say::{escaped, say};

/// Asks a sidecar, which asks all proxies and fronts, and prints what they keep. A proxy without a sidecar is asked itself.
pub(crate) async fn recall(id: RequestId, is_json: bool, target: &Target) -> anyhow::Result<()> {
    let account = match target.ask(ToSidecar::Recall { id: id.clone() }).await {
        Ok(mut answers) => match answers.next().await? {
            FromSidecar::Recalled(account) => account,
            _ => bail!("the sidecar answered something else than what is kept of a request"),
        },
        Err(error) => {
            let feed = target.socket(&target.dir.path()?, About::Cluster)?;
            let (account, _) = control::recall(&feed, None, &id.into()).await;
            if account.keepers.is_empty() {
                return Err(error);
            }
            account
        }
    };
    if is_json {
        say!("{}", serde_json::to_string_pretty(&account)?);
        return Ok(());
    }
    if account.hops.is_empty() {
        bail!("{}", unknown(&account, now_us()));
    }
    lines(&account, now_us()).iter().for_each(|line| say!("{}", escaped(line)));
    Ok(())
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

fn lines(account: &Account, now_us: u64) -> Vec<String> {
    let first_us = account.hops.first().map_or(0, |hop| hop.at_us);
    let mut lines = Vec::new();
    for hop in &account.hops {
        lines.extend(hop_lines(hop, first_us, now_us));
    }
    lines.extend(missing(account));
    lines
}

fn missing(account: &Account) -> impl Iterator<Item = String> {
    account.missing.iter().map(|(node, why)| format!("missing   {node} {why}"))
}

fn hop_lines(hop: &Hop, first_us: u64, now_us: u64) -> Vec<String> {
    let place = place(hop.node.as_ref().map(feed::Name::as_str), &hop.program);
    let when = match hop.at_us - first_us {
        0 => format!("{} ago", time(now_us.saturating_sub(hop.at_us))),
        later => format!("{} later", time(later)),
    };
    let why = match hop.cause {
        Cause::Failed => "something failed",
        Cause::Refused => "it was refused, or its client went away",
        Cause::Sampled => "it is of the sample",
    };
    let mut lines = vec![format!("{place}, {when}, kept because {why}")];
    let (cut, client) = (if hop.is_cut { "…" } else { "" }, hop.client.as_deref());
    let from = client.map(|client| format!(" from {client}")).unwrap_or_default();
    lines.push(format!("  request   {} {} {}{cut}{from}", hop.method, hop.host, hop.path));
    lines.extend(hop.route.as_ref().map(|route| format!("  route     {route}")));
    lines.extend(hop.behind.as_ref().map(|behind| format!("    behind  {behind}")));
    lines.extend(hop.role.as_ref().map(|role| format!("  role      {role}")));
    for (position, attempt) in hop.attempts.iter().enumerate() {
        let is_last = position + 1 == hop.attempts.len();
        if is_last && hop.attempts_untold > 0 {
            lines.push(format!("            … {} more that failed", hop.attempts_untold));
        }
        lines.extend(attempt_lines(attempt));
    }
    let names: Vec<&str> = hop.draining.iter().map(feed::Name::as_str).collect();
    if !names.is_empty() {
        let more = if hop.draining_untold > 0 {
            format!(" and {} more", hop.draining_untold)
        } else {
            String::new()
        };
        lines.push(format!("  draining  {}{more}", names.join(", ")));
    }
    let phases =
        [("waited", hop.queue_us), ("connected in", hop.connect_us), ("first byte after", hop.first_byte_us)];
    let phases = phases.iter().filter_map(|(what, us)| Some(format!("{what} {}, ", time((*us)?))));
    lines.push(format!("  times     {}{} in all", phases.collect::<String>(), time(hop.whole_us)));
    let status = hop.status.map_or("nothing".to_owned(), |status| status.to_string());
    lines.push(format!("  answer    {status}, {}", hop.end));
    lines
}

fn attempt_lines(attempt: &Attempt) -> Vec<String> {
    let came = match (&attempt.failure, attempt.failed_us) {
        (Some(why), Some(us)) => format!("failed after {}: {why}", time(us)),
        (Some(why), None) => format!("failed: {why}"),
        (None, _) => "the last".to_owned(),
    };
    let table = attempt.generation.map(|it| format!(", table generation {it}")).unwrap_or_default();
    let connection = if attempt.is_reused { "a kept connection" } else { "a new connection" };
    let mut lines = vec![format!(
        "  attempt   {} {} by {}{table}, {connection}: {came}",
        attempt.node, attempt.addr, attempt.by
    )];
    if let Some(Among { endpoints, spared, full, draining }) = attempt.among {
        lines.push(format!(
            "            of {endpoints} endpoints: {spared} spared, {full} at their limit, {draining} draining"
        ));
    }
    for drawn in &attempt.drawn {
        let is_chosen = drawn.node.as_ref() == Some(&attempt.node);
        let tier = if drawn.tier.is_empty() { String::new() } else { format!("{:<8} ", drawn.tier) };
        lines.push(format!(
            "          {} {:<20} {:<22} {tier}in flight {}, weight {} ({} %){}",
            if is_chosen { "*" } else { "+" },
            drawn.node.as_ref().map_or("(gone)", feed::Name::as_str),
            drawn.addr,
            drawn.in_flight,
            drawn.weight,
            drawn.grown_percent,
            if drawn.is_ejected { ", has failed and not served since" } else { "" }
        ));
    }
    lines
}

/// Why nothing may be known, by what is kept where.
fn unknown(account: &Account, now_us: u64) -> String {
    let mut text = "nothing is kept of a request of this id: it passed none of these, went well and is not of their samples, \
                    or later ones took its place"
        .to_owned();
    for line in account.keepers.iter().map(|keeper| keeper_line(keeper, now_us)).chain(missing(account)) {
        text += "\n  ";
        text += &line;
    }
    if account.keepers.is_empty() {
        text += "\n  no proxy and no front has answered";
    }
    text
}

fn keeper_line(keeper: &Keeper, now_us: u64) -> String {
    let place = place(keeper.node.as_ref().map(feed::Name::as_str), &keeper.program);
    if keeper.is_nameless {
        return format!(
            "{place} keeps nothing, because requests have no ids there: --request-id make or keep gives them some"
        );
    }
    let kept = keeper.kept.iter().map(|(cause, kept)| {
        let what = match cause {
            Cause::Failed => "that failed".to_owned(),
            Cause::Refused => "that were refused".to_owned(),
            Cause::Sampled => format!("of all others, one in {SAMPLED_OF}"),
        };
        let since = match kept.since_us {
            Some(us) => format!("all since {} ago", time(now_us.saturating_sub(us))),
            None => "all since it started".to_owned(),
        };
        format!("the last {} {what} ({since})", kept.room)
    });
    format!("{place} keeps {}", kept.collect::<Vec<_>>().join("; "))
}

fn place(node: Option<&str>, program: &str) -> String {
    node.map_or_else(|| format!("the {program}"), |node| format!("{node} ({program})"))
}

fn time(us: u64) -> String {
    format!("{:?}", Duration::from_micros(us))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a proxy and the front behind it tell it.
    const TOLD: &str = r#"{
        "hops": [
            {"node":"proxyserver","program":"proxy","at_us":1000000,"cause":"failed","client":"192.0.2.7:40000","method":"GET",
             "host":"shop.example","path":"/hello","route":"shop.example","behind":"/","role":"frontserver",
             "attempts":[
                {"node":"frontserver1","addr":"10.0.0.1:80","instance":1,"by":"load","generation":7,"is_reused":false,
                 "failure":"connect-failed","failed_us":1200,
                 "among":{"endpoints":3,"spared":1,"full":0,"draining":1},
                 "drawn":[{"node":"frontserver1","addr":"10.0.0.1:80","in_flight":0,"weight":100,"grown_percent":100,
                           "tier":"spared","is_ejected":true},
                          {"node":null,"addr":"10.0.0.2:80","in_flight":3,"weight":50,"grown_percent":20}]},
                {"node":"frontserver2","addr":"10.0.0.2:80","instance":2,"by":"load","generation":7,"is_reused":true,
                 "failure":null,"failed_us":null,"drawn":[]}],
             "queue_us":null,"connect_us":null,"first_byte_us":2100,"whole_us":2300,"status":200,"end":"done",
             "draining":["frontserver3"],"draining_untold":1}],
        "keepers": [],
        "missing": {"proxy2":"did not answer in time"}
    }"#;

    #[test]
    fn every_hop_is_told_with_its_attempts_and_candidates() {
        let account: Account = serde_json::from_str(TOLD).unwrap();
        assert_eq!(
            lines(&account, 3_500_000),
            [
                "proxyserver (proxy), 2.5s ago, kept because something failed",
                "  request   GET shop.example /hello from 192.0.2.7:40000",
                "  route     shop.example",
                "    behind  /",
                "  role      frontserver",
                "  attempt   frontserver1 10.0.0.1:80 by load, table generation 7, a new connection: failed after 1.2ms: connect-failed",
                "            of 3 endpoints: 1 spared, 0 at their limit, 1 draining",
                "          * frontserver1         10.0.0.1:80            spared   in flight 0, weight 100 (100 %), has failed and not served since",
                "          + (gone)               10.0.0.2:80            in flight 3, weight 50 (20 %)",
                "  attempt   frontserver2 10.0.0.2:80 by load, table generation 7, a kept connection: the last",
                "  draining  frontserver3 and 1 more",
                "  times     first byte after 2.1ms, 2.3ms in all",
                "  answer    200, done",
                "missing   proxy2 did not answer in time",
            ]
        );
    }

    #[test]
    fn of_an_id_that_nobody_knows_it_is_told_what_is_kept_and_for_how_long() {
        let account: Account = serde_json::from_str(
            r#"{"hops":[],"keepers":[
                {"node":"p1","program":"proxy","kept":{"failed":{"count":512,"room":512,"since_us":1000000},
                                                       "sampled":{"count":1,"room":512,"since_us":null}}},
                {"program":"proxy","kept":{},"is_nameless":true}]}"#,
        )
        .unwrap();
        let told = unknown(&account, 3_000_000);
        assert!(told.starts_with("nothing is kept of a request of this id"), "{told}");
        for line in [
            "p1 (proxy) keeps the last 512 that failed (all since 2s ago); the last 512 of all others, one in 64 (all since it started)",
            "the proxy keeps nothing, because requests have no ids there: --request-id make or keep gives them some",
        ] {
            assert!(told.contains(line), "{told}");
        }
        assert!(unknown(&Account::default(), 0).contains("no proxy and no front has answered"));
    }
}
