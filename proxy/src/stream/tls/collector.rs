//! The connection to a collector of spans. It may wait: whoever posts them has a thread of its own.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use super::client::Broken;
use crate::{
    certificates::{TermsError, of_collector},
    config::Trust,
    error::TlsFailure,
};

/// Why there is no TLS connection to a collector.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoTls {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no TLS ({word}): {why}; {advice}", word = .0.word(), why = .1, advice = advice(*.0))]
    Handshake(TlsFailure, String),
}

/// What would do instead.
fn advice(failure: TlsFailure) -> &'static str {
    match failure {
        TlsFailure::NotSpoken => "expected http:// in --otlp-endpoint for a collector without TLS",
        TlsFailure::Refused | TlsFailure::Closed => {
            "expected a collector with TLS 1.2 or 1.3 and no client certificates"
        }
        TlsFailure::Untrusted => {
            "expected --otlp-trust ca:FILE with its authority, or sha256//BASE64 of its key"
        }
        TlsFailure::WrongName => "expected the name of its certificate in --otlp-endpoint",
        TlsFailure::Expired => "expected a certificate that is valid now, and a clock that is right",
        TlsFailure::WrongKey => "expected the key of its certificate in --otlp-trust sha256//BASE64",
        TlsFailure::NoHttp2 => "expected a collector that speaks HTTP/1.1",
    }
}

/// Whom a collector has to be.
#[derive(Debug)]
pub(crate) struct CollectorTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl CollectorTls {
    /// # Errors
    /// Nobody is trusted, or the host is no name that certificates have.
    pub(crate) fn new(host: &str, trust: &Trust) -> Result<Self, TermsError> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| TermsError::Tls(format!("{host:?}: {error}")))?;
        Ok(Self { config: Arc::new(of_collector(trust)?), name })
    }

    /// Shakes hands. Nothing was sent but that if it fails.
    ///
    /// # Errors
    /// It is somebody else, nobody who is believed, or not there any more.
    pub(crate) fn connect<S: Read + Write>(
        &self,
        mut socket: S,
    ) -> Result<impl Read + Write + use<S>, NoTls> {
        let connection = ClientConnection::new(self.config.clone(), self.name.clone());
        let mut connection = connection.map_err(|error| broken(&Broken::Tls(error)))?;
        match connection.complete_io(&mut socket) {
            Ok(_) => Ok(StreamOwned::new(connection, socket)),
            Err(error) => Err(no_tls(error)),
        }
    }
}

fn broken(broken: &Broken) -> NoTls {
    NoTls::Handshake(broken.failure(), broken.to_string())
}

fn no_tls(error: io::Error) -> NoTls {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => NoTls::Io(error),
        // What rustls says itself is within.
        io::ErrorKind::InvalidData => match error.downcast::<rustls::Error>() {
            Ok(error) => broken(&Broken::Tls(error)),
            Err(error) => NoTls::Io(error),
        },
        _ => broken(&Broken::Closed),
    }
}
