//! One check: what it found.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::grpc::{self, REST_TIMEOUT};
use crate::{
    cluster::trouble::Trouble,
    config::Check,
    node::{
        program::{End, Program},
        shortage,
        supervise::Children,
    },
};

/// As much of an answer is read, for as long, before the connection is closed: with bytes unread the kernel resets it, and
/// many servers log that as an error, every second.
const REST_BYTES_MAX: u64 = 64 << 10;

/// What a check found.
#[derive(Debug)]
pub(super) enum Finding {
    /// Whether the process passes.
    Found(Result<(), Trouble>),
    /// Nothing: this side could not ask, which is not the process's fault.
    Nothing(io::Error),
}

/// Asks once.
pub(super) async fn probe(check: &Check, addr: SocketAddr, limit: Duration, children: &Children) -> Finding {
    let asked = async {
        match check {
            Check::None => Ok(Ok(())),
            Check::Tcp => TcpStream::connect(addr).await.map(|_| Ok(())),
            Check::Http(path) => http(path, addr, limit).await,
            Check::Grpc(service) => within(limit, grpc::probe(addr, service)).await,
            Check::Exec(command) => exec(command, limit, children).await,
        }
    };
    // What it takes to close in order is not the answer's time.
    match timeout(limit + REST_TIMEOUT, asked).await {
        Err(_) => Finding::Found(Err(Trouble::Timeout)),
        Ok(Ok(found)) => Finding::Found(found),
        Ok(Err(error)) if shortage::is_own(&error) => Finding::Nothing(error),
        Ok(Err(error)) => Finding::Found(Err(Trouble::from(&error))),
    }
}

async fn within<T>(limit: Duration, asked: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn http(path: &str, addr: SocketAddr, limit: Duration) -> io::Result<Result<(), Trouble>> {
    let ask = async {
        let mut stream = TcpStream::connect(addr).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: concertina-check\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut line = [0; 12];
        stream.read_exact(&mut line).await?;
        Ok((stream, line))
    };
    let (stream, line) = within(limit, ask).await?;
    let mut rest = stream.take(REST_BYTES_MAX);
    // Whatever comes of it, the status is known.
    let _ = timeout(REST_TIMEOUT, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Ok(match parse_status(line) {
        Some(200..=299) => Ok(()),
        Some(status) => Err(Trouble::Http(status)),
        None => Err(Trouble::Garbled),
    })
}

/// The status in the beginning of a status line (RFC 9112 4).
fn parse_status(line: [u8; 12]) -> Option<u16> {
    let line = str::from_utf8(&line).ok()?;
    let (version, status) = line.strip_prefix("HTTP/1.")?.split_once(' ')?;
    let is_status = version.len() == 1 && status.bytes().all(|b| b.is_ascii_digit());
    is_status.then(|| status.parse().ok())?
}

async fn exec(command: &[String], limit: Duration, children: &Children) -> io::Result<Result<(), Trouble>> {
    let ran = Program { command, envs: &[], stdin: b"" }.run(limit, children).await;
    let status = match ran {
        Err(error) if shortage::is_own(&error) => return Err(error),
        Err(_) => return Ok(Err(Trouble::NotRunnable)),
        Ok(ran) => match ran.end {
            End::Overdue => return Ok(Err(Trouble::Timeout)),
            End::Unseen => return Ok(Err(Trouble::NotRunnable)),
            End::Ended(status) => status,
        },
    };
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Trouble::Exit(code)),
        (_, signal) => Err(Trouble::Signal(signal.unwrap_or_default())),
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    async fn found(check: &Check, addr: SocketAddr, limit: Duration) -> Result<(), Trouble> {
        match probe(check, addr, limit, &Children::default()).await {
            Finding::Found(found) => found,
            Finding::Nothing(error) => panic!("{error}"),
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_http_check_asks_for_its_path_wants_2xx_and_resets_nothing() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK", Ok(())),
            ("HTTP/1.0 204 No Content", Ok(())),
            ("HTTP/1.1 503 No", Err(Trouble::Http(503))),
            ("HTTP/1.1 301 x", Err(Trouble::Http(301))),
            ("SSH-2.0-OpenSSH_9.2", Err(Trouble::Garbled)),
            ("HTTP/1.1 2x0 OK", Err(Trouble::Garbled)),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 14];
                stream.read_exact(&mut head).await.unwrap();
                assert_eq!(&head, b"GET /up HTTP/1");
                stream.write_all(format!("{answer}\r\n\r\n").as_bytes()).await.unwrap();
                stream.write_all(&[b'x'; 20_000]).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.expect("an end, not a reset");
            };
            let check = Check::Http("/up".into());
            let (answered, ()) = tokio::join!(found(&check, addr, LIMIT), server);
            assert_eq!(answered, expected, "{answer}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_does_not_answer_is_told_from_who_refuses_and_who_hangs_up() {
        let _turn = crate::node::program::FORKS.read().await;
        let listener = TcpListener::bind("127.0.79.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert_eq!(found(&Check::Tcp, addr, LIMIT).await, Ok(()));
        let check = Check::Http("/".into());
        assert_eq!(found(&check, addr, Duration::from_millis(20)).await, Err(Trouble::Timeout));
        let hang_up = async {
            // The two before.
            for _ in 0..3 {
                drop(listener.accept().await.unwrap());
            }
        };
        let (answered, ()) = tokio::join!(found(&check, addr, LIMIT), hang_up);
        assert_eq!(answered, Err(Trouble::Closed));
        drop(listener);
        for check in [Check::Tcp, check, Check::Grpc(String::new())] {
            assert_eq!(found(&check, addr, LIMIT).await, Err(Trouble::Refused));
        }
    }
}
