//! A picture as three tables of words, in an order that is asked for. Pure.

use std::cmp::Ordering;

use feed::frame::MemberState;

use super::{
    picture::{Node, Picture, Proxy, Role, Traffic},
    words::{NOTHING, short, state, time},
};
use crate::say::escaped;

/// The tables, from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Roles,
    Nodes,
    Proxies,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Roles, Self::Nodes, Self::Proxies];

    /// The columns that everybody sees. The last one of nodes has what room is left.
    pub(super) fn columns(self) -> &'static [Column] {
        const LEFT: bool = true;
        const fn column(title: &'static str, width: u16, is_left: bool) -> Column {
            Column { title, width, is_left }
        }
        match self {
            Self::Roles => {
                &const {
                    [
                        column("ROLES", 0, LEFT),
                        column("READY", 11, LEFT),
                        column("req/s", 5, false),
                        column("p50", 6, false),
                        column("p99", 6, false),
                        column("now", 4, false),
                        column("queue", 5, false),
                        column("err/s", 5, false),
                        column("retry/s", 7, false),
                    ]
                }
            }
            Self::Nodes => {
                &const {
                    [
                        column("NODES", 0, LEFT),
                        column("STATE", 11, LEFT),
                        column("req/s", 5, false),
                        column("mean", 6, false),
                        column("now", 4, false),
                        column("err/s", 5, false),
                        column("eject", 5, false),
                        column("NOTE", 0, LEFT),
                    ]
                }
            }
            Self::Proxies => {
                &const {
                    [
                        column("PROXIES", 0, LEFT),
                        column("STATE", 11, LEFT),
                        column("req/s", 5, false),
                        column("p50", 6, false),
                        column("p99", 6, false),
                        column("now", 4, false),
                        column("queue", 5, false),
                        column("err/s", 5, false),
                        column("retry/s", 7, false),
                    ]
                }
            }
        }
    }
}

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// 0: as wide as there is room.
    pub(super) width: u16,
    pub(super) is_left: bool,
}

/// How well something is, beside the words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Waiting,
    Bad,
    Quiet,
}

/// What a cell says, and what it is sorted by.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    /// None: by the text.
    value: Option<f64>,
}

impl Cell {
    fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), value: None }
    }

    fn number(value: Option<f64>) -> Self {
        Self { text: value.map_or_else(|| NOTHING.to_owned(), short), value: Some(value.unwrap_or(-1.0)) }
    }

    #[expect(clippy::cast_precision_loss, reason = "nothing is counted up to 2^53")]
    fn count(value: Option<u64>) -> Self {
        let mut cell = Self::number(value.map(|value| value as f64));
        if let Some(few) = value.filter(|value| *value < 10) {
            cell.text = few.to_string();
        }
        cell
    }

    #[expect(clippy::cast_precision_loss, reason = "no time is as long as that")]
    fn time(us: Option<u64>) -> Self {
        Self {
            text: us.map_or_else(|| NOTHING.to_owned(), time),
            value: Some(us.map_or(-1.0, |us| us as f64)),
        }
    }

    /// Numbers from the greatest on, words from A to Z, with numbers in them by their value.
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.value, other.value) {
            (Some(own), Some(others)) => others.total_cmp(&own),
            _ => natural(&self.text, &other.text),
        }
    }
}

/// `app2` is before `app10`.
fn natural(a: &str, b: &str) -> Ordering {
    let key = |text: &str| {
        let digits = text.len() - text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (word, number) = text.split_at(text.len() - digits);
        (word.to_owned(), number.parse::<u64>().unwrap_or_default(), text.to_owned())
    };
    key(a).cmp(&key(b))
}

/// A line of a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Of the role or node.
    pub(super) name: String,
    pub(super) cells: Vec<Cell>,
    pub(super) tone: Tone,
    /// Everything that it can be found by, in lower case.
    found_by: String,
}

/// By which column a table is sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) column: usize,
    pub(super) is_reversed: bool,
}

/// The rows of a table in which these words are found, in this order.
pub(super) fn rows(picture: &Picture, kind: Kind, filter: &str, order: Order) -> Vec<Row> {
    let mut rows: Vec<Row> = match kind {
        Kind::Roles => picture.roles.iter().map(role).collect(),
        Kind::Nodes => picture.nodes.iter().map(|one| node(one, picture)).collect(),
        Kind::Proxies => picture.proxies.iter().map(proxy).collect(),
    };
    let filter = filter.to_lowercase();
    rows.retain(|row| row.found_by.contains(&filter));
    rows.sort_by(|a, b| {
        let by_column = a.cells[order.column].cmp(&b.cells[order.column]);
        let by_column = if order.is_reversed { by_column.reverse() } else { by_column };
        by_column.then_with(|| natural(&a.name, &b.name))
    });
    rows
}

fn traffic(cells: &mut Vec<Cell>, traffic: Option<&Traffic>) {
    cells.push(Cell::number(traffic.and_then(|traffic| traffic.rate)));
    cells.push(Cell::time(traffic.and_then(|traffic| traffic.p50_us)));
    cells.push(Cell::time(traffic.and_then(|traffic| traffic.p99_us)));
    cells.push(Cell::count(traffic.map(|traffic| traffic.in_flight)));
    cells.push(Cell::count(traffic.map(|traffic| traffic.queued)));
    cells.push(Cell::number(traffic.and_then(|traffic| traffic.error_rate)));
    cells.push(Cell::number(traffic.and_then(|traffic| traffic.retry_rate)));
}

fn role(role: &Role) -> Row {
    let name = role.role.as_str().to_owned();
    let mut cells = vec![Cell::text(&name), Cell::text(format!("{} of {}", role.ready, role.nodes))];
    traffic(&mut cells, role.traffic.as_ref());
    let tone = if role.ready == role.nodes {
        Tone::Good
    } else if role.ready == 0 {
        Tone::Bad
    } else {
        Tone::Waiting
    };
    Row { found_by: name.clone(), name, cells, tone }
}

fn node(node: &Node, picture: &Picture) -> Row {
    let (member, asked) = (&node.member, node.asked.as_ref());
    let name = member.name.as_str().to_owned();
    let note = note(node, picture);
    let cells = vec![
        Cell::text(&name),
        Cell::text(state(member.state)),
        Cell::number(asked.and_then(|asked| asked.rate)),
        Cell::time(asked.and_then(|asked| asked.mean_us)),
        Cell::count(asked.map(|asked| asked.in_flight)),
        Cell::number(asked.and_then(|asked| asked.failure_rate)),
        Cell::count(asked.map(|asked| asked.ejections)),
        Cell::text(&note),
    ];
    let is_spared = asked.is_some_and(|asked| !asked.ejected_by.is_empty());
    let tone = match tone(member.state) {
        Tone::Good if is_spared => Tone::Waiting,
        tone => tone,
    };
    let found_by =
        format!("{name} {} {} {} {}", member.role, member.state.as_str(), member.addr, member.tags);
    Row { found_by: format!("{found_by} {note}").to_lowercase(), name, cells, tone }
}

fn proxy(proxy: &Proxy) -> Row {
    let member = &proxy.member;
    let name = member.name.as_str().to_owned();
    let mut cells = vec![Cell::text(&name), Cell::text(state(member.state))];
    traffic(&mut cells, Some(&proxy.traffic));
    let found_by = format!("{name} {} {}", member.role, member.state.as_str());
    Row { found_by, name, cells, tone: tone(member.state) }
}

fn tone(state: MemberState) -> Tone {
    match state {
        MemberState::Ready => Tone::Good,
        MemberState::Joining | MemberState::Alone | MemberState::Checking | MemberState::Draining => {
            Tone::Waiting
        }
        MemberState::Unhealthy | MemberState::Failed => Tone::Bad,
        MemberState::Left => Tone::Quiet,
    }
}

/// What there is to say of a node beside its numbers.
pub(super) fn note(node: &Node, picture: &Picture) -> String {
    let listed = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>().join(", ");
    if let Some(why) = &node.member.check {
        return escaped(why).to_string();
    }
    if !node.waits_for.is_empty() {
        let mut waits = node.waits_for.iter().map(|(name, count)| match count {
            0 => name.to_string(),
            count => format!("{name} ({count})"),
        });
        return format!("waits: {}", listed(&mut waits));
    }
    let ejected_by = node.asked.as_ref().map(|asked| &asked.ejected_by).filter(|names| !names.is_empty());
    if let Some(names) = ejected_by {
        return format!("spared by {}", listed(&mut names.iter().map(ToString::to_string)));
    }
    let why = picture.missing.get(&node.member.name);
    why.map(|why| format!("load: {}", escaped(why))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_numbers_are_sorted_by_these() {
        let mut names = ["app10", "app2", "app", "a", "app1x", "18446744073709551616"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["18446744073709551616", "a", "app", "app2", "app10", "app1x"]);
    }

    #[test]
    fn what_is_not_known_is_the_least() {
        let numbers = [Some(0.0), None, Some(7.0)].map(Cell::number);
        let mut sorted = numbers.to_vec();
        sorted.sort_by(Cell::cmp);
        assert_eq!(sorted.iter().map(|cell| cell.text.as_str()).collect::<Vec<_>>(), ["7.0", "0", NOTHING]);
    }
}
