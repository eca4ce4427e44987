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
    by_pair: HashMap<CertificatePair, (Mark, Arc<Certificate>)>,
    /// What is wrong, and how its files looked then.
    wrong: HashMap<Option<CertificatePair>, Wrong>,
}

#[derive(Debug)]
struct Wrong {
    mark: Option<Mark>,
    error: CertificateError,
    is_told: bool,
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
            let mark = Mark::of(pair);
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
            let mark = Mark::of(pair);
            let known = read.by_pair.get(pair).is_some_and(|(known, _)| *known == mark);
            let told_wrong = |wrong: &Wrong| wrong.is_told && wrong.mark.as_ref() == Some(&mark);
            if known || read.wrong.get(&Some(pair.clone())).is_some_and(told_wrong) {
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
        mark: Option<Mark>,
        error: CertificateError,
    ) -> Option<CertificateError> {
        let before = self.wrong.get(&pair);
        let is_same = before.is_some_and(|before| before.mark == mark && before.error == error);
        let is_told = before.is_some_and(|before| before.is_told && before.error == error);
        self.wrong.insert(pair, Wrong { mark, error: error.clone(), is_told: is_same || is_told });
        (is_same && !is_told).then_some(error)
    }
}
