//! What a connection says before its protocol begins is looked at, and left where it is.

use std::{future::poll_fn, io, net::SocketAddr, time::Duration};

use super::{
    client_hello::{self, ClientHello, HELLO_BYTES_MAX, NotAHello},
    proxy_header::{self, NotAHeader, Origin, V2_BYTES_MAX},
};
use crate::{deadline::within, http1::Parse, socket::Socket, stream::tls::HandshakeError};

/// How often a greeting that is not whole is looked at. It comes in one piece nearly always, and who drips it waits.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// Why a connection was closed before its protocol began.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetError {
    #[error(transparent)]
    Header(#[from] NotAHeader),
    #[error(transparent)]
    Hello(#[from] NotAHello),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("it did not come in time")]
    Timeout,
    #[error("too many handshakes are under way, and it began first")]
    Evicted,
    #[error("the client went away")]
    Gone,
}

impl From<io::Error> for GreetError {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Where a connection comes from, and where it was made to. One to a Unix socket has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// Takes a PROXY header, which must be there, and says whose connection it is by that.
///
/// # Errors
/// There is none: the connection is to be closed, for the client's address would be the proxy's.
pub(crate) async fn read_proxy_header(
    client: &mut Socket,
    way: Option<Way>,
    patience: Duration,
) -> Result<Option<Way>, GreetError> {
    let header = look(client, V2_BYTES_MAX, patience, proxy_header::parse).await?;
    take(client, header.bytes).await?;
    Ok(match header.origin {
        Origin::Client { source, destination } => Some(Way { source, destination }),
        Origin::Socket => way,
    })
}

/// Reads a ClientHello, and leaves it for whoever terminates TLS.
///
/// # Errors
/// There is none.
pub(crate) async fn read_client_hello(
    client: &mut Socket,
    patience: Duration,
) -> Result<ClientHello, GreetError> {
    look(client, HELLO_BYTES_MAX, patience, client_hello::parse).await
}

async fn look<T, E: Into<GreetError>>(
    client: &mut Socket,
    bytes_max: usize,
    patience: Duration,
    parse: impl Fn(&[u8]) -> Result<Parse<T>, E>,
) -> Result<T, GreetError> {
    let mut room = vec![0; bytes_max];
    let looking = async {
        loop {
            let count = poll_fn(|context| client.poll_peek_at(context, &mut room)).await?;
            if count == 0 {
                return Err(GreetError::Gone);
            }
            if let Parse::Done(done) = parse(&room[..count]).map_err(Into::into)? {
                return Ok(done);
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    };
    within(patience, looking).await.unwrap_or(Err(GreetError::Timeout))
}

async fn take(client: &mut Socket, bytes: usize) -> io::Result<()> {
    let mut room = vec![0; bytes];
    let mut taken = 0;
    while taken < bytes {
        taken += poll_fn(|context| client.poll_recv(context, &mut room[taken..])).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn a_header_that_drips_is_taken_and_what_is_behind_it_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = Socket::from(listener.accept().await.unwrap().0);
        let addr: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let way = Some(Way { source: addr, destination: addr });
        let dripping = async {
            for byte in b"PROXY TCP4 192.0.2.7 192.0.2.8 7 8\r\nbehind" {
                far.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (read, ()) = tokio::join!(read_proxy_header(&mut near, way, Duration::from_secs(20)), dripping);
        let told =
            Way { source: "192.0.2.7:7".parse().unwrap(), destination: "192.0.2.8:8".parse().unwrap() };
        assert_eq!(read.unwrap(), Some(told));
        let mut rest = [0; 6];
        let mut read = 0;
        while read < rest.len() {
            read += poll_fn(|context| near.poll_recv(context, &mut rest[read..])).await.unwrap();
        }
        assert_eq!(&rest, b"behind");
        far.write_all(b"GET /").await.unwrap();
        let refused = read_proxy_header(&mut near, way, Duration::from_secs(20)).await;
        assert!(matches!(refused, Err(GreetError::Header(NotAHeader::Absent))));
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_not_waited_for_and_one_that_is_gone_neither() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = Socket::from(listener.accept().await.unwrap().0);
        let hello = read_client_hello(&mut near, Duration::from_millis(1)).await;
        assert!(matches!(hello, Err(GreetError::Timeout)));
        drop(far);
        let hello = read_client_hello(&mut near, Duration::from_secs(20)).await;
        assert!(matches!(hello, Err(GreetError::Gone)));
    }
}
