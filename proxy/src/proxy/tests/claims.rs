//! Claims about endpoints that say themselves what they speak.

use std::path::Path;

use feed::{EndpointProtocol, follow::Consumer};

use super::{
    origins, trust,
    trust::{ask, certify, replace},
    *,
};
use crate::{
    certificates::Watch,
    upstream::{claim::Claim, follow::Follower},
};

/// A proxy for the role `app` that is told nothing of its endpoints but what is in a file.
struct Scene {
    proxy: Proxy,
    args: Args,
    file: std::path::PathBuf,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Scene {
    fn start(said: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("proxy.toml");
        std::fs::write(&file, Self::text(said)).unwrap();
        let args = Cli::try_parse_from(["--config", file.to_str().unwrap()]).unwrap().args;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { proxy: Proxy::start(&args).unwrap(), args, file, runtime, folder }
    }

    fn text(said: &str) -> String {
        format!(
            "listen = ['http://127.0.0.1:0=app']\nworkers = 1\n\
             timeouts = {{ drain = '10ms', queue = '20s', connect = '20s' }}\n{said}\n"
        )
    }

    /// The feed tells of endpoints with these claims.
    fn tell(&self, endpoints: &[(SocketAddr, Option<EndpointProtocol>)]) {
        let endpoint = |(position, (addr, protocol)): (usize, &(SocketAddr, Option<EndpointProtocol>))| {
            Endpoint { protocol: *protocol, ..fixed_endpoint(position, &(*addr).into()) }
        };
        let endpoints = endpoints.iter().enumerate().map(endpoint).collect();
        let mut follower = Follower { sources: self.proxy.sources.clone(), tickets: None };
        let table = RoleTable::new("app".parse().unwrap(), 1, endpoints);
        self.runtime.block_on(follower.apply_table(&table));
    }

    fn reload(&self, said: &str) {
        std::fs::write(&self.file, Self::text(said)).unwrap();
        self.runtime.block_on(self.proxy.reload(&self.args)).unwrap();
    }

    /// The status of an answer on a connection of its own.
    fn status(&self) -> u16 {
        ask(&mut connect(&self.proxy), "/")
    }
}

fn trusting(path: &Path) -> String {
    format!("upstream-trust = ['app=ca:{}']", path.display())
}

#[test]
fn each_endpoint_of_a_role_is_spoken_to_as_it_claims() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let (sealed, tls) = trust::start_origin(certify(&path));
    let (streamed, streams) = origins::start_origin(100, async |_, _, respond| {
        origins::answer(respond, b"").await;
    });
    let plain = Upstream::start(b'x');
    let scene = Scene::start(&trusting(&path));
    scene.tell(&[
        (sealed, Some(EndpointProtocol::Https)),
        (streamed, Some(EndpointProtocol::H2c)),
        (plain.addr, Some(EndpointProtocol::Http)),
        (plain.addr, None),
    ]);
    let begun = std::time::Instant::now();
    let has_all = || {
        let counts = [tls.counts()[2], streams.streams(), plain.most.load(Ordering::SeqCst) as usize];
        counts.iter().all(|count| *count > 0)
    };
    while !has_all() {
        assert!(begun.elapsed() < PATIENCE, "each has its share");
        assert_eq!(scene.status(), 200);
    }
    scene.proxy.stop();
}

#[test]
fn what_the_plan_says_of_a_role_goes_before_what_its_endpoints_claim() {
    let upstream = Upstream::start(b'x');
    let scene = Scene::start("");
    scene.tell(&[(upstream.addr, Some(EndpointProtocol::H2c))]);
    assert_eq!(scene.status(), 502, "it does not speak what it claims");
    scene.reload("upstream-protocol = ['app=http']");
    assert_eq!(scene.status(), 200);
    scene.reload("");
    assert_eq!(scene.status(), 502);
    scene.tell(&[(upstream.addr, None)]);
    assert_eq!(scene.status(), 200);
    scene.proxy.stop();
}

#[test]
fn another_trust_holds_for_what_is_claimed_and_nothing_of_the_one_before_is_used() {
    let scene = Scene::start("");
    let [right, wrong] = ["right.pem", "wrong.pem"].map(|name| scene.folder.path().join(name));
    let (addr, seen) = trust::start_origin(certify(&right));
    certify(&wrong);
    scene.reload(&trusting(&right));
    scene.tell(&[(addr, Some(EndpointProtocol::Https))]);
    assert_eq!([scene.status(), scene.status()], [200; 2]);
    assert_eq!(seen.counts(), [1, 0, 2], "one connection");
    scene.reload(&format!("retry-percent = 7\n{}", trusting(&right)));
    assert_eq!(scene.status(), 200);
    assert_eq!(seen.counts(), [1, 0, 3], "the same trust, and the same connection");
    scene.reload(&trusting(&wrong));
    assert_eq!(scene.status(), 502);
    assert_eq!(seen.counts(), [1, 0, 3]);
    scene.reload(&trusting(&right));
    assert_eq!(scene.status(), 200);
    assert_eq!(seen.counts(), [2, 0, 4]);
    scene.proxy.stop();
}

#[test]
fn what_is_claimed_goes_by_a_file_of_authorities_that_changes() {
    let scene = Scene::start("");
    let [right, wrong, file] =
        ["right.pem", "wrong.pem", "ca.pem"].map(|name| scene.folder.path().join(name));
    let (addr, _) = trust::start_origin(certify(&right));
    certify(&wrong);
    replace(&file, &wrong);
    scene.reload(&trusting(&file));
    scene.tell(&[(addr, Some(EndpointProtocol::Https))]);
    let mut watch = Watch::default();
    let mut status_with = |path: &Path| {
        replace(&file, path);
        for _ in 0..2 {
            assert!(scene.runtime.block_on(scene.proxy.take_authorities(&mut watch)).is_empty());
        }
        scene.status()
    };
    assert_eq!([&wrong, &right, &wrong].map(|path| status_with(path)), [502, 200, 502]);
    // Of a table that comes afterwards, too.
    scene.tell(&[(addr, Some(EndpointProtocol::Https))]);
    assert_eq!(scene.status(), 502);
    scene.proxy.stop();
}

/// Somebody who hears the first byte of each connection, and ends it.
fn listen() -> (SocketAddr, mpsc::Receiver<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, (told, heard)) = (listener.local_addr().unwrap(), mpsc::channel());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_ok() && told.send(byte[0]).is_err() {
                return;
            }
        }
    });
    (addr, heard)
}

#[test]
fn who_claims_tls_is_never_spoken_to_in_the_clear() {
    const HANDSHAKE: u8 = 22;
    let scene = Scene::start("");
    let path = scene.folder.path().join("ca.pem");
    certify(&path);
    scene.reload(&trusting(&path));
    let (addr, heard) = listen();
    for claim in [EndpointProtocol::Https, EndpointProtocol::H2] {
        scene.tell(&[(addr, Some(claim))]);
        assert_eq!(scene.status(), 502);
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(HANDSHAKE));
        while let Ok(byte) = heard.try_recv() {
            assert_eq!(byte, HANDSHAKE, "asked again");
        }
    }
    // Where there are no authorities at all, not even that: somebody else is asked, if there is anybody.
    let role = scene.proxy.sources.directory().role("app").unwrap();
    let plain = Upstream::start(b'x');
    let publish = |count: usize| {
        let addrs = [addr, plain.addr];
        let endpoints = addrs.iter().enumerate().map(|(i, addr)| fixed_endpoint(i, &(*addr).into()));
        let table = RoleTable::new(role.name.clone(), 2, endpoints.take(count).collect());
        let nobody = Claim { protocol: EndpointProtocol::Https, terms: None };
        let version = role.publish_at(&table, |listed| {
            (listed.addr.into(), Some(nobody.clone()).filter(|_| listed.addr == addr))
        });
        scene.runtime.block_on(role.wait_version(version));
    };
    publish(1);
    assert_eq!(scene.status(), 502);
    publish(2);
    assert_eq!([(); 8].map(|()| scene.status()), [200; 8]);
    scene.proxy.stop();
    assert!(heard.try_recv().is_err());
}
