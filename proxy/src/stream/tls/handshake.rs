//! The beginning: which certificate a client wants, and the handshake by it.

use std::{future::poll_fn, io, rc::Rc};

use rustls::{Error, HandshakeKind, ProtocolVersion, server::UnbufferedServerConnection};

use super::{Shelves, Tls, records::Word};
use crate::{
    buffer::Buffer,
    certificates::Certificates,
    http1::Parse,
    listen::client_hello::{self, DECODE_ERROR, HELLO_BYTES_MAX, NotAHello},
    socket::Socket,
    stats::Handshake,
};

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    Hello(#[from] NotAHello),
    /// It speaks HTTP without TLS.
    #[error("HTTP without TLS")]
    PlainHttp,
    #[error(transparent)]
    Tls(#[from] Error),
    #[error("the client went away")]
    Gone,
}

impl From<io::Error> for HandshakeError {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<&HandshakeError> for Handshake {
    fn from(why: &HandshakeError) -> Self {
        match why {
            HandshakeError::Hello(_) => Self::NoTls,
            HandshakeError::PlainHttp => Self::PlainHttp,
            HandshakeError::Tls(Error::AlertReceived(_)) => Self::Alert,
            HandshakeError::Tls(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => {
                Self::Incompatible
            }
            HandshakeError::Tls(_) => Self::Broken,
            HandshakeError::Gone => Self::Gone,
        }
    }
}

/// A connection that is to end with a word to the client, as far as there is one for it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) socket: Socket,
    pub(crate) why: HandshakeError,
    pub(crate) last_word: Vec<u8>,
}

/// How many handshakes are computed at a time before the other clients of the worker have their turn.
pub(crate) type Turns = tokio::sync::Semaphore;

impl Tls {
    /// Shakes hands with a client, by the certificate for the host that it asks for.
    ///
    /// # Errors
    /// What it says is no TLS, or none that both sides know.
    pub(crate) async fn accept(
        mut socket: Socket,
        certificates: &Certificates,
        shelf: &Rc<Shelves>,
        turns: &Turns,
    ) -> Result<Box<Self>, Refused> {
        let mut incoming = shelf.parts.take();
        let chosen = match read_hello(&mut socket, &mut incoming).await {
            Ok(server_name) => certificates.choose(server_name.as_deref()),
            Err(why) => {
                shelf.put(incoming);
                let last_word = if matches!(why, HandshakeError::Hello(_)) { &DECODE_ERROR[..] } else { &[] };
                return Err(Refused { socket, why, last_word: last_word.into() });
            }
        };
        let connection = chosen
            .ok_or(Error::NoCertificatesPresented)
            .and_then(|chosen| Ok((UnbufferedServerConnection::new(chosen.config().clone())?, chosen)));
        let (connection, certificate) = match connection {
            Ok(made) => made,
            Err(error) => {
                shelf.put(incoming);
                return Err(Refused { socket, why: error.into(), last_word: Vec::new() });
            }
        };
        let mut tls = Box::new(Self::new(socket, connection, certificate, shelf.clone()));
        tls.incoming = Some(incoming);
        match tls.shake_hands(turns).await {
            Ok(()) => Ok(tls),
            Err(why) => Err(tls.refused(why)),
        }
    }

    /// What was agreed on.
    pub(crate) fn handshake(&self) -> Handshake {
        let is_resumed = self.connection.handshake_kind() == Some(HandshakeKind::Resumed);
        match (self.connection.protocol_version(), is_resumed) {
            (Some(ProtocolVersion::TLSv1_2), false) => Handshake::Full12,
            (Some(ProtocolVersion::TLSv1_2), true) => Handshake::Resumed12,
            (_, false) => Handshake::Full13,
            (_, true) => Handshake::Resumed13,
        }
    }

    async fn shake_hands(&mut self, turns: &Turns) -> Result<(), HandshakeError> {
        loop {
            // Only while it computes: whoever sends its part slowly, or never, keeps nobody waiting.
            let turn = turns.acquire().await.ok();
            self.drive(&mut [], Word::Nothing)?;
            if turn.is_some() {
                tokio::task::yield_now().await;
            }
            drop(turn);
            let is_done = !self.connection.is_handshaking();
            // What is sealed then are tickets, which go with the answer to a request that came with the handshake's end.
            if !(is_done && self.has_opened()) {
                poll_fn(|context| self.poll_flush(context)).await?;
            }
            if is_done {
                return Ok(());
            }
            if poll_fn(|context| self.poll_fill_incoming(context)).await? == 0 {
                return Err(HandshakeError::Gone);
            }
        }
    }

    fn refused(mut self: Box<Self>, why: HandshakeError) -> Refused {
        let last_word = self.outgoing.take().map_or_else(Vec::new, |outgoing| {
            let word = outgoing.filled().to_vec();
            self.shelf.put(outgoing);
            word
        });
        let socket = std::mem::replace(&mut self.socket, Socket::lost());
        Refused { socket, why, last_word }
    }
}

/// Reads a ClientHello to its end; the host that it asks for. What was read stays in the buffer.
async fn read_hello(socket: &mut Socket, incoming: &mut Buffer) -> Result<Option<String>, HandshakeError> {
    loop {
        match client_hello::parse(&incoming.filled()[..incoming.filled().len().min(HELLO_BYTES_MAX)]) {
            Ok(Parse::Done(hello)) => return Ok(hello.server_name),
            Ok(Parse::NeedMore) if incoming.has_spare() => {}
            Ok(Parse::NeedMore) => return Err(NotAHello::TooLong.into()),
            // A method. No record of TLS begins with a letter.
            Err(NotAHello::NotTls) if incoming.filled().first().is_some_and(u8::is_ascii_uppercase) => {
                return Err(HandshakeError::PlainHttp);
            }
            Err(error) => return Err(error.into()),
        }
        match poll_fn(|context| socket.poll_recv(context, incoming.spare_mut())).await? {
            0 => return Err(HandshakeError::Gone),
            count => incoming.fill(count),
        }
    }
}
