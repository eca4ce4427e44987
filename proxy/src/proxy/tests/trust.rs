//! Claims about upstreams that are spoken to over TLS: whom a proxy trusts, and what it keeps of them.

use std::{
    future::poll_fn,
    path::Path,
    pin::pin,
    rc::Rc,
    sync::atomic::AtomicUsize,
    task::{Context, Poll},
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    HandshakeKind, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject},
};

use tokio::task::coop::consume_budget;

use super::*;
use crate::{
    certificates::{Watch, seal_by},
    config::Address,
    dial,
    link::Link,
    stream::tls::Shelves,
};

/// What an origin has seen.
#[derive(Default)]
pub(super) struct Seen {
    whole_handshakes: AtomicUsize,
    resumed: AtomicUsize,
    requests: AtomicUsize,
}

impl Seen {
    pub(super) fn counts(&self) -> [usize; 3] {
        [&self.whole_handshakes, &self.resumed, &self.requests].map(|count| count.load(Ordering::SeqCst))
    }
}

/// A certificate for `app` by itself, in a file, and who speaks by it.
pub(super) fn certify(path: &Path) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let made = CertificateParams::new(["app".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(path, made.pem()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.der().clone()], key);
    Arc::new(config.unwrap())
}

/// An origin that answers each request with 200; `/last` ends its connection, and `/cut` ends it in the middle of an answer.
pub(super) fn start_origin(config: Arc<ServerConfig>) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, seen) = (listener.local_addr().unwrap(), Arc::<Seen>::default());
    let shared = seen.clone();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (config, seen) = (config.clone(), shared.clone());
            thread::spawn(move || {
                serve(StreamOwned::new(ServerConnection::new(config).unwrap(), stream), &seen);
            });
        }
    });
    (addr, seen)
}

fn serve(mut stream: StreamOwned<ServerConnection, TcpStream>, seen: &Seen) {
    let mut head = Vec::new();
    let mut is_told = false;
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            head.push(byte[0]);
        }
        if !std::mem::replace(&mut is_told, true) {
            let is_resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
            let count = if is_resumed { &seen.resumed } else { &seen.whole_handshakes };
            count.fetch_add(1, Ordering::SeqCst);
        }
        seen.requests.fetch_add(1, Ordering::SeqCst);
        if head.starts_with(b"GET /cut ") {
            // Without close_notify: its end may be anybody's doing.
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf").unwrap();
            return;
        }
        let is_last = head.starts_with(b"GET /last ");
        let close = if is_last { "Connection: close\r\n" } else { "" };
        write!(stream, "HTTP/1.1 200 OK\r\n{close}Content-Length: 0\r\n\r\n").unwrap();
        if is_last {
            return;
        }
    }
}

/// The status of an answer.
pub(super) fn ask(client: &mut TcpStream, target: &str) -> u16 {
    write!(client, "GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    read_status(client)
}

fn start_trusting(addr: SocketAddr, path: &Path, flags: &str) -> Proxy {
    let flags = format!(
        "--workers=1 --upstream-protocol=app=https --upstream-trust=app=ca:{} {flags}",
        path.display()
    );
    start(&[addr], &flags)
}

#[test]
fn a_connection_is_kept_and_a_session_is_resumed_on_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let (addr, seen) = start_origin(certify(&path));
    let proxy = start_trusting(addr, &path, "");
    let mut client = connect(&proxy);
    assert_eq!(["/", "/", "/last"].map(|target| ask(&mut client, target)), [200; 3]);
    assert_eq!(seen.counts(), [1, 0, 3], "one connection");
    assert_eq!(["/", "/last", "/"].map(|target| ask(&mut client, target)), [200; 3]);
    assert_eq!(seen.counts(), [1, 2, 6], "two more, which go on with the session");
    assert_eq!(sum(&proxy, |stats| &stats.connects), 3);
    proxy.stop();
}

#[test]
fn an_answer_that_ends_without_a_word_of_tls_is_not_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let (addr, _) = start_origin(certify(&path));
    let proxy = start_trusting(addr, &path, "");
    let mut client = connect(&proxy);
    client.write_all(b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let (mut head, mut rest) = (Vec::new(), Vec::new());
    assert!(read_head(&mut client, &mut head));
    let is_chunked = String::from_utf8_lossy(&head).contains("chunked");
    let is_broken_off = client.read_to_end(&mut rest).is_err();
    assert!(
        is_broken_off || is_chunked && !rest.ends_with(b"0\r\n\r\n"),
        "{:?}",
        String::from_utf8_lossy(&rest)
    );
    proxy.stop();
}

#[test]
fn another_plan_uses_nothing_that_was_trusted_by_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let [right, wrong, file] = ["right.pem", "wrong.pem", "proxy.toml"].map(|name| folder.path().join(name));
    let (addr, seen) = start_origin(certify(&right));
    certify(&wrong);
    let text = |path: &Path, protocol: &str| {
        let trust = path.display();
        format!(
            "listen = ['http://127.0.0.1:0=app']\nworkers = 1\nupstream = ['app={addr}']\n\
             upstream-protocol = ['app=https']\nupstream-trust = ['app=ca:{trust}']\n\
             upstream-server-name = ['app={protocol}']\ntimeouts = {{ drain = '10ms', connect = '20s' }}\n"
        )
    };
    std::fs::write(&file, text(&right, "app")).unwrap();
    let args = Cli::try_parse_from(["--config", file.to_str().unwrap()]).unwrap().args;
    let proxy = Proxy::start(&args).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let change = |text: String| {
        std::fs::write(&file, text).unwrap();
        runtime.block_on(proxy.reload(&args)).map(|change| change.to_string())
    };
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "/"), 200);
    assert_eq!(change(text(&wrong, "app")).unwrap(), "~ upstream-trust");
    // The connection that is kept would serve it.
    assert_eq!(ask(&mut connect(&proxy), "/"), 502);
    assert_eq!(
        change(text(&right, "other")).unwrap(),
        "~ upstream-trust, ~ upstream-server-name".replace(", ", "\n")
    );
    assert_eq!(ask(&mut connect(&proxy), "/"), 502);
    assert_eq!(seen.counts(), [1, 0, 1]);
    let refused = change(text(&folder.path().join("none"), "app")).unwrap_err().to_string();
    assert!(refused.contains("proxy.toml:5:19: app: ") && refused.contains("No such file"), "{refused}");
    assert_eq!(ask(&mut connect(&proxy), "/"), 502, "the plan before goes on");
    change(text(&right, "app")).unwrap();
    assert_eq!(ask(&mut connect(&proxy), "/"), 200);
    assert_eq!(seen.counts(), [2, 0, 2], "a session of another plan is not resumed");
    proxy.stop();
}

/// Puts another file in the place of this one, as whole as it is.
pub(super) fn replace(path: &Path, by: &Path) {
    let new = path.with_extension("new");
    std::fs::copy(by, &new).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[test]
fn a_file_of_authorities_that_changes_is_believed_from_then_on_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [right, wrong, broken, file] =
        ["right.pem", "wrong.pem", "broken.pem", "ca.pem"].map(|name| folder.path().join(name));
    let (addr, seen) = start_origin(certify(&right));
    certify(&wrong);
    std::fs::write(&broken, "no certificate").unwrap();
    replace(&file, &right);
    let proxy = start_trusting(addr, &file, "");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut watch = Watch::default();
    let mut look = || {
        let wrong = runtime.block_on(proxy.take_authorities(&mut watch));
        wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let status = || ask(&mut connect(&proxy), "/");
    assert_eq!((look(), status()), (String::new(), 200));
    replace(&file, &wrong);
    assert_eq!((look(), status()), (String::new(), 200), "it may be written still");
    // The connection that is kept would serve it.
    assert_eq!((look(), status()), (String::new(), 502));
    replace(&file, &right);
    assert_eq!([look(), look()], ["", ""]);
    assert_eq!((status(), seen.counts()), (200, [2, 0, 3]), "no session is resumed");
    replace(&file, &broken);
    let told = format!("app: {}: expected certificates of authorities in PEM", file.display());
    assert_eq!([look(), look(), look()], [String::new(), told, String::new()], "told once");
    assert_eq!((status(), seen.counts()), (200, [2, 0, 4]), "the same connection");
    proxy.stop();
}

#[test]
fn what_has_come_on_an_idle_connection_is_seen_by_a_task_that_has_used_up_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let config = certify(&path);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = Address::Ip(listener.local_addr().unwrap());
    let saying = thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
        // Behind the handshake, and unasked.
        stream.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").unwrap();
        stream
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let seal = seal_by(&format!("ca:{}", path.display()));
        let socket = dial::connect(&addr).unwrap();
        let mut link = Link::begin(socket, Some(&seal), &Rc::new(Shelves::new(1))).unwrap();
        poll_fn(|context| link.poll_connected(context)).await.unwrap();
        let _stream = saying.join().unwrap();
        let started = Instant::now();
        let mut look = |context: &mut Context<'_>| {
            while pin!(consume_budget()).poll(context).is_ready() {}
            Poll::Ready(link.is_quiet(context))
        };
        while poll_fn(&mut look).await {
            assert!(started.elapsed() < PATIENCE, "it looks quiet");
            tokio::task::yield_now().await;
        }
    });
}
