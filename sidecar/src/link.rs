//! A stream between two sidecars: packets one by one, through the gates of both.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::net::TcpStream;

use crate::{
    gate::{Gate, Session},
    packet::PacketError,
    stream::{read_packet, write_packet},
};

/// The gate of this node, for everybody who sends or receives.
pub(crate) type SharedGate = Rc<RefCell<Gate>>;

/// One end of a stream.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    session: Session,
    gate: SharedGate,
}

impl Link {
    /// The end that dialled `to`.
    pub(crate) async fn dialled(
        mut stream: TcpStream,
        to: SocketAddr,
        gate: &SharedGate,
    ) -> io::Result<Self> {
        let is_greeted = Session::is_greeted(&gate.borrow());
        let greeting = if is_greeted { Some(read_packet(&mut stream).await?) } else { None };
        let session = Session::dialled(&gate.borrow(), to, greeting.as_deref()).map_err(refused)?;
        Ok(Self { stream, session, gate: gate.clone() })
    }

    /// The end that accepted.
    pub(crate) async fn accepted(mut stream: TcpStream, gate: &SharedGate) -> io::Result<Self> {
        let (session, greeting) = Session::accepted(&mut gate.borrow_mut());
        if let Some(greeting) = greeting {
            write_packet(&mut stream, &greeting).await?;
        }
        Ok(Self { stream, session, gate: gate.clone() })
    }

    /// Sends a plain packet.
    pub(crate) async fn send(&mut self, packet: Vec<u8>) -> io::Result<()> {
        let sealed = self.session.seal(&mut self.gate.borrow_mut(), packet, unix_ms());
        write_packet(&mut self.stream, &sealed).await
    }

    /// Receives a plain packet.
    pub(crate) async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let packet = read_packet(&mut self.stream).await?;
        self.session.open(&mut self.gate.borrow_mut(), &packet, unix_ms()).map_err(refused)
    }

    /// The stream itself, for who only waits for its end.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

fn refused(why: PacketError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Milliseconds since the Unix epoch; zero before it.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
