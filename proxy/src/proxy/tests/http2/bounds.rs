//! Claims about clients of HTTP/2 that ask for too much, or take too long.

use super::*;

#[test]
fn a_flood_of_resets_ends_its_connection_and_reaches_no_origin() {
    let requests = Arc::new(AtomicU32::new(0));
    let counted = requests.clone();
    let upstream = origin(move |stream, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    });
    let proxy = start_h2c(upstream, "");
    // Raw: a well-behaved client would not.
    let mut stream = connect(&proxy);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for id in (1..20_001_u32).step_by(2) {
        // GET http / with the authority a, all but that from the static table; then RST_STREAM with CANCEL.
        let block = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
        bytes.extend_from_slice(&[0, 0, 6, 1, 5]);
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(&block);
        bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(&8_u32.to_be_bytes());
    }
    // It may be cut off in the middle.
    let _ = stream.write_all(&bytes);
    let mut told = Vec::new();
    let _ = stream.read_to_end(&mut told);
    let asked = requests.load(Ordering::Relaxed);
    assert!(asked < 1000, "{asked} of 10000 requests reached the origin");
    // It is counted when the connection has ended, which the client may see before.
    let started = Instant::now();
    while !proxy.summary().contains(" h2_floods_rapid_resets=1") {
        assert!(started.elapsed() < PATIENCE, "{}", proxy.summary());
        thread::sleep(Duration::from_millis(1));
    }
    proxy.stop();
}

#[test]
fn fields_that_are_too_long_are_answered_and_hpack_stays_in_step() {
    let upstream = origin(|stream, head| {
        let length = head.len();
        answer(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{head}"))
    });
    let proxy = start_h2c(upstream, "");
    with_client(&proxy, async |mut client| {
        let mut long = request("GET", "/");
        for i in 0..9 {
            let name = http::HeaderName::from_bytes(format!("x{i}").as_bytes()).unwrap();
            long.headers_mut().insert(name, "y".repeat(4000).parse().unwrap());
        }
        let (response, _) = client.send_request(long, true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let mut named = request("GET", "/next");
        named.headers_mut().insert("x0", "z".parse().unwrap());
        let (response, _) = client.send_request(named, true).unwrap();
        let head = read_body(&mut response.await.unwrap().into_body()).await.unwrap();
        assert!(String::from_utf8(head).unwrap().contains("x0: z\r\n"));
    });
    proxy.stop();
}

/// A client that begins and answers nothing, with these frames behind its own settings.
fn silent(proxy: &Proxy, frames: &[u8]) -> TcpStream {
    let mut stream = connect(proxy);
    let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    stream.write_all(&[&begin[..], frames].concat()).unwrap();
    stream
}

/// SETTINGS of nothing.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

#[test]
fn a_client_that_says_nothing_more_is_let_go() {
    let upstream = origin(|stream, _| answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    let proxy = start_h2c(upstream, "--timeouts=idle=100ms,drain=10ms");
    // Nothing, a part of a frame, and a part of a head.
    for rest in [&[][..], &[0, 0], &[0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82]] {
        let mut stream = silent(&proxy, &[SETTINGS, rest].concat());
        let mut told = Vec::new();
        // An end or a reset: the patience of the socket would be an error of another kind.
        let ended = stream.read_to_end(&mut told);
        assert!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "{rest:?}");
    }
    proxy.stop();
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_has_its_stream_reset() {
    let upstream = origin(|stream, _| {
        let body = "x".repeat(1000);
        answer(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{body}"))
    });
    let proxy = start_h2c(upstream, "--timeouts=body=200ms,idle=200ms,drain=10ms");
    // INITIAL_WINDOW_SIZE of 0, and GET / of a.
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    let get = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    let mut stream = silent(&proxy, &[&settings[..], &get].concat());
    let mut told = Vec::new();
    let ended = stream.read_to_end(&mut told);
    assert!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "it ends");
    // RST_STREAM of stream 1.
    let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1];
    assert!(told.windows(reset.len()).any(|frame| frame == reset), "{told:?}");
    proxy.stop();
}

/// Of an origin that would send them: more than all kernels on the way hold.
const INTERIMS_COUNT: usize = 4096;

/// Its frames, one after another, without what is in them.
fn read_heads(client: &mut impl Read, count: usize) {
    let mut seen = 0;
    while seen < count {
        let mut head = [0; 9];
        client.read_exact(&mut head).unwrap();
        let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
        std::io::copy(&mut client.by_ref().take(length), &mut std::io::sink()).unwrap();
        assert!([1, 4, 8].contains(&head[3]), "neither head nor settings nor room: {head:?}");
        seen += usize::from(head[3] == 1);
    }
}

#[test]
fn interim_answers_for_a_client_that_does_not_read_wait_at_their_upstream_and_all_come() {
    let interim = format!("HTTP/1.1 103 x\r\nLink: {}\r\n\r\n", "y".repeat(8000)).into_bytes();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (stuck, is_stuck) = mpsc::channel();
    let writing = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        assert!(read_head(&mut stream, &mut Vec::new()));
        socket2::SockRef::from(&stream).set_send_buffer_size(16 * 1024).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let (all, mut sent) = (INTERIMS_COUNT * interim.len(), 0);
        while sent < all {
            match stream.write(&interim[sent % interim.len()..]) {
                Ok(count) => sent += count,
                // From here on it is the client's turn.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    stuck.send((sent, all)).unwrap();
                    stream.set_write_timeout(Some(PATIENCE)).unwrap();
                }
                Err(error) => panic!("{sent} of {all}: {error}"),
            }
        }
        answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let proxy = start_h2c(addr, "");
    let get = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    let mut client = silent(&proxy, &[SETTINGS, &get].concat());
    let (sent, all) = is_stuck.recv_timeout(PATIENCE).expect("the origin has to wait");
    // What kernels hold is some ten megabytes, at the sizes that are usual; the client's does not grow unless it reads.
    assert!(sent < all / 4 * 3, "{sent} of {all} bytes were taken");
    read_heads(&mut client, INTERIMS_COUNT + 1);
    writing.join().unwrap();
    proxy.stop();
}
