//! Documents into one, and into the older format.

use std::collections::{BTreeMap, BTreeSet};

use super::{END, push_all};

/// The lines of a family.
#[derive(Default)]
struct Block<'a> {
    head: Vec<&'a str>,
    samples: Vec<&'a str>,
}

/// What a line of a document is.
enum Line<'a> {
    /// It tells something of the family of this name: its keyword and the rest.
    Meta {
        keyword: &'a str,
        family: &'a str,
        rest: &'a str,
    },
    Sample,
    /// A comment, or the end.
    Other,
}

fn line_of(line: &str) -> Line<'_> {
    let Some(comment) = line.strip_prefix('#') else {
        return if line.is_empty() { Line::Other } else { Line::Sample };
    };
    let mut words = comment.trim_start().splitn(3, ' ');
    match (words.next(), words.next()) {
        (Some(keyword @ ("TYPE" | "UNIT" | "HELP")), Some(family)) => {
            Line::Meta { keyword, family, rest: words.next().unwrap_or_default() }
        }
        _ => Line::Other,
    }
}

/// One document of several: the families of all, each once and together. What the first says of a family holds.
pub fn merge(documents: &[&str]) -> String {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for document in documents {
        // Samples before any family are of none.
        let (mut place, mut is_new) = (None, BTreeSet::new());
        for line in document.lines() {
            match line_of(line) {
                Line::Meta { family, .. } => {
                    let is_known = places.contains_key(family) && !is_new.contains(family);
                    let at = *places.entry(family).or_insert_with(|| {
                        blocks.push(Block::default());
                        blocks.len() - 1
                    });
                    place = Some(at);
                    if !is_known {
                        is_new.insert(family);
                        blocks[at].head.push(line);
                    }
                }
                Line::Sample => {
                    if let Some(block) = place.and_then(|at: usize| blocks.get_mut(at)) {
                        block.samples.push(line);
                    }
                }
                Line::Other => {}
            }
        }
    }
    let lines = blocks.iter().flat_map(|block| block.head.iter().chain(&block.samples));
    let mut merged = String::with_capacity(documents.iter().map(|document| document.len()).sum());
    for line in lines {
        push_all(&mut merged, &[line, "\n"]);
    }
    merged.push_str(END);
    merged
}

/// The same document in the text format 0.0.4, in which counters are called by the names of their samples, and there are no units.
pub fn to_prometheus(document: &str) -> String {
    let mut text = String::with_capacity(document.len());
    let mut counter = None;
    for line in document.lines() {
        match line_of(line) {
            Line::Meta { keyword: "UNIT", .. } | Line::Other => {}
            Line::Meta { keyword, family, rest } => {
                if keyword == "TYPE" {
                    counter = (rest == "counter").then_some(family);
                }
                let suffix = if counter == Some(family) { "_total" } else { "" };
                push_all(&mut text, &["# ", keyword, " ", family, suffix, " ", rest, "\n"]);
            }
            Line::Sample => push_all(&mut text, &[line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "# TYPE a counter\n# HELP a of a\na_total{x=\"1\"} 1\n# TYPE b_seconds gauge\n\
                         # UNIT b_seconds seconds\n# HELP b_seconds of b\nb_seconds 2\n# EOF\n";
    const SECOND: &str =
        "# TYPE c gauge\n# HELP c of c\nc 3\n# TYPE a counter\n# HELP a other\na_total{x=\"2\"} 4\n# EOF\n";

    #[test]
    fn each_family_stands_together_and_is_told_of_once() {
        let wanted = "# TYPE a counter\n# HELP a of a\na_total{x=\"1\"} 1\na_total{x=\"2\"} 4\n# TYPE b_seconds gauge\n\
                      # UNIT b_seconds seconds\n# HELP b_seconds of b\nb_seconds 2\n# TYPE c gauge\n# HELP c of c\nc 3\n# EOF\n";
        assert_eq!(merge(&[FIRST, SECOND]), wanted);
        assert_eq!(merge(&[FIRST]), FIRST);
        assert_eq!(merge(&[FIRST, ""]), FIRST);
        assert_eq!(merge(&[]), END);
    }

    #[test]
    fn what_is_no_document_adds_nothing() {
        for odd in ["refused\n", "a 1\n", "# TYPE\n", "#\n\n", "# EOF\n# EOF\n", "\r\n", "# HELP"] {
            let merged = merge(&[FIRST, odd]);
            assert!(merged.starts_with(FIRST.strip_suffix(END).unwrap()) && merged.ends_with(END), "{odd:?}");
            assert_eq!(merged.matches("# EOF").count(), 1, "{odd:?}");
        }
    }

    #[test]
    fn the_older_format_calls_counters_by_their_samples() {
        let wanted = "# TYPE a_total counter\n# HELP a_total of a\na_total{x=\"1\"} 1\n# TYPE b_seconds gauge\n\
                      # HELP b_seconds of b\nb_seconds 2\n";
        assert_eq!(to_prometheus(FIRST), wanted);
    }
}
