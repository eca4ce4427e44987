//! What both ends have to say of the scenes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    faults: BTreeMap<usize, Vec<String>>,
    /// What is wrong with no scene in particular.
    others: Vec<String>,
    /// Exchanges whose client has reset them, as it was to.
    given_up: BTreeSet<(usize, usize)>,
    /// Requests that the origin has seen.
    seen: BTreeSet<(usize, usize)>,
    tally: Tally,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) exchanges: usize,
    /// Early answers after which the client's connection stayed, and after which it was closed with an announcement.
    pub(crate) early_kept: usize,
    pub(crate) early_closed: usize,
    /// Answers that were cut, or lost with a reset, as the scene has it.
    pub(crate) failed: usize,
    /// Connections that origins accepted.
    pub(crate) connections: usize,
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, scene: usize, fault: String) {
        self.book().faults.entry(scene).or_default().push(fault);
    }

    pub(crate) fn note_other(&self, fault: String) {
        self.book().others.push(fault);
    }

    /// Its client has given up: that its requests end early is no news.
    pub(crate) fn has_given_up(&self, scene: usize, position: usize) -> bool {
        let book = self.book();
        book.faults.contains_key(&scene) || book.given_up.contains(&(scene, position))
    }

    /// Its client is about to.
    pub(crate) fn give_up(&self, scene: usize, position: usize) {
        self.book().given_up.insert((scene, position));
    }

    pub(crate) fn failed_count(&self) -> usize {
        self.book().faults.len()
    }

    /// Whether the origin has not seen this request before.
    pub(crate) fn see(&self, scene: usize, position: usize) -> bool {
        self.book().seen.insert((scene, position))
    }

    pub(crate) fn has_seen(&self, scene: usize, position: usize) -> bool {
        self.book().seen.contains(&(scene, position))
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.book().tally);
    }

    pub(crate) fn tally(&self) -> Tally {
        self.book().tally
    }

    /// Everything that is wrong; none if nothing is.
    pub(crate) fn report<T: fmt::Display>(
        &self,
        scenes: &[T],
        replay: impl Fn(&T) -> String,
    ) -> Option<String> {
        let book = self.book();
        if book.faults.is_empty() && book.others.is_empty() {
            return None;
        }
        let mut text = format!("{} of {} clients saw faults\n", book.faults.len(), scenes.len());
        for fault in &book.others {
            let _ = writeln!(text, "    {fault}");
        }
        for (number, faults) in &book.faults {
            let _ = writeln!(text, "{}", replay(&scenes[*number]));
            for fault in faults {
                let _ = writeln!(text, "    {fault}");
            }
            let _ = writeln!(text, "    {}", scenes[*number]);
        }
        Some(text)
    }
}
