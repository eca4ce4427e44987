//! Authorities: those of the system, and those in a file.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Where distributions have the authorities that they trust: Debian and Alpine, Fedora and its relatives, openSUSE, and the BSDs' place that
/// others keep.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why nobody is trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RootsError {
    /// A file that cannot be read.
    #[error("{path}: {why}", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A file without an authority, or with something that is none.
    #[error("{path}: expected certificates of authorities in PEM", path = .0.display())]
    Nobody(PathBuf),
    /// A system without the file.
    #[error("the system has no file of authorities ({bundles}); set SSL_CERT_FILE, or trust ca:FILE", bundles = BUNDLES.join(", "))]
    NoSystem,
}

/// The file of the system's authorities.
///
/// # Errors
/// There is none.
pub(super) fn system_file(told: Option<OsString>) -> Result<PathBuf, RootsError> {
    let told = told.filter(|path| !path.is_empty()).map(PathBuf::from);
    let found = || BUNDLES.iter().map(PathBuf::from).find(|path| path.exists());
    told.or_else(found).ok_or(RootsError::NoSystem)
}

/// A file as it is.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, RootsError> {
    std::fs::read(path).map_err(|error| RootsError::Unreadable { path: path.into(), why: error.to_string() })
}

/// The authorities in what was read from a file. Of the system's, those that are not understood are left out, as everybody does.
pub(super) fn parse(pem: &[u8], path: &Path, is_system: bool) -> Result<RootCertStore, RootsError> {
    let nobody = || RootsError::Nobody(path.into());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let added = certificate.map_err(drop).and_then(|found| roots.add(found).map_err(drop));
        if added.is_err() && !is_system {
            return Err(nobody());
        }
    }
    if roots.is_empty() { Err(nobody()) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn the_systems_file_is_the_one_that_was_told_of() {
        assert_eq!(system_file(Some("/a".into())), Ok("/a".into()));
        assert_eq!(system_file(Some("".into())), system_file(None));
    }

    #[test]
    fn a_file_of_a_user_is_right_as_a_whole_and_the_systems_as_far_as_it_is_understood() {
        let key = KeyPair::generate().unwrap();
        let good = CertificateParams::new(["a".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let count =
            |pem: &str, is_system| parse(pem.as_bytes(), Path::new("/a"), is_system).map(|roots| roots.len());
        let nobody = Err(RootsError::Nobody("/a".into()));
        assert_eq!([count(&good, false), count(&good, true)], [Ok(1), Ok(1)]);
        assert_eq!(count(&format!("{good}{bad}"), false), nobody);
        assert_eq!(count(&format!("{bad}{good}"), true), Ok(1));
        assert_eq!([count("", false), count(bad, true)], [nobody.clone(), nobody]);
    }
}
