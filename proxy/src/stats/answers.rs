//! How many requests were answered, by method and by the class of their status: one column of a worker for each role.

use super::Counter;
use crate::http1::verb::Verb;

/// Classes of a status: 1xx to 5xx.
const CLASSES: usize = 5;
const CLASS_WORDS: [&str; CLASSES] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The answers of one role, at one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Answers {
    answered: [[Counter; CLASSES]; Verb::ALL.len()],
    /// Further attempts before that.
    retries: Counter,
}

impl Answers {
    /// Counts an answer.
    pub(crate) fn note(&self, verb: Verb, status: u16) {
        // A status has three digits; of one that begins with another digit nobody knows more than that something went wrong.
        let class = usize::from(status / 100).wrapping_sub(1).min(CLASSES - 1);
        self.answered[verb as usize][class].add(1);
    }

    /// Counts a further attempt for a request that has no answer yet.
    pub(crate) fn note_retry(&self) {
        self.retries.add(1);
    }

    /// Further attempts at one worker.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.read()
    }

    /// The sums over workers: of each method and class that there was, their words and how many.
    pub(crate) fn sums<'a>(
        workers: &'a (impl Iterator<Item = &'a Self> + Clone),
    ) -> impl Iterator<Item = (&'static str, &'static str, u64)> + 'a {
        let cells = Verb::ALL.into_iter().flat_map(|verb| (0..CLASSES).map(move |class| (verb, class)));
        let sum = |verb: Verb, class: usize| -> u64 {
            workers.clone().map(|answers| answers.answered[verb as usize][class].read()).sum()
        };
        let sums = cells.map(move |(verb, class)| (verb.word(), CLASS_WORDS[class], sum(verb, class)));
        sums.filter(|(_, _, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_by_method_and_class_and_only_those_that_there_were() {
        let workers = [Answers::default(), Answers::default()];
        for (worker, verb, status) in [
            (0, Verb::Get, 200),
            (1, Verb::Get, 299),
            (0, Verb::Post, 404),
            (1, Verb::Other, 101),
            (0, Verb::Put, 599),
            (0, Verb::Put, 999),
            (0, Verb::Put, 0),
        ] {
            workers[worker].note(verb, status);
        }
        let all = workers.iter();
        let told: Vec<_> = Answers::sums(&all).collect();
        assert_eq!(told, [("GET", "2xx", 2), ("POST", "4xx", 1), ("PUT", "5xx", 3), ("other", "1xx", 1)]);
    }
}
