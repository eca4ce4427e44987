//! The files of authorities that upstreams are believed by, and how a change of one is noticed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::RootCertStore;
use sha2::{Digest, Sha256};

use super::{
    files::Mark,
    roots::{self, RootsError},
};

/// Authorities, and a digest of their file.
pub(super) type Authorities = (Arc<RootCertStore>, [u8; 32]);

/// Reads a file.
pub(super) fn read(path: &Path, is_system: bool) -> Result<Authorities, RootsError> {
    let pem = roots::read(path)?;
    Ok((Arc::new(roots::parse(&pem, path, is_system)?), Sha256::digest(&pem).into()))
}

/// The files that a plan names, as they were read.
#[derive(Debug, Default, Clone)]
pub(super) struct Files(BTreeMap<PathBuf, (Mark, Authorities)>);

/// What a look has found.
#[derive(Debug)]
pub(super) struct Found {
    /// All files as they are now, if any is another and good.
    pub(super) files: Option<Files>,
    /// What is wrong with others.
    pub(super) wrong: Vec<(PathBuf, RootsError)>,
}

/// The files that do not look as they did when they were read, and what has been told of them.
#[derive(Debug, Default)]
pub(crate) struct Watch(BTreeMap<PathBuf, (Mark, Option<RootsError>)>);

impl Files {
    /// What is in a file, which is read once.
    ///
    /// # Errors
    /// It cannot be read, or is none of authorities.
    pub(super) fn read(&mut self, path: &Path) -> Result<Authorities, RootsError> {
        if let Some((_, known)) = self.0.get(path) {
            return Ok(known.clone());
        }
        // Before the file: what is written meanwhile is noticed later.
        let mark = Mark::of(path);
        let authorities = read(path, false)?;
        self.0.insert(path.to_owned(), (mark, authorities.clone()));
        Ok(authorities)
    }

    /// Looks for files that have changed. They are read at the second look that finds them the same: half of a list of authorities is a list,
    /// too.
    pub(super) fn look(&self, watch: &mut Watch) -> Found {
        let (mut files, mut wrong) = (self.clone(), Vec::new());
        let mut has_changed = false;
        watch.0.retain(|path, _| self.0.contains_key(path));
        for (path, (known, _)) in &self.0 {
            let mark = Mark::of(path);
            if mark == *known {
                watch.0.remove(path);
                continue;
            }
            match watch.0.get_mut(path).filter(|(seen, _)| *seen == mark) {
                None => drop(watch.0.insert(path.clone(), (mark, None))),
                // Until it is written again. What cannot be read may be readable at any time, without another look of it.
                Some((_, Some(RootsError::Nobody(_)))) => {}
                Some((_, told)) => match read(path, false) {
                    Ok(authorities) => {
                        files.0.insert(path.clone(), (mark, authorities));
                        has_changed = true;
                    }
                    Err(why) if told.as_ref() == Some(&why) => {}
                    Err(why) => {
                        *told = Some(why.clone());
                        wrong.push((path.clone(), why));
                    }
                },
            }
        }
        Found { files: has_changed.then_some(files), wrong }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Puts a file in the place of another, as a program that writes whole files does: no two look alike.
    fn replace(path: &Path, text: &str) {
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    fn authority() -> String {
        let key = KeyPair::generate().unwrap();
        CertificateParams::new(["app".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
    }

    #[test]
    fn a_file_is_taken_when_it_has_come_to_rest_and_a_broken_one_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a.pem", "b.pem"].map(|name| folder.path().join(name));
        let (mut files, mut watch) = (Files::default(), Watch::default());
        for path in [&a, &b] {
            replace(path, &authority());
            files.read(path).unwrap();
        }
        let digest = |files: &Files, path: &Path| files.0[path].1.1;
        let (first, unchanged) = (digest(&files, &a), digest(&files, &b));
        let mut look = |files: &mut Files| {
            let found = files.look(&mut watch);
            let is_taken = found.files.is_some();
            *files = found.files.unwrap_or_else(|| files.clone());
            let wrong = found.wrong.iter().map(|(_, why)| why.to_string()).collect::<Vec<_>>().join(", ");
            (is_taken, wrong)
        };
        let nothing = (false, String::new());
        assert_eq!(look(&mut files), nothing);
        for text in [String::new(), authority()] {
            replace(&a, &text);
            assert_eq!(look(&mut files), nothing, "it may be in the middle of it");
        }
        assert_eq!(look(&mut files), (true, String::new()));
        let second = digest(&files, &a);
        assert!(second != first && digest(&files, &b) == unchanged);
        assert_eq!(look(&mut files), nothing, "once");

        replace(&a, "no certificate");
        assert_eq!(look(&mut files), nothing);
        let told = format!("{}: expected certificates of authorities in PEM", a.display());
        assert_eq!(look(&mut files), (false, told));
        // Another is taken meanwhile.
        replace(&b, &authority());
        assert_eq!([look(&mut files), look(&mut files)], [nothing.clone(), (true, String::new())]);
        assert_eq!((look(&mut files), digest(&files, &a)), (nothing.clone(), second), "told once");
        std::fs::remove_file(&a).unwrap();
        assert_eq!(look(&mut files), nothing);
        assert!(look(&mut files).1.contains("a.pem: No such file"));
        assert_eq!(look(&mut files), nothing, "told once");
        replace(&a, &authority());
        assert_eq!([look(&mut files), look(&mut files)], [nothing, (true, String::new())]);
        assert!(digest(&files, &a) != second);
    }
}
