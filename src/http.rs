//! One HTTP request: to learn whether a cluster answers, and what a node's admin port says.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, ToSocketAddrs},
    time::timeout,
};

/// How long an answer may take, and how many bytes of it are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) time: Duration,
    pub(crate) bytes_max: u64,
}

/// Asks for a path; the body of a 200, or what came instead.
pub(crate) async fn get(
    addr: impl ToSocketAddrs,
    host: &str,
    path: &str,
    patience: Patience,
) -> io::Result<String> {
    let ask = async {
        let mut stream = TcpStream::connect(addr).await?;
        // By HTTP/1.0 nobody answers in chunks.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(patience.bytes_max).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer =
        timeout(patience.time, ask).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let answer = String::from_utf8(answer).map_err(|_| io::Error::other("no text"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.0 200 ") {
        Ok(body.to_owned())
    } else {
        Err(io::Error::other(head.lines().next().unwrap_or("no answer").to_owned()))
    }
}
