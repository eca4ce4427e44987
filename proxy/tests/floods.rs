//! Clients of HTTP/2 that go on with what costs more than it brings: each is let go soon, is counted by its word, has taken little time
//! of the worker's, and was hardly seen by the origin.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "floods/frames.rs"]
mod frames;
#[path = "floods/upstreams.rs"]
mod upstreams;

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use frames::{
    BEGIN, CONTINUATION, DATA, END_HEADERS, GET, GOAWAY, HEADERS, PING, POST, PRIORITY, RST_STREAM, SETTINGS,
    bomb, crumbs, frame, get, grant, read, reset, stream, swollen,
};
use proxy::{
    Args, Proxy,
    limits::{H2_CREDIT_MAX, H2_LOCAL_RESETS_COUNT_MAX, H2_STREAMS_COUNT_MAX},
};

/// How long anything may take before it has failed, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

/// Frames, or groups of them, that a client would send if it was let.
const FRAMES_COUNT: u32 = 100_000;

/// What `ENHANCE_YOUR_CALM` is as a number (RFC 9113 7).
const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];

/// Processor time that a worker may spend on a flood, in a debug build: a hundred thousand pings that are answered take twice as much, and
/// what is let go soon a tenth.
const WORKER_TIME_MAX: Duration = Duration::from_millis(150);

#[derive(clap::Parser)]
#[command(no_binary_name = true)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

/// A proxy before an origin that counts. One at a time, since the time of its worker is looked at.
struct Scene {
    proxy: Proxy,
    requests: Arc<AtomicUsize>,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Scene {
    /// The origin answers each request with this, if that is anything.
    fn new(answer: &'static str, timeouts: &str) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = Arc::new(AtomicUsize::new(0));
        let origin = start_origin(answer, requests.clone());
        let flags = format!(
            "--listen=h2c://127.0.0.1:0=app --upstream=app={origin} --workers=1 --timeouts=drain=10ms{timeouts}"
        );
        let proxy = Proxy::start(&Flags::try_parse_from(flags.split(' ')).unwrap().args).unwrap();
        Self { proxy, requests, _alone: alone }
    }

    fn connect(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.proxy.addrs()[0]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(BEGIN).unwrap();
        stream
    }

    /// Waits until one of this kind was counted, and nothing else.
    fn expect_counted(&self, word: &str) {
        let line = format!("concertina_proxy_h2_floods_total{{reason=\"{word}\"}} 1");
        let counted = || -> Vec<String> {
            let metrics = self.proxy.metrics();
            metrics
                .lines()
                .filter(|l| l.starts_with("concertina_proxy_h2_floods_total{"))
                .map(str::to_owned)
                .collect()
        };
        let started = Instant::now();
        while counted() != [line.as_str()] {
            assert!(started.elapsed() < PATIENCE, "{line}: {:?}", counted());
            thread::sleep(Duration::from_millis(1));
        }
        assert!(self.proxy.summary().contains(&format!(" h2_floods_{word}=1")), "{}", self.proxy.summary());
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Each connection is read to its end.
fn start_origin(answer: &'static str, requests: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let requests = requests.clone();
            thread::spawn(move || {
                let (mut seen, mut room) = (Vec::new(), [0; 4096]);
                while let Ok(count @ 1..) = stream.read(&mut room) {
                    seen.extend_from_slice(&room[..count]);
                    while let Some(end) = seen.windows(4).position(|part| part == b"\r\n\r\n") {
                        seen.drain(..end + 4);
                        requests.fetch_add(1, Ordering::Relaxed);
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    addr
}

/// Processor time of the workers of this process.
fn workers_time() -> Duration {
    let mut ticks = 0;
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.split_once(") ") else { continue };
        if name.contains("(worker-") {
            // Behind the state: user and system time are fields 14 and 15.
            ticks += rest.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum::<u64>();
        }
    }
    // A hundredth of a second each, as the kernel tells everybody.
    Duration::from_millis(10 * ticks)
}

/// Reads to the end, whichever it is; what was told.
fn read_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut told = Vec::new();
    let ended = stream.read_to_end(&mut told);
    assert!(!matches!(&ended, Err(error) if error.kind() == ErrorKind::WouldBlock), "it was borne");
    told
}

/// Sends this again and again, until the other side has had enough.
fn flood(stream: &mut TcpStream, piece: &dyn Fn(u32) -> Vec<u8>) {
    let mut reader = stream.try_clone().unwrap();
    let reading = thread::spawn(move || read_end(&mut reader));
    let mut batch = Vec::new();
    for number in 0..FRAMES_COUNT {
        batch.extend(piece(number));
        if batch.len() > 16 * 1024 || number + 1 == FRAMES_COUNT {
            if stream.write_all(&batch).is_err() {
                break;
            }
            batch.clear();
        }
    }
    reading.join().unwrap();
}

/// What a client sends at this position.
type Piece = Box<dyn Fn(u32) -> Vec<u8>>;

const EMPTY_ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[test]
fn each_flood_ends_soon_by_its_word_and_costs_little_here_and_at_the_origin() {
    let post = || frame(HEADERS, END_HEADERS, 1, POST);
    // A grant beyond what a window can be is a fault of its stream (RFC 9113 6.9.1).
    let fault = |id| [get(id), grant(id, 0x7fff_ffff)].concat();
    let cases: [(&str, Vec<u8>, Piece, usize); 15] = [
        ("rapid_resets", vec![], Box::new(|n| [get(stream(n)), reset(stream(n))].concat()), 500),
        ("forced_resets", vec![], Box::new(move |n| fault(stream(n))), 200),
        ("heads", fault(1), Box::new(|_| get(1)), 1),
        ("continuations", frame(HEADERS, 0, 1, GET), Box::new(|_| frame(CONTINUATION, 0, 1, &[])), 0),
        ("fields", vec![], Box::new(|_| bomb(40)), 0),
        ("fields", swollen(), Box::new(|_| frame(CONTINUATION, 0, 1, &[b'y'; 16_384])), 0),
        ("data", post(), Box::new(|_| frame(DATA, 0, 1, &[])), 1),
        ("data", post(), Box::new(|n| frame(DATA, 0, 1, b"x").repeat(if n < 20 { 5000 } else { 0 })), 1),
        ("goodbyes", post(), Box::new(|_| frame(GOAWAY, 0, 0, &[0; 8])), 1),
        ("pings", vec![], Box::new(|_| frame(PING, 0, 0, &[0; 8])), 0),
        ("pings", vec![], Box::new(|_| frame(PING, 1, 0, &[0; 8])), 0),
        ("settings", vec![], Box::new(|_| frame(SETTINGS, 0, 0, &[])), 0),
        ("windows", vec![], Box::new(|_| grant(0, 1)), 0),
        ("priorities", vec![], Box::new(|n| frame(PRIORITY, 0, stream(n), &[0, 0, 0, 0, 1])), 0),
        ("unknown", vec![], Box::new(|n| frame(0xfa, 0, n, &[0; 100])), 0),
    ];
    for (word, first, piece, requests_max) in cases {
        let scene = Scene::new(EMPTY_ANSWER, "");
        let mut client = scene.connect();
        client.write_all(&first).unwrap();
        let before = workers_time();
        flood(&mut client, &piece);
        scene.expect_counted(word);
        let (spent, requests) = (workers_time().saturating_sub(before), scene.requests());
        println!("{word}: {spent:?} of the worker's time, {requests} requests at the origin");
        assert!(spent <= WORKER_TIME_MAX, "{word}: {spent:?}");
        assert!(requests <= requests_max, "{word}: {requests} of {FRAMES_COUNT} requests");
        // Others are served.
        let mut other = scene.connect();
        other.write_all(&get(1)).unwrap();
        expect_answer(&mut other);
        scene.proxy.stop();
    }
}

/// Reads until there is the head of an answer.
fn expect_answer(stream: &mut TcpStream) {
    expect(stream, |kind, _| kind == HEADERS);
}

/// Reads until there is such a frame.
fn expect(stream: &mut TcpStream, is_it: impl Fn(u8, &[u8]) -> bool) {
    let (mut told, mut room) = (Vec::new(), [0; 4096]);
    while !read(&told).iter().any(|(kind, payload)| is_it(*kind, payload)) {
        let count = stream.read(&mut room).unwrap();
        assert!(count > 0, "not told: {told:?}");
        told.extend_from_slice(&room[..count]);
    }
}

#[test]
fn a_client_that_has_had_enough_is_told_so_and_one_at_the_limit_is_served() {
    let scene = Scene::new(EMPTY_ANSWER, "");
    let pings = |count: usize| frame(PING, 0, 0, &[0; 8]).repeat(count);
    let limit = usize::try_from(H2_CREDIT_MAX).unwrap();
    let mut client = scene.connect();
    client.write_all(&[pings(limit), get(1)].concat()).unwrap();
    expect_answer(&mut client);
    let mut client = scene.connect();
    // What time pays for between two reads is little.
    client.write_all(&pings(limit + 100)).unwrap();
    let told = read(&read_end(&mut client));
    let goodbye = told.iter().find(|(kind, _)| *kind == GOAWAY).expect("a GOAWAY");
    assert_eq!(goodbye.1[4..8], ENHANCE_YOUR_CALM);
    scene.expect_counted("pings");
    scene.proxy.stop();
}

#[test]
fn streams_beyond_those_that_a_client_may_have_are_borne_so_often_and_no_more() {
    // It answers nothing, so that all of them last.
    let scene = Scene::new("", "");
    let mut client = scene.connect();
    let limit = H2_STREAMS_COUNT_MAX + u32::try_from(H2_LOCAL_RESETS_COUNT_MAX).unwrap();
    let before = workers_time();
    let heads: Vec<u8> = (0..limit).flat_map(|number| get(stream(number))).collect();
    client.write_all(&[heads, frame(PING, 0, 0, &[7; 8])].concat()).unwrap();
    expect(&mut client, |kind, payload| kind == PING && payload == [7; 8]);
    client.write_all(&get(stream(limit))).unwrap();
    expect(&mut client, |kind, payload| kind == GOAWAY && payload[4..8] == ENHANCE_YOUR_CALM);
    drop(client);
    scene.expect_counted("streams");
    let (spent, requests) = (workers_time().saturating_sub(before), scene.requests());
    println!("streams: {spent:?} of the worker's time, {requests} requests at the origin");
    assert!(spent <= WORKER_TIME_MAX && requests <= H2_STREAMS_COUNT_MAX as usize, "{spent:?}, {requests}");
    scene.proxy.stop();
}

#[test]
fn the_crumbs_of_a_cookie_count_as_fields_and_are_one_at_the_origin() {
    let scene = Scene::new(EMPTY_ANSWER, "");
    let mut client = scene.connect();
    // 32 KiB, of which each crumb is the two words and 32 bytes besides (RFC 7541 4.1).
    client.write_all(&crumbs(1, 780)).unwrap();
    expect(&mut client, |kind, payload| kind == HEADERS && payload[0] == 0x88);
    client.write_all(&crumbs(3, 820)).unwrap();
    // 431, by the name of the status in HPACK's table and three digits.
    expect(&mut client, |kind, payload| kind == HEADERS && payload[0] != 0x88);
    assert_eq!(scene.requests(), 1);
    scene.proxy.stop();
}

#[test]
fn resets_one_after_another_of_requests_that_are_under_way_are_a_flood_too() {
    // It answers nothing.
    let scene = Scene::new("", "");
    let mut client = scene.connect();
    let mut reader = client.try_clone().unwrap();
    let ended = thread::spawn(move || read_end(&mut reader));
    let before = workers_time();
    let mut sent = 0;
    while !ended.is_finished() && sent < 10_000 {
        if client.write_all(&get(stream(sent))).is_err() {
            break;
        }
        // The request is taken up, so that its reset is none of one that waits.
        let started = Instant::now();
        while scene.requests() <= sent as usize && !ended.is_finished() && started.elapsed() < PATIENCE {
            thread::yield_now();
        }
        if client.write_all(&reset(stream(sent))).is_err() {
            break;
        }
        sent += 1;
    }
    ended.join().unwrap();
    scene.expect_counted("resets");
    let (spent, requests) = (workers_time().saturating_sub(before), scene.requests());
    println!("resets one by one: {spent:?} of the worker's time, {requests} requests at the origin");
    // Half the credit, and what time has paid for meanwhile.
    assert!(requests < 1000, "{requests} requests");
    scene.proxy.stop();
}

#[test]
fn a_head_that_trickles_ends_its_connection_whatever_else_is_under_way() {
    let scene = Scene::new("", ",header=300ms");
    for trickle in [&frame(HEADERS, 0, 3, &GET[..2])[..], &frame(HEADERS, END_HEADERS, 3, &[0x82; 50])[..15]]
    {
        let mut client = scene.connect();
        client.write_all(&[&get(1), trickle].concat()).unwrap();
        let mut reader = client.try_clone().unwrap();
        let ended = thread::spawn(move || read_end(&mut reader));
        let started = Instant::now();
        while !ended.is_finished() && started.elapsed() < PATIENCE {
            // A byte of it now and then, or a frame of CONTINUATION without end: it gets no younger by that.
            let more = if trickle.len() == 15 { vec![0x82] } else { vec![] };
            let _ = client.write_all(&more);
            thread::sleep(Duration::from_millis(20));
        }
        let told = ended.join().unwrap();
        assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
        assert!(
            read(&told).iter().any(|(kind, payload)| *kind == GOAWAY && payload[4..8] == ENHANCE_YOUR_CALM)
        );
    }
    let line = "concertina_proxy_h2_floods_total{reason=\"head\"} 2";
    assert!(scene.proxy.metrics().contains(line), "{}", scene.proxy.summary());
    scene.proxy.stop();
}

/// 100 bytes.
const LONG_ANSWER: &str = concat!(
    "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
);

#[test]
fn a_client_that_makes_no_room_or_only_crumbs_of_it_has_its_stream_reset() {
    for is_dribbling in [false, true] {
        let scene = Scene::new(LONG_ANSWER, ",body=300ms,idle=300ms");
        let mut client = scene.connect();
        // INITIAL_WINDOW_SIZE of 0.
        client.write_all(&[frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), get(1)].concat()).unwrap();
        let mut reader = client.try_clone().unwrap();
        let ended = thread::spawn(move || read_end(&mut reader));
        while is_dribbling && !ended.is_finished() {
            let _ = client.write_all(&grant(1, 1));
            thread::sleep(Duration::from_millis(20));
        }
        let told = read(&ended.join().unwrap());
        assert!(told.iter().any(|(kind, _)| *kind == RST_STREAM), "{told:?}");
        let bytes: usize = told.iter().filter(|(kind, _)| *kind == DATA).map(|(_, data)| data.len()).sum();
        assert!(bytes < 50, "{bytes} bytes came through");
        scene.expect_counted("stall");
        scene.proxy.stop();
    }
}
