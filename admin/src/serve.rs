//! A connection: one request, one answer, and the end. Everything that a client could drag out has its bound here; how many there may be at a
//! time is the caller's to say.

use std::{cell::Cell, convert::Infallible, net::IpAddr, rc::Rc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Incoming,
    header::{
        ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, ORIGIN,
        X_CONTENT_TYPE_OPTIONS,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::Notify, time::sleep};

use crate::{
    Asked, Token,
    asked::{Denied, Request},
    map::Page,
};

/// Bytes of a request's head, and of what is read ahead: the least that the library allows.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Fields of a head: a browser sends twenty.
const FIELDS_COUNT_MAX: usize = 64;
/// How long a head may take from the first byte on, or from the connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take to be taken.
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the map may do, and all else even less: scripts, styles and answers are the node's own, and nothing comes from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The body: shared, so that many may be told the same.
    pub body: Bytes,
}

impl Answer {
    /// A text for people.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        let mut body = body.into();
        body.push('\n');
        Self { status, content_type: TEXT, body: body.into() }
    }

    /// A JSON value, written already.
    pub fn json(status: u16, mut body: String) -> Self {
        body.push('\n');
        Self { status, content_type: JSON, body: body.into() }
    }

    /// A part of the map.
    pub fn page(page: Page) -> Self {
        Self {
            status: 200,
            content_type: page.content_type(),
            body: Bytes::from_static(page.body().as_bytes()),
        }
    }

    fn denied(why: Denied) -> Self {
        Self::text(why.status(), why.to_string())
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Names and reasons that others have chosen are no web page, whatever they look like.
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }
}

/// Serves a connection to its end: what its one request asks for is answered by `answer`, if its sender may ask that.
pub async fn serve(
    stream: TcpStream,
    peer: IpAddr,
    token: Option<Token>,
    answer: impl AsyncFn(Asked) -> Answer,
) {
    let is_answered = Rc::new(Notify::new());
    let is_asked = Cell::new(false);
    let service = service_fn(async |request: hyper::Request<Incoming>| {
        is_asked.set(true);
        let answer = match asked(&request, peer, token.as_ref()) {
            Ok(asked) => answer(asked).await,
            Err(why) => Answer::denied(why),
        };
        is_answered.notify_one();
        Ok::<_, Infallible>(answer.into_response())
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(FIELDS_COUNT_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let is_overdue = async {
        is_answered.notified().await;
        sleep(TAKE_TIMEOUT).await;
    };
    tokio::select! {
        served = connection => if let Err(error) = served {
            tracing::debug!(%peer, %error, is_asked = is_asked.get(), "admin");
        },
        () = is_overdue => tracing::debug!(%peer, "an answer of the admin port was not taken in time"),
    }
}

fn asked(request: &hyper::Request<Incoming>, peer: IpAddr, token: Option<&Token>) -> Result<Asked, Denied> {
    let fields = request.headers();
    let uri = request.uri();
    let request = Request {
        method: request.method().as_str(),
        path: uri.path(),
        query: uri.query(),
        accept: fields.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default(),
        authorization: fields.get(AUTHORIZATION).map(HeaderValue::as_bytes),
        has_origin: fields.contains_key(ORIGIN),
        peer,
    };
    request.asked(token)
}
