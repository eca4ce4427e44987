//! By what endpoints of a role are spoken to over TLS: whom is believed, and which name they have. Files are read with the plan, so that a
//! worker reads none.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

use feed::{EndpointProtocol, Name};
use program::file::Step;
use rustls::{
    ClientConfig,
    client::Resumption,
    crypto::ring,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use sha2::{Digest, Sha256};

use super::{
    HTTP1_NAME, HTTP2_NAME,
    authorities::{self, Authorities, Files, Watch},
    pinned::Pinned,
    roots::{self, RootsError},
};
use crate::{
    config::{Trust, UpstreamRules},
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
    protocol: EndpointProtocol,
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

/// Terms by role: those of HTTP/1.1, and those of HTTP/2.
type ByRole = [BTreeMap<Name, Arc<Terms>>; 2];

/// The terms of all roles that are spoken to over TLS: those that a plan names, and others as their endpoints claim it.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    rules: UpstreamRules,
    /// Of the roles that the plan has speak something over TLS.
    told: BTreeMap<Name, Arc<Terms>>,
    /// All that there are.
    made: Mutex<ByRole>,
    /// What there was under the plan before.
    before: ByRole,
    /// The authorities that the plan names.
    files: Mutex<Files>,
    /// The system's, once they are asked for: few proxies need them.
    system: OnceLock<Result<Authorities, RootsError>>,
    /// Roles that claim what they are not spoken to by, of which the log has been told.
    unspoken: Mutex<BTreeSet<Name>>,
}

impl Origins {
    /// Those of a plan. What is as it was before stays the same, and with it connections and sessions.
    ///
    /// # Errors
    /// The first role that cannot be spoken to.
    pub(crate) fn read(rules: &UpstreamRules, before: &Self) -> Result<Self, OriginsError> {
        let read = Self { rules: rules.clone(), before: before.made().clone(), ..Self::default() };
        read.with_told()
    }

    /// Looks whether files of authorities have changed, and what is wrong with those that have. Terms by files that are good, and by all
    /// others as they were, if any has.
    pub(crate) fn look(&self, watch: &mut Watch) -> (Option<Self>, Vec<OriginsError>) {
        let found = self.files().look(watch);
        let is_by = |trust: &Trust, path: &Path| matches!(trust, Trust::File(file) if file == path);
        let wrong = found.wrong.into_iter().filter_map(|(path, why)| {
            let told = self.rules.trust.iter().find(|told| is_by(&told.trust, &path))?;
            Some(self.placed(&told.role, why.into()))
        });
        let mut wrong: Vec<_> = wrong.collect();
        let renewed = found.files.map(|files| {
            let (rules, before, system) = (self.rules.clone(), self.made().clone(), self.system.clone());
            let unspoken = self.unspoken.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let (files, unspoken) = (Mutex::new(files), Mutex::new(unspoken));
            Self { rules, before, files, system, unspoken, ..Self::default() }.with_told()
        });
        let renewed = renewed.transpose().unwrap_or_else(|error| {
            wrong.push(error);
            None
        });
        (renewed, wrong)
    }

    /// The same with the terms of all that the rules name.
    fn with_told(self) -> Result<Self, OriginsError> {
        let rules = self.rules.clone();
        let mut read = self;
        for told in rules.protocol.iter().filter(|told| told.protocol.is_sealed()) {
            let terms = read.make(&told.role, told.protocol).map_err(|why| read.placed(&told.role, why))?;
            read.told.insert(told.role.clone(), terms);
        }
        // What is said of a role holds for what its endpoints claim. It is looked at now, when somebody is there to be told.
        let names = rules.server_name.iter().map(|told| &told.role);
        for role in rules.trust.iter().map(|told| &told.role).chain(names) {
            if !read.told.contains_key(role) {
                for protocol in [EndpointProtocol::Https, EndpointProtocol::H2] {
                    read.make(role, protocol).map_err(|why| read.placed(role, why))?;
                }
            }
        }
        Ok(read)
    }

    /// The terms of a role that the plan has speak something over TLS.
    pub(crate) fn get(&self, role: &str) -> Option<&Arc<Terms>> {
        self.told.get(role)
    }

    /// The terms for endpoints of a role that claim this protocol. None: nobody is trusted, which the log is told. It may read the system's
    /// file, once: no worker asks.
    pub(crate) fn claimed(&self, role: &Name, protocol: EndpointProtocol) -> Option<Arc<Terms>> {
        let made = self.make(role, protocol);
        // Where the plan says what the role speaks, its claims are nobody's.
        let is_told = self.rules.protocol.iter().any(|told| told.role == *role);
        if let Err(why) = &made
            && !is_told
            && self.unspoken.lock().unwrap_or_else(PoisonError::into_inner).insert(role.clone())
        {
            tracing::error!(%role, %protocol, %why, "what endpoints claim to speak cannot be spoken to them");
        }
        made.ok()
    }

    fn placed(&self, role: &Name, why: TermsError) -> OriginsError {
        OriginsError { at: place(&why, role, &self.rules), role: role.clone(), why }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) -> MutexGuard<'_, ByRole> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, role: &Name, protocol: EndpointProtocol) -> Result<Arc<Terms>, TermsError> {
        let place = usize::from(protocol.is_http2());
        if let Some(made) = self.made()[place].get(role) {
            return Ok(made.clone());
        }
        let terms = self.terms(role, protocol)?;
        let same = self.before[place].get(role).filter(|before| before.digest == terms.digest);
        let terms = same.cloned().unwrap_or_else(|| Arc::new(terms));
        self.made()[place].insert(role.clone(), terms.clone());
        Ok(terms)
    }

    fn terms(&self, role: &Name, protocol: EndpointProtocol) -> Result<Terms, TermsError> {
        let name = self.rules.server_name.iter().find(|name| name.role == *role);
        let name = name.map_or(role.as_str(), |name| &name.name).to_owned();
        let trust = self.rules.trust.iter().find(|trust| trust.role == *role);
        let mut digest = Sha256::new();
        digest.update([u8::from(protocol.is_http2())]);
        digest.update((name.len() as u64).to_be_bytes());
        digest.update(&name);
        let trust = trust.map_or(&Trust::System, |told| &told.trust);
        let authorities =
            |file: Option<&Path>| file.map_or_else(|| self.system(), |path| self.files().read(path));
        let mut config = believing(trust, authorities, &mut digest)?;
        // One name alone: what is chosen is what will be spoken.
        let chosen = if protocol.is_http2() { HTTP2_NAME } else { HTTP1_NAME };
        config.alpn_protocols = vec![chosen.to_vec()];
        let server_name = ServerName::try_from(name.clone()).map_err(|_| TermsError::Name(name))?.to_owned();
        Ok(Terms {
            role: role.clone(),
            protocol,
            name: server_name,
            config: Arc::new(config),
            digest: digest.finalize().into(),
            told: AtomicU16::new(0),
        })
    }

    fn system(&self) -> Result<Authorities, RootsError> {
        self.system.get_or_init(read_system).clone()
    }
}

/// By what a collector of spans is spoken to.
///
/// # Errors
/// Nobody is trusted.
pub(crate) fn of_collector(trust: &Trust) -> Result<ClientConfig, TermsError> {
    let authorities =
        |file: Option<&Path>| file.map_or_else(read_system, |path| authorities::read(path, false));
    let mut config = believing(trust, authorities, &mut Sha256::new())?;
    config.alpn_protocols = vec![HTTP1_NAME.to_vec()];
    Ok(config)
}

/// A configuration that believes these; all that it is made of goes into the digest. `authorities` are those of a file, or without one the
/// system's.
fn believing(
    trust: &Trust,
    authorities: impl FnOnce(Option<&Path>) -> Result<Authorities, RootsError>,
    digest: &mut Sha256,
) -> Result<ClientConfig, TermsError> {
    let provider = Arc::new(ring::default_provider());
    let building = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| TermsError::Tls(error.to_string()))?;
    let (roots, of_file) = match trust {
        Trust::Keys(pins) => {
            digest.update([0]);
            pins.iter().for_each(|pin| digest.update(pin));
            let verifier = Arc::new(Pinned { pins: pins.clone(), provider });
            return Ok(building.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
        }
        Trust::File(path) => authorities(Some(path))?,
        Trust::System => authorities(None)?,
    };
    digest.update([1]);
    digest.update(of_file);
    Ok(building.with_root_certificates(roots).with_no_client_auth())
}

fn read_system() -> Result<Authorities, RootsError> {
    authorities::read(&roots::system_file(std::env::var_os("SSL_CERT_FILE"))?, true)
}

/// Which setting has to change.
fn place(why: &TermsError, role: &Name, rules: &UpstreamRules) -> [Step; 2] {
    let protocol = rules.protocol.iter().position(|told| told.role == *role);
    let trust = rules.trust.iter().position(|trust| trust.role == *role);
    let name = rules.server_name.iter().position(|name| name.role == *role);
    let (key, item) = match (why, trust, name, protocol) {
        (TermsError::Roots(_), Some(item), ..) => ("upstream-trust", item),
        (TermsError::Name(_), _, Some(item), _) => ("upstream-server-name", item),
        (.., Some(item)) => ("upstream-protocol", item),
        (_, Some(item), ..) => ("upstream-trust", item),
        (.., name, _) => ("upstream-server-name", name.unwrap_or(0)),
    };
    [Step::Key(key), Step::Item(item)]
}

#[cfg(test)]
pub(super) mod tests {
    use std::rc::Rc;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// What the role `app` is sealed with that trusts these, as the plan has it.
    pub(crate) fn seal_by(trust: &str) -> Rc<Seal> {
        let rules = rules(&format!("upstream-trust = ['app={trust}']"));
        let read = Origins::read(&rules, &Origins::default()).unwrap();
        Rc::new(Seal::new(read.get("app").unwrap().clone()))
    }

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
    fn what_is_claimed_has_terms_by_the_trust_of_its_role_for_each_protocol() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        write_authority(&path);
        let text = format!("listen = ['http://127.0.0.1:0']\nupstream-trust = ['web=ca:{}']", path.display());
        let rules = crate::config::Plan::new(program::file::parse("a.toml", &text).unwrap()).unwrap().rules;
        let first = Origins::read(&rules, &Origins::default()).unwrap();
        let (web, both) = ("web".parse().unwrap(), [EndpointProtocol::Https, EndpointProtocol::H2]);
        let claimed = |origins: &Origins| both.map(|protocol| origins.claimed(&web, protocol).unwrap());
        let is_same = |a: &[Arc<Terms>; 2], b: &[Arc<Terms>; 2]| [0, 1].map(|i| Arc::ptr_eq(&a[i], &b[i]));
        assert!(first.get("web").is_none(), "the plan does not say that they speak it");
        let terms = claimed(&first);
        assert_eq!([&terms[0], &terms[1]].map(|terms| terms.protocol), both);
        assert_eq!(is_same(&terms, &claimed(&first)), [true; 2]);
        let second = Origins::read(&rules, &first).unwrap();
        assert_eq!(is_same(&terms, &claimed(&second)), [true; 2]);
        write_authority(&path);
        let third = Origins::read(&rules, &second).unwrap();
        assert_eq!(is_same(&terms, &claimed(&third)), [false; 2]);
        std::fs::remove_file(&path).unwrap();
        let error = Origins::read(&rules, &third).unwrap_err();
        assert_eq!(error.at, [Step::Key("upstream-trust"), Step::Item(0)]);
        // A system without authorities: nobody is spoken to, and the log is told once.
        third.system.set(Err(RootsError::NoSystem)).unwrap();
        let other = "other".parse().unwrap();
        assert!(both.map(|protocol| third.claimed(&other, protocol)).iter().all(Option::is_none));
        assert_eq!(third.unspoken.lock().unwrap().len(), 1);
    }

    #[test]
    fn the_log_is_told_once_of_each_failure() {
        let pin = data_encoding::BASE64.encode(&[1; 32]);
        let seal = seal_by(&format!("sha256//{pin}"));
        for failure in TlsFailure::ALL {
            assert!(seal.is_news(failure) && !seal.is_news(failure), "{failure:?}");
        }
    }
}
