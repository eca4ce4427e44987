//! Lifelines: an idle TCP connection whose end tells at once that a process died.
//!
//! Each node holds a few, to members chosen by rendezvous hash. The kernel closes them when the process is killed, long before
//! a probe would be missed. Who closes one on purpose, because it has chosen other members or leaves, says so with a byte, so that
//! an end without a word is a death; the peer is dialled all the same, and lives if it accepts. A peer that cannot be dialled in
//! the first place, or whose packets are lost, is no lifeline's business: only a refusal proves anything then.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::{
    cluster::peer::Peer,
    node::{
        link::{Link, SharedGate},
        shortage,
    },
};

/// Longest wait for a connection. A live kernel accepts in microseconds; on one network this is ample.
const DIAL_TIMEOUT: Duration = Duration::from_millis(200);

/// Attempts to reach a peer whose lifeline ended without a word.
const CONFIRM_ATTEMPTS: usize = 2;

/// Pause before a lifeline that broke is dialled again.
const REDIAL_PAUSE: Duration = Duration::from_secs(1);

/// What is said before a lifeline is closed on purpose.
const GOODBYE: u8 = 1;

/// Holds a lifeline to a peer until that is dead. `hello` is the packet that introduces this node.
pub(crate) async fn hold(peer: Peer, hello: Vec<u8>, gate: SharedGate) -> Peer {
    loop {
        let end = match dial(peer.addr).await {
            Dialled::Refused => return peer,
            Dialled::Unanswered | Dialled::Short => End::Unclear,
            Dialled::Accepted(stream) => introduced(stream, peer.addr, hello.clone(), &gate).await,
        };
        if end == End::Silent && is_dead(peer.addr).await {
            return peer;
        }
        tokio::time::sleep(REDIAL_PAUSE).await;
    }
}

/// How a lifeline ends after this node has said who it is. A frozen peer's kernel accepts, and no greeting comes: only the end of
/// the stream says anything.
async fn introduced(stream: TcpStream, to: SocketAddr, hello: Vec<u8>, gate: &SharedGate) -> End {
    let Ok(mut link) = Link::dialled(stream, to, gate).await else { return End::Unclear };
    match link.send(hello).await {
        Ok(()) => ended(link.into_stream()).await,
        Err(_) => End::Unclear,
    }
}

/// Watches the other end of a lifeline; none if the peer is still there.
pub(crate) async fn watch(peer: Peer, stream: TcpStream) -> Option<Peer> {
    (ended(stream).await == End::Silent && is_dead(peer.addr).await).then_some(peer)
}

/// How a lifeline ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its other end said goodbye.
    Goodbye,
    /// The other kernel closed it, and nobody had said anything.
    Silent,
    /// The network gave it up, or it never began.
    Unclear,
}

/// The stream, which says goodbye when this end lets it go.
struct Farewell(TcpStream);

impl Drop for Farewell {
    fn drop(&mut self) {
        // A crash is no goodbye.
        if !std::thread::panicking() {
            // The first byte in an empty buffer; where it does not fit, the other side dials once more than it had to.
            let _ = self.0.try_write(&[GOODBYE]);
        }
    }
}

async fn ended(stream: TcpStream) -> End {
    let mut stream = Farewell(stream);
    match stream.0.read_u8().await {
        // Nobody says anything else on a lifeline; whoever does gains nothing by it.
        Ok(_) => End::Goodbye,
        Err(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => End::Silent,
            _ => End::Unclear,
        },
    }
}

/// What came of a dial.
enum Dialled {
    Accepted(TcpStream),
    /// The peer's kernel says that nobody listens.
    Refused,
    /// No answer in time.
    Unanswered,
    /// This side is short of sockets or ports, which says nothing about the peer.
    Short,
}

async fn dial(addr: SocketAddr) -> Dialled {
    match timeout(DIAL_TIMEOUT, TcpStream::connect(addr)).await {
        Ok(Ok(stream)) => Dialled::Accepted(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Dialled::Refused,
        Ok(Err(error)) if shortage::is_own(&error) => Dialled::Short,
        Ok(Err(_)) | Err(_) => Dialled::Unanswered,
    }
}

/// Whether a peer whose lifeline ended without a word has died: its kernel closed the connection, and where a whole container
/// is gone with its address, nobody is left to refuse.
async fn is_dead(addr: SocketAddr) -> bool {
    for _ in 0..CONFIRM_ATTEMPTS {
        match dial(addr).await {
            Dialled::Accepted(_) | Dialled::Short => return false,
            Dialled::Refused => return true,
            Dialled::Unanswered => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A lifeline to a listener: the peer, and both ends.
    async fn lifeline(listener: &TcpListener) -> (Peer, TcpStream, TcpStream) {
        let peer = Peer { addr: listener.local_addr().unwrap(), instance: 7 };
        let near = TcpStream::connect(peer.addr).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (peer, near, far)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_end_of_a_lifeline_is_a_death_only_if_nobody_accepts_any_more() {
        let _turn = crate::node::program::FORKS.read().await;
        let listener = TcpListener::bind("127.0.79.2:0").await.unwrap();
        let (peer, near, far) = lifeline(&listener).await;
        drop(far);
        assert_eq!(watch(peer, near).await, None, "the listener still accepts");

        let (peer, near, far) = lifeline(&listener).await;
        drop((far, listener));
        assert_eq!(watch(peer, near).await, Some(peer));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_lets_a_lifeline_go_says_goodbye_and_is_not_dialled() {
        let _turn = crate::node::program::FORKS.read().await;
        let listener = TcpListener::bind("127.0.79.3:0").await.unwrap();
        let (peer, near, far) = lifeline(&listener).await;
        drop(Farewell(far));
        drop(listener);
        assert_eq!(watch(peer, near).await, None, "nobody accepts, and nobody has to");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_peer_that_cannot_be_dialled_is_dead_only_if_it_refuses() {
        let _turn = crate::node::program::FORKS.read().await;
        // A full backlog: the kernel drops what comes on top, as a network does that loses packets.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.79.4:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        let _waiting = TcpStream::connect(addr).await.unwrap();
        assert!(matches!(dial(addr).await, Dialled::Unanswered));
        drop(listener);
        assert!(matches!(dial(addr).await, Dialled::Refused));
    }
}
