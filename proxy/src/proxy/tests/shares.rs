//! Claims about who has how much of a proxy: its workers, its descriptors and its upstreams among clients.

use super::*;

#[test]
fn clients_that_are_too_many_wait_until_others_have_gone() {
    let upstream = Upstream::start(b'a');
    let proxy = start(&[upstream.addr], "--workers=1 --clients-max=2");
    let mut clients = [connect(&proxy), connect(&proxy)];
    assert!(clients.iter_mut().all(|client| ask(client, REQUEST) == b'a'));
    let mut third = connect(&proxy);
    third.write_all(REQUEST).unwrap();
    while sum(&proxy, |s| &s.clients_held) == 0 {
        thread::yield_now();
    }
    assert_eq!(sum(&proxy, |s| &s.clients), 2);
    drop(clients);
    assert_eq!(read_status(&mut third), 200);
    proxy.stop();
}

#[test]
fn a_request_that_waits_in_the_kernels_queue_is_answered_by_a_proxy_that_stops() {
    let (frozen, requests) = start_frozen();
    let proxy = start(&[frozen], "--workers=1 --clients-max=1 --timeouts=drain=20s");
    let mut first = connect(&proxy);
    first.write_all(REQUEST).unwrap();
    let mut at_work = requests.recv_timeout(PATIENCE).unwrap();
    // The worker is full: these are not accepted.
    let mut waiting = [connect(&proxy), connect(&proxy)];
    waiting.iter_mut().for_each(|client| client.write_all(REQUEST).unwrap());
    let stopping = proxy.stopping.clone();
    stopping.send_replace(true);
    for _ in &waiting {
        let mut upstream = requests.recv_timeout(PATIENCE).unwrap();
        upstream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    }
    assert!(waiting.iter_mut().all(|client| read_status(client) == 204));
    at_work.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    assert_eq!(read_status(&mut first), 204);
    proxy.stop();
}

#[test]
fn what_a_worker_may_have_follows_from_the_descriptors() {
    let room = |limit, workers| room_of(limit, 16 * 1024, workers, false);
    assert_eq!(room(1 << 20, 4).clients_max, 16 * 1024, "as many as were asked for");
    for (limit, workers) in [(64, 1), (128, 1), (1024, 2), (4096, 16)] {
        let Room { clients_max, pipes_max, .. } = room(limit, workers);
        let left = limit - RESERVED_DESCRIPTORS - (clients_max + 2 * pipes_max) * workers;
        assert!(left * 6 > limit - RESERVED_DESCRIPTORS, "upstreams have {left} of {limit}");
    }
    assert_eq!(room(16, 4).clients_max, 1, "never none");
    for (limit, workers) in [(64, 1), (1024, 2), (4096, 16), (1 << 20, 2)] {
        let Room { clients_max, pipes_max, flows_max } = room_of(limit, usize::MAX, workers, true);
        let left = limit - RESERVED_DESCRIPTORS - (clients_max + 2 * pipes_max + flows_max) * workers;
        assert!(left * 6 > limit - RESERVED_DESCRIPTORS, "upstreams have {left} of {limit} beside flows");
    }
}

#[test]
fn the_same_field_goes_to_the_same_upstream_whoever_sends_it() {
    let upstreams: Vec<_> = (b'a'..b'e').map(Upstream::start).collect();
    let addrs: Vec<_> = upstreams.iter().map(|upstream| upstream.addr).collect();
    let reversed: Vec<_> = addrs.iter().rev().copied().collect();
    let flags = "--workers=2 --balance=app=hash:header:X-User";
    let (proxy, other) = (start(&addrs, flags), start(&reversed, flags));
    let mut names: Vec<_> = (0..64)
        .map(|user| {
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n");
            let name = ask(&mut connect(&proxy), request.as_bytes());
            assert_eq!(ask(&mut connect(&other), request.as_bytes()), name, "user {user} at the other proxy");
            name
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, b"abcd", "all have some");
    proxy.stop();
    other.stop();
}

#[test]
fn the_same_client_goes_to_the_same_upstream() {
    let upstreams: Vec<_> = (b'a'..b'e').map(Upstream::start).collect();
    let addrs: Vec<_> = upstreams.iter().map(|upstream| upstream.addr).collect();
    let proxy = start(&addrs, "--workers=2 --balance=app=hash:client");
    let first = ask(&mut connect(&proxy), REQUEST);
    assert!((0..32).all(|_| ask(&mut connect(&proxy), REQUEST) == first));
    proxy.stop();
}

#[test]
fn a_limit_holds_over_all_workers_and_everybody_gets_a_turn() {
    const CLIENTS: usize = 24;
    let upstream = Upstream::start(b'a');
    let proxy = start(&[upstream.addr], "--workers=2 --upstream-connections-max=1");
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(&proxy)).collect();
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || (0..20).for_each(|_| assert_eq!(ask(&mut client, REQUEST), b'a')));
        }
    });
    assert_eq!(upstream.most.load(Ordering::SeqCst), 1);
    assert!(proxy.stats[..2].iter().all(|stats| stats.requests.read() > 0), "{}", proxy.summary());
    proxy.stop();
}

#[test]
fn connections_are_spread_over_workers() {
    let upstream = Upstream::start(b'a');
    let proxy = start(&[upstream.addr], "--workers=2");
    // The kernel chooses by a hash of addresses and ports: that one of two gets none of 64 has a probability of 2^-63.
    let mut clients: Vec<_> = (0..64).map(|_| connect(&proxy)).collect();
    assert!(clients.iter_mut().all(|client| ask(client, REQUEST) == b'a'));
    assert_eq!(sum(&proxy, |stats| &stats.requests), 64);
    assert!(proxy.stats[..2].iter().all(|stats| stats.requests.read() > 0), "{}", proxy.summary());
    proxy.stop();
}

#[test]
fn a_client_that_never_pauses_does_not_hold_up_another_of_the_same_worker() {
    const HOT_REQUESTS: u64 = 5000;
    const OTHER_REQUESTS: u64 = 100;
    let upstream = Upstream::start(b'a');
    let proxy = start(&[upstream.addr], "--workers=1");
    let (mut hot, mut other) = (connect(&proxy), connect(&proxy));
    let (mut hot_reader, is_over) = (hot.try_clone().unwrap(), AtomicBool::new(false));
    thread::scope(|scope| {
        // It always has more requests under way than have been answered, until it is cut off.
        let stop = Stop(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                hot.write_all(&REQUEST.repeat(100)).unwrap();
            }
            hot.shutdown(std::net::Shutdown::Both).unwrap();
        });
        scope.spawn(|| while hot_reader.read(&mut [0; 64 * 1024]).is_ok_and(|count| count > 0) {});
        let mut asked = 0;
        while asked < OTHER_REQUESTS || proxy.stats[0].requests.read() < HOT_REQUESTS + asked {
            assert_eq!(ask(&mut other, REQUEST), b'a', "after {asked} requests");
            asked += 1;
        }
        drop(stop);
    });
    proxy.stop();
}
