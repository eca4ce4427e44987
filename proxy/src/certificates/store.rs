//! The certificates in use, and what is kept of their files to notice that they have changed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Certificate, CertificateError, Certificates, Shared, Tickets,
    files::{self, Mark},
};
use crate::config::{CertificateFiles, CertificatePair};

/// The certificates in use. Handshakes read them, one thread changes them.
#[derive(Debug)]
pub(crate) struct Store {
    current: RwLock<Arc<Certificates>>,
    shared: Shared,
    read: Mutex<Read>,
}

/// What was read, and from where.
#[derive(Debug, Default)]
struct Read {
    files: CertificateFiles,
    pairs: Vec<CertificatePair>,
    by_pair: HashMap<CertificatePair, ([Mark; 2], Arc<Certificate>)>,
    /// What is wrong, and how its files looked then.
    wrong: HashMap<Option<CertificatePair>, Wrong>,
}

#[derive(Debug)]
struct Wrong {
    mark: Option<[Mark; 2]>,
    error: CertificateError,
    is_told: bool,
}

impl Wrong {
    /// It has been told, and is so until the files are written again. What could not be read for want of a descriptor or a right may be
    /// readable later, though they look the same.
    fn is_settled(&self, mark: &[Mark; 2]) -> bool {
        let is_passing = matches!(self.error, CertificateError::Unreadable { .. });
        self.is_told && self.mark.as_ref() == Some(mark) && !is_passing
    }
}

impl Store {
    /// Reads all.
    ///
    /// # Errors
    /// The first that is wrong.
    pub(crate) fn open(files: &CertificateFiles) -> anyhow::Result<Self> {
        let store = Self { current: RwLock::default(), shared: Shared::new()?, read: Mutex::default() };
        store.change(files)?;
        Ok(store)
    }

    /// The keys of session tickets.
    pub(crate) fn tickets(&self) -> &Arc<Tickets> {
        &self.shared.tickets
    }

    /// What is in use now.
    pub(crate) fn get(&self) -> Arc<Certificates> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes over to what these files say now, all of them or nothing.
    ///
    /// # Errors
    /// The first that is wrong; what was in use before goes on.
    pub(crate) fn change(&self, files: &CertificateFiles) -> Result<(), CertificateError> {
        let pairs = files::pairs(files)?;
        let mut by_pair = HashMap::new();
        for pair in &pairs {
            // Before the file: what is written meanwhile is noticed later.
            let mark = Mark::of_pair(pair);
            by_pair.insert(pair.clone(), (mark, self.read_pair(pair)?));
        }
        let read = Read { files: files.clone(), pairs, by_pair, wrong: HashMap::new() };
        self.publish(&read);
        *self.read() = read;
        Ok(())
    }

    /// Looks whether files have changed, and takes those that are right. Of those that are not, the certificates before stay, and the
    /// reasons are returned once each: at the second look, for a certificate and its key are hardly ever written in the same moment.
    pub(crate) fn look(&self) -> (usize, Vec<CertificateError>) {
        let mut read = self.read();
        let (mut taken, mut told) = (0, Vec::new());
        let pairs = match files::pairs(&read.files) {
            Ok(pairs) => {
                read.wrong.remove(&None);
                pairs
            }
            Err(error) => {
                told.extend(read.note_wrong(None, None, error));
                read.pairs.clone()
            }
        };
        for pair in &pairs {
            let mark = Mark::of_pair(pair);
            let known = read.by_pair.get(pair).is_some_and(|(known, _)| *known == mark);
            let settled = |wrong: &Wrong| wrong.is_settled(&mark);
            if known || read.wrong.get(&Some(pair.clone())).is_some_and(settled) {
                continue;
            }
            match self.read_pair(pair) {
                Ok(certificate) => {
                    read.wrong.remove(&Some(pair.clone()));
                    read.by_pair.insert(pair.clone(), (mark, certificate));
                    taken += 1;
                }
                Err(error) => told.extend(read.note_wrong(Some(pair.clone()), Some(mark), error)),
            }
        }
        if taken > 0 || pairs != read.pairs {
            read.by_pair.retain(|pair, _| pairs.contains(pair));
            read.wrong.retain(|pair, _| pair.as_ref().is_none_or(|pair| pairs.contains(pair)));
            read.pairs = pairs;
            self.publish(&read);
        }
        (taken, told)
    }

    fn read_pair(&self, pair: &CertificatePair) -> Result<Arc<Certificate>, CertificateError> {
        let certificate = Certificate::read(pair, &self.shared)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Some(warning) = certificate.warning(now) {
            tracing::warn!(certificate = certificate.file, "{warning}");
        }
        Ok(Arc::new(certificate))
    }

    fn publish(&self, read: &Read) {
        let known = read.pairs.iter().filter_map(|pair| Some(read.by_pair.get(pair)?.1.clone()));
        let certificates = Arc::new(Certificates::new(known.collect()));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read {
    /// The error, if it is time to tell of it.
    fn note_wrong(
        &mut self,
        pair: Option<CertificatePair>,
        mark: Option<[Mark; 2]>,
        error: CertificateError,
    ) -> Option<CertificateError> {
        let before = self.wrong.get(&pair);
        let is_same = before.is_some_and(|before| before.mark == mark && before.error == error);
        let is_told = before.is_some_and(|before| before.is_told && before.error == error);
        self.wrong.insert(pair, Wrong { mark, error: error.clone(), is_told: is_same || is_told });
        (is_same && !is_told).then_some(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_tried_again_though_its_files_look_the_same() {
        let files = ["a.crt", "a.key"].map(|name| std::path::PathBuf::from("/nonexistent").join(name));
        let pair = CertificatePair { certificate: files[0].clone(), key: files[1].clone() };
        let broken = CertificateError::NoKey(files[1].clone());
        let unreadable =
            CertificateError::Unreadable { path: files[0].clone(), why: "Too many open files".into() };
        let (mark, mut read) = (Mark::of_pair(&pair), Read::default());
        for (error, is_settled) in [(broken, true), (unreadable, false)] {
            for (look, is_told) in [(1, false), (2, true), (3, false), (4, false)] {
                let told = read.note_wrong(Some(pair.clone()), Some(mark.clone()), error.clone());
                assert_eq!(told.is_some(), is_told, "{error}, look {look}");
            }
            assert_eq!(read.wrong[&Some(pair.clone())].is_settled(&mark), is_settled, "{error}");
        }
    }
}
