//! An origin that keeps its connections alive, and a client that does.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

/// Longest wait for an answer. Only reached when something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: Sat, 22 Nov 2025 18:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";

const GET: &[u8] = b"GET /hello HTTP/1.1\r\nHost: localhost\r\nUser-Agent: hot-path\r\nAccept: */*\r\n\r\n";

/// A request that is answered together with those of everybody else.
const GET_TOGETHER: &[u8] = b"GET /together HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Serves for ever, on a thread for each connection. `/together` is answered once so many ask for it at the same time: then as
/// many connections exist.
pub(crate) fn start(together: usize) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let barrier = Arc::new(Barrier::new(together));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let barrier = barrier.clone();
            thread::spawn(move || serve(stream, &barrier));
        }
    });
    addr
}

fn serve(mut stream: TcpStream, barrier: &Barrier) {
    stream.set_nodelay(true).unwrap();
    let mut request = [0; 1024];
    // The proxy sends a head in one write; what a reset ends was the end of a test.
    while let Ok(1..) = stream.read(&mut request) {
        if request.starts_with(b"GET /together") {
            barrier.wait();
        }
        if stream.write_all(RESPONSE).is_err() {
            return;
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) fn connect(proxy: SocketAddr) -> Self {
        let stream = TcpStream::connect(proxy).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Asks and waits for the answer.
    pub(crate) fn get(&mut self) {
        self.exchange(GET);
    }

    /// The same, with all the others.
    pub(crate) fn get_together(&mut self) {
        self.exchange(GET_TOGETHER);
    }

    fn exchange(&mut self, request: &[u8]) {
        let mut response = [0; RESPONSE.len()];
        self.0.write_all(request).unwrap();
        self.0.read_exact(&mut response).unwrap();
        assert_eq!(response, RESPONSE, "{}", String::from_utf8_lossy(&response));
    }
}
