use std::{fs, path::PathBuf};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, NamedGroup, RootCertStore, ServerConnection,
    crypto::{SupportedKxGroup, ring},
};

use super::*;
use crate::config::CertificateFiles;

/// A folder in which certificates come and go.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn pair(&self, name: &str) -> CertificatePair {
        CertificatePair {
            certificate: self.path(&format!("{name}.crt")),
            key: self.path(&format!("{name}.key")),
        }
    }

    /// A certificate of these names.
    fn write(&self, name: &str, names: &[&str]) -> CertificatePair {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.write_with(name, &CertificateParams::new(names).unwrap())
    }

    /// One that holds until this second since the Unix epoch.
    fn write_until(&self, name: &str, end: u64) -> CertificatePair {
        let mut params = CertificateParams::new([format!("{name}.test")]).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(end.try_into().unwrap()).unwrap();
        self.write_with(name, &params)
    }

    fn write_with(&self, name: &str, params: &CertificateParams) -> CertificatePair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pair = self.pair(name);
        // As careful programs do it; a file of the same length in the same moment is another one.
        for (path, text) in [(&pair.certificate, certificate.pem()), (&pair.key, key.serialize_pem())] {
            let new = self.path(".new");
            fs::write(&new, text).unwrap();
            fs::rename(new, path).unwrap();
        }
        pair
    }

    fn files(&self) -> CertificateFiles {
        CertificateFiles { pairs: Vec::new(), directory: Some(self.0.path().to_owned()) }
    }
}

fn chosen(certificates: &Certificates, host: Option<&str>) -> Vec<String> {
    certificates.choose(host).unwrap().names.clone()
}

#[test]
fn a_host_has_the_certificate_of_its_name_else_of_all_beside_it_else_the_first() {
    let folder = Folder::new();
    let pairs = vec![
        folder.write("first", &["first.test"]),
        folder.write("wild", &["*.a.test"]),
        folder.write("exact", &["b.a.test", "B2.a.test"]),
        folder.write("late", &["b.a.test", "late.test"]),
    ];
    let store = Store::open(&CertificateFiles { pairs, directory: None }).unwrap();
    let certificates = store.get();
    for (host, first_name) in [
        (Some("b.a.test"), "b.a.test"),
        (Some("b2.a.test"), "b.a.test"),
        (Some("c.a.test"), "*.a.test"),
        (Some("late.test"), "b.a.test"),
        // A star is one label, and no more than one.
        (Some("a.test"), "first.test"),
        (Some("d.c.a.test"), "first.test"),
        (Some("test"), "first.test"),
        (Some("192.0.2.1"), "first.test"),
        (None, "first.test"),
    ] {
        assert_eq!(chosen(&certificates, host)[0], first_name, "{host:?}");
    }
}

#[test]
fn a_certificate_covers_the_hosts_that_it_names_in_any_case_and_at_any_port() {
    let folder = Folder::new();
    let pair = folder.write("a", &["a.test", "*.b.test", "192.0.2.1", "2001:db8::1"]);
    let certificate = Certificate::read(&pair, &Shared::new().unwrap()).unwrap();
    let all_covered = [
        "a.test",
        "A.Test",
        "a.test.",
        "a.test:443",
        "x.b.test",
        "X.B.TEST:1",
        "192.0.2.1",
        "[2001:db8::1]:8",
        "",
        "u@other",
        "\u{e4}",
    ];
    // Addresses that were found to be covered are remembered, and those alone.
    for _ in 0..2 {
        for covered in all_covered {
            assert!(certificate.covers_authority(covered.as_bytes()), "{covered}");
        }
        for other in ["b.test", "y.x.b.test", "a.test.evil", "xa.test", "192.0.2.2", "[2001:db8::2]", "test"]
        {
            assert!(!certificate.covers_authority(other.as_bytes()), "{other}");
        }
    }
}

#[test]
fn what_is_no_certificate_with_its_key_is_refused_by_its_file() {
    let folder = Folder::new();
    let (a, b) = (folder.write("a", &["a.test"]), folder.write("b", &["b.test"]));
    let nameless = folder.write("nameless", &[]);
    let empty = folder.path("empty");
    fs::write(&empty, "").unwrap();
    let broken = folder.path("broken");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let pair = |certificate: &PathBuf, key: &PathBuf| CertificatePair {
        certificate: certificate.clone(),
        key: key.clone(),
    };
    let missing = folder.path("missing");
    for (pair, expected, file) in [
        (pair(&a.certificate, &b.key), "not the key of", "b.key"),
        (pair(&empty, &a.key), "expected certificates in PEM", "empty"),
        (pair(&broken, &a.key), "expected certificates in PEM", "broken"),
        (pair(&a.certificate, &empty), "expected a private key in PEM", "empty"),
        (pair(&a.certificate, &a.certificate), "expected a private key in PEM", "a.crt"),
        (pair(&missing, &a.key), "No such file", "missing"),
        (pair(&a.certificate, &missing), "No such file", "missing"),
        (nameless, "names no host", "nameless.crt"),
    ] {
        let error = Store::open(&CertificateFiles { pairs: vec![pair], directory: None }).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(expected) && error.contains(file), "{error}");
    }
}

#[test]
fn a_directory_has_pairs_by_name_and_folders_and_what_is_hidden_is_not_looked_at() {
    let folder = Folder::new();
    assert!(Store::open(&folder.files()).unwrap_err().to_string().contains("no NAME.crt with NAME.key"));
    folder.write("b", &["b.test"]);
    let other = folder.write("other", &["c.test"]);
    fs::create_dir(folder.path("c.test")).unwrap();
    fs::rename(&other.certificate, folder.path("c.test/fullchain.pem")).unwrap();
    fs::rename(&other.key, folder.path("c.test/privkey.pem")).unwrap();
    // Neither halves nor what is somebody else's.
    fs::write(folder.path("lonely.crt"), "").unwrap();
    fs::write(folder.path(".hidden.crt"), "").unwrap();
    fs::write(folder.path(".hidden.key"), "").unwrap();
    fs::create_dir(folder.path("..data")).unwrap();
    let certificates = Store::open(&folder.files()).unwrap().get();
    assert_eq!(chosen(&certificates, None), ["b.test"]);
    assert_eq!(chosen(&certificates, Some("c.test")), ["c.test"]);
    assert_eq!(certificates.all.len(), 2);
}

#[test]
fn what_changes_is_taken_at_the_next_look_and_what_is_wrong_changes_nothing_and_is_told_once() {
    let folder = Folder::new();
    let (a, b) = (folder.write("a", &["a.test"]), folder.write("b", &["b.test"]));
    let store = Store::open(&folder.files()).unwrap();
    assert_eq!(store.look(), (0, vec![]), "nothing has changed");
    let before = store.get();
    folder.write("a", &["a.test", "more.test"]);
    folder.write("new", &["new.test"]);
    assert_eq!(store.look(), (2, vec![]));
    assert_eq!(chosen(&store.get(), Some("new.test")), ["new.test"]);
    assert_eq!(chosen(&store.get(), Some("more.test"))[1], "more.test");
    assert_eq!(chosen(&before, Some("more.test")), ["a.test"], "whoever has begun with it keeps it");

    // The one is written, and the other is not yet.
    fs::copy(&b.certificate, &a.certificate).unwrap();
    assert_eq!(store.look(), (0, vec![]), "it may be in the middle of it");
    let told = store.look();
    assert_eq!(told, (0, vec![CertificateError::OtherKey(a.clone())]));
    for _ in 0..3 {
        assert_eq!(store.look(), (0, vec![]), "told once");
    }
    assert_eq!(chosen(&store.get(), Some("more.test"))[1], "more.test", "the one before goes on");
    // Others are taken meanwhile.
    folder.write("b", &["b.test", "b2.test"]);
    assert_eq!(store.look(), (1, vec![]));
    fs::copy(&b.certificate, &a.certificate).unwrap();
    fs::copy(&b.key, &a.key).unwrap();
    assert_eq!(store.look(), (1, vec![]));
    assert_eq!(chosen(&store.get(), Some("more.test"))[0], "b.test");

    fs::remove_file(folder.path("new.key")).unwrap();
    assert_eq!(store.look(), (0, vec![]));
    assert_eq!(chosen(&store.get(), Some("new.test"))[0], "b.test", "it is gone");
}

#[test]
fn a_plan_changes_all_certificates_or_none() {
    let folder = Folder::new();
    let good = folder.write("a", &["a.test"]);
    let store = Store::open(&CertificateFiles { pairs: vec![good.clone()], directory: None }).unwrap();
    let bad = folder.pair("bad");
    let other = folder.write("other", &["other.test"]);
    let to = |pairs| CertificateFiles { pairs, directory: None };
    assert!(store.change(&to(vec![other.clone(), bad])).is_err());
    assert_eq!(chosen(&store.get(), None), ["a.test"]);
    store.change(&to(vec![other, good])).unwrap();
    assert_eq!(chosen(&store.get(), None), ["other.test"]);
}

/// What a client that offers these agrees on with whoever has this certificate.
fn agreed_group(certificate: &Certificate, groups: Vec<&'static dyn SupportedKxGroup>) -> NamedGroup {
    let provider = Arc::new(CryptoProvider { kx_groups: groups, ..ring::default_provider() });
    let mut roots = RootCertStore::empty();
    roots.add(certificate.leaf.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), "a.test".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(certificate.config().clone()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut said = Vec::new();
        client.write_tls(&mut said).unwrap();
        server.read_tls(&mut said.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        said.clear();
        while server.wants_write() {
            server.write_tls(&mut said).unwrap();
        }
        client.read_tls(&mut said.as_slice()).unwrap();
        client.process_new_packets().unwrap();
    }
    server.negotiated_key_exchange_group().unwrap().name()
}

#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn who_offers_an_exchange_that_outlives_quantum_computers_gets_it_and_others_the_next() {
    let folder = Folder::new();
    let certificate = Certificate::read(&folder.write("a", &["a.test"]), &Shared::new().unwrap()).unwrap();
    let strong = rustls_graviola::kx::X25519MLKEM768;
    let best = if provider::is_fit_for_graviola() { NamedGroup::X25519MLKEM768 } else { NamedGroup::X25519 };
    let [x25519, p256] = [ring::kx_group::X25519, ring::kx_group::SECP256R1];
    for (groups, agreed) in [
        (vec![strong, x25519], best),
        // What there is a share of spares a round.
        (vec![x25519, strong], NamedGroup::X25519),
        (vec![x25519, p256], NamedGroup::X25519),
        (vec![p256], NamedGroup::secp256r1),
    ] {
        assert_eq!(agreed_group(&certificate, groups.clone()), agreed, "{groups:?}");
    }
}

/// A time in 2030.
const THEN: u64 = 1_900_000_000;

#[test]
fn the_end_of_each_certificate_is_told_by_its_file_once_and_the_first_comes_first() {
    let folder = Folder::new();
    let late = folder.write_until("late", THEN + 1);
    // In another notation from 2050 on (RFC 5280 4.1.2.5).
    let (last, first) = (folder.write_until("last", 2 * THEN), folder.write_until("first", THEN));
    let told = |pair: &CertificatePair, end: u64| (pair.certificate.display().to_string(), end);
    let all = [told(&first, THEN), told(&late, THEN + 1), told(&last, 2 * THEN)];
    let pairs = vec![late, first.clone(), last, first];
    let store = Store::open(&CertificateFiles { pairs, directory: None }).unwrap();
    assert_eq!(store.get().ends(), all);
    folder.write_until("late", THEN + 2);
    assert_eq!(store.look(), (1, vec![]));
    assert_eq!(store.get().ends()[1].1, THEN + 2);
}

#[test]
fn of_more_certificates_than_are_told_of_those_are_told_that_end_first() {
    let folder = Folder::new();
    let pair = folder.write("a", &["a.test"]);
    let shared = Shared::new().unwrap();
    let template = Certificate::read(&pair, &shared).unwrap();
    let one = |n: usize| {
        let (leaf, config) = (template.leaf.clone(), template.config.clone());
        let (file, not_after) = (n.to_string(), Some(THEN - n as u64));
        Arc::new(Certificate {
            file,
            names: Vec::new(),
            not_after,
            leaf,
            covered_addr: OnceLock::new(),
            config,
        })
    };
    for more in [0, 1] {
        let all = Certificates::new((0..CERTIFICATES_TOLD_COUNT_MAX + more).map(one).collect());
        assert_eq!(all.ends().len(), CERTIFICATES_TOLD_COUNT_MAX);
        assert_eq!(all.ends().last().map(|(file, _)| file.as_str()), Some(["0", "1"][more]));
    }
}

#[test]
fn an_end_that_is_near_or_has_come_is_warned_of() {
    let folder = Folder::new();
    let pair = folder.write_until("a", THEN);
    let certificate = Certificate::read(&pair, &Shared::new().unwrap()).unwrap();
    let soon = THEN - CERTIFICATE_ENDS_SOON_SECONDS;
    assert_eq!(certificate.warning(soon - 1), None);
    for (now, said) in
        [(soon, "it ends in 14 days"), (THEN, "it ends in 0 days"), (THEN + 1, "it ended 0 days ago")]
    {
        let warning = certificate.warning(now).unwrap();
        assert!(warning.starts_with(said), "{warning}");
    }
}
