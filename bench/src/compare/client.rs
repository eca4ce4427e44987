//! A client that is not in a hurry: it checks that a proxy passes on what the origin says, and keeps connections open.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rustix::{io::Errno, net::RecvFlags};

use super::load::Shape;

/// How long to wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a response's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    status: u16,
    body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no answer from {0}: {1}")]
    Io(SocketAddr, #[source] io::Error),
    #[error("{0} sent no head with a status and a Content-Length, but {1:?}")]
    Head(SocketAddr, String),
}

/// Makes the request of a load once and returns the connection with the answer.
pub(super) fn ask(addr: SocketAddr, shape: &Shape) -> Result<(TcpStream, Answer), NoAnswer> {
    let mut stream = connect(addr).map_err(|error| NoAnswer::Io(addr, error))?;
    let answer = ask_on(&mut stream, addr, shape)?;
    Ok((stream, answer))
}

/// A connection on which no answer is waited for without end.
pub(super) fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Makes the request of a load on a connection, whatever seals it.
pub(super) fn ask_on(
    stream: &mut (impl Read + Write),
    addr: SocketAddr,
    shape: &Shape,
) -> Result<Answer, NoAnswer> {
    let io = |error| NoAnswer::Io(addr, error);
    stream.write_all(&request(shape)).map_err(io)?;
    let mut bytes = Vec::new();
    let (status, start, length) = loop {
        let mut more = [0; 4096];
        let count = stream.read(&mut more).map_err(io)?;
        bytes.extend_from_slice(&more[..count]);
        match parse_head(&bytes) {
            Some(head) => break head,
            None if count > 0 && bytes.len() < HEAD_BYTES_MAX => {}
            None => return Err(NoAnswer::Head(addr, String::from_utf8_lossy(&bytes).into_owned())),
        }
    };
    let mut body = bytes.split_off(start);
    let seen = body.len();
    body.resize(seen.max(length), 0);
    stream.read_exact(&mut body[seen..]).map_err(io)?;
    Ok(Answer { status, body })
}

fn request(shape: &Shape) -> Vec<u8> {
    let method = if shape.body_bytes > 0 { "POST" } else { "GET" };
    let connection = if shape.close { "Connection: close\r\n" } else { "" };
    let length = if shape.body_bytes > 0 {
        format!("Content-Length: {}\r\n", shape.body_bytes)
    } else {
        String::new()
    };
    let head = format!("{method} {} HTTP/1.1\r\nHost: bench\r\n{connection}{length}\r\n", shape.path);
    [head.into_bytes(), vec![b'x'; shape.body_bytes]].concat()
}

/// The status, where the body begins, and how long it is.
fn parse_head(bytes: &[u8]) -> Option<(u16, usize, usize)> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    let mut lines = std::str::from_utf8(&bytes[..end]).ok()?.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let (_, length) = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    Some((status, end + 4, length.trim().parse().ok()?))
}

/// Whether a connection on which nothing is due is still open.
pub(super) fn is_open(stream: &TcpStream) -> bool {
    let probe = rustix::net::recv(stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(probe, Err(Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::load::Load;

    #[test]
    fn a_head_tells_status_and_length() {
        let head = b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length:  35\r\n\r\nHello";
        assert_eq!(parse_head(head), Some((200, head.len() - 5, 35)));
        assert_eq!(parse_head(&head[..head.len() - 6]), None);
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), None);
    }

    #[test]
    fn a_request_is_what_the_load_says() {
        assert_eq!(request(&Load::Get64k.shape()), b"GET /64k HTTP/1.1\r\nHost: bench\r\n\r\n");
        let post = request(&Load::Post16k.shape());
        assert!(post.starts_with(b"POST / HTTP/1.1\r\nHost: bench\r\nContent-Length: 16384\r\n\r\nxxx"));
        assert!(request(&Load::Close.shape()).ends_with(b"\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn a_connection_is_open_until_the_other_side_closes() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert!(is_open(&client));
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert!(!is_open(&client));
    }
}
