//! All sizes as a table.

use std::{fmt::Write as _, time::Duration};

use super::Size;

const CSV_HEADER: &str = "nodes,mass_start_s,one_joins_s,one_joins_bytes_a_node,mass_stop_s,healed_s,\
                          idle_bytes_a_node_and_second,memberlist_s,simulated_in_s";

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

fn cells(size: &Size) -> [String; 9] {
    let churn = &size.churn;
    [
        size.nodes.to_string(),
        seconds(churn.started),
        seconds(churn.joined),
        churn.joined_bytes.to_string(),
        seconds(churn.stopped),
        size.healed.map_or_else(String::new, seconds),
        churn.idle_bytes.to_string(),
        format!("{:.2}", size.memberlist_s),
        format!("{:.0}", size.took.as_secs_f64()),
    ]
}

pub(super) fn csv_line(size: &Size) -> String {
    cells(size).join(",")
}

pub(super) fn csv(sizes: &[Size]) -> String {
    let lines = sizes.iter().map(csv_line);
    [CSV_HEADER.to_owned()].into_iter().chain(lines).map(|line| line + "\n").collect()
}

pub(super) fn markdown(sizes: &[Size], seed: u64) -> String {
    let mut text = format!(
        "Simulated clusters of the real membership on a virtual clock, seed {seed}: until all tables are right, in seconds, \
         and the bytes that each node sends. Mass start and stop: all nodes, and every other one, within a second. \
         Healed: after 20 s in which 30 % of the packets were lost, 10 % repeated, a fifth of the nodes cut off, and clocks \
         jumped. Memberlist: its authors' formula for one rumour (fan-out 3, every 0.2 s).\n\n\
         | nodes | mass start | one joins | bytes | memberlist | mass stop | healed | idle bytes a second | simulated in |\n\
         |--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for size in sizes {
        let [nodes, started, joined, bytes, stopped, healed, idle, memberlist, took] = cells(size);
        let healed = if healed.is_empty() { "–".to_owned() } else { healed };
        writeln!(
            text,
            "| {nodes} | {started} | {joined} | {bytes} | {memberlist} | {stopped} | {healed} | {idle} | {took} s |"
        )
        .expect("writing to a String does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::sim::scenes::Churn;

    #[test]
    fn a_size_is_a_line_and_what_was_not_simulated_is_empty() {
        let second = Duration::from_secs(1);
        let churn = Churn {
            started: second,
            joined: second / 4,
            joined_bytes: 7,
            stopped: second / 2,
            idle_bytes: 9,
        };
        let size = Size { nodes: 10, churn, healed: None, memberlist_s: 1.5, took: second };
        assert_eq!(csv(&[size]).lines().nth(1), Some("10,1.00,0.25,7,0.50,,9,1.50,1"));
        let row = "| 10 | 1.00 | 0.25 | 7 | 1.50 | 0.50 | – | 9 | 1 s |\n";
        assert!(markdown(&[size], 51).ends_with(row));
    }
}
