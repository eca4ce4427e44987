//! One request to one app: on an idle connection or a fresh one, up to the last byte of the answer.
//!
//! Which app, and what to do when it fails, is decided in `front`.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{SendRequest, handshake},
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep, timeout},
};

use crate::pool::Lease;

/// How long a connect may take; on one network it takes well under a millisecond, or the app is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an app may be silent, before its answer begins and between any two parts of it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// What of a client's request an app is told as it came: by what the request is found again in logs and traces. A hop that passes
/// `traceparent` passes `tracestate` with it, all lines of both (W3C Trace Context, 4).
const PASSED_FIELDS: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];

/// A connection to an app, ready to be asked.
pub(crate) type Connection = SendRequest<Empty<Bytes>>;

/// Why an app gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    ConnectTimeout,
    #[error("no answer: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("no answer within {RESPONSE_TIMEOUT:?}")]
    ResponseTimeout,
    #[error("status {0}, expected a final one")]
    NotFinal(StatusCode),
    #[error("the cluster lost it before it answered")]
    Lost,
}

impl CallError {
    /// Nothing of the request can have come to the app: it was no attempt.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout)
    }
}

/// Why an answer ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error("the app's answer broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the app's answer stood still for {RESPONSE_TIMEOUT:?}")]
    Stalled,
}

/// Asks the leased app for `uri` on behalf of `client`, whose method must be a safe one: the request is sent twice if an idle
/// connection turns out to be dead.
pub(crate) async fn ask<B>(
    lease: Lease<Connection>,
    client: &Request<B>,
    uri: &Uri,
) -> Result<Response<Relayed>, CallError> {
    let addr = lease.app().id.addr;
    let idle = std::iter::from_fn(|| lease.take_idle()).find(|connection| !connection.is_closed());
    if let Some(connection) = idle {
        match exchange(connection, request(client, uri, addr)).await {
            // RFC 9112 9.3.1: the app may have closed the connection just as the request was sent.
            Err(CallError::Exchange(error)) => tracing::debug!(%addr, %error, "idle connection was dead"),
            settled => return settled.map(|(response, connection)| relay(response, lease, connection)),
        }
    }
    let (response, connection) = exchange(connect(addr).await?, request(client, uri, addr)).await?;
    Ok(relay(response, lease, connection))
}

fn request<B>(client: &Request<B>, uri: &Uri, addr: SocketAddr) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = client.method().clone();
    *request.uri_mut() = uri.clone();
    let host = HeaderValue::try_from(addr.to_string()).expect("a socket address is visible ASCII");
    request.headers_mut().insert(HOST, host);
    for name in PASSED_FIELDS {
        for value in client.headers().get_all(name) {
            request.headers_mut().append(name, value.clone());
        }
    }
    request
}

async fn connect(addr: SocketAddr) -> Result<Connection, CallError> {
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(addr));
    let socket = connecting.await.map_err(|_| CallError::ConnectTimeout)??;
    socket.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(socket)).await?;
    // It ends by itself when the sender and the answer's body are dropped.
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%addr, %error, "connection to an app ended early");
        }
    });
    Ok(sender)
}

async fn exchange(
    mut connection: Connection,
    request: Request<Empty<Bytes>>,
) -> Result<(Response<Incoming>, Connection), CallError> {
    let answer = async {
        connection.ready().await?;
        connection.send_request(request).await
    };
    let response = timeout(RESPONSE_TIMEOUT, answer).await.map_err(|_| CallError::ResponseTimeout)??;
    if response.status().is_informational() {
        return Err(CallError::NotFinal(response.status()));
    }
    Ok((response, connection))
}

/// The app's answer for the front's client: status, type and body; all else concerns this hop only.
fn relay(
    response: Response<Incoming>,
    lease: Lease<Connection>,
    connection: Connection,
) -> Response<Relayed> {
    let (from, body) = response.into_parts();
    let mut relayed = Response::new(Relayed::new(body, lease, connection));
    *relayed.status_mut() = from.status;
    if let Some(value) = from.headers.get(CONTENT_TYPE) {
        relayed.headers_mut().insert(CONTENT_TYPE, value.clone());
    }
    // The length that the answer to a HEAD announces cannot be told from its body.
    if let (true, Some(value)) = (relayed.body().is_end_stream(), from.headers.get(CONTENT_LENGTH)) {
        relayed.headers_mut().insert(CONTENT_LENGTH, value.clone());
    }
    relayed
}

/// The body of an app's answer on its way to the client. The request counts as under way until the body's end
/// has come from the app, and the connection is kept only then.
#[derive(Debug)]
pub(crate) struct Relayed {
    body: Incoming,
    under_way: Option<(Lease<Connection>, Connection)>,
    /// Runs while the app is waited for, not while the client is.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Relayed {
    fn new(body: Incoming, lease: Lease<Connection>, connection: Connection) -> Self {
        let mut relayed = Self { body, under_way: Some((lease, connection)), stalled: None };
        if relayed.body.is_end_stream() {
            relayed.park();
        }
        relayed
    }

    fn park(&mut self) {
        if let Some((lease, connection)) = self.under_way.take() {
            lease.park(connection);
        }
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(RESPONSE_TIMEOUT)));
            ready!(stalled.as_mut().poll(context));
            return Poll::Ready(Some(Err(RelayError::Stalled)));
        };
        self.stalled = None;
        if frame.is_none() || self.body.is_end_stream() {
            self.park();
        }
        Poll::Ready(frame.map(|frame| Ok(frame?)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
