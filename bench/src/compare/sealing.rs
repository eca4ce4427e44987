//! What TLS takes: a certificate that every contender has, and clients that trust it.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, client::Resumption, crypto::ring};

use super::client;

/// Whom the certificate is for: the host that `wrk` and `h2load` name, and the one that our own requests do.
const NAMES: [&str; 2] = ["127.0.0.1", "bench"];

/// A certificate in files, as servers take it, with a key for ECDSA on P-256.
pub(super) struct Sealing {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one.
    pub(super) both: PathBuf,
    roots: Arc<RootCertStore>,
}

impl Sealing {
    /// A new one, in a folder.
    pub(super) fn new(dir: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let names = NAMES.map(str::to_owned);
        let certificate = CertificateParams::new(names)?.self_signed(&key)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone())?;
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok(path)
        };
        let (certificate, key) = (certificate.pem(), key.serialize_pem());
        Ok(Self {
            both: write("both.pem", [&*certificate, &*key].concat())?,
            certificate: write("certificate.pem", certificate)?,
            key: write("key.pem", key)?,
            roots: Arc::new(roots),
        })
    }

    /// As `--certificate` takes it.
    pub(super) fn pair(&self) -> String {
        format!("{},{}", self.certificate.display(), self.key.display())
    }

    /// What clients go by.
    pub(super) fn client(&self, resumption: Resumption) -> anyhow::Result<Arc<ClientConfig>> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.resumption = resumption;
        Ok(Arc::new(config))
    }

    /// A connection on which nothing has been said yet.
    pub(super) fn connect(
        &self,
        addr: SocketAddr,
    ) -> anyhow::Result<StreamOwned<ClientConnection, TcpStream>> {
        connect(self.client(Resumption::disabled())?, addr)
    }
}

/// The same for a client that is there.
pub(super) fn connect(
    client: Arc<ClientConfig>,
    addr: SocketAddr,
) -> anyhow::Result<StreamOwned<ClientConnection, TcpStream>> {
    let connection = ClientConnection::new(client, NAMES[1].try_into()?)?;
    Ok(StreamOwned::new(connection, client::connect(addr)?))
}
