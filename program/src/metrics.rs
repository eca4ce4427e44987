//! Metrics: what counts them, an encoder of text, and what becomes of the texts of two programs. No I/O.
//!
//! Programs write OpenMetrics 1.0. [`merge()`] makes one document of several, in which each family stands together, as the format demands;
//! [`to_prometheus`] makes the older text format of it, for those that do not ask for the newer one.

mod merge;
mod times;

use std::fmt::{self, Write};

pub use merge::{merge, to_prometheus};
pub use times::{Counter, Times};

/// The last line of every document.
const END: &str = "# EOF\n";

/// What a family's values mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows until the program ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How many values were at most so large.
    Histogram,
}

impl Kind {
    /// The format's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What is known of a family beside its values. Whatever a label's value may be, a client cannot choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Without the suffix of its samples; it ends with its unit, if it has one.
    pub name: &'static str,
    /// What its values mean.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence for people.
    pub help: &'static str,
}

impl Family {
    /// One that counts.
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, labels, help }
    }

    /// One that goes up and down.
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, labels, help }
    }

    /// One of values by their size.
    pub const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, labels, help }
    }

    /// The unit that its name ends with, of those that the format knows.
    fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes"].into_iter().find(|unit| self.name.ends_with(unit))
    }
}

/// A document that is being written.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// One that is written where a text is that is not needed any more: fresh memory has to be cleared by the kernel.
    pub fn in_place_of(mut text: String) -> Self {
        text.clear();
        Self { text }
    }

    /// Begins a family, which must not have been there before; it is told of even if no sample follows.
    pub fn family(&mut self, family: &'static Family) -> Samples<'_> {
        let text = &mut self.text;
        push_all(text, &["# TYPE ", family.name, " ", family.kind.as_str(), "\n"]);
        if let Some(unit) = family.unit() {
            push_all(text, &["# UNIT ", family.name, " ", unit, "\n"]);
        }
        push_all(text, &["# HELP ", family.name, " "]);
        push_escaped(text, family.help);
        text.push('\n');
        Samples { family, text }
    }

    /// A family with one sample, and no labels.
    pub fn one(&mut self, family: &'static Family, value: u64) {
        self.family(family).add(&[], value);
    }

    /// The whole document.
    pub fn finish(mut self) -> String {
        self.text.push_str(END);
        self.text
    }
}

/// The samples of a family.
#[derive(Debug)]
pub struct Samples<'a> {
    family: &'static Family,
    text: &'a mut String,
}

impl Samples<'_> {
    /// Adds the sample of these values of the labels, in the family's order.
    pub fn add(&mut self, labels: &[&str], value: u64) {
        self.push_series(self.suffix(), labels);
        self.push_value(value);
    }

    /// The same with a fraction.
    pub fn add_fraction(&mut self, labels: &[&str], value: f64) {
        self.push_series(self.suffix(), labels);
        self.push_fraction(value);
    }

    /// Adds a histogram: how many values there were over the bound before and at most at each bound, how many over the last, and their sum.
    pub fn add_histogram(&mut self, labels: &[&str], buckets: &[(f64, u64)], over: u64, sum: f64) {
        // With its point, which bounds have to have to be the same text everywhere.
        let bounds: Vec<_> = buckets.iter().map(|(bound, values)| (format!("{bound:?}"), *values)).collect();
        self.push_histogram(
            labels,
            bounds.iter().map(|(bound, values)| (bound.as_str(), *values)),
            over,
            sum,
        );
    }

    /// The same with the text of each bound.
    fn push_histogram<'a>(
        &mut self,
        labels: &[&str],
        buckets: impl Iterator<Item = (&'a str, u64)>,
        over: u64,
        sum: f64,
    ) {
        // What all these lines begin with is made once.
        let begin = self.text.len();
        self.push_labels("_bucket", labels);
        self.text.push_str(if labels.is_empty() { "{le=\"" } else { ",le=\"" });
        let bucket = begin..self.text.len();
        let mut count = 0;
        for (at, (bound, values)) in buckets.chain([("+Inf", over)]).enumerate() {
            if at > 0 {
                self.text.extend_from_within(bucket.clone());
            }
            count += values;
            push_all(self.text, &[bound, "\"}"]);
            self.push_value(count);
        }
        self.push_series("_sum", labels);
        self.push_fraction(sum);
        self.push_series("_count", labels);
        self.push_value(count);
    }

    fn suffix(&self) -> &'static str {
        if self.family.kind == Kind::Counter { "_total" } else { "" }
    }

    fn push_series(&mut self, suffix: &str, labels: &[&str]) {
        self.push_labels(suffix, labels);
        if !labels.is_empty() {
            self.text.push('}');
        }
    }

    /// Without the end, so that another label may follow.
    fn push_labels(&mut self, suffix: &str, labels: &[&str]) {
        debug_assert_eq!(labels.len(), self.family.labels.len(), "{}", self.family.name);
        push_all(self.text, &[self.family.name, suffix]);
        for (at, (name, value)) in self.family.labels.iter().zip(labels).enumerate() {
            push_all(self.text, &[if at == 0 { "{" } else { "," }, name, "=\""]);
            push_escaped(self.text, value);
            self.text.push('"');
        }
    }

    fn push_value(&mut self, value: u64) {
        push_all(self.text, &[" ", itoa::Buffer::new().format(value), "\n"]);
    }

    fn push_fraction(&mut self, value: f64) {
        put(self.text, format_args!(" {value:?}\n"));
    }
}

/// Without the machinery of formats: a scrape is thousands of such pieces.
fn push_all(text: &mut String, pieces: &[&str]) {
    pieces.iter().for_each(|piece| text.push_str(piece));
}

/// Text between quotes, and help.
fn push_escaped(text: &mut String, piece: &str) {
    // All bytes are looked at, many at a time: hardly ever there is one.
    let is_odd = |byte: u8| matches!(byte, b'\\' | b'"' | b'\n');
    if !piece.bytes().fold(false, |is_any, byte| is_any | is_odd(byte)) {
        return text.push_str(piece);
    }
    for c in piece.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

/// Writing into memory does not fail.
fn put(text: &mut String, what: fmt::Arguments<'_>) {
    let written = text.write_fmt(what);
    debug_assert!(written.is_ok(), "a value that cannot be written");
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: Family = Family::counter("x_requests", &["role", "why"], "Requests, of \"all\" kinds.");
    const LAG: Family = Family::histogram("x_lag_seconds", &[], "A time.");
    const LOAD: Family = Family::gauge("x_load", &[], "A\\B\nC");

    #[test]
    fn a_document_says_of_each_family_what_it_is_and_ends() {
        let mut document = Exposition::default();
        let mut requests = document.family(&REQUESTS);
        requests.add(&["a", "no\"ne\\\n"], 7);
        requests.add(&["", "ü"], u64::MAX);
        document.family(&LAG).add_histogram(&[], &[(0.001, 2), (1.0, 3)], 1, 4.5);
        document.family(&LOAD).add_fraction(&[], 0.5);
        let wanted = r#"# TYPE x_requests counter
# HELP x_requests Requests, of \"all\" kinds.
x_requests_total{role="a",why="no\"ne\\\n"} 7
x_requests_total{role="",why="ü"} 18446744073709551615
# TYPE x_lag_seconds histogram
# UNIT x_lag_seconds seconds
# HELP x_lag_seconds A time.
x_lag_seconds_bucket{le="0.001"} 2
x_lag_seconds_bucket{le="1.0"} 5
x_lag_seconds_bucket{le="+Inf"} 6
x_lag_seconds_sum 4.5
x_lag_seconds_count 6
# TYPE x_load gauge
# HELP x_load A\\B\nC
x_load 0.5
# EOF
"#;
        assert_eq!(document.finish(), wanted);
    }

    #[test]
    fn a_family_without_samples_is_told_of() {
        let mut document = Exposition::default();
        document.family(&REQUESTS);
        document.one(&LOAD, 3);
        let text = document.finish();
        assert!(text.starts_with("# TYPE x_requests counter\n# HELP x_requests "), "{text}");
        assert!(text.ends_with("\nx_load 3\n# EOF\n"), "{text}");
    }
}
