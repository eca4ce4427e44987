//! Claims about peers that are slow, or say little.

use std::{net::Shutdown, time::Instant};

use super::*;

const BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer than a peer has that takes nothing.
const LONG: Duration = Duration::from_secs(4);
/// More than two kernels take.
const LARGE: usize = 60_000_000;
const TIMEOUTS: &str = "--workers=1 --timeouts=body=1s,header=1s,idle=1s,drain=10ms";

/// Has it say soon that it has taken something: a kernel does when much of its buffer is free again.
fn narrow(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_recv_buffer_size(16_384).unwrap();
}

/// Takes 100 kB/s until a time has passed; false if the connection was broken.
fn read_slowly(stream: &mut TcpStream, until: Instant) -> bool {
    let mut piece = [0; 10_000];
    while Instant::now() < until {
        if !matches!(stream.read(&mut piece), Ok(1..)) {
            return false;
        }
        thread::sleep(Duration::from_millis(100));
    }
    true
}

#[test]
fn a_client_that_reads_slowly_is_served_and_one_that_reads_nothing_is_not() {
    let (origin, requests) = start_frozen();
    let proxy = start(&[origin], TIMEOUTS);
    let mut clients = [(); 2].map(|()| connect(&proxy));
    for client in &mut clients {
        narrow(client);
        client.write_all(REQUEST).unwrap();
        let mut at_origin = requests.recv_timeout(PATIENCE).unwrap();
        thread::spawn(move || {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
            let _ = at_origin.write_all(head.as_bytes()).and_then(|()| at_origin.write_all(&vec![0; LARGE]));
        });
    }
    let [slow, stuck] = &mut clients;
    assert!(read_slowly(slow, Instant::now() + LONG), "it has taken something all the time");
    let until = Instant::now() + PATIENCE;
    while sum(&proxy, |s| &s.truncated) == 0 {
        assert!(Instant::now() < until, "one of the two is let go");
        assert!(read_slowly(slow, Instant::now() + Duration::from_millis(100)), "and not this one");
    }
    assert_eq!(sum(&proxy, |s| &s.truncated), 1, "the one that takes nothing");
    assert!(std::io::copy(stuck, &mut std::io::sink()).is_err(), "and it is told so");
    proxy.stop();
}

#[test]
fn an_upstream_that_reads_slowly_gets_all_the_time_it_needs() {
    let (origin, requests) = start_frozen();
    let proxy = start(&[origin], TIMEOUTS);
    let mut client = connect(&proxy);
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    let mut at_origin = requests.recv_timeout(PATIENCE).unwrap();
    narrow(&at_origin);
    let mut answered = client.try_clone().unwrap();
    thread::spawn(move || client.write_all(&vec![0; LARGE]));
    assert!(read_slowly(&mut at_origin, Instant::now() + LONG));
    answered.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    assert!(answered.read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    proxy.stop();
}

#[test]
fn halves_of_empty_lines_do_not_hold_a_connection() {
    let (origin, _requests) = start_frozen();
    for pieces in [[&b"\r"[..], b"\n"], [b"\n\r", b"\n\r"]] {
        let proxy = start(&[origin], TIMEOUTS);
        let mut client = connect(&proxy);
        client.write_all(b"\r").unwrap();
        let (began, mut sent) = (Instant::now(), pieces.iter().cycle());
        if pieces[0] == b"\r" {
            sent.next();
        }
        while client.write_all(sent.next().unwrap()).is_ok() {
            assert!(began.elapsed() < LONG + BODY_TIMEOUT, "it is held by empty lines");
            thread::sleep(Duration::from_millis(300));
        }
        proxy.stop();
    }
}

#[test]
fn what_a_tcp_client_said_before_it_closed_its_side_arrives_however_long_the_connection_takes() {
    // Its queue of connections is full until the test accepts.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let listener = TcpListener::from(listener);
    let addr = listener.local_addr().unwrap();
    let filler = TcpStream::connect(addr).unwrap();
    let flags = format!("--workers=1 --listen=tcp://127.0.0.1:0=db --upstream=db={addr}");
    let proxy = start(&[addr], &flags);
    let mut client = TcpStream::connect(proxy.addrs()[1]).unwrap();
    client.write_all(b"fire and forget").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    thread::sleep(Duration::from_millis(500));
    drop((filler, listener.accept().unwrap()));
    let (hears, heard) = mpsc::channel();
    thread::spawn(move || {
        let mut said = String::new();
        // An attempt that was given up when the kernel had just taken it is a connection on which nothing comes.
        while said.is_empty() {
            let _ = listener.accept().unwrap().0.read_to_string(&mut said);
        }
        let _ = hears.send(said);
    });
    assert_eq!(heard.recv_timeout(PATIENCE).as_deref(), Ok("fire and forget"));
    assert_eq!(sum(&proxy, |s| &s.clients_gone), 0);
    proxy.stop();
}

#[test]
fn a_tcp_client_hears_what_its_upstream_said_before_it_took_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let flags = format!("--workers=1 --listen=tcp://127.0.0.1:0=db --upstream=db={addr}");
    let proxy = start(&[addr], &flags);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1]);
            let _ = stream.write_all(b"too many");
        }
    });
    for _ in 0..20 {
        let mut client = TcpStream::connect(proxy.addrs()[1]).unwrap();
        let mut writer = client.try_clone().unwrap();
        let writing = thread::spawn(move || writer.write_all(&vec![0; 5_000_000]));
        let mut heard = [0; 8];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"too many");
        assert!(!matches!(client.read(&mut heard), Ok(1..)));
        drop(client);
        let _ = writing.join().unwrap();
    }
    proxy.stop();
}

#[test]
fn a_client_of_an_upgraded_connection_is_told_when_nobody_takes_what_it_sends() {
    let (origin, requests) = start_frozen();
    let proxy = start(&[origin], TIMEOUTS);
    let mut client = connect(&proxy);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    client.write_all(request).unwrap();
    let mut at_origin = requests.recv_timeout(PATIENCE).unwrap();
    at_origin.write_all(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").unwrap();
    assert_eq!(read_status(&mut client), 101);
    drop(at_origin);
    let began = Instant::now();
    while client.write_all(&[0; 1000]).is_ok() {
        assert!(began.elapsed() < LONG, "what it sends is swallowed");
        thread::sleep(Duration::from_millis(50));
    }
    proxy.stop();
}
