//! The role's own check: whether its process serves.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::config::Check;

/// Pause between checks until the first success: what a start waits at most beyond the process's own need.
const STARTING_PERIOD: Duration = Duration::from_millis(10);
/// Pause between checks afterwards.
const SERVING_PERIOD: Duration = Duration::from_secs(1);
/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// As much of an answer is read, for as long, before the connection is closed: with bytes unread the kernel resets it, and
/// many servers log that as an error, every second.
const REST_BYTES_MAX: u64 = 64 << 10;
const REST_TIMEOUT: Duration = Duration::from_millis(200);
/// Failures in a row that take a serving process out. One lost answer on a busy machine is no reason to.
const FALL_COUNT: u32 = 3;

/// Checks for ever; tells each change.
pub(crate) async fn watch(check: Check, addr: SocketAddr, mut tell: impl FnMut(bool)) {
    let (mut serving, mut failures) = (false, 0);
    loop {
        let healthy = matches!(timeout(ANSWER_TIMEOUT, answers(&check, addr)).await, Ok(Ok(true)));
        failures = if healthy { 0 } else { failures + 1 };
        if healthy != serving && (healthy || failures >= FALL_COUNT) {
            serving = healthy;
            tell(serving);
        }
        sleep(if serving && healthy { SERVING_PERIOD } else { STARTING_PERIOD }).await;
    }
}

async fn answers(check: &Check, addr: SocketAddr) -> std::io::Result<bool> {
    let Check::Http(path) = check else {
        if *check == Check::Tcp {
            TcpStream::connect(addr).await?;
        }
        return Ok(true);
    };
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: concertina-check\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    let mut rest = stream.take(REST_BYTES_MAX);
    // Whatever comes of it, the status is known.
    let _ = timeout(REST_TIMEOUT, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Ok(status.starts_with(b"HTTP/1.") && status[8..10] == *b" 2")
}

/// Where to reach a role's process that may listen on every address.
pub(crate) fn address(advertised: SocketAddr, port: u16) -> SocketAddr {
    let ip = match advertised.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    (ip, port).into()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_http_check_asks_for_its_path_wants_2xx_and_resets_nothing() {
        for (status, healthy) in
            [("200 OK", true), ("204 No Content", true), ("503 No", false), ("301 x", false)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 14];
                stream.read_exact(&mut head).await.unwrap();
                assert_eq!(&head, b"GET /up HTTP/1");
                stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
                stream.write_all(&[b'x'; 20_000]).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.expect("an end, not a reset");
            };
            let check = Check::Http("/up".into());
            let (answer, ()) = tokio::join!(answers(&check, addr), server);
            assert_eq!(answer.unwrap(), healthy, "{status}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_tcp_check_fails_where_nobody_listens() {
        let listener = TcpListener::bind("127.0.79.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(answers(&Check::Tcp, addr).await.unwrap());
        drop(listener);
        assert!(answers(&Check::Tcp, addr).await.is_err());
    }
}
