//! Upstreams of HTTP/2 that break the rules, or go on with what costs more than it brings: a client is told so or gets an answer that is
//! never taken for whole, others are served meanwhile, and the worker spends little memory and time on it.

use std::sync::mpsc;

use proxy::limits::SENT_COUNT_MAX;

use super::*;
use crate::frames::{END_STREAM, PUSH_PROMISE};

/// `:status` 200, alone in its head.
const OK: &[u8] = &[0x88];

/// Answers a request by its stream on this connection; false if nothing more is read there.
type Serve = Box<dyn Fn(&mut TcpStream, u32) -> bool + Send + Sync>;

/// Says this first, and serves what it is asked.
fn start_upstream(begin: Vec<u8>, serve: Serve) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, asked) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let (counted, serve) = (asked.clone(), Arc::new(serve));
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (begin, serve, asked) = (begin.clone(), serve.clone(), counted.clone());
            thread::spawn(move || {
                let _ = stream.write_all(&begin);
                let mut preface = [0; 24];
                let mut is_served = stream.read_exact(&mut preface).is_ok();
                while is_served {
                    let Some((kind, id)) = read_frame(&mut stream) else { return };
                    if kind == HEADERS {
                        asked.fetch_add(1, Ordering::SeqCst);
                        is_served = serve(&mut stream, id);
                    }
                }
            });
        }
    });
    (addr, asked)
}

/// The kind and the stream of the next frame; none at the end.
fn read_frame(stream: &mut TcpStream) -> Option<(u8, u32)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]])))
}

/// A proxy in front of such an upstream, and of one of others that is well.
struct Stage {
    proxy: Proxy,
    asked: Arc<AtomicUsize>,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    fn new(begin: Vec<u8>, timeouts: &str, serve: Serve) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (hostile, asked) = start_upstream(begin, serve);
        let other = start_origin(EMPTY_ANSWER, Arc::default());
        let flags = format!(
            "--listen=http://127.0.0.1:0=app --listen=h2c://127.0.0.1:0=app --listen=http://127.0.0.1:0=other \
             --upstream=app={hostile} --upstream=other={other} --upstream-protocol=app=h2c --workers=1 \
             --timeouts=drain=10ms{timeouts}"
        );
        let flags = Flags::try_parse_from(flags.split_whitespace()).unwrap();
        Self { proxy: Proxy::start(&flags.args).unwrap(), asked, _alone: alone }
    }

    fn connect(&self, listener: usize) -> TcpStream {
        let stream = TcpStream::connect(self.proxy.addrs()[listener]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What a client of HTTP/1 is told until its connection ends.
    fn ask(&self) -> Told {
        let mut client = self.connect(0);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        read_http1(&read_end(&mut client))
    }

    /// What a client of HTTP/2 is told of a stream until that ends.
    fn ask_http2(&self) -> Told {
        let mut client = self.connect(1);
        client.write_all(&[BEGIN, &get(1)].concat()).unwrap();
        let mut told = Vec::new();
        let mut room = [0; 4096];
        loop {
            if let Some(told) = read_http2(&told) {
                return told;
            }
            let count = client.read(&mut room).unwrap();
            assert!(count > 0, "the stream has no end: {told:?}");
            told.extend_from_slice(&room[..count]);
        }
    }

    /// Others are served.
    fn expect_others_served(&self) {
        let mut client = self.connect(2);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!(read_http1(&read_end(&mut client)), Told::Whole(200));
    }
}

/// What a client makes of its answer.
#[derive(Debug, PartialEq)]
enum Told {
    /// Its status, and all of it.
    Whole(u16),
    /// An answer has begun, and has no end.
    Broken,
}

fn read_http1(told: &[u8]) -> Told {
    let text = String::from_utf8_lossy(told);
    let mut rest = &text[..];
    loop {
        let Some((head, behind)) = rest.split_once("\r\n\r\n") else { return Told::Broken };
        let status: u16 = head[9..12].parse().unwrap();
        rest = behind;
        if status < 200 {
            continue;
        }
        let length: Option<usize> = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let is_whole = match length {
            Some(length) => rest.len() == length,
            None => rest.ends_with("0\r\n\r\n") || rest.contains("\r\n0\r\n") && rest.ends_with("\r\n\r\n"),
        };
        return if is_whole { Told::Whole(status) } else { Told::Broken };
    }
}

/// None as long as its stream goes on. Of a status nothing is known but whether it is 200, which has a number in HPACK's table.
fn read_http2(told: &[u8]) -> Option<Told> {
    let (mut rest, mut status) = (told, None);
    while let Some((head, behind)) = rest.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, behind) = behind.split_at_checked(length)?;
        rest = behind;
        match head[3] {
            HEADERS if status.is_none() => status = Some(if payload[0] == 0x88 { 200 } else { 502 }),
            RST_STREAM => return Some(Told::Broken),
            _ => {}
        }
        if matches!(head[3], HEADERS | DATA) && head[4] & END_STREAM != 0 {
            return status.map(Told::Whole);
        }
    }
    None
}

/// A field that no table has, in as many bytes as it is long (RFC 7541 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    [&[0, length(name)][..], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

fn head(id: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, id, block)
}

/// 200 with a body that goes on.
fn begun(id: u32) -> Vec<u8> {
    [head(id, 0, OK), frame(DATA, 0, id, b"abc")].concat()
}

/// The name of `:status` in HPACK's table, and these digits.
fn status(digits: &str) -> Vec<u8> {
    [&[0x08, u8::try_from(digits.len()).unwrap()][..], digits.as_bytes()].concat()
}

type Answer = fn(u32) -> Vec<u8>;

/// What breaks the rules, in the answer to the request of a stream.
const OFFENCES: &[(&str, Answer)] = &[
    ("a body shorter than its length", |id| {
        [head(id, 0, &[OK, &field("content-length", "5")].concat()), frame(DATA, END_STREAM, id, b"abc")]
            .concat()
    }),
    ("a body longer than its length", |id| {
        [head(id, 0, &[OK, &field("content-length", "2")].concat()), frame(DATA, END_STREAM, id, b"abc")]
            .concat()
    }),
    ("a length without a body", |id| head(id, END_STREAM, &[OK, &field("content-length", "5")].concat())),
    ("two lengths", |id| {
        let lengths = [field("content-length", "3"), field("content-length", "4")].concat();
        [head(id, 0, &[OK, &lengths].concat()), frame(DATA, END_STREAM, id, b"abc")].concat()
    }),
    ("a length that is none", |id| {
        [head(id, 0, &[OK, &field("content-length", "+3")].concat()), frame(DATA, END_STREAM, id, b"abc")]
            .concat()
    }),
    ("chunks", |id| head(id, END_STREAM, &[OK, &field("transfer-encoding", "chunked")].concat())),
    ("a field of the hop", |id| head(id, END_STREAM, &[OK, &field("connection", "close")].concat())),
    ("a name in capitals", |id| head(id, END_STREAM, &[OK, &field("Server", "x")].concat())),
    ("a line within a value", |id| head(id, END_STREAM, &[OK, &field("x", "a\r\nb: c")].concat())),
    ("no status", |id| head(id, END_STREAM, &field("x", "y"))),
    ("two statuses", |id| head(id, END_STREAM, &[OK, OK].concat())),
    ("a status that is none", |id| head(id, END_STREAM, &status("99"))),
    ("a switch of protocols", |id| [head(id, 0, &status("101")), begun(id)].concat()),
    ("an interim answer that is the last", |id| head(id, END_STREAM, &status("103"))),
    ("data before a head", |id| [frame(DATA, 0, id, b"abc"), head(id, END_STREAM, OK)].concat()),
    ("trailers that are not the end", |id| [begun(id), head(id, 0, &field("x", "y"))].concat()),
    ("trailers of the hop", |id| {
        [begun(id), head(id, END_STREAM, &field("transfer-encoding", "chunked"))].concat()
    }),
    ("trailers that end lines", |id| [begun(id), head(id, END_STREAM, &field("x", "a\nb"))].concat()),
    ("a reset instead of an answer", reset),
    ("a reset within an answer", |id| [begun(id), reset(id)].concat()),
    ("a reset without an error", |id| [begun(id), frame(RST_STREAM, 0, id, &[0; 4])].concat()),
    ("a goodbye within an answer, and an end", |id| [begun(id), goodbye(id)].concat()),
    ("an end within an answer", begun),
    ("fields that are too many", |id| {
        let long = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'y'; 4000]].concat();
        head(id, END_STREAM, &[OK, &long, &[0xbe; 40]].concat())
    }),
    ("a head that goes on", |id| {
        [frame(HEADERS, END_STREAM, id, OK), frame(CONTINUATION, 0, id, &[]).repeat(1000)].concat()
    }),
    ("a frame between parts of a head", |id| {
        [frame(HEADERS, 0, id, OK), frame(PING, 0, 0, &[0; 8])].concat()
    }),
    ("what HPACK cannot be", |id| head(id, END_STREAM, &[0xff; 20])),
    ("a frame that is too long", |id| [head(id, 0, OK), frame(DATA, END_STREAM, id, &[0; 16_385])].concat()),
    ("data of the connection", |id| [begun(id), frame(DATA, 0, 0, b"abc")].concat()),
    ("a stream that nobody has begun", |id| [begun(id), head(id + 98, END_STREAM, OK)].concat()),
    ("a stream of its own", |id| [begun(id), head(2, END_STREAM, OK)].concat()),
    ("a promise", |id| {
        [begun(id), frame(PUSH_PROMISE, END_HEADERS, id, &[&[0, 0, 0, 2][..], GET].concat())].concat()
    }),
    ("no room granted", |id| [begun(id), grant(id, 0)].concat()),
    ("more room than there is", |id| [begun(id), grant(id, 0x7fff_ffff)].concat()),
    ("more room than a connection has", |id| [begun(id), grant(0, 0x7fff_ffff)].concat()),
    ("settings that are none", |id| {
        [begun(id), frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])].concat()
    }),
    ("a ping that is none", |id| [begun(id), frame(PING, 0, 0, &[0; 7])].concat()),
];

#[test]
fn an_upstream_that_breaks_the_rules_makes_no_whole_answer_and_others_are_served() {
    for (what, answer) in OFFENCES {
        let answer = *answer;
        let ends = what.contains("an end");
        let serve: Serve = Box::new(move |stream, id| stream.write_all(&answer(id)).is_ok() && !ends);
        let stage = Stage::new(frame(SETTINGS, 0, 0, &[]), "", serve);
        for told in [stage.ask(), stage.ask_http2()] {
            assert!([Told::Whole(502), Told::Broken].contains(&told), "{what}: {told:?}");
        }
        stage.expect_others_served();
        stage.proxy.stop();
    }
}

/// GOAWAY, by which this was the last stream.
fn goodbye(id: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[id.to_be_bytes(), [0; 4]].concat())
}

#[test]
fn an_upstream_that_looks_at_no_request_is_asked_so_often_and_no_more() {
    for what in ["refused", "goodbye"] {
        let answer = move |id| match what {
            "refused" => frame(RST_STREAM, 0, id, &7_u32.to_be_bytes()),
            _ => goodbye(0),
        };
        let serve: Serve = Box::new(move |stream, id| stream.write_all(&answer(id)).is_ok());
        let stage = Stage::new(frame(SETTINGS, 0, 0, &[]), "", serve);
        assert!(matches!(stage.ask(), Told::Whole(502 | 503)), "{what}");
        let asked = stage.asked.load(Ordering::SeqCst);
        assert!((1..=SENT_COUNT_MAX.into()).contains(&asked), "{what}: asked {asked} times");
        stage.expect_others_served();
        stage.proxy.stop();
    }
}

#[test]
fn an_upstream_that_makes_no_room_for_a_body_is_the_one_that_is_late() {
    // INITIAL_WINDOW_SIZE of 0; to the pings of who waits it answers nothing, and to other streams all.
    let begin = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let stage = Stage::new(begin, ",body=3s,response=3s", Box::new(|_, _| true));
    let mut client = stage.connect(0);
    let body = vec![b'x'; 1 << 20];
    let asked =
        format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write_all(asked.as_bytes()).unwrap();
    let mut writer = client.try_clone().unwrap();
    let writing = thread::spawn(move || drop(writer.write_all(&body)));
    stage.expect_others_served();
    assert_eq!(read_http1(&read_end(&mut client)), Told::Whole(504));
    writing.join().unwrap();
    stage.proxy.stop();
}

/// Bytes of memory of this process that are in use.
fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    4096 * statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
}

/// What an upstream would send if it was let.
const FLOOD_BYTES_MAX: usize = 256 << 20;

/// How much more memory this process may use meanwhile. Of what came through it, kernels hold the most.
const MEMORY_BYTES_MAX: usize = 48 << 20;

#[test]
fn an_upstream_that_floods_is_let_go_soon_costs_little_and_others_are_served() {
    let cases: [(&str, Answer); 11] = [
        ("pings", |_| frame(PING, 0, 0, &[0; 8])),
        ("pongs", |_| frame(PING, 1, 0, &[0; 8])),
        ("settings", |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("windows", |id| [grant(id, 1), grant(0, 1)].concat()),
        ("priorities", |id| frame(PRIORITY, 0, id, &[0, 0, 0, 0, 1])),
        ("unknown", |id| frame(0xfa, 0, id, &[0; 100])),
        ("goodbyes", |_| goodbye(0x7fff_ffff)),
        ("resets of what is over", |id| reset(id.max(3) - 2)),
        ("interim answers", |id| head(id, 0, &status("103"))),
        // An entry of the table that the first puts there, and the others name.
        ("long interim answers", |id| {
            head(id, 0, &[&status("103")[..], &[0x60, 1, b'x'], &[0xbe; 60]].concat())
        }),
        ("data of nothing", |id| frame(DATA, 0, id, &[])),
    ];
    for (what, flood) in cases {
        let serve: Serve = Box::new(move |stream, id| {
            let mut reader = stream.try_clone().unwrap();
            let reading = thread::spawn(move || while read_frame(&mut reader).is_some() {});
            let batch = flood(id).repeat(1000);
            let first = if what == "data of nothing" { head(id, 0, OK) } else { vec![] };
            let mut sent = stream.write_all(&first).map(|()| 0);
            while let Ok(bytes @ ..FLOOD_BYTES_MAX) = sent {
                sent = stream.write_all(&batch).map(|()| bytes + batch.len());
            }
            assert!(sent.is_err(), "{what}: it was borne");
            drop(reading.join());
            false
        });
        let stage = Stage::new(frame(SETTINGS, 0, 0, &[]), "", serve);
        let (before, memory) = (workers_time(), resident_bytes());
        let told = stage.ask();
        assert!([Told::Whole(502), Told::Broken].contains(&told), "{what}: {told:?}");
        stage.expect_others_served();
        let (spent, used) = (workers_time().saturating_sub(before), resident_bytes().saturating_sub(memory));
        println!("{what}: {spent:?} of the worker's time, {used} bytes, asked {:?} times", stage.asked);
        assert!(spent <= 2 * WORKER_TIME_MAX, "{what}: {spent:?}");
        assert!(used <= MEMORY_BYTES_MAX, "{what}: {used} bytes");
        stage.proxy.stop();
    }
}

#[test]
fn interim_answers_for_a_client_that_does_not_read_end_their_stream_before_they_fill_memory() {
    // So many that the meter bears them, and that neither the client nor the kernels on the way take them.
    const COUNT: usize = 900;
    let (told, is_reset) = mpsc::channel();
    let serve: Serve = Box::new(move |stream, id| {
        let long = [&[0, 1, b'x', 0x7f, 0x81, 0x5d][..], &[b'y'; 12_032]].concat();
        let interim = head(id, 0, &[status("103"), long].concat());
        let sent = (0..COUNT).all(|_| stream.write_all(&interim).is_ok());
        let mut kinds = std::iter::from_fn(|| read_frame(stream)).map(|(kind, _)| kind);
        let _ = told.send(sent && kinds.any(|kind| kind == RST_STREAM));
        false
    });
    let stage = Stage::new(frame(SETTINGS, 0, 0, &[]), "", serve);
    let mut client = stage.connect(0);
    socket2::SockRef::from(&client).set_recv_buffer_size(4096).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(is_reset.recv_timeout(PATIENCE).expect("an end"), "the connection ended, and not the stream");
    stage.expect_others_served();
    drop(client);
    stage.proxy.stop();
}
