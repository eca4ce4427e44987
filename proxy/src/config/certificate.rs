//! Where certificates are: pairs of files, and a directory of them.

use std::{path::PathBuf, str::FromStr};

use super::text::read_as_text;

/// A chain's file and that of its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificatePair {
    /// Certificates, the host's own first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl FromStr for CertificatePair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(',') {
            Some((certificate, key)) if !certificate.is_empty() && !key.is_empty() && !key.contains(',') => {
                Ok(Self { certificate: certificate.into(), key: key.into() })
            }
            _ => Err(format!("{text:?}: expected CERT,KEY, such as /etc/tls/a.crt,/etc/tls/a.key")),
        }
    }
}

read_as_text!(CertificatePair, "CERT,KEY");

/// All that a plan says of certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Pairs, of which the first is for clients that ask for no host, or for one without a certificate.
    pub pairs: Vec<CertificatePair>,
    /// A directory of more.
    pub directory: Option<PathBuf>,
}

impl CertificateFiles {
    /// Nothing is said.
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.directory.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_two_files() {
        let pair: CertificatePair = "/a.crt,/a.key".parse().unwrap();
        assert_eq!((pair.certificate, pair.key), ("/a.crt".into(), "/a.key".into()));
        for bad in ["", "/a.crt", "/a.crt,", ",/a.key", "/a,/b,/c"] {
            assert!(bad.parse::<CertificatePair>().unwrap_err().contains("expected CERT,KEY"), "{bad}");
        }
    }
}
