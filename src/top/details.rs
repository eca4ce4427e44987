//! All that is known of one node, in lines. Pure.

use super::{
    picture::{Flow, Picture},
    table::note,
    words::{NOTHING, short, state, time},
};
use crate::say::escaped;

/// The lines about a node; one that says so where it has gone.
pub(super) fn lines(picture: &Picture, name: &str) -> Vec<String> {
    let Some(node) = picture.nodes.iter().find(|node| node.member.name.as_str() == name) else {
        return vec![format!("{} is not listed any more", escaped(name))];
    };
    let member = &node.member;
    let note = note(node, picture);
    let mut lines = Vec::new();
    let mut fact = |what: &str, text: String| {
        if !text.is_empty() {
            lines.push(format!("{what:<10} {text}"));
        }
    };
    fact("state", state(member.state));
    fact("note", note);
    fact("role", member.role.to_string());
    fact("gossip", member.addr.to_string());
    fact("port", if member.port == 0 { String::new() } else { member.port.to_string() });
    fact(
        "admin",
        if member.admin_port == 0 {
            String::new()
        } else {
            format!("{}:{}", member.addr.ip(), member.admin_port)
        },
    );
    fact("instance", member.instance.to_string());
    fact("routes", escaped(&member.routes.to_string()).to_string());
    fact("protocol", member.protocol.map(|protocol| protocol.to_string()).unwrap_or_default());
    fact("tags", escaped(&member.tags.to_string()).to_string());
    if let Some(why) = picture.missing.get(&member.name) {
        fact("load", format!("unknown: {}", escaped(why)));
    }
    if let Some(asked) = &node.asked {
        fact("ejections", asked.ejections.to_string());
    }
    flows(&mut lines, "asked by", picture.flows.iter().filter(|flow| flow.to == member.name), |flow| {
        flow.from.as_str()
    });
    flows(&mut lines, "asks", picture.flows.iter().filter(|flow| flow.from == member.name), |flow| {
        flow.to.as_str()
    });
    lines
}

fn flows<'a>(
    lines: &mut Vec<String>,
    title: &str,
    flows: impl Iterator<Item = &'a Flow>,
    name: fn(&Flow) -> &str,
) {
    let mut flows: Vec<&Flow> = flows.collect();
    if flows.is_empty() {
        return;
    }
    flows.sort_by(|a, b| b.asked.rate.unwrap_or_default().total_cmp(&a.asked.rate.unwrap_or_default()));
    lines.push(String::new());
    lines.push(format!("{title:<24}{:>8}{:>9}{:>6}{:>8}{:>7}", "req/s", "mean", "now", "err/s", "eject"));
    let number = |rate: Option<f64>| rate.map_or_else(|| NOTHING.to_owned(), short);
    for flow in flows {
        let asked = &flow.asked;
        let mean = asked.mean_us.map_or_else(|| NOTHING.to_owned(), time);
        let spared = if asked.ejected_by.is_empty() { "" } else { "  spared" };
        lines.push(format!(
            "  {:<22}{:>8}{mean:>9}{:>6}{:>8}{:>7}{spared}",
            name(flow),
            number(asked.rate),
            asked.in_flight,
            number(asked.failure_rate),
            asked.ejections,
        ));
    }
}
