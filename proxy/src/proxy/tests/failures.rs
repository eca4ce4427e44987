//! Claims about upstreams that refuse, close or are lost: who is asked instead, and how often.

use super::*;

/// An upstream that closes each connection as soon as a request has come on it.
fn start_closing() -> SocketAddr {
    let (addr, requests) = start_frozen();
    thread::spawn(move || requests.into_iter().for_each(drop));
    addr
}

/// Upstreams that refuse connections, as long as the sockets are held.
fn bind_refusing(count: usize) -> (Vec<socket2::Socket>, Vec<SocketAddr>) {
    let bind = |_| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, addr)
    };
    (0..count).map(bind).unzip()
}

#[test]
fn a_spent_budget_denies_retries_and_the_failure_is_the_answer() {
    const REQUESTS: u64 = 200;
    let addrs = [start_closing(), start_closing()];
    let proxy = start(&addrs, "--workers=1");
    for _ in 0..REQUESTS {
        let mut client = connect(&proxy);
        client.write_all(REQUEST).unwrap();
        assert_eq!(read_status(&mut client), 502);
    }
    let (retries, denied) = (sum(&proxy, |s| &s.retries), sum(&proxy, |s| &s.retries_denied));
    assert!(denied > 0, "a retry each is more than the reserve");
    assert!(retries + denied <= REQUESTS && retries >= 100, "{retries} retries, {denied} denied");
    proxy.stop();
}

#[test]
fn whoever_lives_is_found_among_many_that_refuse() {
    let upstream = Upstream::start(b'a');
    let (_held, mut addrs) = bind_refusing(40);
    addrs.insert(20, upstream.addr);
    let proxy = start(&addrs, "--workers=1 --retry-percent=0");
    assert_eq!(ask(&mut connect(&proxy), REQUEST), b'a');
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ask(&mut connect(&proxy), post), b'a', "nothing was sent to the others");
    assert_eq!(sum(&proxy, |s| &s.retries_denied), 0);
    proxy.stop();
}

#[test]
fn where_all_refuse_each_is_asked_once_or_twice() {
    let (_held, addrs) = bind_refusing(10);
    let proxy = start(&addrs, "--workers=1");
    let mut client = connect(&proxy);
    client.write_all(REQUEST).unwrap();
    assert_eq!(read_status(&mut client), 502);
    let connects = sum(&proxy, |s| &s.connects);
    assert!((10..=11).contains(&connects), "{connects}");
    proxy.stop();
}

#[test]
fn connections_that_the_upstream_closed_when_idle_cost_no_retry() {
    const CLIENTS: usize = 12;
    // It closes a moment after each answer, as one with a short keep-alive does at the worst of times.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                if read_head(&mut stream, &mut Vec::new()) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
    });
    let proxy = start(&[addr], "--workers=1 --retry-percent=0");
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(&proxy)).collect();
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || (0..50).for_each(|_| assert_eq!(ask(&mut client, REQUEST), b'a')));
        }
    });
    assert_eq!(sum(&proxy, |s| &s.retries_denied), 0);
    proxy.stop();
}

#[test]
fn a_tcp_client_of_a_node_that_has_left_after_its_drain_is_let_go_and_no_other() {
    let echo = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        addr
    };
    let addrs = [echo(), echo()];
    let proxy = start(&addrs[..1], "--workers=1 --listen=tcp://127.0.0.1:0=app");
    let said = |table: &[(usize, SocketAddr, EndpointState)]| {
        publish(&proxy, table);
        let client = TcpStream::connect(proxy.addrs()[1]).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    };
    let is_alive =
        |client: &mut TcpStream| client.write_all(b"x").is_ok() && client.read_exact(&mut [0]).is_ok();
    let mut drained = said(&[(0, addrs[0], EndpointState::Ready)]);
    assert!(is_alive(&mut drained));
    let mut failed = said(&[(0, addrs[0], EndpointState::Draining), (1, addrs[1], EndpointState::Ready)]);
    assert!(is_alive(&mut failed) && is_alive(&mut drained), "as long as the drain waits");
    drop(said(&[]));
    assert!(drained.read_exact(&mut [0]).is_err(), "let go");
    assert!(is_alive(&mut failed), "nobody asked this one to leave: it may only be out of reach");
    proxy.stop();
}

#[test]
fn what_was_asked_of_an_upstream_that_is_lost_is_answered_by_another_as_soon_as_there_is_one() {
    use EndpointState::{Ready, Suspect};
    let ((frozen, requests), live) = (start_frozen(), Upstream::start(b'b'));
    let (lost, other) = ((0, frozen, Suspect), (1, live.addr, Ready));
    let spare = (1, live.addr, Suspect);
    for tables in [
        &[&[lost, other][..]][..],
        &[&[other]],
        &[&[], &[other]],
        &[&[lost], &[], &[lost, spare], &[lost, other]],
    ] {
        let proxy = start(&[frozen], "--workers=2");
        let mut client = connect(&proxy);
        client.write_all(REQUEST).unwrap();
        let _held = requests.recv_timeout(PATIENCE).unwrap();
        for (position, table) in tables.iter().enumerate() {
            assert_eq!(sum(&proxy, |stats| &stats.retries), 0, "{tables:?}, before table {position}");
            publish(&proxy, table);
        }
        assert_eq!(read_status(&mut client), 200, "{tables:?}");
        assert_eq!([sum(&proxy, |s| &s.retries), sum(&proxy, |s| &s.retries_denied)], [1, 0], "{tables:?}");
        proxy.stop();
    }
}

#[test]
fn what_must_not_be_sent_twice_or_nobody_else_can_answer_waits_for_the_upstream_that_is_lost() {
    use EndpointState::{Ready, Suspect};
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
    let live = Upstream::start(b'b');
    for (request, is_begun, state) in [
        (POST, false, Some(Ready)),
        (REQUEST, true, Some(Ready)),
        (REQUEST, false, Some(Suspect)),
        (REQUEST, false, None),
    ] {
        let (frozen, requests) = start_frozen();
        let proxy = start(&[frozen], "--workers=1");
        let (mut client, mut other) = (connect(&proxy), connect(&proxy));
        client.write_all(request).unwrap();
        let mut asked = requests.recv_timeout(PATIENCE).unwrap();
        if is_begun {
            asked.write_all(HEAD).unwrap();
            assert_eq!(read_status(&mut client), 200);
        }
        publish(&proxy, &state.map(|state| (1, live.addr, state)).into_iter().collect::<Vec<_>>());
        other.write_all(REQUEST).unwrap();
        assert_eq!(read_status(&mut other), if state.is_none() { 503 } else { 200 });
        // It thaws: the same process, which the tables have again.
        publish(&proxy, &[(0, frozen, Ready)]);
        if !is_begun {
            asked.write_all(HEAD).unwrap();
            assert_eq!(read_status(&mut client), 200);
        }
        asked.write_all(b"a").unwrap();
        let mut name = [0];
        client.read_exact(&mut name).unwrap();
        assert_eq!((name[0], sum(&proxy, |stats| &stats.retries)), (b'a', 0), "{is_begun}, {state:?}");
        proxy.stop();
    }
}
