//! Certificates that change while a proxy runs.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};

use crate::support::{
    network::Network,
    program::Running,
    wait::{DEADLINE, until},
};

/// What is promised is two seconds; a busy machine may need longer for the handshakes that look for it.
const TAKEN_TIME_MAX: Duration = Duration::from_secs(10);

/// A node whose proxy speaks TLS by the certificates of a directory, which its file names.
struct Edge {
    running: Running,
    folder: PathBuf,
    /// Every certificate that there was.
    made: Vec<CertificateDer<'static>>,
    network: Network,
}

impl Edge {
    fn start() -> Self {
        let network = Network::claim();
        let folder = network.place.join("certificates");
        fs::create_dir(&folder).unwrap();
        let first = write(&folder, None);
        let file = network.place.join("proxy.toml");
        let text = format!(
            "listen = ['https://{}']\ncertificates = '{}'\nroute = [{{ match = '/', redirect = {{ path = '/there' }} }}]\n",
            network.service("proxyserver"),
            folder.display()
        );
        fs::write(&file, text).unwrap();
        let command =
            [env!("CARGO_BIN_EXE_concertina"), "proxy", "--workers", "1", "--config", file.to_str().unwrap()];
        let mut running = network.wrap("proxyserver", &[], &command);
        running.hear("proxy listening");
        Self { running, folder, made: vec![first], network }
    }

    /// Another certificate in the place of the one before.
    fn renew(&mut self) {
        let certificate = write(&self.folder, None);
        self.made.push(certificate);
    }

    /// The position of the certificate that a client is shown now.
    fn shown(&self) -> usize {
        let mut roots = RootCertStore::empty();
        self.made.iter().for_each(|certificate| roots.add(certificate.clone()).unwrap());
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = TcpStream::connect(self.network.service("proxyserver")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        while client.is_handshaking() {
            client.complete_io(&mut stream).unwrap();
        }
        let shown = &client.peer_certificates().unwrap()[0];
        self.made.iter().position(|certificate| certificate == shown).unwrap()
    }

    fn newest(&self) -> usize {
        self.made.len() - 1
    }

    /// Waits until the newest certificate is shown; for how long.
    fn await_newest(&self) -> Duration {
        let written = Instant::now();
        until("the newest certificate is shown", || (self.shown() == self.newest()).then_some(()));
        written.elapsed()
    }
}

/// A certificate for localhost by itself, and its key; or `other` in the place of that. As careful programs write: aside, and then renamed.
fn write(folder: &Path, other: Option<&str>) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let key = other.map_or_else(|| key.serialize_pem(), str::to_owned);
    for (name, text) in [("a.crt", certificate.pem()), ("a.key", key)] {
        let new = folder.join(".new");
        fs::write(&new, text).unwrap();
        fs::rename(new, folder.join(name)).unwrap();
    }
    certificate.der().clone()
}

#[test]
fn a_certificate_that_is_written_is_shown_within_two_seconds_and_a_broken_one_is_told_of_and_never_shown() {
    let mut edge = Edge::start();
    assert_eq!(edge.shown(), 0);
    for _ in 0..5 {
        edge.renew();
        let taken = edge.await_newest();
        println!("taken after {taken:?}");
        assert!(taken < TAKEN_TIME_MAX, "{taken:?}");
    }
    let another = KeyPair::generate().unwrap().serialize_pem();
    for (key, told) in [("nonsense", "expected a private key in PEM"), (&another, "not the key of")] {
        write(&edge.folder, Some(key));
        let line = edge.running.hear("a certificate is not taken, the one before goes on");
        assert!(line.contains("a.key"), "{line}");
        edge.running.hear(told);
        assert_eq!(edge.shown(), edge.newest(), "{told}");
    }
    edge.renew();
    edge.await_newest();
}

#[test]
fn a_reload_takes_certificates_at_once_and_is_refused_for_a_broken_one() {
    let mut edge = Edge::start();
    // It serves a moment before it can be asked.
    until("the proxy is asked", || {
        (edge.network.ask("proxyserver", "proxy reload").code == Some(0)).then_some(())
    });
    for _ in 0..5 {
        edge.renew();
        let reloaded = edge.network.ask("proxyserver", "proxy reload");
        assert_eq!(reloaded.code, Some(0), "{}", reloaded.stderr);
        assert_eq!(edge.shown(), edge.newest());
    }
    let another = KeyPair::generate().unwrap().serialize_pem();
    for (key, told) in [("nonsense", "expected a private key in PEM"), (&another, "not the key of")] {
        write(&edge.folder, Some(key));
        let refused = edge.network.ask("proxyserver", "proxy reload");
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains("a.key") && refused.stderr.contains(told), "{}", refused.stderr);
        assert_eq!(edge.shown(), edge.newest());
    }
}
