//! Routes come and go, with the services that claim them and with a file, and nobody notices who asks for others: not a request, not a
//! WebSocket, not a TCP connection.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::{CLIENTS, short_or_long};
use crate::support::{
    http::{self, Connection},
    load::Load,
    network::Network,
    program::Running,
    stop::Stop,
    wait::{DEADLINE, until},
};

const CONCERTINA: &str = env!("CARGO_BIN_EXE_concertina");

/// Services that come and go beside each other, each with a route of its own.
const COMING: [&str; 3] = ["coming-a1", "coming-b1", "coming-c1"];

const FILE: &str = "proxy.toml";

const RELOAD_PERIOD: Duration = Duration::from_millis(100);

/// Of a thread that echoes.
const STACK_BYTES: usize = 64 * 1024;

/// Who is there all the time, and what they claim.
const STAYING: [(&str, &str); 3] =
    [("appserver1", "/"), ("billing1", "stays.example"), ("sockets1", "sockets.example")];

/// How much of it is played.
struct Extent {
    /// So often each of [`COMING`] comes and goes.
    turns: usize,
    web_sockets: usize,
    sessions: usize,
}

fn extent() -> Extent {
    short_or_long(
        Extent { turns: 10, web_sockets: 50, sessions: 10 },
        Extent { turns: 167, web_sockets: 1000, sessions: 100 },
    )
}

/// A proxy in front of who serves `/`, who serves a host, who echoes, and who is not there yet. The order of the fields is the order in
/// which they go away.
struct Scene {
    addr: SocketAddr,
    tcp: SocketAddr,
    _nodes: Vec<Running>,
    network: Network,
}

impl Scene {
    /// With these flags of the proxy, made of where it listens and of a file's path.
    fn start(flags: impl FnOnce(SocketAddr, SocketAddr, &Path) -> Vec<String>) -> Self {
        take_descriptors();
        let network = Network::claim_alone();
        let addr = network.service("proxyserver");
        let tcp = SocketAddr::new(addr.ip(), addr.port() + 1);
        for node in COMING.into_iter().chain(STAYING.map(|(node, _)| node)) {
            serve(network.service(node), node);
        }
        let flags = flags(addr, tcp, &network.place.join(FILE));
        let proxy: Vec<&str> =
            [CONCERTINA, "proxy"].into_iter().chain(flags.iter().map(String::as_str)).collect();
        let mut nodes = vec![
            network.start("dnsserver"),
            network.wrap("proxyserver", &network.join("proxyserver"), &proxy),
        ];
        nodes.extend(STAYING.map(|(node, route)| beside(&network, node, route)));
        let scene = Self { addr, tcp, _nodes: nodes, network };
        for (node, route) in STAYING {
            let host = if route == "/" { "a" } else { route };
            scene.hear(host, "/hello", node);
        }
        scene
    }

    fn file(&self) -> PathBuf {
        self.network.place.join(FILE)
    }

    /// Asks until this node answers.
    fn hear(&self, host: &str, path: &str, node: &str) {
        until(&format!("{host}{path} is {node}'s"), || {
            let answer = http::get_of(self.addr, host, path).ok()?;
            (answer.status == 200 && answer.body == node).then_some(())
        });
    }

    /// A service comes, has its route, and goes.
    fn come_and_go(&self, node: &str) {
        let path = path(node);
        let mut sidecar = beside(&self.network, node, &path);
        self.hear("a", &path, node);
        sidecar.signal(Signal::TERM);
        assert_eq!(sidecar.ended().code(), Some(0), "{}", sidecar.said());
        self.hear("a", &path, "appserver1");
    }

    /// WebSockets and TCP sessions of a service that stays.
    fn open(&self, web_sockets: usize, sessions: usize) -> Vec<TcpStream> {
        let web_sockets = (0..web_sockets).map(|_| {
            let mut stream = connect(self.addr);
            let ask = "GET / HTTP/1.1\r\nHost: sockets.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(ask.as_bytes()).unwrap();
            let head = read_head(&mut stream).unwrap();
            assert!(head.starts_with("HTTP/1.1 101"), "{head}");
            stream
        });
        web_sockets.chain((0..sessions).map(|_| connect(self.tcp))).collect()
    }
}

/// What one of [`COMING`] claims. Whoever serves `/` answers it otherwise.
fn path(node: &str) -> String {
    format!("/hello/{node}")
}

fn claiming(network: &Network, node: &str, route: &str) -> Vec<String> {
    [network.join(node), vec!["--route".to_owned(), route.to_owned()]].concat()
}

/// A sidecar of what this process serves.
fn beside(network: &Network, node: &str, route: &str) -> Running {
    network.run(node, network.sidecar(node, &claiming(network, node, route), &[]))
}

/// Answers requests with its name, and echoes what comes on a WebSocket, and on a connection that begins with a zero.
fn serve(addr: SocketAddr, name: &'static str) {
    let listener = TcpListener::bind(addr).unwrap();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            let serve = move || {
                while !is_raw(&stream) {
                    let Some(head) = read_head(&mut stream) else { return };
                    let is_last = head.contains("websocket");
                    let switch = "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                    let said = if is_last { switch } else { &answer };
                    if stream.write_all(said.as_bytes()).is_err() {
                        return;
                    }
                    if is_last {
                        break;
                    }
                }
                let mut room = [0; 64];
                while let Ok(count @ 1..) = stream.read(&mut room) {
                    if stream.write_all(&room[..count]).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new().stack_size(STACK_BYTES).spawn(serve).unwrap();
        }
    });
}

/// Whether what comes next is no request.
fn is_raw(stream: &TcpStream) -> bool {
    let mut first = [1];
    stream.peek(&mut first).is_ok_and(|count| count == 1) && first == [0]
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Says a number, whose first byte is zero, and hears it again.
fn echoes(stream: &mut TcpStream, number: usize) -> bool {
    let (said, mut heard) = ((number as u64).to_be_bytes(), [1; 8]);
    stream.write_all(&said).is_ok() && stream.read_exact(&mut heard).is_ok() && heard == said
}

/// Answers by their status, of a client that keeps its connection.
#[derive(Default)]
struct Answers {
    found: AtomicU64,
    unavailable: AtomicU64,
}

impl Answers {
    /// Asks until it is told to stop. Every answer is one of the two.
    fn ask(&self, addr: SocketAddr, host: &str, path: &str, stopping: &AtomicBool) {
        let mut kept = None;
        while !stopping.load(Ordering::Relaxed) {
            let mut connection = kept.take().unwrap_or_else(|| Connection::open(addr).unwrap());
            let answer =
                connection.get_of(host, path).unwrap_or_else(|error| panic!("{host}{path}: {error}"));
            let counter = match answer.status {
                200 => &self.found,
                503 => &self.unavailable,
                _ => panic!("{host}{path}: {answer:?}"),
            };
            counter.fetch_add(1, Ordering::Relaxed);
            kept = (!answer.is_last()).then_some(connection);
        }
    }

    fn counts(&self) -> (u64, u64) {
        (self.found.load(Ordering::Relaxed), self.unavailable.load(Ordering::Relaxed))
    }
}

/// Many connections have both ends here.
fn take_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// Has everybody ask who has nothing to do with what happens, with sockets open before and after it; it says what it was.
fn nobody_elsewhere_notices(scene: &Scene, happens: impl FnOnce() -> String) {
    let Extent { web_sockets, sessions, .. } = extent();
    let mut open = scene.open(web_sockets, sessions);
    let still_open = |open: &mut [TcpStream]| {
        open.iter_mut()
            .enumerate()
            .filter_map(|(number, stream)| echoes(stream, number).then_some(()))
            .count()
    };
    assert_eq!(still_open(&mut open), web_sockets + sessions);
    // Of `/`, by clients here and by wrk.
    let load = Load::start(scene.addr, CLIENTS / 4);
    let (stopping, stays) = (AtomicBool::new(false), Answers::default());
    let while_this = thread::scope(|scope| {
        let stop = Stop(&stopping);
        scope.spawn(|| stays.ask(scene.addr, "stays.example", "/hello", &stopping));
        load.goes_on();
        let while_this = happens();
        drop(stop);
        while_this
    });
    let (stayed, failed) = stays.counts();
    println!(
        "{while_this}: {stayed} requests of another host served, {failed} failed; {web_sockets} WebSockets and {sessions} TCP \
         sessions stayed open"
    );
    assert_eq!((still_open(&mut open), failed), (web_sockets + sessions, 0));
    assert!(stayed > 0);
    load.goes_on();
    load.assert_lossless(&while_this);
}

#[test]
fn routes_that_come_and_go_cost_nobody_anything_who_is_elsewhere() {
    let turns = extent().turns;
    let scene = Scene::start(|addr, tcp, _| {
        vec![
            "--listen".to_owned(),
            format!("http://{addr}"),
            "--listen".to_owned(),
            format!("tcp://{tcp}=sockets"),
        ]
    });
    nobody_elsewhere_notices(&scene, || {
        let (stopping, comes) = (AtomicBool::new(false), Answers::default());
        thread::scope(|scope| {
            let stop = Stop(&stopping);
            let (scene, comes, stopping) = (&scene, &comes, &stopping);
            let coming = COMING.map(|node| {
                scope.spawn(move || comes.ask(scene.addr, "a", &path(node), stopping));
                scope.spawn(move || (0..turns).for_each(|_| scene.come_and_go(node)))
            });
            coming.into_iter().for_each(|coming| coming.join().unwrap());
            drop(stop);
        });
        let (found, unavailable) = comes.counts();
        assert!(found > 0);
        format!(
            "{} times a route came and went ({found} requests there served, {unavailable} told that nobody is ready)",
            COMING.len() * turns
        )
    });
}

/// The file in its different states: routes, listeners, rules and timeouts come and go, and those of the clients stay.
fn file(turn: u32, addr: SocketAddr, tcp: SocketAddr) -> String {
    let spare = SocketAddr::new(addr.ip(), addr.port() + 2);
    let more = if turn.is_multiple_of(2) { format!(", 'http://{spare}=appserver'") } else { String::new() };
    let rules = ["", "strip-prefix = true", "hsts-seconds = 60\nretries = false"][turn as usize % 3];
    let routes: String = (0..turn % 5)
        .map(|route| format!("[[route]]\nmatch = 'r{route}.example'\nrole = 'appserver'\n{rules}\n"))
        .collect();
    format!(
        "listen = ['http://{addr}', 'tcp://{tcp}=sockets'{more}]\nretry-percent = {}\n\
         timeouts = {{ idle = '{}s' }}\n{routes}",
        20 + turn % 7,
        60 + turn % 3
    )
}

#[test]
fn a_file_that_is_read_again_ten_times_a_second_costs_nobody_anything() {
    let time = Duration::from_secs(short_or_long(2, 60));
    let scene = Scene::start(|addr, tcp, file_path| {
        fs::write(file_path, file(0, addr, tcp)).unwrap();
        vec!["--config".to_owned(), file_path.display().to_string()]
    });
    nobody_elsewhere_notices(&scene, || {
        let (started, mut turn) = (Instant::now(), 0);
        while started.elapsed() < time {
            turn += 1;
            fs::write(scene.file(), file(turn, scene.addr, scene.tcp)).unwrap();
            let reloaded = scene.network.ask("proxyserver", "proxy reload");
            assert_eq!(reloaded.code, Some(0), "{reloaded:?}");
            thread::sleep((started + RELOAD_PERIOD * turn).saturating_duration_since(Instant::now()));
        }
        format!("{turn} reloads in {:?}", started.elapsed())
    });
}
