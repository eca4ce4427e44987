//! Origins that do with a request's body what ordinary ones do, and check it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

/// What a slow reader takes between two pauses.
const PIECE_BYTES: usize = 64 * 1024;

/// A slow reader's pause.
const PAUSE: Duration = Duration::from_millis(1);

/// The kernel's buffer of a slow reader: less than a pipe holds, so that what it has not taken waits in the proxy.
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

/// A request's head, as far as it matters here.
struct Head {
    length: usize,
    expects_continue: bool,
}

/// Serves every connection in a thread of its own until the process ends.
fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    addr
}

/// None at the end of the connection. Anything but a head is a panic, which the client sees as a closed connection.
fn read_head(reader: &mut impl BufRead) -> Option<Head> {
    let mut head = Head { length: 0, expects_continue: false };
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|count| *count > 0)?;
    assert!(first.ends_with(" HTTP/1.1\r\n"), "in place of a request: {first:?}");
    for line in reader.lines() {
        let line = line.ok()?.to_ascii_lowercase();
        match line.split_once(": ") {
            None => return Some(head),
            Some(("content-length", length)) => head.length = length.parse().unwrap(),
            Some(("expect", _)) => head.expects_continue = true,
            Some(_) => {}
        }
    }
    None
}

/// An origin that takes its time for the body, which must be the beginning of these bytes, and answers with its length.
pub(crate) fn start_slow_reader(right: Vec<u8>) -> SocketAddr {
    start(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(head) = read_head(&mut reader) {
            if head.expects_continue && stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
                return;
            }
            let (mut done, mut piece) = (0, vec![0; PIECE_BYTES]);
            while done < head.length {
                let wanted = PIECE_BYTES.min(head.length - done);
                let Ok(count @ 1..) = reader.read(&mut piece[..wanted]) else { return };
                assert!(piece[..count] == right[done..done + count], "wrong bytes from {done} on");
                done += count;
                thread::sleep(PAUSE);
            }
            let body = format!("all of {done}");
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// An origin that answers when it has the head, and reads the body afterwards.
pub(crate) fn start_early() -> SocketAddr {
    start(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(head) = read_head(&mut reader) {
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
            let body = std::io::copy(&mut reader.by_ref().take(head.length as u64), &mut std::io::sink());
            if body.is_ok_and(|count| count < head.length as u64) {
                return;
            }
        }
    })
}
