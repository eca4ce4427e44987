//! What an idle connection of HTTP/2 keeps: the process's allocator counts. The origin and the clients are threads of this process that keep
//! nothing of the heap while it counts, so that all that is kept is the proxy's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "floods/frames.rs"]
#[expect(dead_code, reason = "of the frames of floods few are needed")]
mod frames;

use std::{
    alloc::System,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use clap::Parser;
use frames::{BEGIN, END_STREAM, HEADERS, PING, SETTINGS, frame, get};
use proxy::{Args, Proxy};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What one may keep of the heap. It is 38 KiB, most of which is room that `h2` makes once: 16 to write, 8 to read, 4 for HPACK. Resident are
/// 25 KiB: of the rest nothing was ever touched.
const IDLE_BYTES_MAX: usize = 40 * 1024;

/// Connections before the count: what is kept once is there, and shelves and pools are as full as they get.
const WARM_UP_COUNT: usize = 20;

/// Connections in the count.
const IDLE_COUNT: usize = 200;

/// How long an answer may take before it has failed, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// An acknowledgement, of settings or a ping (RFC 9113 6.5 and 6.7).
const ACK: u8 = 1;

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

/// Answers whoever is first to come, one request after the other.
fn start_origin() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut seen, mut length) = ([0; 1024], 0);
        while let Ok(more @ 1..) = stream.read(&mut seen[length..]) {
            length += more;
            if seen[..length].ends_with(b"\r\n\r\n") {
                length = 0;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n").unwrap();
            }
        }
    });
    addr
}

/// The type and the flags of the next frame, which is as short as they all are here.
fn read_frame(stream: &mut TcpStream) -> (u8, u8) {
    let (mut head, mut payload) = ([0; 9], [0; 1024]);
    stream.read_exact(&mut head).unwrap();
    let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
    stream.read_exact(&mut payload[..length]).unwrap();
    (head[3], head[4])
}

/// A client that has had an answer, and waits. `asked` is all that it says.
fn connect(addr: SocketAddr, asked: &[u8], ping: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(asked).unwrap();
    let mut is_told = false;
    loop {
        let (kind, flags) = read_frame(&mut stream);
        is_told |= kind == HEADERS;
        // Of the headers or of the data behind them: the other frames have no such flag.
        if is_told && kind <= HEADERS && flags & END_STREAM != 0 {
            break;
        }
    }
    // What is answered comes behind all that was to be done before.
    stream.write_all(ping).unwrap();
    while read_frame(&mut stream) != (PING, ACK) {}
    stream
}

#[test]
fn an_idle_connection_of_http_2_keeps_40_kib_of_the_heap_at_most() {
    let upstream = format!("--upstream=origin={}", start_origin());
    let flags = ["proxy", "--listen=h2c://127.0.0.1:0=origin", &upstream, "--workers=1"];
    let proxy = Proxy::start(&Flags::parse_from(flags).args).unwrap();
    let addr = proxy.addrs()[0];
    let asked = [BEGIN, &frame(SETTINGS, ACK, 0, b""), &get(1)].concat();
    let ping = frame(PING, 0, 0, &[7; 8]);
    let mut clients = Vec::with_capacity(WARM_UP_COUNT + IDLE_COUNT);
    clients.extend((0..WARM_UP_COUNT).map(|_| connect(addr, &asked, &ping)));
    let region = Region::new(COUNTING);
    clients.extend((0..IDLE_COUNT).map(|_| connect(addr, &asked, &ping)));
    let change = region.change();
    let each_bytes = change.bytes_allocated.saturating_sub(change.bytes_deallocated) / IDLE_COUNT;
    eprintln!("{IDLE_COUNT} idle connections of HTTP/2: {each_bytes} bytes each");
    assert!(proxy.summary().contains(&format!(" requests={} connects=1 ", WARM_UP_COUNT + IDLE_COUNT)));
    // What is kept of none would say that nothing was counted.
    assert!((1024..=IDLE_BYTES_MAX).contains(&each_bytes), "{each_bytes} bytes");
    drop(clients);
    proxy.stop();
}
