//! A small HTTP/1.1 client that forgives nothing.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::wait::DEADLINE;

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        { fields }.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Whether the server will close the connection.
    pub(crate) fn is_last(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(addr: SocketAddr) -> io::Result<Self> {
        Self::open_patiently(addr, DEADLINE)
    }

    /// The same for a client that waits so long for an answer.
    pub(crate) fn open_patiently(addr: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Response> {
        self.get_of("concertina.test", path)
    }

    /// The same of this host.
    pub(crate) fn get_of(&mut self, host: &str, path: &str) -> io::Result<Response> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// The same with these lines.
    pub(crate) fn get_with(&mut self, path: &str, fields: &str) -> io::Result<Response> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: concertina.test\r\n{fields}\r\n"))
    }

    fn send(&mut self, request: &str) -> io::Result<Response> {
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("end after {head:?}")));
            }
        }
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, head.clone());
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(malformed)?;
        let mut response = Response { status, head: head.clone(), body: String::new() };
        let length = response.field("content-length").and_then(|value| value.parse().ok());
        let mut body = vec![0; length.ok_or_else(malformed)?];
        self.stream.read_exact(&mut body)?;
        response.body = String::from_utf8(body).map_err(|_| malformed())?;
        Ok(response)
    }
}

/// One request on a connection of its own.
pub(crate) fn get(addr: SocketAddr, path: &str) -> io::Result<Response> {
    Connection::open(addr)?.get(path)
}

/// The same of this host.
pub(crate) fn get_of(addr: SocketAddr, host: &str, path: &str) -> io::Result<Response> {
    Connection::open(addr)?.get_of(host, path)
}
