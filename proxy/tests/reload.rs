//! A proxy whose plan changes ten times a second: nobody notices who has nothing to do with what changes.
//!
//! `CONCERTINA_LONG=1` plays a minute of it, with a thousand WebSockets and a hundred TCP sessions.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clap::Parser;
use proxy::{Args, Proxy};

const PATIENCE: Duration = Duration::from_secs(20);
const CHANGE_PERIOD: Duration = Duration::from_millis(100);
const CLIENTS: usize = 8;

#[derive(clap::Parser)]
#[command(no_binary_name = true)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

/// How much of it is played.
struct Extent {
    time: Duration,
    web_sockets: usize,
    sessions: usize,
}

fn extent() -> Extent {
    if std::env::var_os("CONCERTINA_LONG").is_some() {
        return Extent { time: Duration::from_secs(60), web_sockets: 1000, sessions: 100 };
    }
    Extent { time: Duration::from_secs(2), web_sockets: 100, sessions: 20 }
}

fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(head)
}

/// An origin that answers requests, echoes what is behind an upgrade, and everything where no request is to come.
fn start_origin(is_http: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let builder = thread::Builder::new().stack_size(64 * 1024);
            let serve = move || {
                if is_http && !answer_until_upgrade(&mut stream) {
                    return;
                }
                let mut room = [0; 64];
                while let Ok(count @ 1..) = stream.read(&mut room) {
                    stream.write_all(&room[..count]).unwrap();
                }
            };
            drop(builder.spawn(serve).unwrap());
        }
    });
    addr
}

/// Answers requests until one asks for a WebSocket; false where none does.
fn answer_until_upgrade(stream: &mut TcpStream) -> bool {
    while let Some(head) = read_head(stream) {
        if head.windows(9).any(|part| part == b"websocket") {
            let switch = "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(switch.as_bytes()).unwrap();
            return true;
        }
        stream.write_all(b"HTTP/1.1 200 x\r\nContent-Length: 2\r\n\r\nok").unwrap();
    }
    false
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn open_web_socket(addr: SocketAddr) -> TcpStream {
    let mut stream = connect(addr);
    let ask = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let head = read_head(&mut stream).unwrap();
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Says a number and hears it again.
fn echoes(stream: &mut TcpStream, number: u64) -> bool {
    let mut heard = [0; 8];
    stream.write_all(&number.to_be_bytes()).is_ok()
        && stream.read_exact(&mut heard).is_ok()
        && heard == number.to_be_bytes()
}

/// The file in its different states: routes, listeners, rules and timeouts come and go, and those of the clients stay.
fn text(turn: u64, [http, tcp, spare]: [SocketAddr; 3], [web, db]: [SocketAddr; 2]) -> String {
    let more = if turn.is_multiple_of(2) { format!(", 'http://{spare}=web'") } else { String::new() };
    let mut routes = String::from("{ match = '/', role = 'web' }, { match = '/ws', role = 'web' }");
    for route in 0..turn % 5 {
        let rules = ["", ", strip-prefix = true", ", hsts-seconds = 60, retries = false"];
        routes += &format!(", {{ match = '/r{route}', role = 'web'{} }}", rules[turn as usize % 3]);
    }
    format!(
        "listen = ['http://{http}', 'tcp://{tcp}=db'{more}]\nupstream = ['web={web}', 'db={db}']\nworkers = 2\n\
         retry-percent = {}\ntimeouts = {{ idle = '{}s', drain = '10ms' }}\nroute = [{routes}]\n",
        20 + turn % 7,
        60 + turn % 3
    )
}

/// Clients that ask all the time, half of them each time on a new connection.
fn start_clients(
    addr: SocketAddr,
    stopping: &Arc<AtomicBool>,
    answers: &Arc<AtomicU64>,
) -> Vec<JoinHandle<()>> {
    let client = |id: usize| {
        let (stopping, answers) = (stopping.clone(), answers.clone());
        thread::spawn(move || {
            let mut kept = None;
            while !stopping.load(Ordering::Relaxed) {
                let mut stream = kept.take().unwrap_or_else(|| connect(addr));
                stream.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                let head = read_head(&mut stream).expect("an answer");
                assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
                stream.read_exact(&mut [0; 2]).unwrap();
                answers.fetch_add(1, Ordering::Relaxed);
                kept = Some(stream).filter(|_| id.is_multiple_of(2));
            }
        })
    };
    (0..CLIENTS).map(client).collect()
}

fn change(proxy: &Proxy, args: &Args, path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { proxy.change(args.plan().unwrap()).await }).unwrap();
}

#[test]
fn a_plan_that_changes_ten_times_a_second_loses_no_request_and_closes_no_connection() {
    let Extent { time, web_sockets, sessions } = extent();
    // Of this process alone: at the usual address a client's end may get a port while nobody listens there.
    let [.., high, low] = std::process::id().to_be_bytes();
    let own_ip = Ipv4Addr::new(127, 84, high, low);
    let held: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind((own_ip, 0)).unwrap()).collect();
    let addrs: Vec<SocketAddr> = held.iter().map(|held| held.local_addr().unwrap()).collect();
    let (addrs, origins) = ([addrs[0], addrs[1], addrs[2]], [start_origin(true), start_origin(false)]);
    drop(held);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.toml");
    std::fs::write(&path, text(0, addrs, origins)).unwrap();
    let args = Flags::parse_from(["--config", path.to_str().unwrap()]).args;
    let proxy = Proxy::start(&args).unwrap();
    let mut open: Vec<TcpStream> = (0..web_sockets).map(|_| open_web_socket(addrs[0])).collect();
    open.extend((0..sessions).map(|_| connect(addrs[1])));
    let (stopping, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = start_clients(addrs[0], &stopping, &answers);
    let (started, mut turn) = (Instant::now(), 0);
    while started.elapsed() < time {
        turn += 1;
        change(&proxy, &args, &path, &text(turn, addrs, origins));
        let next = started + CHANGE_PERIOD * u32::try_from(turn).unwrap();
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let alive = open.iter_mut().enumerate().filter_map(|(i, stream)| echoes(stream, i as u64).then_some(()));
    assert_eq!(alive.count(), web_sockets + sessions);
    stopping.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    println!(
        "{turn} changes, {} requests served, {web_sockets} WebSockets and {sessions} TCP sessions open",
        answers.load(Ordering::Relaxed)
    );
    drop(open);
    proxy.stop();
}
