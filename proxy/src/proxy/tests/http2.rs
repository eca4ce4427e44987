//! Claims about clients of HTTP/2, whose streams are exchanges like others.

use bytes::Bytes;
use h2::{Reason, RecvStream, client::SendRequest};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::TcpStream as AsyncStream;

use super::*;

mod bounds;
mod goodbye;
mod ids;
mod packed;
mod sockets;
mod windows;

type Client = SendRequest<Bytes>;

/// Runs a test of a client, its connection included, in one thread.
pub(super) fn with_client<T>(proxy: &Proxy, test: impl AsyncFnOnce(Client) -> T) -> T {
    with_client_of(&h2::client::Builder::new(), proxy, test)
}

/// The same of a client with these settings.
fn with_client_of<T>(builder: &h2::client::Builder, proxy: &Proxy, test: impl AsyncFnOnce(Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stream = AsyncStream::connect(proxy.addrs()[0]).await.unwrap();
        let (client, connection) = builder.handshake(stream).await.unwrap();
        tokio::task::spawn_local(connection);
        tokio::time::timeout(PATIENCE, test(client)).await.expect("within its time")
    })
}

pub(super) fn start_h2c(upstream: SocketAddr, flags: &str) -> Proxy {
    let fixed = format!("--listen=h2c://127.0.0.1:0=app --upstream=app={upstream} {flags}");
    let timeouts = Some("--timeouts=drain=2s").filter(|_| !flags.contains("--timeouts"));
    Proxy::start(&Cli::try_parse_from(fixed.split_whitespace().chain(timeouts)).unwrap().args).unwrap()
}

pub(super) fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://a.example{path}")).body(()).unwrap()
}

/// Reads a chunked body, with what is behind it.
fn read_chunks(stream: &mut TcpStream) -> (Vec<u8>, String) {
    let mut line = || {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        (String::from_utf8(line).unwrap(), stream.try_clone().unwrap())
    };
    let mut body = Vec::new();
    loop {
        let (size, mut stream) = line();
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        if size == 0 {
            break;
        }
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).unwrap();
        body.extend_from_slice(&chunk[..size]);
    }
    let mut trailers = String::new();
    loop {
        let (text, _) = line();
        if text == "\r\n" {
            return (body, trailers);
        }
        trailers += &text;
    }
}

/// All of a body, each piece granted as it comes.
pub(super) async fn read_body(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all)
}

async fn get(client: &mut Client, path: &str) -> (StatusCode, Vec<u8>) {
    let (response, _) = client.send_request(request("GET", path), true).unwrap();
    let response = response.await.unwrap();
    let status = response.status();
    (status, read_body(&mut response.into_body()).await.unwrap())
}

/// Bytes that are different from one position to the next.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn a_hundred_streams_are_answered_while_one_waits_and_heads_are_http_1() {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let upstream = origin(move |stream, head| {
        if head.starts_with("GET /slow ") {
            released.lock().unwrap().recv().unwrap();
        }
        let length = head.len();
        answer(
            stream,
            &format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: keep-alive\r\n\r\n{head}"),
        )
    });
    let proxy = start_h2c(upstream, "");
    with_client(&proxy, async |mut client| {
        let (slow, _) = client.send_request(request("GET", "/slow"), true).unwrap();
        let others = (0..100).map(|i| {
            let mut client = client.clone();
            tokio::task::spawn_local(async move {
                client = client.ready().await.unwrap();
                get(&mut client, &format!("/{i}?x")).await
            })
        });
        for (i, other) in others.collect::<Vec<_>>().into_iter().enumerate() {
            let (status, head) = other.await.unwrap();
            let head = String::from_utf8(head).unwrap();
            assert_eq!(status, 200);
            assert!(head.starts_with(&format!("GET /{i}?x HTTP/1.1\r\nHost: a.example\r\n")), "{head}");
        }
        release.send(()).unwrap();
        let slow = slow.await.unwrap();
        assert_eq!((slow.status(), slow.headers().get("connection")), (StatusCode::OK, None));
        assert!(slow.headers().contains_key("date"));
    });
    assert!(proxy.summary().contains("requests=101 "), "{}", proxy.summary());
    proxy.stop();
}

#[test]
fn large_bodies_pass_both_ways_within_their_windows_with_their_trailers() {
    const BYTES: usize = 3_000_001;
    let upstream = origin(|stream, head| {
        assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
        let (body, trailers) = read_chunks(stream);
        assert!(trailers.contains("x-sum: 1"), "{trailers}");
        answer(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for part in body.chunks(10_007) {
            answer(stream, &format!("{:x}\r\n", part.len()));
            stream.write_all(part).unwrap();
            answer(stream, "\r\n");
        }
        answer(stream, "0\r\nX-End: 2\r\n\r\n")
    });
    let proxy = start_h2c(upstream, "");
    let all = pattern(BYTES);
    with_client(&proxy, async |mut client| {
        let (response, mut body) = client.send_request(request("POST", "/"), false).unwrap();
        let sending = async {
            for part in all.chunks(16_384) {
                body.reserve_capacity(part.len());
                let mut rest = Bytes::copy_from_slice(part);
                while !rest.is_empty() {
                    let granted = std::future::poll_fn(|context| body.poll_capacity(context)).await;
                    let granted = granted.unwrap().unwrap().min(rest.len());
                    body.send_data(rest.split_to(granted), false).unwrap();
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "1".parse().unwrap());
            body.send_trailers(trailers).unwrap();
        };
        let receiving = async {
            let mut body = response.await.unwrap().into_body();
            let read = read_body(&mut body).await.unwrap();
            (read, body.trailers().await.unwrap())
        };
        let ((), (read, trailers)) = tokio::join!(sending, receiving);
        assert!(read == all, "{} of {BYTES} bytes", read.len());
        assert_eq!(trailers.unwrap()["x-end"], "2");
    });
    proxy.stop();
}

/// As gRPC sends messages: what `h2` holds of each frame besides its bytes would end the connection.
#[test]
fn small_pieces_for_an_upstream_that_is_slow_arrive_in_order() {
    const PIECES: usize = 25_000;
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.set_recv_buffer_size(4096).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(8).unwrap();
    let listener = TcpListener::from(listener);
    let addr = listener.local_addr().unwrap();
    let reading = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        // The windows fill meanwhile.
        thread::sleep(Duration::from_millis(500));
        assert!(read_head(&mut stream, &mut Vec::new()));
        let body = read_chunks(&mut stream).0;
        answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        body
    });
    let proxy = start_h2c(addr, "");
    let all = pattern(40 * PIECES);
    with_client(&proxy, async |mut client| {
        let (response, mut body) = client.send_request(request("POST", "/"), false).unwrap();
        for part in all.chunks(40) {
            body.reserve_capacity(part.len());
            while body.capacity() < part.len() {
                std::future::poll_fn(|context| body.poll_capacity(context)).await.unwrap().unwrap();
            }
            body.send_data(Bytes::copy_from_slice(part), false).unwrap();
        }
        body.send_data(Bytes::new(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
    assert!(reading.join().unwrap() == all);
    proxy.stop();
}

#[test]
fn what_breaks_off_is_reset_and_never_ended() {
    let upstream = origin(|stream, head| {
        let body = if head.starts_with("GET /length") {
            "Content-Length: 9\r\n\r\nhell"
        } else {
            "Transfer-Encoding: chunked\r\n\r\n4\r\nhell\r\n"
        };
        answer(stream, &format!("HTTP/1.1 200 OK\r\n{body}"));
        false
    });
    let proxy = start_h2c(upstream, "");
    with_client(&proxy, async |mut client| {
        for path in ["/length", "/chunked"] {
            let (response, _) = client.send_request(request("GET", path), true).unwrap();
            // A reset may overtake what came before it, as it may on a connection.
            let error = match response.await {
                Ok(response) => read_body(&mut response.into_body()).await.unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{path}");
        }
    });
    proxy.stop();
}

#[test]
fn heads_without_bodies_and_interim_answers_pass() {
    let upstream = origin(|stream, head| {
        answer(
            stream,
            match head.split(' ').next() {
                Some("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
                Some("DELETE") => "HTTP/1.1 204 x\r\n\r\n",
                _ => "HTTP/1.1 103 x\r\nLink: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            },
        )
    });
    let proxy = start_h2c(upstream, "");
    with_client(&proxy, async |mut client| {
        for (method, status, body) in [("HEAD", 200, ""), ("DELETE", 204, ""), ("GET", 200, "ok")] {
            let (response, _) = client.send_request(request(method, "/"), true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(read_body(&mut response.into_body()).await.unwrap(), body.as_bytes(), "{method}");
        }
    });
    proxy.stop();
}

#[test]
fn via_says_by_which_version_the_client_has_come_and_by_which_the_upstream_has_answered() {
    let upstream = origin(|stream, head| {
        let length = head.len();
        answer(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{head}"))
    });
    let proxy = start_h2c(upstream, "--via p");
    with_client(&proxy, async |mut client| {
        let (response, _) = client.send_request(request("GET", "/"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["via"], "1.1 p");
        let head = read_body(&mut response.into_body()).await.unwrap();
        let head = String::from_utf8(head).unwrap();
        assert!(head.ends_with("\r\nVia: 2.0 p\r\n\r\n"), "{head}");
    });
    proxy.stop();
}

#[test]
fn an_answer_that_comes_before_its_request_has_ended_is_whole_and_others_go_on() {
    let upstream = origin(|stream, head| {
        answer(stream, "HTTP/1.1 413 x\r\nContent-Length: 2\r\n\r\nno");
        !head.starts_with("POST")
    });
    let proxy = start_h2c(upstream, "");
    with_client(&proxy, async |mut client| {
        let (response, mut body) = client.send_request(request("POST", "/"), false).unwrap();
        body.send_data(Bytes::from_static(b"some of it"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(read_body(&mut response.into_body()).await.unwrap(), b"no");
        client = client.ready().await.unwrap();
        assert_eq!(get(&mut client, "/").await.0, 413);
    });
    proxy.stop();
}

#[test]
fn a_client_that_resets_its_stream_has_its_request_ended() {
    let (began, has_begun) = mpsc::channel();
    let (ended, has_ended) = mpsc::channel();
    let upstream = origin(move |stream, _| {
        began.send(()).unwrap();
        // Until the proxy gives up.
        let _ = ended.send(stream.read(&mut [0]).unwrap_or(0));
        false
    });
    let proxy = start_h2c(upstream, "");
    with_client(&proxy, async |mut client| {
        let (response, mut body) = client.send_request(request("GET", "/"), true).unwrap();
        tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
        body.send_reset(Reason::CANCEL);
        drop(response);
        tokio::task::spawn_blocking(move || assert_eq!(has_ended.recv_timeout(PATIENCE), Ok(0)))
            .await
            .unwrap();
    });
    proxy.stop();
}

#[test]
fn a_proxy_that_stops_answers_the_streams_that_it_has_taken() {
    let (began, has_begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let upstream = origin(move |stream, _| {
        began.send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
        answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    });
    let proxy = start_h2c(upstream, "--timeouts=drain=20s");
    let addr = proxy.addrs()[0];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stream = AsyncStream::connect(addr).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let ended = tokio::task::spawn_local(connection);
        let (response, _) = client.send_request(request("GET", "/"), true).unwrap();
        tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
        let stopping = tokio::task::spawn_blocking(|| proxy.stop());
        // It says that it takes no more; what it has taken it answers.
        while client.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        release.send(()).unwrap();
        let response: Response<RecvStream> = response.await.unwrap();
        assert_eq!(read_body(&mut response.into_body()).await.unwrap(), b"ok");
        ended.await.unwrap().unwrap();
        stopping.await.unwrap();
    });
}

#[test]
fn a_client_that_hangs_up_takes_no_place_of_what_has_failed() {
    let (began, has_begun) = mpsc::channel();
    let upstream = origin(move |stream, head| {
        began.send(head.to_owned()).unwrap();
        stream.read(&mut [0]).is_ok_and(|count| count > 0)
    });
    let proxy = start_h2c(upstream, "--request-id=make");
    let id = with_client(&proxy, async |mut client| {
        let _asked = client.send_request(request("GET", "/"), true).unwrap();
        let head =
            tokio::task::spawn_blocking(move || has_begun.recv_timeout(PATIENCE).unwrap()).await.unwrap();
        let id = head.to_lowercase();
        id.split("x-request-id: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned()
    });
    let told = recall::hop(&proxy, &id);
    assert_eq!((told.cause, told.end.as_str()), (feed::recall::Cause::Refused, "client-gone"));
    proxy.stop();
}

#[test]
fn a_stream_that_fails_is_told_by_its_id_like_any_request() {
    let proxy = start_h2c(origin(|_, _| false), "--request-id=make");
    let id = with_client(&proxy, async |mut client| {
        let (response, _) = client.send_request(request("POST", "/x?y"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 502);
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    });
    let told = recall::hop(&proxy, &id);
    assert_eq!((told.method.as_str(), told.host.as_str(), told.path.as_str()), ("POST", "a.example", "/x"));
    assert_eq!((told.status, told.attempts[0].failure.as_deref()), (Some(502), Some("closed")));
    proxy.stop();
}
