//! Serving HTTP/1.1 until told to stop, and the plain answers that both services give.
//!
//! What is served is the caller's: a function from request to response.

use std::{convert::Infallible, error::Error, pin::pin, rc::Rc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::tally::Tally;

/// How long what is in flight may take after the stop; half of what Docker grants before it kills.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may take over a request's head, which includes how long it may idle: it bounds what a
/// client that sends a byte now and then can hold.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest request head. The paths here are short; browsers send a few KB of headers.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Most connections at a time; more wait in the kernel's queue. Each may hold [`HEAD_BYTES_MAX`].
const CONNECTIONS_MAX: usize = 4096;

/// Pause after a failed accept. Without it, running out of descriptors (EMFILE) would spin, since the connection
/// that cannot be accepted keeps the listener readable.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts and answers until `shutdown` is done. Then closes the listener, ends idle connections, tells the others
/// to close after their answer, and returns when they have, at the latest after [`DRAIN_TIMEOUT`].
pub(crate) async fn serve_until<H, F, B>(
    listener: TcpListener,
    handle: H,
    tally: &Rc<Tally>,
    shutdown: impl Future<Output = ()>,
) where
    H: Fn(Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut shutdown = pin!(shutdown);
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            socket = accept(&listener), if connections.len() < CONNECTIONS_MAX => {
                connections.spawn_local(converse(socket, handle.clone(), tally.clone(), stopping.clone()));
            }
        }
    }
    drop((listener, stop));
    let drained = timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.len(), "still busy after {DRAIN_TIMEOUT:?}, closing them");
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await.and_then(|(socket, _)| socket.set_nodelay(true).map(|()| socket)) {
            Ok(socket) => return socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection; it learns of the stop when the other end of `stopping` is dropped.
async fn converse<H, F, B>(socket: TcpStream, handle: H, tally: Rc<Tally>, mut stopping: watch::Receiver<()>)
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>> + 'static,
    B: Body + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let service = service_fn(|request| {
        let under_way = tally.begin();
        let response = handle(request);
        async move { Ok::<_, Infallible>(under_way.answer(response.await)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A client may end its side after its last request and still want the answer.
        .half_close(true)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        // A request that has arrived by now is read before the connection counts as idle.
        biased;
        ended = connection.as_mut() => ended,
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

/// A plain text answer.
pub(crate) fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The refusal of a method that is neither GET nor HEAD, the only ones of these services.
pub(crate) fn refuse_method(method: &Method) -> Option<Response<Full<Bytes>>> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "expected GET or HEAD\n".into());
    // RFC 9110 15.5.6: a 405 must say what is allowed.
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    Some(response)
}
