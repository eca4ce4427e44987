//! All rounds as one table.

use super::{
    contender::{Contender, Found},
    round::Round,
};
use crate::compare::summary::median;

/// A row: what, its unit and decimals, where it is in a round, and what is wanted of Concertina.
struct Row {
    title: &'static str,
    decimals: usize,
    metric: fn(&Round) -> f64,
    target: Target,
}

enum Target {
    AtMost(f64),
    AtMostSerfs,
    None,
}

const ROWS: [Row; 8] = [
    Row {
        title: "start → known to all, s",
        decimals: 3,
        metric: |round| round.start_s,
        target: Target::AtMost(0.25),
    },
    Row {
        title: "SIGKILL → `failed` at all, s",
        decimals: 3,
        metric: |round| round.kill_s,
        target: Target::AtMost(0.5),
    },
    Row {
        title: "SIGTERM (Serf: SIGINT) → `left` at all, s",
        decimals: 3,
        metric: |round| round.leave_s,
        target: Target::AtMost(0.3),
    },
    Row {
        title: "SIGSTOP → `failed` at all, s",
        decimals: 3,
        metric: |round| round.stop_s,
        target: Target::AtMost(3.0),
    },
    Row {
        title: "SIGCONT → known again to all, s",
        decimals: 3,
        metric: |round| round.continue_s,
        target: Target::None,
    },
    Row {
        title: "processor of an idle agent, % of a core",
        decimals: 3,
        metric: |round| round.idle_percent,
        target: Target::AtMostSerfs,
    },
    Row {
        title: "memory of an agent, RSS, MB",
        decimals: 1,
        metric: |round| round.rss_mb,
        target: Target::AtMost(5.0),
    },
    Row {
        title: "memory of an agent, PSS, MB",
        decimals: 1,
        metric: |round| round.pss_mb,
        target: Target::AtMost(5.0),
    },
];

/// The report, in Markdown.
pub(super) fn markdown(rounds: &[Round], found: &[Found], facts: &[String]) -> String {
    let title = |contender| {
        let found = found.iter().find(|found| found.contender == contender);
        found.map_or_else(|| "-".to_owned(), Found::title)
    };
    let mut text = format!(
        "# The membership beside Serf's\n\nMedians over rounds, with least and most; the ratio is Concertina's \
         median divided by Serf's. What each row means: `bench/README.md`.\n\n\
         | what | {} | {} | target | ratio |\n|---|--:|--:|--:|--:|\n",
        title(Contender::Serf),
        title(Contender::Concertina),
    );
    text.extend(ROWS.iter().map(|row| row.markdown(rounds)));
    let odd = |contender| {
        let of_contender = rounds.iter().filter(move |round| round.contender == contender);
        of_contender.map(|round| round.odd).sum::<usize>()
    };
    text += &format!(
        "\nAgents that said `failed` of one that left: {} of Serf, {} of Concertina.\n\n## Where\n\n",
        odd(Contender::Serf),
        odd(Contender::Concertina),
    );
    text.extend(facts.iter().map(|fact| format!("* {fact}\n")));
    text
}

impl Row {
    fn markdown(&self, rounds: &[Round]) -> String {
        let values = |contender| -> Vec<f64> {
            rounds.iter().filter(|round| round.contender == contender).map(self.metric).collect()
        };
        let (serf, ours) = (values(Contender::Serf), values(Contender::Concertina));
        let medians = median(serf.clone()).zip(median(ours.clone()));
        let ratio = medians.map_or_else(|| "-".to_owned(), |(serf, ours)| format!("{:.2}", ours / serf));
        let target = self.target(median(ours.clone()), median(serf.clone()));
        format!("| {} | {} | {} | {target} | {ratio} |\n", self.title, self.cell(serf), self.cell(ours))
    }

    fn cell(&self, values: Vec<f64>) -> String {
        let decimals = self.decimals;
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let cell = |median| format!("{median:.decimals$} ({least:.decimals$} – {most:.decimals$})");
        median(values).map_or_else(|| "-".to_owned(), cell)
    }

    /// What is wanted, and whether the median has it.
    fn target(&self, ours: Option<f64>, serf: Option<f64>) -> String {
        let (text, most) = match self.target {
            Target::AtMost(most) => (format!("≤ {most}"), Some(most)),
            Target::AtMostSerfs => ("≤ Serf's".to_owned(), serf),
            Target::None => return "-".to_owned(),
        };
        match ours.zip(most) {
            Some((ours, most)) if ours <= most => format!("{text}, met"),
            Some(_) => format!("{text}, **missed**"),
            None => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_medians_and_says_whether_the_target_is_met() {
        let round = |number, contender, start_s| Round {
            number,
            contender,
            start_s,
            kill_s: 1.0,
            leave_s: 1.0,
            stop_s: 1.0,
            continue_s: 1.0,
            idle_percent: 0.5,
            rss_mb: 4.0,
            pss_mb: 4.0,
            odd: 0,
        };
        let (serf, ours) = (Contender::Serf, Contender::Concertina);
        let rounds = [
            round(1, serf, 0.4),
            round(1, ours, 0.2),
            round(2, serf, 0.5),
            round(2, ours, 0.1),
            round(3, serf, 0.3),
            round(3, ours, 0.3),
        ];
        let expected = "| start → known to all, s | 0.400 (0.300 – 0.500) | 0.200 (0.100 – 0.300) \
                        | ≤ 0.25, met | 0.50 |\n";
        assert_eq!(ROWS[0].markdown(&rounds), expected);
        assert!(ROWS[1].markdown(&rounds).contains("≤ 0.5, **missed**"));
        assert!(ROWS[5].markdown(&rounds).contains("≤ Serf's, met"));
        assert!(ROWS[0].markdown(&rounds[..1]).contains("| - | ≤ 0.25 | - |"));
    }
}
