//! Which numbers of a growing sequence have come: the last few one by one; what is older counts as come.

/// Remembers the last `64 * WORDS` numbers up to the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window<const WORDS: usize> {
    newest: u64,
    /// Bit n, counted through the words: `newest - n` has come.
    come: [u64; WORDS],
}

impl<const WORDS: usize> Window<WORDS> {
    /// How many numbers are remembered one by one.
    pub(crate) const WIDTH: u64 = 64 * WORDS as u64;

    /// One whose only number is this.
    pub(crate) fn starting_with(newest: u64) -> Self {
        let mut come = [0; WORDS];
        come[0] = 1;
        Self { newest, come }
    }

    /// The window that [`Window::words`] described; none if nobody does so.
    pub(crate) fn from_words(newest: u64, words: &[u64]) -> Option<Self> {
        let mut come = [0; WORDS];
        come.get_mut(..words.len())?.copy_from_slice(words);
        Some(Self { newest, come })
    }

    /// The greatest number that has come.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// What has come, as far back as anything has.
    pub(crate) fn words(&self) -> &[u64] {
        let end = self.come.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        &self.come[..end]
    }

    /// Whether the number has come, or is too old to tell.
    pub(crate) fn has(&self, number: u64) -> bool {
        match self.newest.checked_sub(number) {
            None => false,
            Some(behind) => Self::place(behind).is_none_or(|(word, bit)| self.come[word] & bit != 0),
        }
    }

    /// Takes a number; true if it is news.
    pub(crate) fn take(&mut self, number: u64) -> bool {
        if let Some(ahead) = number.checked_sub(self.newest).filter(|ahead| *ahead > 0) {
            self.shift(ahead);
            self.newest = number;
        }
        match Self::place(self.newest - number) {
            Some((word, bit)) if self.come[word] & bit == 0 => {
                self.come[word] |= bit;
                true
            }
            _ => false,
        }
    }

    fn place(behind: u64) -> Option<(usize, u64)> {
        let word = usize::try_from(behind / 64).ok().filter(|word| *word < WORDS)?;
        Some((word, 1 << (behind % 64)))
    }

    /// Makes everything older by `ahead`.
    fn shift(&mut self, ahead: u64) {
        let (words, bits) = (usize::try_from(ahead / 64).unwrap_or(WORDS), ahead % 64);
        for to in (0..WORDS).rev() {
            let from = |back: usize| to.checked_sub(words)?.checked_sub(back).map(|from| self.come[from]);
            let carried = if bits == 0 { 0 } else { from(1).unwrap_or(0) >> (64 - bits) };
            self.come[to] = from(0).unwrap_or(0) << bits | carried;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_at_the_end_of_the_window_is_news_and_one_behind_it_is_not() {
        let mut window = Window::<2>::starting_with(1000);
        assert!(window.take(1000 - (Window::<2>::WIDTH - 1)), "late, and still one by one");
        assert!(!window.take(1000 - Window::<2>::WIDTH) && window.has(1000 - Window::<2>::WIDTH));
        assert!(!window.take(1000), "it began with that");
        assert!(window.take(u64::MAX) && window.take(u64::MAX - 1), "the jump forgot the old ones");
        assert!(!window.take(1000));
    }

    #[test]
    fn more_words_than_a_window_has_are_none() {
        assert!(
            Window::<2>::from_words(5, &[1; 2]).is_some() && Window::<2>::from_words(5, &[1; 3]).is_none()
        );
    }

    proptest! {
        #[test]
        fn what_comes_is_news_once_and_what_is_told_of_it_is_the_same(
            numbers in prop::collection::vec(0..600_u64, 1..200),
        ) {
            let (mut window, mut come) = (Window::<4>::starting_with(0), BTreeSet::from([0]));
            for number in numbers {
                let is_old = window.newest().saturating_sub(number) >= Window::<4>::WIDTH;
                prop_assert_eq!(window.has(number), is_old || come.contains(&number));
                prop_assert_eq!(window.take(number), !is_old && come.insert(number));
                let told = Window::from_words(window.newest(), window.words());
                prop_assert_eq!(told.as_ref(), Some(&window));
            }
        }
    }
}
