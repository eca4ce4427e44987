//! Claims about datagrams.

use std::{collections::BTreeMap, net::UdpSocket, sync::Mutex};

use super::*;

/// An upstream that sends every datagram back behind its name, one byte, and remembers whose came.
struct Echo {
    addr: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Echo {
    /// Serves until the process ends.
    fn start(name: u8) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (addr, seen) = (socket.local_addr().unwrap(), heard.clone());
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
        thread::spawn(move || {
            let mut room = vec![0; 1 << 16];
            room[0] = name;
            while let Ok((count, from)) = socket.recv_from(&mut room[1..]) {
                seen.lock().unwrap().push(room[1..=count].to_vec());
                let _ = socket.send_to(&room[..=count], from);
            }
        });
        Self { addr, heard }
    }

    fn heard_count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

fn start_for(upstreams: &[SocketAddr], flags: &str) -> (Proxy, SocketAddr) {
    let proxy = start(upstreams, &format!("--listen=udp://127.0.0.1:0=app {flags}"));
    let addr = proxy.addrs()[1];
    (proxy, addr)
}

fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Sends a datagram and returns the name of the upstream that sent it back.
fn ask(client: &UdpSocket, proxy: SocketAddr, datagram: &[u8]) -> u8 {
    client.send_to(datagram, proxy).unwrap();
    let mut room = vec![0; 1 << 16];
    let (count, from) = client.recv_from(&mut room).expect("an answer");
    assert_eq!(from, proxy, "from where it was asked");
    assert!(room[1..count] == *datagram, "the same bytes");
    room[0]
}

/// Where nobody is, nor comes to be: a port at the usual address that was free a moment ago may be another test's the next.
fn ports_that_refuse(count: u8) -> Vec<SocketAddr> {
    (1..=count).map(|host| SocketAddr::from(([127, 84, 0, host], 9))).collect()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < until, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_flow_has_one_upstream_the_same_at_all_proxies() {
    let upstreams = [b'a', b'b', b'c'].map(Echo::start);
    let addrs: Vec<_> = upstreams.iter().map(|upstream| upstream.addr).collect();
    let reversed: Vec<_> = addrs.iter().rev().copied().collect();
    let (proxy, addr) = start_for(&addrs, "--workers=2");
    let (other, other_addr) = start_for(&reversed, "--workers=1 --balance=app=p2c");
    let mut shares = BTreeMap::new();
    // All at a time: a port that is free again would be the same client's.
    let clients: Vec<_> = (0..64).map(|_| client()).collect();
    for client in &clients {
        let name = ask(client, addr, b"1");
        assert!([b"2", b"3"].iter().all(|datagram| ask(client, addr, *datagram) == name));
        assert_eq!(ask(client, other_addr, b"4"), name);
        *shares.entry(name).or_insert(0) += 1;
    }
    assert!(shares.len() == 3 && shares.values().all(|share| *share >= 6), "{shares:?}");
    assert_eq!(sum(&proxy, |s| &s.flows), 64);
    let counts = [sum(&proxy, |s| &s.datagrams_in), sum(&proxy, |s| &s.datagrams_out)];
    assert_eq!((counts, sum(&proxy, |s| &s.datagrams_dropped)), ([64 * 3; 2], 0));
    proxy.stop();
    other.stop();
}

#[test]
fn balanced_by_client_all_flows_of_a_client_have_the_same_upstream() {
    let upstreams = [b'a', b'b', b'c'].map(Echo::start);
    let addrs: Vec<_> = upstreams.iter().map(|upstream| upstream.addr).collect();
    let (proxy, addr) = start_for(&addrs, "--workers=2 --balance=app=hash:client");
    let name = ask(&client(), addr, b"1");
    assert!((0..32).all(|_| ask(&client(), addr, b"1") == name));
    proxy.stop();
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked_in_both_families() {
    let upstream = Echo::start(b'a');
    let (proxy, addr) = start_for(&[upstream.addr], "--workers=2 --listen=udp://[::]:0=app");
    let port = proxy.addrs()[2].port();
    let client = client();
    for asked in [("127.0.0.1", port), ("127.0.0.2", port), ("127.0.0.1", addr.port())] {
        assert_eq!(ask(&client, format!("{}:{}", asked.0, asked.1).parse().unwrap(), b"x"), b'a');
    }
    let client = UdpSocket::bind("[::1]:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(ask(&client, SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)), b"x"), b'a');
    proxy.stop();
}

#[test]
fn datagrams_of_all_lengths_arrive_one_by_one_and_in_order() {
    let upstream = Echo::start(b'a');
    let (proxy, addr) = start_for(&[upstream.addr], "--workers=1");
    let client = client();
    socket2::SockRef::from(&client).set_recv_buffer_size(4 << 20).unwrap();
    client.connect(addr).unwrap();
    let lengths = [0, 1, 64, 1200, 1200, 1200, 1200, 700, 0, 0, 1472, 1472, 1473, 1473, 9000, 65_000, 3];
    let sent: Vec<Vec<u8>> = lengths.iter().zip(0..).map(|(length, at)| vec![at; *length]).collect();
    for _ in 0..20 {
        sent.iter().for_each(|datagram| assert_eq!(client.send(datagram).unwrap(), datagram.len()));
        let mut room = vec![0; 1 << 16];
        for datagram in &sent {
            let count = client.recv(&mut room).expect("each arrives");
            assert!(room[0] == b'a' && room[1..count] == datagram[..], "{count} for {}", datagram.len());
        }
    }
    assert_eq!(sum(&proxy, |s| &s.datagrams_dropped), 0);
    proxy.stop();
}

#[test]
fn a_question_that_nobody_was_there_for_goes_to_another_and_nobody_else_is_sent_there() {
    let upstream = Echo::start(b'a');
    let mut addrs = ports_that_refuse(3);
    addrs.push(upstream.addr);
    let (proxy, addr) = start_for(&addrs, "--workers=1");
    let clients: Vec<_> = (0..64).map(|_| client()).collect();
    for client in &clients {
        assert_eq!(ask(client, addr, b"who is there?"), b'a', "though it was asked once");
    }
    let moved = sum(&proxy, |s| &s.flows_moved);
    assert!((1..30).contains(&moved), "{moved} of 64: they are spared after the first");
    assert_eq!((sum(&proxy, |s| &s.flows), upstream.heard_count()), (64, 64));
    proxy.stop();
}

#[test]
fn where_nobody_is_there_a_question_is_lost_and_counted() {
    let (proxy, addr) = start_for(&ports_that_refuse(3), "--workers=1");
    client().send_to(b"who is there?", addr).unwrap();
    wait_until("it is counted", || sum(&proxy, |s| &s.datagrams_dropped) == 1);
    let (nobody, addr) = start_for(&ports_that_refuse(1), "--workers=1");
    publish(&nobody, &[]);
    client().send_to(b"who is there?", addr).unwrap();
    wait_until("it is counted", || sum(&nobody, |s| &s.datagrams_dropped) == 1);
    assert_eq!(sum(&nobody, |s| &s.flows), 0);
    proxy.stop();
    nobody.stop();
}

#[test]
fn a_drain_moves_no_flow_that_lives_and_begins_none_and_its_end_moves_all() {
    use EndpointState::{Draining, Ready};
    let upstreams = [b'a', b'b'].map(Echo::start);
    let (a, b) = (upstreams[0].addr, upstreams[1].addr);
    let (proxy, addr) = start_for(&[a, b], "--workers=2");
    let role = proxy.sources.directory().role("app").unwrap();
    let flows: Vec<_> = (0..32).map(|_| client()).map(|flow| (ask(&flow, addr, b"1"), flow)).collect();
    flows.iter().for_each(|(name, flow)| assert_eq!(ask(flow, addr, b"2"), *name));
    let at_a = flows.iter().filter(|(name, _)| *name == b'a').count();
    publish(&proxy, &[(0, a, Draining), (1, b, Ready)]);
    assert_eq!(role.in_flight().values().sum::<u32>() as usize, at_a, "the drain sees them");
    for _ in 0..10 {
        flows.iter().for_each(|(name, flow)| assert_eq!(ask(flow, addr, b"3"), *name, "a flow that lives"));
        assert_eq!(ask(&client(), addr, b"1"), b'b', "a new one");
    }
    publish(&proxy, &[(1, b, Ready)]);
    flows.iter().for_each(|(_, flow)| assert_eq!(ask(flow, addr, b"4"), b'b'));
    assert_eq!(sum(&proxy, |s| &s.flows_moved) as usize, at_a);
    assert_eq!(sum(&proxy, |s| &s.datagrams_dropped), 0);
    proxy.stop();
}

#[test]
fn questions_that_were_answered_do_not_hold_up_a_drain() {
    use EndpointState::{Draining, Ready};
    let upstream = Echo::start(b'a');
    let (proxy, addr) = start_for(&[upstream.addr], "--workers=2");
    let asked: Vec<_> = (0..16).map(|_| client()).collect();
    asked.iter().for_each(|client| assert_eq!(ask(client, addr, b"1"), b'a'));
    let living = client();
    (0..2).for_each(|_| assert_eq!(ask(&living, addr, b"1"), b'a'));
    let role = proxy.sources.directory().role("app").unwrap();
    publish(&proxy, &[(0, upstream.addr, Draining), (1, "127.0.0.1:9".parse().unwrap(), Ready)]);
    let in_flight = || role.in_flight().values().sum::<u32>();
    assert_eq!(in_flight(), 17);
    wait_until("they end", || in_flight() == 1);
    assert_eq!(ask(&living, addr, b"2"), b'a');
    proxy.stop();
}

#[test]
fn a_lost_upstream_keeps_the_flows_that_it_answers_and_no_others() {
    use EndpointState::{Ready, Suspect};
    let (suspect, silent) = (Echo::start(b'a'), UdpSocket::bind("127.0.0.1:0").unwrap());
    let silent_addr = silent.local_addr().unwrap();
    let (proxy, addr) = start_for(&[suspect.addr], "--workers=1");
    let (answered, unanswered) = (client(), client());
    assert_eq!(ask(&answered, addr, b"1"), b'a');
    publish(&proxy, &[(1, silent_addr, Ready)]);
    unanswered.send_to(b"2", addr).unwrap();
    let mut room = [0; 9];
    silent.recv(&mut room).unwrap();
    assert_eq!(room[0], b'2');
    publish(&proxy, &[(0, suspect.addr, Suspect), (1, silent_addr, Suspect)]);
    assert_eq!(ask(&answered, addr, b"3"), b'a');
    let third = Echo::start(b'c');
    publish(&proxy, &[(0, suspect.addr, Suspect), (1, silent_addr, Suspect), (2, third.addr, Ready)]);
    assert_eq!(ask(&unanswered, addr, b"4"), b'c', "nothing has ever come from there");
    // For longer than a lost one may be silent.
    for _ in 0..12 {
        assert_eq!(ask(&answered, addr, b"5"), b'a');
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(sum(&proxy, |s| &s.flows_moved), 1);
    proxy.stop();
}

#[test]
fn a_flow_that_is_silent_for_too_long_ends() {
    let upstream = Echo::start(b'a');
    let (proxy, addr) = start_for(&[upstream.addr], "--workers=1 --timeouts=flow=2s,drain=10ms");
    let client = client();
    assert_eq!(ask(&client, addr, b"1"), b'a');
    let role = proxy.sources.directory().role("app").unwrap();
    let is_in_use = || role.subscribe().borrow().endpoints[0].health.is_in_use();
    assert!(is_in_use());
    wait_until("it ends", || !is_in_use());
    assert_eq!(ask(&client, addr, b"2"), b'a');
    assert_eq!(sum(&proxy, |s| &s.flows), 2);
    proxy.stop();
}

#[test]
fn a_listener_does_not_answer_itself_by_another_address() {
    let upstream = Echo::start(b'a');
    let (proxy, addr) = start_for(&[upstream.addr], "--workers=1");
    let own = UdpSocket::bind(("127.0.0.2", addr.port())).unwrap();
    own.send_to(b"x", addr).unwrap();
    wait_until("it is dropped", || sum(&proxy, |s| &s.datagrams_dropped) == 1);
    assert_eq!(upstream.heard_count(), 0);
    proxy.stop();
}

#[test]
fn nobody_but_the_upstream_is_heard() {
    let (upstream, stranger) = (client(), client());
    let (proxy, addr) = start_for(&[upstream.local_addr().unwrap()], "--workers=1");
    let client = client();
    client.send_to(b"?", addr).unwrap();
    let mut room = [0; 9];
    let (_, asker) = upstream.recv_from(&mut room).unwrap();
    stranger.send_to(b"forged", asker).unwrap();
    upstream.send_to(b"!", asker).unwrap();
    assert_eq!((client.recv(&mut room).unwrap(), room[0]), (1, b'!'));
    proxy.stop();
}

#[test]
fn whoever_stops_waits_for_answers() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (proxy, addr) = start_for(&[silent.local_addr().unwrap()], "--workers=1 --timeouts=drain=20s");
    let client = client();
    client.send_to(b"?", addr).unwrap();
    let mut room = [0; 9];
    let (_, asker) = silent.recv_from(&mut room).unwrap();
    proxy.stopping.send_replace(true);
    silent.send_to(b"!", asker).unwrap();
    assert_eq!((client.recv(&mut room).unwrap(), room[0]), (1, b'!'));
    let began = std::time::Instant::now();
    proxy.stop();
    assert!(began.elapsed() < PATIENCE / 2, "and for nothing else");
}
