//! Claims about upstreams that speak HTTP/2, to whom each exchange is a stream of a kept connection.

use std::{rc::Rc, sync::atomic::AtomicUsize};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpListener as AsyncListener;

use super::*;

/// What an origin is told of, and tells.
#[derive(Default)]
pub(super) struct Seen {
    connections: AtomicUsize,
    streams: AtomicUsize,
    cancelled: AtomicUsize,
}

impl Seen {
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }
}

/// Serves until the process ends: streams of a connection beside each other, by this.
pub(super) fn start_origin<F>(
    streams_max: u32,
    serve: impl Fn(Arc<Seen>, Request<RecvStream>, SendResponse<Bytes>) -> F + Send + 'static,
) -> (SocketAddr, Arc<Seen>)
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (addr, seen) = (listener.local_addr().unwrap(), Arc::<Seen>::default());
    let shared = seen.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (listener, serve) = (AsyncListener::from_std(listener).unwrap(), Rc::new(serve));
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, serve) = (shared.clone(), serve.clone());
                seen.connections.fetch_add(1, Ordering::SeqCst);
                tokio::task::spawn_local(async move {
                    let mut builder = h2::server::Builder::new();
                    let handshake = builder.max_concurrent_streams(streams_max).handshake(stream);
                    let Ok(mut connection) = handshake.await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        seen.streams.fetch_add(1, Ordering::SeqCst);
                        if request.uri().path() == "/last" {
                            connection.graceful_shutdown();
                        }
                        tokio::task::spawn_local(serve(seen.clone(), request, respond));
                    }
                });
            }
        });
    });
    (addr, seen)
}

pub(super) async fn answer(mut respond: SendResponse<Bytes>, body: &'static [u8]) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(Bytes::from_static(body), true).unwrap();
}

fn start_h2c_role(origin: SocketAddr, flags: &str) -> Proxy {
    start(&[origin], &format!("--upstream-protocol=app=h2c --workers=1 {flags}"))
}

/// All that is said until the connection ends.
fn read_all(client: &mut TcpStream) -> String {
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    String::from_utf8(all).unwrap()
}

#[test]
fn exchanges_of_clients_of_http_1_are_streams_of_one_connection() {
    let (origin, seen) = start_origin(100, async |_, request, respond| {
        assert_eq!(request.uri(), "http://a/");
        answer(respond, b"x").await;
    });
    let proxy = start_h2c_role(origin, "");
    for _ in 0..3 {
        let mut client = connect(&proxy);
        for _ in 0..5 {
            client.write_all(REQUEST).unwrap();
            let mut head = Vec::new();
            assert!(read_head(&mut client, &mut head) && head.starts_with(b"HTTP/1.1 200 OK\r\n"));
            let mut chunk = [0; 11];
            client.read_exact(&mut chunk).unwrap();
            assert_eq!(&chunk, b"1\r\nx\r\n0\r\n\r\n");
        }
    }
    assert_eq!(sum(&proxy, |stats| &stats.connects), 1);
    proxy.stop();
    assert_eq!((seen.connections.load(Ordering::SeqCst), seen.streams.load(Ordering::SeqCst)), (1, 15));
}

#[test]
fn trailers_and_interim_heads_pass_and_an_end_in_the_head_is_one() {
    let (origin, _) = start_origin(100, async |_, request, mut respond| {
        let (parts, mut body) = request.into_parts();
        if parts.method == "GET" {
            let head = Response::builder().header("grpc-status", "5").body(()).unwrap();
            respond.send_response(head, true).unwrap();
            return;
        }
        assert_eq!(parts.headers["te"], "trailers");
        let interim = Response::builder().status(103).header("link", "y").body(()).unwrap();
        respond.send_informational(interim).unwrap();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while let Some(data) = body.data().await {
            stream.send_data(data.unwrap(), false).unwrap();
        }
        let mut trailers = body.trailers().await.unwrap().unwrap();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    });
    let proxy = start_h2c_role(origin, "");
    let mut client = connect(&proxy);
    client
        .write_all(
            b"POST /a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n\
              3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n",
        )
        .unwrap();
    let mut head = Vec::new();
    assert!(read_head(&mut client, &mut head));
    let interim = String::from_utf8_lossy(&head);
    assert!(interim.starts_with("HTTP/1.1 103 ") && interim.ends_with("\r\nlink: y\r\n\r\n"), "{interim}");
    assert_eq!(read_status(&mut client), 200);
    let whole = b"3\r\nabc\r\n0\r\nx-sum: 7\r\ngrpc-status: 0\r\n\r\n";
    let mut body = vec![0; whole.len()];
    client.read_exact(&mut body).unwrap();
    assert_eq!(String::from_utf8_lossy(&body), String::from_utf8_lossy(whole));
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let told = read_all(&mut client);
    assert!(told.contains("\r\ngrpc-status: 5\r\n") && told.contains("\r\nContent-Length: 0\r\n"), "{told}");
    proxy.stop();
}

#[test]
fn via_says_that_an_upstream_of_http_2_has_answered_a_client_of_http_1() {
    let (origin, _) = start_origin(100, async |_, request, respond| {
        assert_eq!(request.headers()["via"], "1.1 p");
        answer(respond, b"x").await;
    });
    let proxy = start_h2c_role(origin, "--via p");
    let mut client = connect(&proxy);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let told = read_all(&mut client);
    assert!(told.starts_with("HTTP/1.1 200 ") && told.contains("\r\nVia: 2.0 p\r\n"), "{told}");
    proxy.stop();
}

#[test]
fn what_an_origin_has_not_looked_at_is_asked_again_whatever_it_is() {
    let (origin, seen) = start_origin(100, async |seen, _, mut respond| {
        if seen.streams.load(Ordering::SeqCst) == 1 {
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        answer(respond, b"x").await;
    });
    let proxy = start_h2c_role(origin, "");
    let mut client = connect(&proxy);
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    assert_eq!(read_status(&mut client), 200);
    assert_eq!(sum(&proxy, |stats| &stats.retries), 1);
    proxy.stop();
    assert_eq!(seen.streams.load(Ordering::SeqCst), 2);
}

#[test]
fn what_an_origin_has_looked_at_is_not_asked_again() {
    let (origin, seen) =
        start_origin(100, async |_, _, mut respond| respond.send_reset(Reason::INTERNAL_ERROR));
    let proxy = start_h2c_role(origin, "");
    let mut client = connect(&proxy);
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    assert_eq!(read_status(&mut client), 502);
    proxy.stop();
    assert_eq!(seen.streams.load(Ordering::SeqCst), 1);
}

#[test]
fn a_connection_that_says_goodbye_is_followed_by_another() {
    let (origin, seen) = start_origin(100, async |_, _, respond| answer(respond, b"x").await);
    let proxy = start_h2c_role(origin, "");
    let mut client = connect(&proxy);
    for number in 0..60 {
        let path = if number % 6 == 5 { "/last" } else { "/" };
        client
            .write_all(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").as_bytes())
            .unwrap();
        assert_eq!(read_status(&mut client), 200);
        client.read_exact(&mut [0; 11]).unwrap();
    }
    proxy.stop();
    assert!(seen.connections.load(Ordering::SeqCst) >= 10);
    assert!(seen.streams.load(Ordering::SeqCst) >= 60);
}

#[test]
fn no_connection_has_more_streams_than_its_origin_bears() {
    let (origin, seen) = start_origin(2, async |seen, _, respond| {
        // The first two are under way until there is another connection for the others.
        while seen.connections.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        answer(respond, b"x").await;
    });
    let proxy = start_h2c_role(origin, "--timeouts=connect=20s,drain=10ms");
    let mut clients: Vec<_> = (0..6).map(|_| connect(&proxy)).collect();
    for client in &mut clients {
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").unwrap();
    }
    for client in &mut clients {
        assert_eq!(read_status(client), 200);
    }
    assert_eq!(sum(&proxy, |stats| &stats.retries), 0, "none was refused");
    proxy.stop();
    assert!((2..=3).contains(&seen.connections.load(Ordering::SeqCst)));
}

#[test]
fn who_speaks_http_1_alone_is_no_origin_of_http_2() {
    let upstream = Upstream::start(b'x');
    let proxy = start_h2c_role(upstream.addr, "--timeouts=connect=20s,drain=10ms");
    let mut client = connect(&proxy);
    client.write_all(REQUEST).unwrap();
    let told = read_all(&mut client);
    assert!(told.starts_with("HTTP/1.1 502 ") && told.contains("does not speak the protocol"), "{told}");
    proxy.stop();
}

#[test]
fn a_client_that_goes_away_has_its_stream_cancelled() {
    let (origin, seen) = start_origin(100, async |seen, _, mut respond| {
        let head = respond.send_response(Response::new(()), false);
        let mut stream = head.unwrap();
        stream.send_data(Bytes::from_static(b"begun"), false).unwrap();
        let reason = std::future::poll_fn(|context| stream.poll_reset(context)).await;
        assert_eq!(reason.unwrap(), Reason::CANCEL);
        seen.cancelled.fetch_add(1, Ordering::SeqCst);
    });
    let proxy = start_h2c_role(origin, "");
    let mut client = connect(&proxy);
    client.write_all(REQUEST).unwrap();
    assert_eq!(read_status(&mut client), 200);
    drop(client);
    let started = std::time::Instant::now();
    while seen.cancelled.load(Ordering::SeqCst) == 0 {
        assert!(started.elapsed() < PATIENCE, "the origin hears of it");
        thread::sleep(Duration::from_millis(5));
    }
    proxy.stop();
}

#[test]
fn bodies_pass_both_ways_at_once_and_what_nobody_takes_is_not_sent() {
    const BYTES: usize = 8 << 20;
    let (origin, _) = start_origin(100, async |_, request, mut respond| {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let mut body = request.into_body();
        while let Some(data) = body.data().await {
            let mut data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            while !data.is_empty() {
                stream.reserve_capacity(data.len());
                let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
                let piece = data.split_to(room.unwrap().unwrap().min(data.len()));
                stream.send_data(piece, false).unwrap();
            }
        }
        stream.send_trailers(HeaderMap::new()).unwrap();
    });
    let proxy = start_h2c_role(origin, "");
    let mut client = connect(&proxy);
    let mut sending = client.try_clone().unwrap();
    let pattern: Vec<u8> =
        (0..BYTES as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let sent = pattern.clone();
    let sender = thread::spawn(move || {
        sending
            .write_all(
                format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {BYTES}\r\n\r\n")
                    .as_bytes(),
            )
            .unwrap();
        sending.write_all(&sent).unwrap();
    });
    assert_eq!(read_status(&mut client), 200);
    // Everything on the way is full by now.
    thread::sleep(Duration::from_millis(200));
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    sender.join().unwrap();
    let mut body = Vec::new();
    let mut rest = &all[..];
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap();
        let size = usize::from_str_radix(str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
    assert!(body == pattern, "{} bytes", body.len());
    proxy.stop();
}
