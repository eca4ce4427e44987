//! The files of certificates, as they are now.

use std::{fs, io, path::Path, time::SystemTime};

use super::CertificateError;
use crate::config::{CertificateFiles, CertificatePair};

/// All pairs as they are now: those that are named, and then those of the directory by their names.
///
/// # Errors
/// A directory that cannot be read, or that has none.
pub(super) fn pairs(files: &CertificateFiles) -> Result<Vec<CertificatePair>, CertificateError> {
    let mut pairs = files.pairs.clone();
    if let Some(directory) = &files.directory {
        let unreadable = |error: io::Error| CertificateError::Unreadable {
            path: directory.clone(),
            why: error.to_string(),
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).map_err(unreadable)? {
            found.extend(pair_at(&entry.map_err(unreadable)?.path()));
        }
        if found.is_empty() {
            return Err(CertificateError::Nothing(directory.clone()));
        }
        found.sort();
        pairs.extend(found);
    }
    Ok(pairs)
}

/// `NAME.crt` beside `NAME.key`, or a folder as ACME clients make them. What is hidden is somebody else's: Kubernetes keeps its versions
/// so.
fn pair_at(path: &Path) -> Option<CertificatePair> {
    if path.file_name()?.as_encoded_bytes().starts_with(b".") {
        return None;
    }
    let pair = if path.is_dir() {
        CertificatePair { certificate: path.join("fullchain.pem"), key: path.join("privkey.pem") }
    } else if path.extension().is_some_and(|extension| extension == "crt") {
        CertificatePair { certificate: path.to_owned(), key: path.with_extension("key") }
    } else {
        return None;
    };
    (pair.certificate.exists() && pair.key.exists()).then_some(pair)
}

/// By which a change of a file is noticed: what its name leads to, when it was written, and how long it is. None: nobody can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark(Option<(u64, u64, SystemTime)>);

impl Mark {
    pub(super) fn of(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let mark = |metadata: fs::Metadata| Some((metadata.ino(), metadata.len(), metadata.modified().ok()?));
        Self(fs::metadata(path).ok().and_then(mark))
    }

    pub(super) fn of_pair(pair: &CertificatePair) -> [Self; 2] {
        [Self::of(&pair.certificate), Self::of(&pair.key)]
    }
}
