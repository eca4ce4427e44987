//! By what endpoints of a role are spoken to over TLS: whom is believed, and which name they have. Files are read with the plan, so that a
//! worker reads none.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use feed::Name;
use program::file::Step;
use rustls::{
    ClientConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use sha2::{Digest, Sha256};

use super::{
    HTTP1_NAME, HTTP2_NAME,
    pinned::Pinned,
    roots::{self, RootsError},
};
use crate::{
    config::{RoleProtocol, Trust, UpstreamProtocol, UpstreamRules},
    error::TlsFailure,
    limits::TLS_ORIGIN_SESSIONS_COUNT_MAX,
};

/// Why a role's endpoints cannot be spoken to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TermsError {
    /// Nobody is trusted.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// A name that no certificate is for.
    #[error("{0:?}: no certificate has this name; expected --upstream-server-name ROLE=HOST")]
    Name(String),
    /// What rustls says.
    #[error("{0}")]
    Tls(String),
}

/// The same with the way to the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{role}: {why}")]
pub(crate) struct OriginsError {
    pub(crate) at: [Step; 2],
    role: Name,
    why: TermsError,
}

/// By what the endpoints of one role are spoken to.
#[derive(Debug)]
pub(crate) struct Terms {
    role: Name,
    protocol: UpstreamProtocol,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    /// Of all that it was made of, files included.
    digest: [u8; 32],
    /// A bit for each failure that the log has been told of.
    told: AtomicU16,
}

const _: () = assert!(TlsFailure::ALL.len() <= u16::BITS as usize);

/// Terms, and the sessions that one endpoint may resume with one worker.
#[derive(Debug)]
pub(crate) struct Seal {
    terms: Arc<Terms>,
    config: Arc<ClientConfig>,
}

impl Seal {
    pub(crate) fn new(terms: Arc<Terms>) -> Self {
        let mut config = ClientConfig::clone(&terms.config);
        config.resumption = Resumption::in_memory_sessions(TLS_ORIGIN_SESSIONS_COUNT_MAX);
        Self { config: Arc::new(config), terms }
    }

    pub(crate) fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    pub(crate) fn name(&self) -> &ServerName<'static> {
        &self.terms.name
    }

    pub(crate) fn role(&self) -> &Name {
        &self.terms.role
    }

    /// It is by these terms.
    pub(crate) fn is_by(&self, terms: &Arc<Terms>) -> bool {
        Arc::ptr_eq(&self.terms, terms)
    }

    /// HTTP/2 is to be chosen, and nothing else.
    pub(crate) fn needs_http2(&self) -> bool {
        self.terms.protocol.is_http2()
    }

    /// Whether this is the first failure of its kind by these terms, of which the log is to be told.
    pub(crate) fn is_news(&self, failure: TlsFailure) -> bool {
        let bit = 1 << failure as u8;
        self.terms.told.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

/// The terms of all roles that are spoken to over TLS.
#[derive(Debug, Default)]
pub(crate) struct Origins(BTreeMap<Name, Arc<Terms>>);

impl Origins {
    /// Those of a plan. What is as it was before stays the same, and with it connections and sessions.
    ///
    /// # Errors
    /// The first role that cannot be spoken to.
    pub(crate) fn read(rules: &UpstreamRules, before: &Self) -> Result<Self, OriginsError> {
        let provider = Arc::new(ring::default_provider());
        let mut all = BTreeMap::new();
        for (item, told) in rules.protocol.iter().enumerate().filter(|(_, told)| told.protocol.is_sealed()) {
            let terms = Terms::read(told, rules, &provider).map_err(|why| OriginsError {
                at: place(&why, item, told, rules),
                role: told.role.clone(),
                why,
            })?;
            let same = before.0.get(&told.role).filter(|before| before.digest == terms.digest);
            all.insert(told.role.clone(), same.cloned().unwrap_or_else(|| Arc::new(terms)));
        }
        Ok(Self(all))
    }

    /// The terms of a role.
    pub(crate) fn get(&self, role: &str) -> Option<&Arc<Terms>> {
        self.0.get(role)
    }
}

/// Which setting has to change.
fn place(why: &TermsError, item: usize, told: &RoleProtocol, rules: &UpstreamRules) -> [Step; 2] {
    let trust = rules.trust.iter().position(|trust| trust.role == told.role);
    let name = rules.server_name.iter().position(|name| name.role == told.role);
    let (key, item) = match (why, trust, name) {
        (TermsError::Roots(_), Some(item), _) => ("upstream-trust", item),
        (TermsError::Name(_), _, Some(item)) => ("upstream-server-name", item),
        _ => ("upstream-protocol", item),
    };
    [Step::Key(key), Step::Item(item)]
}

impl Terms {
    fn read(
        told: &RoleProtocol,
        rules: &UpstreamRules,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TermsError> {
        let name = rules.server_name.iter().find(|name| name.role == told.role);
        let name = name.map_or(told.role.as_str(), |name| &name.name).to_owned();
        let trust = rules.trust.iter().find(|trust| trust.role == told.role);
        let trust = trust.map_or_else(Trust::default, |trust| trust.trust.clone());
        let mut digest = Sha256::new();
        digest.update([u8::from(told.protocol.is_http2())]);
        digest.update((name.len() as u64).to_be_bytes());
        digest.update(&name);
        let refused = |error: rustls::Error| TermsError::Tls(error.to_string());
        let building = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(refused)?;
        let building = match trust {
            Trust::Keys(pins) => {
                digest.update([0]);
                pins.iter().for_each(|pin| digest.update(pin));
                let verifier = Arc::new(Pinned { pins, provider: provider.clone() });
                building.dangerous().with_custom_certificate_verifier(verifier)
            }
            Trust::System | Trust::File(_) => {
                let path = match &trust {
                    Trust::File(path) => path.clone(),
                    _ => roots::system_file(std::env::var_os("SSL_CERT_FILE"))?,
                };
                let pem = roots::read(&path)?;
                digest.update([1]);
                digest.update(&pem);
                building.with_root_certificates(roots::parse(&pem, &path, trust == Trust::System)?)
            }
        };
        let mut config = building.with_no_client_auth();
        // One name alone: what is chosen is what will be spoken.
        let protocol = if told.protocol.is_http2() { HTTP2_NAME } else { HTTP1_NAME };
        config.alpn_protocols = vec![protocol.to_vec()];
        let server_name = ServerName::try_from(name.clone()).map_err(|_| TermsError::Name(name))?.to_owned();
        Ok(Self {
            role: told.role.clone(),
            protocol: told.protocol,
            name: server_name,
            config: Arc::new(config),
            digest: digest.finalize().into(),
            told: AtomicU16::new(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn rules(text: &str) -> UpstreamRules {
        let text = format!("listen = ['http://127.0.0.1:0=app']\nupstream-protocol = ['app=https']\n{text}");
        crate::config::Plan::new(program::file::parse("a.toml", &text).unwrap()).unwrap().rules
    }

    fn write_authority(path: &std::path::Path) {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(["app".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(path, made.pem()).unwrap();
    }

    #[test]
    fn terms_stay_the_same_for_as_long_as_all_they_are_made_of_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        write_authority(&path);
        let by_file = rules(&format!("upstream-trust = ['app=ca:{}']", path.display()));
        let read = |rules: &UpstreamRules, before: &Origins| Origins::read(rules, before).unwrap();
        let first = read(&by_file, &Origins::default());
        let is_same = |a: &Origins, b: &Origins| Arc::ptr_eq(a.get("app").unwrap(), b.get("app").unwrap());
        assert!(is_same(&first, &read(&by_file, &first)));
        let mut named = by_file.clone();
        named.server_name.push("app=other".parse().unwrap());
        assert!(!is_same(&first, &read(&named, &first)));
        write_authority(&path);
        assert!(!is_same(&first, &read(&by_file, &first)));
    }

    #[test]
    fn what_cannot_be_read_is_said_where_it_has_to_change() {
        let place = |text: &str| {
            let error = Origins::read(&rules(text), &Origins::default()).unwrap_err();
            (error.at, error.to_string())
        };
        let (at, why) = place("upstream-trust = ['app=ca:/none/ca.pem']");
        assert_eq!(at, [Step::Key("upstream-trust"), Step::Item(0)]);
        assert!(why.starts_with("app: /none/ca.pem: No such file"), "{why}");
        let pin = data_encoding::BASE64.encode(&[1; 32]);
        let (at, why) =
            place(&format!("upstream-trust = ['app=sha256//{pin}']\nupstream-server-name = ['app=a b']"));
        assert_eq!(at, [Step::Key("upstream-server-name"), Step::Item(0)]);
        assert!(why.contains("no certificate has this name"), "{why}");
    }

    #[test]
    fn the_log_is_told_once_of_each_failure() {
        let pin = data_encoding::BASE64.encode(&[1; 32]);
        let read =
            Origins::read(&rules(&format!("upstream-trust = ['app=sha256//{pin}']")), &Origins::default());
        let seal = Seal::new(read.unwrap().get("app").unwrap().clone());
        for failure in TlsFailure::ALL {
            assert!(seal.is_news(failure) && !seal.is_news(failure), "{failure:?}");
        }
    }
}
