//! What the server counts, and how it is told: questions by type and answer, and how long answers took. No label is a client's to choose.

use std::time::Duration;

use hickory_proto::rr::RecordType;
use program::metrics::{Counter, Exposition, Family, Times};

/// Who knows the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// This server, by its zone or its rules.
    Zone,
    /// Another name server was asked.
    Forward,
}

const SOURCES: [(Source, &str); 2] = [(Source::Zone, "zone"), (Source::Forward, "forward")];

/// Types that are told apart; the last stands for all others, and for what was no question.
const TYPES: [&str; 8] = ["A", "AAAA", "SRV", "TXT", "PTR", "NS", "SOA", "other"];

/// Codes that are told apart, by their numbers (RFC 1035 section 4.1.1); the last stands for all others.
const CODES: [&str; 7] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "other"];

static ANSWERS: Family = Family::counter(
    "concertina_dns_responses",
    &["source", "type", "code"],
    "Answers by who knew them, this server (zone) or those that it asked (forward), by the type that was asked for and the response code.",
);
static IGNORED: Family = Family::counter(
    "concertina_dns_ignored",
    &[],
    "Messages that were not answered, because they were no questions.",
);
static TIMES: Family = Family::histogram(
    "concertina_dns_request_duration_seconds",
    &["source"],
    "From a question until its answer was there to be sent.",
);

/// The counters. Their server is one task.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    answers: [[[Counter; CODES.len()]; TYPES.len()]; SOURCES.len()],
    times: [Times; SOURCES.len()],
    ignored: Counter,
}

impl Tally {
    /// Something came that is not to be answered.
    pub(crate) fn note_ignored(&self) {
        self.ignored.add(1);
    }

    /// A question of this type, if it was one, has this answer.
    pub(crate) fn note(&self, source: Source, asked: Option<RecordType>, reply: &[u8], time: Duration) {
        let of_type = asked.map_or(TYPES.len() - 1, type_index);
        self.answers[source as usize][of_type][code_index(reply, asked.is_some())].add(1);
        self.times[source as usize].note(time);
    }

    /// What was counted, as OpenMetrics.
    pub(crate) fn document(&self) -> String {
        let mut document = Exposition::default();
        let mut told = document.family(&ANSWERS);
        for (source, word) in SOURCES {
            for (codes, of_type) in self.answers[source as usize].iter().zip(TYPES) {
                for (counter, code) in codes.iter().zip(CODES).filter(|(counter, _)| counter.read() > 0) {
                    told.add(&[word, of_type, code], counter.read());
                }
            }
        }
        document.one(&IGNORED, self.ignored.read());
        let mut told = document.family(&TIMES);
        for (source, word) in SOURCES {
            told.add_times(&[word], &[&self.times[source as usize]]);
        }
        document.finish()
    }
}

fn type_index(asked: RecordType) -> usize {
    match asked {
        RecordType::A => 0,
        RecordType::AAAA => 1,
        RecordType::SRV => 2,
        RecordType::TXT => 3,
        RecordType::PTR => 4,
        RecordType::NS => 5,
        RecordType::SOA => 6,
        _ => TYPES.len() - 1,
    }
}

/// By the reply's header. What was declined as no question and has no code there has an extended one (RFC 6891 section 6.1.3).
fn code_index(reply: &[u8], is_question: bool) -> usize {
    let other = CODES.len() - 1;
    match reply.get(3).map(|byte| usize::from(byte & 0xF)) {
        Some(0) if !is_question => other,
        Some(code) => code.min(other),
        None => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_by_closed_lists_of_types_and_codes() {
        let tally = Tally::default();
        let note = |source, asked, code: u8| {
            tally.note(source, asked, &[0, 0, 0x81, 0x80 | code], Duration::from_millis(1));
        };
        note(Source::Zone, Some(RecordType::A), 0);
        note(Source::Zone, Some(RecordType::A), 0);
        note(Source::Zone, Some(RecordType::Unknown(4711)), 3);
        note(Source::Zone, None, 0);
        note(Source::Zone, None, 4);
        note(Source::Forward, Some(RecordType::AAAA), 15);
        tally.note(Source::Forward, Some(RecordType::MX), &[], Duration::from_secs(4));
        tally.note_ignored();
        let text = tally.document();
        for line in [
            "concertina_dns_responses_total{source=\"zone\",type=\"A\",code=\"NOERROR\"} 2",
            "concertina_dns_responses_total{source=\"zone\",type=\"other\",code=\"NXDOMAIN\"} 1",
            "concertina_dns_responses_total{source=\"zone\",type=\"other\",code=\"other\"} 1",
            "concertina_dns_responses_total{source=\"zone\",type=\"other\",code=\"NOTIMP\"} 1",
            "concertina_dns_responses_total{source=\"forward\",type=\"AAAA\",code=\"other\"} 1",
            "concertina_dns_responses_total{source=\"forward\",type=\"other\",code=\"other\"} 1",
            "concertina_dns_ignored_total 1",
            "concertina_dns_request_duration_seconds_count{source=\"zone\"} 5",
            "concertina_dns_request_duration_seconds_bucket{source=\"forward\",le=\"5.0\"} 2",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
        assert_eq!(text.matches("responses_total{").count(), 6, "{text}");
    }
}
