//! Certificates and their keys: read from files, checked, and chosen by the host that a client asks for.
//!
//! What is in use is an immutable whole that is swapped as such: a handshake keeps the one that it has begun with. A file that is changed
//! is taken within two seconds, one of authorities too; one that is no certificate, or that does not fit its key, changes nothing but the log.

mod authorities;
mod files;
mod pinned;
mod provider;
mod roots;
mod store;
mod terms;
mod tickets;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    Error as TlsError, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};
use webpki::{EndEntityCert, KeyUsage};

use crate::{
    config::CertificatePair,
    http1::head::is_authority,
    limits::{CERTIFICATE_ENDS_SOON_SECONDS, CERTIFICATES_TOLD_COUNT_MAX},
};
pub(crate) use authorities::Watch;
pub(crate) use store::Store;
#[cfg(test)]
pub(crate) use terms::tests::seal_by;
pub(crate) use terms::{Origins, OriginsError, Seal, Terms, TermsError, of_collector};
pub(crate) use tickets::Tickets;

/// What clients ask for HTTP/2 by (RFC 9113 3.2).
pub(crate) const HTTP2_NAME: &[u8] = b"h2";

/// What they ask for HTTP/1.1 by.
const HTTP1_NAME: &[u8] = b"http/1.1";

/// The protocols that are spoken inside, the best first, by the names that clients ask for them with (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [HTTP2_NAME, HTTP1_NAME];

/// Why files are no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    /// A file that cannot be read.
    #[error("{path}: {why}", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A file without a certificate, or with something that is none.
    #[error("{path}: expected certificates in PEM, the host's own first", path = .0.display())]
    NoCertificate(PathBuf),
    /// A file without a key.
    #[error("{path}: expected a private key in PEM, without a password", path = .0.display())]
    NoKey(PathBuf),
    /// A key of a kind that is not known.
    #[error("{path}: {why}", path = .path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// What rustls says.
        why: String,
    },
    /// A key of another certificate.
    #[error("{key}: not the key of {certificate}", key = .0.key.display(), certificate = .0.certificate.display())]
    OtherKey(CertificatePair),
    /// A certificate of no host.
    #[error("{path}: names no host (subjectAltName)", path = .0.display())]
    Nameless(PathBuf),
    /// A directory in which there is none.
    #[error("{path}: no NAME.crt with NAME.key, and no NAME/fullchain.pem with NAME/privkey.pem", path = .0.display())]
    Nothing(PathBuf),
}

impl CertificateError {
    /// The file, or the directory.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Unreadable { path, .. } | Self::Unusable { path, .. } => path,
            Self::NoCertificate(path) | Self::NoKey(path) | Self::Nameless(path) | Self::Nothing(path) => {
                path
            }
            Self::OtherKey(pair) => &pair.key,
        }
    }
}

/// A chain with its key.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// Its file, as it was configured or found.
    file: String,
    /// In lower case; a first label `*` is any.
    names: Vec<String>,
    /// Its last second, since the Unix epoch, if it can be read.
    not_after: Option<u64>,
    leaf: CertificateDer<'static>,
    /// An address that it was found to cover: whoever comes by that comes often, and to look means to parse all of it.
    covered_addr: OnceLock<Box<str>>,
    config: Arc<ServerConfig>,
}

/// What all configurations share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    provider: Arc<CryptoProvider>,
    /// Sessions of any certificate are resumed by the same keys.
    tickets: Arc<Tickets>,
}

impl Shared {
    /// With keys for tickets of its own.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn new() -> Result<Self, TlsError> {
        let provider = Arc::new(provider::provider());
        let tickets = Arc::new(Tickets::new(&provider)?);
        Ok(Self { provider, tickets })
    }
}

impl Certificate {
    /// Reads a chain and its key, and checks that they belong together.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(crate) fn read(pair: &CertificatePair, shared: &Shared) -> Result<Self, CertificateError> {
        let path = pair.certificate.clone();
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(&path)?).collect();
        let chain = chain.map_err(|_| CertificateError::NoCertificate(path.clone()))?;
        let leaf = chain.first().cloned().ok_or_else(|| CertificateError::NoCertificate(path.clone()))?;
        let key = PrivateKeyDer::from_pem_slice(&read(&pair.key)?)
            .map_err(|_| CertificateError::NoKey(pair.key.clone()))?;
        let (names, not_after) = {
            let parsed =
                EndEntityCert::try_from(&leaf).map_err(|_| CertificateError::NoCertificate(path.clone()))?;
            let names: Vec<String> = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
            if names.is_empty() && !has_other_names(&parsed) {
                return Err(CertificateError::Nameless(path));
            }
            (names, not_after(&parsed))
        };
        let file = path.display().to_string();
        let config = config(chain, key, shared).map_err(|error| match error {
            TlsError::InconsistentKeys(_) => CertificateError::OtherKey(pair.clone()),
            error => CertificateError::Unusable { path, why: error.to_string() },
        })?;
        Ok(Self { file, names, not_after, leaf, covered_addr: OnceLock::new(), config: Arc::new(config) })
    }

    /// What is to be said of its end at this second since the Unix epoch, if it has come or is near.
    fn warning(&self, now: u64) -> Option<String> {
        const DAY: u64 = 24 * 3600;
        let not_after = self.not_after?;
        match not_after.checked_sub(now) {
            None => Some(format!("it ended {} days ago, and clients refuse it", (now - not_after) / DAY)),
            Some(left) if left <= CERTIFICATE_ENDS_SOON_SECONDS => {
                Some(format!("it ends in {} days, and clients refuse it then", left / DAY))
            }
            Some(_) => None,
        }
    }

    pub(crate) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Whether it is the certificate of whom a request asks for, if that asks for anybody.
    pub(crate) fn covers_authority(&self, authority: &[u8]) -> bool {
        if !is_authority(authority) {
            // Which is refused for that.
            return true;
        }
        let host = match authority.iter().rposition(|&byte| byte == b':') {
            Some(colon) if !authority.ends_with(b"]") => &authority[..colon],
            _ => authority,
        };
        let host = host.strip_suffix(b".").unwrap_or(host);
        host.is_empty() || std::str::from_utf8(host).is_ok_and(|host| self.covers(host))
    }

    /// Whether it is the certificate of this host, whose case does not matter.
    pub(crate) fn covers(&self, host: &str) -> bool {
        if self.covered_addr.get().is_some_and(|addr| **addr == *host) {
            return true;
        }
        if let Ok(addr) = IpAddr::try_from(host.trim_start_matches('[').trim_end_matches(']')) {
            let cert = EndEntityCert::try_from(&self.leaf);
            let is_covered = cert.is_ok_and(|cert| {
                cert.verify_is_valid_for_subject_name(&ServerName::IpAddress(addr)).is_ok()
            });
            if is_covered {
                self.covered_addr.get_or_init(|| host.into());
            }
            return is_covered;
        }
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => {
                host.split_once('.').is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(suffix))
            }
            None => host.eq_ignore_ascii_case(name),
        })
    }
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path)
        .map_err(|error| CertificateError::Unreadable { path: path.into(), why: error.to_string() })
}

/// The last second in which it holds: whoever looks at it at the end of all days is told.
fn not_after(cert: &EndEntityCert<'_>) -> Option<u64> {
    let last = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    match cert.verify_for_usage(&[], &[], &[], last, KeyUsage::server_auth(), None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
        _ => None,
    }
}

/// Addresses, which are the only other names that a client compares.
fn has_other_names(cert: &EndEntityCert<'_>) -> bool {
    let nobody = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    match cert.verify_is_valid_for_subject_name(&nobody) {
        Ok(()) => true,
        Err(webpki::Error::CertNotValidForName(context)) => !context.presented.is_empty(),
        Err(_) => false,
    }
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    shared: &Shared,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(shared.provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    config.ticketer = shared.tickets.clone();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Replays meet retries otherwise.
    config.max_early_data_size = 0;
    Ok(config)
}

/// All certificates of a plan, as they were read at one time.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    all: Vec<Arc<Certificate>>,
    by_name: HashMap<String, usize>,
    /// Files, each once, and when what they have ends; the first ends first.
    ends: Vec<(String, u64)>,
}

impl Certificates {
    /// Of two for one name, the first has it.
    pub(crate) fn new(all: Vec<Arc<Certificate>>) -> Self {
        let mut by_name = HashMap::new();
        for (position, certificate) in all.iter().enumerate() {
            for name in &certificate.names {
                by_name.entry(name.clone()).or_insert(position);
            }
        }
        let ends: BTreeMap<&str, u64> =
            all.iter().filter_map(|certificate| Some((&*certificate.file, certificate.not_after?))).collect();
        let mut ends: Vec<_> = ends.into_iter().map(|(file, end)| (file.to_owned(), end)).collect();
        ends.sort_by_key(|(_, end)| *end);
        ends.truncate(CERTIFICATES_TOLD_COUNT_MAX);
        Self { all, by_name, ends }
    }

    /// When each ends, in seconds since the Unix epoch, by its file: of very many, those that end first.
    pub(crate) fn ends(&self) -> &[(String, u64)] {
        &self.ends
    }

    /// The one for the host that a client asks for: of exactly this name, else of all names beside it, else the first of all. None where
    /// there are none.
    pub(crate) fn choose(&self, host: Option<&str>) -> Option<Arc<Certificate>> {
        let exact = host.and_then(|host| self.by_name.get(host));
        let found = exact.or_else(|| {
            let (_, parent) = host?.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        });
        self.all.get(found.copied().unwrap_or(0)).cloned()
    }
}

#[cfg(test)]
mod tests;
