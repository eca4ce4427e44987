//! `concertina explain request`: what a proxy would do with a request, and why; or what has become of one.

use std::net::IpAddr;

use anyhow::{Context, bail};
use feed::{
    control::{self, Answer, PROXY, Question},
    request::{Choice, Inquiry, Prospect},
};

use super::{About, Target, recall::recall};
use crate::say::{escaped, say};

#[derive(clap::Args)]
pub(crate) struct RequestArgs {
    /// What would be asked for: `http://HOST/PATH` or `https://HOST/PATH`, with `:PORT` behind HOST where it is another than usual. Or the id of
    /// a request that was, from the access log or X-Request-ID
    #[arg(value_name = "URL|ID")]
    what: String,
    /// By which method [default: GET]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// By a client of this address
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
}

const EXPECTED: &str = "expected http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH, such as https://shop.example.com/api, or the id of a request";

/// Asks the proxy beside a node's sidecar, and prints what it would do; or all of them, what has become of a request.
pub(crate) async fn request(args: RequestArgs, is_json: bool, target: &Target) -> anyhow::Result<()> {
    if !args.what.contains("://") {
        let id = args.what.parse().context(EXPECTED)?;
        anyhow::ensure!(args.method.is_none() && args.from.is_none(), "--method and --from go with a URL");
        return recall(id, is_json, target).await;
    }
    let inquiry = inquiry(&args).context(EXPECTED)?;
    let dir = target.dir.path()?;
    let feed = target.socket(&dir, About::ItsNode)?;
    let told = match control::ask(&feed, PROXY, Question::Explain(Box::new(inquiry))).await {
        Ok(Answer::Done(told)) => told,
        Ok(Answer::Refused(why)) => bail!("the proxy does not say: {}", why.trim_end()),
        Err(error) => bail!(
            "no proxy answers at {}: {error}; {}",
            control::path(&feed, PROXY).display(),
            target.advice(&dir)
        ),
    };
    let prospect: Prospect = serde_json::from_str(&told).context("the proxy said what is no explanation")?;
    if is_json {
        say!("{}", serde_json::to_string_pretty(&prospect)?);
    } else {
        lines(&prospect).iter().for_each(|line| say!("{}", escaped(line)));
    }
    Ok(())
}

fn inquiry(args: &RequestArgs) -> Option<Inquiry> {
    let (scheme, rest) = args.what.split_once("://")?;
    let is_sealed = match scheme {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let (host, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if host.is_empty() {
        return None;
    }
    let target = if target.is_empty() { "/" } else { target };
    Some(Inquiry {
        method: args.method.clone().unwrap_or_else(|| "GET".to_owned()),
        is_sealed,
        host: host.to_owned(),
        target: target.to_owned(),
        from: args.from,
    })
}

fn lines(told: &Prospect) -> Vec<String> {
    let Some(listener) = &told.listener else {
        return vec!["no listener: this proxy reads no such requests".to_owned()];
    };
    let port = if told.is_port_its { "" } else { " (none has the port that was asked for)" };
    let mut lines = vec![format!("listener  {listener}{port}")];
    for (place, found) in told.routes.iter().enumerate() {
        let (word, by) = (
            if place == 0 { "route    " } else { "  behind " },
            if found.is_of_file { "of the file" } else { "claimed" },
        );
        let roles = found.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ");
        lines.push(format!(
            "{word} {} {by}, role {}",
            found.route,
            if roles.is_empty() { "none" } else { &roles }
        ));
    }
    if let Some(answer) = &told.answer {
        let there = answer.location.as_ref().map(|there| format!(" to {there}")).unwrap_or_default();
        lines.push(format!("answer    {} {}{there}, by the proxy itself", answer.status, answer.word));
    }
    if let Some(role) = &told.role {
        lines.push(format!("role      {role}"));
    }
    if let Some(choice) = &told.choice {
        lines.extend(choice_lines(choice));
        let may = if told.is_repeatable { "may be" } else { "is not" };
        lines.push(format!("retry     what an upstream may have received {may} sent to another"));
    }
    lines
}

fn choice_lines(choice: &Choice) -> Vec<String> {
    let Choice { generation, by, waiting, endpoints, drawn, chosen } = choice;
    let mut lines = vec![format!(
        "table     generation {generation}, {} endpoints, {waiting} requests wait",
        endpoints.len()
    )];
    lines.push(match chosen {
        Some(_) => format!("choice    by {by}; another request may draw others"),
        None => {
            "choice    nobody can be chosen now: 503, or it waits where all are at their limit".to_owned()
        }
    });
    for (position, endpoint) in endpoints.iter().enumerate() {
        let mark = match drawn.contains(&position) {
            true if Some(position) == *chosen => "*",
            true => "+",
            false => " ",
        };
        let state = format!("{:?}", endpoint.state).to_ascii_lowercase();
        let ejected = if endpoint.is_ejected { ", has failed and not served since" } else { "" };
        let claimed = if endpoint.is_protocol_claimed { " as claimed" } else { "" };
        lines.push(format!(
            "  {mark} {:<20} {:<22} {state:<9} {:<8} in flight {}, weight {} ({} %), {}{claimed}{ejected}",
            endpoint.node.as_str(),
            endpoint.addr,
            endpoint.tier,
            endpoint.in_flight,
            endpoint.weight,
            endpoint.grown_percent,
            endpoint.protocol
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(url: &str) -> RequestArgs {
        RequestArgs { what: url.to_owned(), method: None, from: None }
    }

    #[test]
    fn a_url_is_a_scheme_a_host_and_a_target() {
        let read = |url: &str| inquiry(&args(url)).map(|it| (it.is_sealed, it.host, it.target));
        assert_eq!(read("http://a:81/b?c"), Some((false, "a:81".into(), "/b?c".into())));
        assert_eq!(read("https://a"), Some((true, "a".into(), "/".into())));
        for bad in ["", "a/b", "ftp://a/", "http:///b"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
