//! A certificate for containers, and who trusts it.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use rcgen::{CertificateParams, KeyPair};

use super::skip;

/// A folder with a certificate for localhost and its key, which is to be a volume.
pub(crate) struct Certificates(tempfile::TempDir);

impl Certificates {
    /// None: there is no curl.
    pub(crate) fn make() -> Option<Self> {
        if !Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success()) {
            skip::test("curl");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(folder.path().join("localhost.crt"), certificate.pem()).unwrap();
        fs::write(folder.path().join("localhost.key"), key.serialize_pem()).unwrap();
        Some(Self(folder))
    }

    pub(crate) fn folder(&self) -> String {
        self.0.path().display().to_string()
    }

    fn certificate(&self) -> PathBuf {
        self.0.path().join("localhost.crt")
    }

    /// What curl gets that trusts this certificate alone; none if it gets nothing.
    pub(crate) fn hello(&self, at: SocketAddr) -> Option<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--noproxy", "*", "--max-time", "20", "--cacert"]);
        curl.arg(self.certificate()).arg(format!("https://localhost:{}/hello", at.port()));
        let output = curl.output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}
