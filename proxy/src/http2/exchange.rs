//! One stream of HTTP/2: its request goes into an exchange as HTTP/1.1, and the exchange's response comes back.
//!
//! ```text
//! h2 stream ─▶ encode ─▶ memory ─▶ exchange (parse, route, pick, relay) ─▶ memory ─▶ decode ─▶ h2 stream
//! ```
//!
//! Each way waits for the other side's room: what a client does not take is not read from the upstream, and what an upstream does not
//! take is not granted to the client.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, ext::Protocol, server::SendResponse};
use http::{Request, Response, StatusCode, header};
use tokio::{sync::Notify, time::error::Elapsed};

use super::{
    decode::{DecodeError, Decoder, Head, Part},
    encode::{Coding, encode_data, encode_end, encode_head},
    interim::{Interims, OfStream},
};
use crate::{deadline, http1::Reject, limits::H2_PACE_BYTES, stream::memory::Memory};

/// The Sec-WebSocket-Key that upstreams are asked with, sixteen bytes of nothing (RFC 6455 4.1): nobody checks what it is, only that the
/// answer fits, and the client of a stream is told neither.
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

/// Bytes of a body that are written at once: room is granted anew behind each.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// Why a stream ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    /// The client has reset it, or its connection is gone.
    #[error("the client is gone")]
    Client,
    /// The client's trailers are none.
    #[error("malformed trailers")]
    Malformed,
    /// The client has made no room for its answer in time.
    #[error("no room for the answer")]
    Stalled,
    /// The exchange has ended without a whole response.
    #[error("the response is not whole")]
    Truncated,
    /// The upstream was asked to switch protocols, answered with a success, and has not switched: the client is told 502.
    #[error("the upstream has not switched protocols")]
    NotSwitched,
}

impl From<DecodeError> for StreamError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Malformed | DecodeError::Truncated => Self::Truncated,
            DecodeError::NotSwitched => Self::NotSwitched,
        }
    }
}

/// A request whose head is written: what comes behind that, and where its answer goes.
pub(crate) struct Asked {
    coding: Coding,
    to_head: bool,
    body: RecvStream,
    respond: SendResponse<Bytes>,
}

/// Writes the head of a stream's request; what is refused is answered here.
///
/// # Errors
/// Why it is refused.
pub(crate) fn ask(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    head: &mut BytesMut,
) -> Result<Asked, Reject> {
    let (parts, body) = request.into_parts();
    let protocol = parts.extensions.get::<Protocol>().map(Protocol::as_str);
    let coding = match encode_head(&parts, protocol, body.is_end_stream(), KEY, head) {
        Ok(coding) => coding,
        Err(reject) => {
            refuse(&mut respond, reject);
            return Err(reject);
        }
    };
    Ok(Asked { coding, to_head: parts.method == http::Method::HEAD, body, respond })
}

fn refuse(respond: &mut SendResponse<Bytes>, reject: Reject) {
    let status = StatusCode::from_u16(reject.status()).unwrap_or(StatusCode::BAD_REQUEST);
    tell(respond, status, &reject);
}

/// Answers with a line of text.
fn tell(respond: &mut SendResponse<Bytes>, status: StatusCode, why: &dyn fmt::Display) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    if let Ok(mut stream) = respond.send_response(response, false) {
        let _ = stream.send_data(Bytes::from(format!("{why}\n")), true);
    }
}

impl Asked {
    /// Something comes behind the head.
    pub(crate) fn has_body(&self) -> bool {
        self.coding != Coding::Empty
    }

    /// Passes both ways on until the response has ended. `exchange` is the other side of the one that serves it, which has the head;
    /// `patience` is what the client has for each piece of its answer; `interims` are those that wait for its connection.
    ///
    /// # Errors
    /// Why it ended before; the stream has been reset.
    pub(super) fn relay(
        self,
        exchange: Memory,
        patience: Duration,
        interims: Rc<Interims>,
    ) -> impl Future<Output = Result<(), StreamError>> {
        let Self { coding, to_head, mut body, mut respond } = self;
        let exchange = Shared::new(exchange);
        let interims = OfStream::new(interims, respond.stream_id().as_u32());
        let is_tunnel = coding == Coding::Tunnel;
        async move {
            let switched = Notify::new();
            let answer = Answer { respond: &mut respond, stream: None, patience, interims };
            // Most requests have nothing behind their head: they need no room for what waits for it.
            let asking = (coding != Coding::Empty)
                .then(|| Box::pin(send_request(&mut body, coding, (&exchange, &switched))));
            // Written where they are polled: a future that is moved leaves its room behind, in every stream.
            let answered = tokio::select! {
                biased;
                answered = send_response(answer, Decoder::new(to_head, is_tunnel), (&exchange, &switched)) => answered,
                error = async {
                    match asking {
                        None => std::future::pending().await,
                        Some(asking) => asking.await,
                    }
                } => Err(error),
            };
            match answered {
                // What is left of its request is not needed: `h2` tells the client so, behind the answer (RFC 9113 8.1).
                Ok(()) => Ok(()),
                // Nothing of its answer has been passed on.
                Err(error @ StreamError::NotSwitched) => {
                    exchange.borrow().abort();
                    tell(&mut respond, StatusCode::BAD_GATEWAY, &error);
                    Err(error)
                }
                Err(error) => {
                    exchange.borrow().abort();
                    respond.send_reset(match error {
                        StreamError::Client | StreamError::Stalled => Reason::CANCEL,
                        // RFC 9113 8.1.1.
                        StreamError::Malformed => Reason::PROTOCOL_ERROR,
                        StreamError::Truncated | StreamError::NotSwitched => Reason::INTERNAL_ERROR,
                    });
                    Err(error)
                }
            }
        }
    }
}

/// An exchange's connection, for both of its ways.
pub(super) type Shared = std::cell::RefCell<Memory>;

/// Writes what comes behind a request's head. It ends where the client is gone, or its body broke the rules, and else not: the exchange sees
/// its client go away only where the client does.
async fn send_request(
    body: &mut RecvStream,
    coding: Coding,
    (exchange, switched): (&Shared, &Notify),
) -> StreamError {
    match send_behind_head(body, coding, (exchange, switched)).await {
        Ok(()) if coding == Coding::Tunnel => exchange.borrow().finish(),
        Ok(()) => {}
        Err(error) => {
            exchange.borrow().abort();
            return error;
        }
    }
    std::future::pending().await
}

/// Done when all of it is with the exchange.
async fn send_behind_head(
    body: &mut RecvStream,
    coding: Coding,
    (exchange, switched): (&Shared, &Notify),
) -> Result<(), StreamError> {
    if coding == Coding::Tunnel {
        // What comes before the other side has switched would be read as another request.
        switched.notified().await;
    }
    match pass_body(body, coding, exchange).await {
        Ok(Passed::Whole) => {}
        // The exchange may have answered already and take no more: the client is told by its answer.
        Ok(Passed::Refused) => return Ok(()),
        Err(_) => return Err(StreamError::Client),
    }
    let trailers = body.trailers().await.map_err(|_| StreamError::Client)?;
    let mut encoded = Vec::new();
    encode_end(trailers.as_ref(), coding, &mut encoded).map_err(|_| StreamError::Malformed)?;
    let _ = write_all(exchange, &encoded).await;
    Ok(())
}

/// What became of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// All of it has been written.
    Whole,
    /// The other side takes no more.
    Refused,
}

/// Writes a body as it comes. What there is no room for yet waits in one piece, as much as the stream's window lets come: `h2` would keep
/// each frame of it apart, and end the whole connection where a peer says much in small frames.
pub(super) async fn pass_body(
    body: &mut RecvStream,
    coding: Coding,
    exchange: &Shared,
) -> Result<Passed, h2::Error> {
    let (mut waiting, mut has_ended) = (BytesMut::new(), false);
    // A piece as it is written, how much of it has been, and how much of the body it is.
    let (mut encoded, mut written, mut encoded_bytes) = (Vec::new(), 0, 0);
    poll_fn(|context| {
        loop {
            while written < encoded.len() {
                match exchange.borrow_mut().poll_send(context, &encoded[written..]) {
                    Poll::Ready(Ok(more)) => written += more,
                    Poll::Ready(Err(_)) => return Poll::Ready(Ok(Passed::Refused)),
                    Poll::Pending => break,
                }
            }
            if written == encoded.len() {
                let _ = body.flow_control().release_capacity(std::mem::take(&mut encoded_bytes));
                if !waiting.is_empty() {
                    let piece = waiting.split_to(waiting.len().min(PIECE_BYTES_MAX));
                    (encoded_bytes, written) = (piece.len(), 0);
                    encoded.clear();
                    encode_data(&piece, coding, &mut encoded);
                    continue;
                }
                if has_ended {
                    return Poll::Ready(Ok(Passed::Whole));
                }
            }
            if has_ended {
                return Poll::Pending;
            }
            match ready!(body.poll_data(context)).transpose()? {
                Some(data) => waiting.extend_from_slice(&data),
                None => has_ended = true,
            }
        }
    })
    .await
}

/// Writes all of it, as there is room.
pub(super) async fn write_all(exchange: &Shared, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = poll_fn(|context| exchange.borrow_mut().poll_send(context, bytes)).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// A response on its way to the client.
struct Answer<'a> {
    respond: &'a mut SendResponse<Bytes>,
    /// Once its head has been sent.
    stream: Option<SendStream<Bytes>>,
    /// How long the client may take for a piece.
    patience: Duration,
    interims: OfStream,
}

/// Reads a response as it comes, and passes it on; done when its end has been passed on.
async fn send_response(
    mut answer: Answer<'_>,
    mut decoder: Decoder,
    (exchange, switched): (&Shared, &Notify),
) -> Result<(), StreamError> {
    let mut bytes = BytesMut::new();
    loop {
        let part = match decoder.decode(&mut bytes)? {
            Some(part) => part,
            None if answer.read_more(exchange, &mut bytes).await? == 0 => decoder.decode_end()?,
            None => continue,
        };
        if decoder.is_switched() {
            switched.notify_one();
        }
        if matches!(part, Part::Interim(_)) {
            answer.take_room().await?;
        }
        if let Some(data) = answer.send_part(part)? {
            // An end that is known goes with what it ends: a frame of its own costs both sides as much as that.
            answer.send_data(data, decoder.take_end(&mut bytes)).await?;
        }
        if decoder.is_done() {
            return Ok(());
        }
    }
}

impl Answer<'_> {
    /// Takes what has come of a response; nothing at its end. A client that resets the stream meanwhile is noticed.
    async fn read_more(&mut self, exchange: &Shared, into: &mut BytesMut) -> Result<usize, StreamError> {
        poll_fn(|context| {
            let reset = match &mut self.stream {
                Some(stream) => stream.poll_reset(context),
                None => self.respond.poll_reset(context),
            };
            if reset.is_ready() {
                return Poll::Ready(Err(StreamError::Client));
            }
            let taken = exchange.borrow_mut().poll_take(context, into);
            Poll::Ready(ready!(taken).map_err(|_| StreamError::Truncated))
        })
        .await
    }

    /// Waits until there is room for another interim answer.
    async fn take_room(&mut self) -> Result<(), StreamError> {
        let waiting = poll_fn(|context| {
            if self.respond.poll_reset(context).is_ready() {
                return Poll::Ready(Err(StreamError::Client));
            }
            self.interims.poll_take_room(context).map(Ok)
        });
        within(self.patience, waiting).await.unwrap_or(Err(StreamError::Stalled))
    }

    /// Passes a part on; data, which may have to wait, are given back.
    fn send_part(&mut self, part: Part) -> Result<Option<Bytes>, StreamError> {
        let gone = |_: h2::Error| StreamError::Client;
        match (part, &mut self.stream) {
            (Part::Interim(head), _) => self.respond.send_informational(response(head)).map_err(gone)?,
            (Part::Head(head), stream) => {
                let is_whole = head.is_whole;
                *stream = Some(self.respond.send_response(response(head), is_whole).map_err(gone)?);
            }
            (Part::Data(data), Some(_)) => return Ok(Some(data)),
            (Part::End(None), Some(stream)) => stream.send_data(Bytes::new(), true).map_err(gone)?,
            (Part::End(Some(trailers)), Some(stream)) => stream.send_trailers(trailers).map_err(gone)?,
            (Part::Data(_) | Part::End(_), None) => return Err(StreamError::Truncated),
        }
        Ok(None)
    }

    /// Sends data; nothing comes behind the last. Whoever takes crumbs now and then has a pace to keep, too.
    async fn send_data(&mut self, mut data: Bytes, is_last: bool) -> Result<(), StreamError> {
        let stream = self.stream.as_mut().ok_or(StreamError::Truncated)?;
        while !data.is_empty() {
            let sending = send_some(stream, &mut data, is_last, H2_PACE_BYTES);
            within(self.patience, sending).await.unwrap_or(Err(StreamError::Stalled))?;
        }
        Ok(())
    }
}

fn response(head: Head) -> Response<()> {
    let mut response = Response::new(());
    (*response.status_mut(), *response.headers_mut()) = (head.status, head.fields);
    response
}

/// Waits for this no longer than that. A timer is made only where there is something to wait for, and takes no room before.
async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => Box::pin(deadline::within(time, work)).await,
    }
}

/// Sends data as far as the other side grants room for it.
pub(super) async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), StreamError> {
    let all = data.len();
    send_some(stream, &mut data, false, all).await
}

/// Sends as much of this as the other side grants room for, and so many bytes at least, if it has as many. Nothing comes behind the last.
async fn send_some(
    stream: &mut SendStream<Bytes>,
    data: &mut Bytes,
    is_last: bool,
    bytes_min: usize,
) -> Result<(), StreamError> {
    let enough = data.len().saturating_sub(bytes_min);
    while data.len() > enough {
        stream.reserve_capacity(data.len());
        let granted = poll_fn(|context| {
            if stream.poll_reset(context).is_ready() {
                return Poll::Ready(None);
            }
            stream.poll_capacity(context)
        });
        let granted = granted.await.and_then(Result::ok).ok_or(StreamError::Client)?;
        let piece = data.split_to(granted.min(data.len()));
        if !piece.is_empty() {
            stream.send_data(piece, is_last && data.is_empty()).map_err(|_| StreamError::Client)?;
        }
    }
    Ok(())
}
