//! The report: Markdown tables of medians.

use std::fmt::Write as _;

use super::{
    contender::{Contender, Found},
    load::Load,
    run::Run,
    summary::{self, Metric},
};

/// What a report is made of.
pub(super) struct Report<'a> {
    pub(super) runs: &'a [Run],
    pub(super) loads: &'a [Load],
    pub(super) found: &'a [Found],
    /// Lines about the machine and the measurement.
    pub(super) facts: &'a [String],
}

const INTRODUCTION: &str = "# The proxy beside others

Medians over rounds; `÷` columns are concertina's number divided by the other's, the median of the rounds' own ratios.
A number with `!` had errors: see the last table. What each number means: `bench/README.md`.
";

impl Report<'_> {
    /// The whole report.
    pub(super) fn markdown(&self) -> String {
        let mut text = INTRODUCTION.to_owned();
        self.add_comparison(&mut text, "CPU time of the proxy, µs per request (less is better)", Run::cpu_us);
        self.add_comparison(&mut text, "Requests per second (more is better)", Run::requests_per_s);
        self.add_comparison(&mut text, "99th percentile of latency, µs (less is better)", Run::p99_us);
        for (title, metric) in [
            ("How busy the proxy kept its core, percent", Run::busy_percent as Metric),
            ("How long it waited while others were on its core, percent", Run::waited_percent),
        ] {
            let cell = |load, contender| {
                summary::over_rounds(self.runs, load, contender, metric).map(|value| format!("{value:.1}"))
            };
            self.add_table(&mut text, title, &cell);
        }
        let spread = |load, contender| {
            summary::spread_percent(self.runs, load, contender, Run::cpu_us).map(|v| format!("{v:.1}"))
        };
        self.add_table(&mut text, "Spread of the CPU time over rounds, percent of the median", &spread);
        let errors = |load, contender| Some(summary::errors(self.runs, load, contender).to_string());
        self.add_table(&mut text, "Errors, all rounds together", &errors);
        text += "\n## Machine and programs\n\n";
        for fact in self.facts {
            let _ = writeln!(text, "* {fact}");
        }
        text
    }

    /// A table of a metric, with concertina's ratio to each of the others.
    fn add_comparison(&self, text: &mut String, title: &str, metric: Metric) {
        let ours = Contender::Concertina;
        let is_here = self.found.iter().any(|found| found.contender == ours);
        let others: Vec<&Found> =
            self.found.iter().filter(|found| is_here && found.contender != ours).collect();
        let names = self.found.iter().map(Found::title);
        let ratios = others.iter().map(|found| format!("÷ {}", found.title()));
        let rows = self.loads.iter().map(|&load| {
            let cells = self.found.iter().map(|found| {
                let value = summary::over_rounds(self.runs, load, found.contender, metric);
                let mark = if summary::errors(self.runs, load, found.contender) > 0 { " !" } else { "" };
                value.map(|value| number(value) + mark)
            });
            let ratios = others.iter().map(|found| {
                let ratio = summary::ratio(self.runs, load, ours, found.contender, metric);
                ratio.map(|ratio| format!("{ratio:.2}"))
            });
            row(load, cells.chain(ratios))
        });
        *text += &table(title, names.chain(ratios), rows);
    }

    fn add_table(&self, text: &mut String, title: &str, cell: &dyn Fn(Load, Contender) -> Option<String>) {
        let cells = |load| self.found.iter().map(move |found| cell(load, found.contender));
        let rows = self.loads.iter().map(|&load| row(load, cells(load)));
        *text += &table(title, self.found.iter().map(Found::title), rows);
    }
}

fn row(load: Load, cells: impl Iterator<Item = Option<String>>) -> Vec<String> {
    let cells = cells.map(|cell| cell.unwrap_or_else(|| "–".to_owned()));
    std::iter::once(load.shape().title.to_owned()).chain(cells).collect()
}

fn table(
    title: &str,
    names: impl Iterator<Item = String>,
    rows: impl Iterator<Item = Vec<String>>,
) -> String {
    let header: Vec<String> = std::iter::once("load".to_owned()).chain(names).collect();
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = format!("|---|{}\n", "--:|".repeat(header.len() - 1));
    let rows: String = rows.map(|cells| line(&cells)).collect();
    format!("\n## {title}\n\n{}{rule}{rows}", line(&header))
}

/// Three digits that count, and never fewer than are before the point.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::run::tests::run;

    fn found(contender: Contender, version: &str) -> Found {
        Found { contender, executable: "x".into(), version: version.into() }
    }

    #[test]
    fn a_table_has_medians_ratios_and_marks_for_errors() {
        let mut runs = Vec::new();
        for (round, noise) in [(1, 0), (2, 1), (3, 0)] {
            runs.push(run(round, Load::Small, Contender::Relay, 10 + noise));
            runs.push(run(round, Load::Small, Contender::Concertina, 12 + noise));
        }
        runs[0].report.errors = 3;
        let found = [found(Contender::Relay, ""), found(Contender::Concertina, "concertina 0.1.0")];
        let facts = ["Kernel: Linux".to_owned()];
        let report = Report { runs: &runs, loads: &[Load::Small, Load::Close], found: &found, facts: &facts };
        let text = report.markdown();
        let cpu = "\n| load | relay | concertina 0.1.0 | ÷ relay |\n|---|--:|--:|--:|\n\
            | 35 B GET keep-alive, 64 connections | 10.0 ! | 12.0 | 1.20 |\n\
            | 35 B GET, connection closed after each | – | – | – |\n";
        assert!(text.contains(cpu), "{text}");
        assert!(text.contains("| 35 B GET keep-alive, 64 connections | 3 | 0 |"), "{text}");
        assert!(text.ends_with("\n* Kernel: Linux\n"), "{text}");
    }

    #[test]
    fn without_the_proxy_there_is_nothing_to_divide() {
        let runs = [run(1, Load::Small, Contender::Relay, 10)];
        let found = [found(Contender::Relay, "")];
        let report = Report { runs: &runs, loads: &[Load::Small], found: &found, facts: &[] };
        assert!(!report.markdown().contains("÷ relay"));
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let texts = [8.8, 13.54, 415.4, 41230.0].map(number);
        assert_eq!(texts, ["8.80", "13.5", "415", "41230"]);
    }
}
