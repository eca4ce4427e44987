//! An origin for load tests: what every proxy forwards to. It shares its core with the load generator, so it does as little
//! as a server can: precomputed responses, one read and one write for a request, one pass over its head.
//!
//! It trusts its clients, which are proxies and `wrk`: no chunked requests, no HEAD, no limits but those that keep it alive.

mod request;

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
};

use slab::Slab;

use self::request::{Answer, Page, Parsed, parse_request};
use crate::event_loop::{self, READ_BYTES, Ready, Registry, Serve};

/// `bench origin`: what the proxies under test forward to.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
}

/// Serves until it is killed.
///
/// # Errors
/// An address that cannot be listened on.
pub fn run(args: &Args) -> io::Result<Infallible> {
    serve(&event_loop::listen(args.listen)?)
}

fn serve(listener: &TcpListener) -> io::Result<Infallible> {
    let mut origin =
        Origin { clients: Slab::new(), buffer: vec![0; READ_BYTES], responses: Responses::new() };
    event_loop::run(listener, &mut origin)
}

impl Page {
    fn body(self) -> Vec<u8> {
        match self {
            Self::Hello => b"Hello frontserver1, I'm appserver1\n".to_vec(),
            Self::Kib64 => vec![b'x'; 64 << 10],
            Self::Mib1 => vec![b'x'; 1 << 20],
        }
    }
}

/// Every response with its head: for connections that stay, and for those that end with it.
struct Responses {
    stay: [Vec<u8>; 3],
    close: [Vec<u8>; 3],
}

impl Responses {
    fn new() -> Self {
        let pages = [Page::Hello, Page::Kib64, Page::Mib1];
        let of = |connection: &str| pages.map(|page| response(&page.body(), connection));
        Self { stay: of(""), close: of("Connection: close\r\n") }
    }

    fn get(&self, answer: Answer) -> &[u8] {
        let set = if answer.close { &self.close } else { &self.stay };
        &set[answer.page as usize]
    }
}

fn response(body: &[u8], connection: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nDate: Sat, 22 Nov 2025 18:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{connection}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

struct Origin {
    clients: Slab<Client>,
    buffer: Vec<u8>,
    responses: Responses,
}

impl Serve for Origin {
    fn handle_accepted(&mut self, registry: &Registry, socket: OwnedFd) -> io::Result<()> {
        let entry = self.clients.vacant_entry();
        registry.add(&socket, entry.key() as u64)?;
        entry.insert(Client { socket, carry: Vec::new(), body_left: 0, owed: None, sent: 0 });
        Ok(())
    }

    fn handle_ready(&mut self, token: u64, ready: Ready) {
        let Some(client) = self.clients.get_mut(token as usize) else { return };
        match client.handle_ready(ready, &mut self.buffer, &self.responses) {
            Ok(Next::Read | Next::Write) => {}
            Ok(Next::Close) | Err(_) => drop(self.clients.remove(token as usize)),
        }
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Read,
    Write,
    Close,
}

struct Client {
    socket: OwnedFd,
    /// Read, and not yet understood.
    carry: Vec<u8>,
    /// Bytes of the request's body that are still to come.
    body_left: u64,
    /// The response to the request that has been read, and how much of it is written.
    owed: Option<Answer>,
    sent: usize,
}

impl Client {
    fn handle_ready(&mut self, ready: Ready, buffer: &mut [u8], responses: &Responses) -> io::Result<Next> {
        let mut until_empty = ready.ended;
        if self.owed.is_some() && self.body_left == 0 {
            if !ready.writable && !ready.ended {
                return Ok(Next::Write);
            }
            let carry = std::mem::take(&mut self.carry);
            match self.apply_input(&carry, responses)? {
                // The report of more to read may have come while the socket was full.
                Next::Read => until_empty = true,
                next => return Ok(next),
            }
        } else if !ready.readable {
            return Ok(Next::Read);
        }
        loop {
            let Some(bytes) = event_loop::read(&self.socket, buffer)? else { return Ok(Next::Read) };
            if bytes == 0 {
                return Ok(Next::Close);
            }
            let next = if self.carry.is_empty() {
                self.apply_input(&buffer[..bytes], responses)?
            } else {
                let mut carry = std::mem::take(&mut self.carry);
                carry.extend_from_slice(&buffer[..bytes]);
                self.apply_input(&carry, responses)?
            };
            if next != Next::Read || (bytes < buffer.len() && !until_empty) {
                return Ok(next);
            }
        }
    }

    /// Answers what the input asks for; what is left of it is carried over.
    fn apply_input(&mut self, mut input: &[u8], responses: &Responses) -> io::Result<Next> {
        loop {
            let body = usize::try_from(self.body_left).map_or(input.len(), |left| left.min(input.len()));
            self.body_left -= body as u64;
            input = &input[body..];
            if self.body_left > 0 {
                return Ok(Next::Read);
            }
            if let Some(answer) = self.owed {
                let response = responses.get(answer);
                self.sent += event_loop::write(&self.socket, &response[self.sent..])?;
                if self.sent < response.len() {
                    self.carry = input.to_vec();
                    return Ok(Next::Write);
                }
                (self.owed, self.sent) = (None, 0);
                if answer.close {
                    return Ok(Next::Close);
                }
            }
            if input.is_empty() {
                return Ok(Next::Read);
            }
            match parse_request(input) {
                Parsed::Request { head_bytes, body_bytes, answer } => {
                    input = &input[head_bytes..];
                    (self.body_left, self.owed) = (body_bytes, Some(answer));
                }
                Parsed::NeedMore => {
                    self.carry = input.to_vec();
                    return Ok(Next::Read);
                }
                Parsed::Refused => return Ok(Next::Close),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use super::*;

    fn connect() -> TcpStream {
        let listener = event_loop::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener));
        let client = TcpStream::connect(addr).unwrap();
        client.set_nodelay(true).unwrap();
        client
    }

    fn expect(client: &mut TcpStream, page: Page) {
        let expected = response(&page.body(), "");
        let mut seen = vec![0; expected.len()];
        client.read_exact(&mut seen).unwrap();
        assert!(seen == expected, "{}", String::from_utf8_lossy(&seen[..80]));
    }

    #[test]
    fn the_smallest_body_is_35_bytes() {
        assert_eq!(Page::Hello.body().len(), 35);
    }

    #[test]
    fn a_head_in_pieces_is_answered_once_whole() {
        let mut client = connect();
        for piece in ["GET /6", "4k HTTP/1.1\r\nHo", "st: a\r\n\r", "\n"] {
            client.write_all(piece.as_bytes()).unwrap();
        }
        expect(&mut client, Page::Kib64);
    }

    #[test]
    fn a_body_is_swallowed_and_the_connection_goes_on() {
        let mut client = connect();
        client.write_all(b"POST / HTTP/1.1\r\nContent-Length: 300000\r\n\r\n").unwrap();
        client.write_all(&vec![b'G'; 300_000]).unwrap();
        expect(&mut client, Page::Hello);
        client.write_all(b"GET / HTTP/1.1\r\n\r\nGET /64k HTTP/1.1\r\n\r\n").unwrap();
        expect(&mut client, Page::Hello);
        expect(&mut client, Page::Kib64);
    }

    #[test]
    fn more_than_a_socket_holds_is_written_when_there_is_room() {
        let mut client = connect();
        client.write_all(&b"GET /1m HTTP/1.1\r\n\r\n".repeat(20)).unwrap();
        for _ in 0..20 {
            expect(&mut client, Page::Mib1);
        }
    }

    #[test]
    fn who_asks_for_close_gets_the_answer_and_the_end() {
        let mut client = connect();
        client.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).unwrap();
        assert_eq!(seen, response(&Page::Hello.body(), "Connection: close\r\n"));
    }
}
