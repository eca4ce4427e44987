//! A stream between two sidecars: packets one by one, through the gates of both.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::net::TcpStream;

use crate::{
    cluster::sync::SYNC_BYTES_MAX,
    node::stream::{StreamError, read_packet_within, write_packet},
    wire::{
        gate::{Gate, Session},
        packet::DATAGRAM_BYTES_MAX,
    },
};

/// The gate of this node, for everybody who sends or receives.
pub(crate) type SharedGate = Rc<RefCell<Gate>>;

/// One end of a stream.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    peer: IpAddr,
    session: Session,
    gate: SharedGate,
}

impl Link {
    /// The end that dialled `to`.
    pub(crate) async fn dialled(
        mut stream: TcpStream,
        to: SocketAddr,
        gate: &SharedGate,
    ) -> Result<Self, StreamError> {
        let peer = to.ip();
        gate.borrow().check(peer)?;
        let is_greeted = Session::is_greeted(&gate.borrow());
        // A challenge would fit a datagram, and who sends it has proved nothing yet.
        let greeting = if is_greeted {
            Some(noted(gate, peer, read_packet_within(&mut stream, DATAGRAM_BYTES_MAX).await)?)
        } else {
            None
        };
        let session = Session::dialled(&gate.borrow(), to, greeting.as_deref());
        let session = noted(gate, peer, session.map_err(StreamError::from))?;
        Ok(Self { stream, peer, session, gate: gate.clone() })
    }

    /// The end that accepted a stream from `peer`.
    pub(crate) async fn accepted(
        mut stream: TcpStream,
        peer: IpAddr,
        gate: &SharedGate,
    ) -> Result<Self, StreamError> {
        let (session, greeting) = Session::accepted(&mut gate.borrow_mut());
        if let Some(greeting) = greeting {
            write_packet(&mut stream, &greeting).await?;
        }
        Ok(Self { stream, peer, session, gate: gate.clone() })
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Sends a plain packet.
    pub(crate) async fn send(&mut self, packet: Vec<u8>) -> Result<(), StreamError> {
        let sealed = self.session.seal(&mut self.gate.borrow_mut(), packet, unix_ms());
        Ok(write_packet(&mut self.stream, &sealed).await?)
    }

    /// Receives a plain packet.
    pub(crate) async fn receive(&mut self) -> Result<Vec<u8>, StreamError> {
        self.receive_within(SYNC_BYTES_MAX).await
    }

    /// Receives a plain packet that may have so many bytes as it comes, with its envelope and seal.
    pub(crate) async fn receive_within(&mut self, bytes_max: usize) -> Result<Vec<u8>, StreamError> {
        let packet = read_packet_within(&mut self.stream, bytes_max).await;
        let packet = noted(&self.gate, self.peer, packet)?;
        let opened = self.session.open(&mut self.gate.borrow_mut(), &packet, unix_ms());
        noted(&self.gate, self.peer, opened.map_err(StreamError::from))
    }

    /// The stream itself, for who only waits for its end.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// Counts what the other side should not have sent.
fn noted<T>(gate: &SharedGate, peer: IpAddr, outcome: Result<T, StreamError>) -> Result<T, StreamError> {
    if let Err(StreamError::Packet(why)) = outcome {
        gate.borrow_mut().note_drop(peer, why);
    }
    outcome
}

/// Milliseconds since the Unix epoch; zero before it.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
