//! The other side: this proxy as the client of an upstream.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use rustls::{AlertDescription, CertificateError, Error, client::UnbufferedClientConnection};
use tokio::task::coop::unconstrained;

use super::{HTTP2_NAME, Heard, Sealed, Shelves, records::Word};
use crate::{certificates::Seal, error::TlsFailure, socket::Socket};

/// How often what has come on an idle connection is looked at before that counts as idle no more: a server's tickets come in one piece.
const IDLE_LOOKS_COUNT_MAX: usize = 4;

/// A connection to an upstream; with it goes whom it trusts.
pub(crate) type OriginTls = Sealed<UnbufferedClientConnection, Rc<Seal>>;

/// Why a handshake does not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Tls(#[from] Error),
    #[error("the other side closed the connection")]
    Closed,
    #[error("the other side does not choose HTTP/2")]
    NoHttp2,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

impl Broken {
    pub(super) fn failure(&self) -> TlsFailure {
        match self {
            Self::Closed => TlsFailure::Closed,
            Self::NoHttp2
            | Self::Tls(
                Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol),
            ) => TlsFailure::NoHttp2,
            Self::Tls(Error::InvalidCertificate(why)) => of_certificate(why),
            Self::Tls(Error::AlertReceived(_) | Error::PeerIncompatible(_)) => TlsFailure::Refused,
            Self::Tls(_) => TlsFailure::NotSpoken,
        }
    }
}

fn of_certificate(why: &CertificateError) -> TlsFailure {
    match why {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => TlsFailure::Expired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsFailure::WrongName
        }
        CertificateError::ApplicationVerificationFailure => TlsFailure::WrongKey,
        _ => TlsFailure::Untrusted,
    }
}

impl OriginTls {
    /// On a connection that need not be made yet.
    ///
    /// # Errors
    /// There is nothing to begin with.
    pub(crate) fn begin(socket: Socket, seal: Rc<Seal>, shelf: Rc<Shelves>) -> Result<Self, TlsFailure> {
        match UnbufferedClientConnection::new(seal.config().clone(), seal.name().clone()) {
            Ok(connection) => Ok(Self::new(socket, connection, seal, shelf)),
            Err(error) => Err(Broken::Tls(error).failure()),
        }
    }

    /// By what it is sealed.
    pub(crate) fn seal(&self) -> &Rc<Seal> {
        &self.party
    }

    /// Shakes hands. Nothing of a request can be sent before this has ended well.
    pub(crate) fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<Result<(), TlsFailure>> {
        let shaken = ready!(self.poll_shake(context));
        Poll::Ready(shaken.map_err(|broken| {
            let failure = broken.failure();
            if self.party.is_news(failure) {
                let addr = self.socket.options().and_then(|options| options.peer_addr().ok()?.as_socket());
                let (role, word) = (self.party.role(), failure.word());
                let addr = addr.map_or_else(|| "a Unix socket".to_owned(), |addr| addr.to_string());
                tracing::warn!(%role, addr, word, error = %broken, "no TLS connection to an upstream");
            }
            failure
        }))
    }

    fn poll_shake(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            let driven = self.drive(&mut [], Word::Nothing);
            let flushed = self.poll_flush(context);
            // The other side is told why, as far as the kernel takes it.
            driven?;
            ready!(flushed)?;
            if !self.connection.is_handshaking() {
                let is_http2 = self.connection.alpn_protocol() == Some(HTTP2_NAME);
                let is_right = is_http2 || !self.party.needs_http2();
                return Poll::Ready(if is_right { Ok(()) } else { Err(Broken::NoHttp2) });
            }
            if self.heard != Heard::Nothing || ready!(self.poll_fill_incoming(context))? == 0 {
                return Poll::Ready(Err(Broken::Closed));
            }
        }
    }

    /// Neither bytes nor an end have come: what TLS says for itself alone, such as a ticket, is taken and is nothing.
    pub(crate) fn is_quiet(&mut self, context: &mut Context<'_>) -> bool {
        for _ in 0..IDLE_LOOKS_COUNT_MAX {
            if self.has_opened() || self.outgoing.is_some() {
                return false;
            }
            if self.socket.is_quiet(context) {
                return self.incoming.is_none();
            }
            // Outside the task's budget, as the look at the socket is: one that is used up would make what has come look like nothing.
            let filled =
                pin!(unconstrained(poll_fn(|context| self.poll_fill_incoming(context)))).poll(context);
            match filled {
                Poll::Ready(Ok(1..)) if self.drive(&mut [], Word::Nothing).is_ok() => {}
                Poll::Ready(_) => return false,
                Poll::Pending => return self.incoming.is_none(),
            }
        }
        false
    }
}
