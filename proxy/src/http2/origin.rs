//! One exchange with an upstream of HTTP/2: its request comes as HTTP/1.1, and so goes its response.
//!
//! ```text
//! exchange ─▶ memory ─▶ request ─▶ h2 stream ─▶ response ─▶ memory ─▶ exchange
//! ```
//!
//! Each way waits for the other side's room, and neither for the other way: both may be open for as long as they like.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Method, Response, uri::Scheme};

use super::{
    decode::{Decoder, Part},
    encode::{Coding, encode_end},
    exchange::{Passed, Shared, StreamError, pass_body, send_data, write_all},
    request::{Asked, decode_request},
    response::{encode_head, encode_interim},
};
use crate::{
    http1::{Framing, Reject},
    limits::H2_INTERIMS_COUNT_MAX,
    link::Progress,
};

/// What an exchange is told that asks for another protocol: WebSockets have no place here.
const NO_UPGRADE: &[u8] = b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n";

/// What an exchange is told that cannot be said in HTTP/2.
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";

/// Why a response does not come to its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The stream or its connection broke.
    #[error("{0}")]
    Stream(#[from] h2::Error),
    /// It cannot be said in HTTP/1.1.
    #[error("{0}")]
    Response(#[from] Reject),
    /// More interim answers than wait for a client.
    #[error("too many interim answers at once")]
    Interims,
    /// The exchange has gone.
    #[error("the exchange is over")]
    Exchange,
}

impl Failure {
    /// The upstream has not looked at the request: it says so of one stream, or of all those behind the last that it names.
    fn is_unprocessed(&self) -> bool {
        let Self::Stream(error) = self else { return false };
        let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        error.is_remote() && (error.is_go_away() || is_refused)
    }

    /// The upstream has ended this stream, and not its connection.
    fn is_reset(&self) -> bool {
        matches!(self, Self::Stream(error) if error.is_reset() && error.is_remote())
    }
}

/// A request on its way, and what comes back.
pub(super) struct Sent {
    pub(super) response: ResponseFuture,
    pub(super) stream: SendStream<Bytes>,
}

/// Reads the head of an exchange's request; none if it goes before that is whole, or asks for what there is none of.
pub(super) async fn read_request(exchange: &Shared, bytes: &mut BytesMut, scheme: Scheme) -> Option<Asked> {
    loop {
        match decode_request(bytes, &scheme) {
            Ok(Some(asked)) if asked.is_upgrade => {
                let _ = write_all(exchange, NO_UPGRADE).await;
                return None;
            }
            Ok(Some(asked)) => return Some(asked),
            Ok(None) => {}
            Err(why) => {
                // What HTTP/1.1 lets pass, and no field of HTTP/2 takes: the client's oddity, and no fault of the upstream.
                tracing::debug!(%why, "a request cannot be said in HTTP/2");
                let _ = write_all(exchange, BAD_REQUEST).await;
                return None;
            }
        }
        if !matches!(read_more(exchange, bytes).await, Ok(1..)) {
            return None;
        }
    }
}

/// Begins a stream.
///
/// # Errors
/// Its connection has begun to end, and nothing was sent.
pub(super) fn send_request(mut sender: SendRequest<Bytes>, asked: &Asked) -> Result<Sent, h2::Error> {
    let is_whole = asked.framing == Framing::Empty;
    let (response, stream) = sender.send_request(asked.request.clone(), is_whole)?;
    Ok(Sent { response, stream })
}

/// Passes both ways on until the response has ended; `bytes` came behind the head.
pub(super) async fn relay(
    exchange: &Shared,
    bytes: BytesMut,
    (asked, sent): (Asked, Sent),
    (progress, is_silent): (&Progress, &Cell<bool>),
) {
    let Sent { response, stream } = sent;
    let to_head = asked.request.method() == Method::HEAD;
    let failed = {
        let asking = async {
            if asked.framing != Framing::Empty {
                let body = (Decoder::behind(asked.framing), bytes);
                if send_body(exchange, body, stream).await == Err(StreamError::Truncated) {
                    return Failure::Exchange;
                }
            }
            // Where the upstream takes no more, its answer says why.
            std::future::pending().await
        };
        tokio::select! {
            biased;
            answered = send_response(response, to_head, exchange) => answered.err(),
            // What nobody waits for any more is cancelled, as its stream is dropped.
            () = poll_fn(|context| exchange.borrow_mut().poll_ended(context)) => Some(Failure::Exchange),
            failure = asking => Some(failure),
        }
    };
    if let Some(failure) = failed {
        tracing::debug!(%failure, "a stream to an upstream has ended early");
        if is_silent.get() {
            progress.note_silent();
        } else if failure.is_unprocessed() {
            progress.note_unprocessed();
        } else if failure.is_reset() {
            progress.note_reset();
        }
        exchange.borrow().abort();
    }
}

/// Takes what has come; nothing at the end.
async fn read_more(exchange: &Shared, into: &mut BytesMut) -> std::io::Result<usize> {
    poll_fn(|context| exchange.borrow_mut().poll_take(context, into)).await
}

/// Sends a body as it comes.
async fn send_body(
    exchange: &Shared,
    (mut decoder, mut bytes): (Decoder, BytesMut),
    mut stream: SendStream<Bytes>,
) -> Result<(), StreamError> {
    loop {
        match decoder.decode(&mut bytes).map_err(|_| StreamError::Truncated)? {
            Some(Part::Data(data)) => send_data(&mut stream, data).await?,
            Some(Part::End(None)) => {
                return stream.send_data(Bytes::new(), true).map_err(|_| StreamError::Client);
            }
            Some(Part::End(Some(trailers))) => {
                return stream.send_trailers(trailers).map_err(|_| StreamError::Client);
            }
            Some(Part::Head(_) | Part::Interim(_)) => return Err(StreamError::Truncated),
            None => {
                if !matches!(read_more(exchange, &mut bytes).await, Ok(1..)) {
                    return Err(StreamError::Truncated);
                }
            }
        }
    }
}

/// Writes a response as it comes.
async fn send_response(
    mut response: ResponseFuture,
    to_head: bool,
    exchange: &Shared,
) -> Result<(), Failure> {
    let response = send_interims(&mut response, exchange).await?;
    let mut encoded = Vec::new();
    let (head, mut body) = response.into_parts();
    let coding = encode_head(&head, body.is_end_stream(), to_head, &mut encoded)?;
    write(exchange, &encoded).await?;
    if coding == Coding::Empty {
        // Nothing of it may follow; what does is not read.
        return Ok(());
    }
    if pass_body(&mut body, coding, exchange).await? == Passed::Refused {
        return Err(Failure::Exchange);
    }
    let trailers = body.trailers().await?;
    encoded.clear();
    encode_end(trailers.as_ref(), coding, &mut encoded)?;
    write(exchange, &encoded).await
}

async fn write(exchange: &Shared, bytes: &[u8]) -> Result<(), Failure> {
    write_all(exchange, bytes).await.map_err(|_| Failure::Exchange)
}

/// Writes interim answers (1xx) as they come; the final one. Those that there is no room for yet wait here, so many and no more: no window
/// bounds them, and `h2` takes as many as it is given.
async fn send_interims(
    response: &mut ResponseFuture,
    exchange: &Shared,
) -> Result<Response<RecvStream>, Failure> {
    let (mut encoded, mut written, mut waiting_count) = (Vec::new(), 0, 0);
    let mut last = None;
    poll_fn(|context| {
        loop {
            while written < encoded.len() {
                match exchange.borrow_mut().poll_send(context, &encoded[written..]) {
                    Poll::Ready(Ok(more)) => written += more,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Failure::Exchange)),
                    Poll::Pending => break,
                }
            }
            if written == encoded.len() {
                encoded.clear();
                (written, waiting_count) = (0, 0);
                if let Some(last) = last.take() {
                    return Poll::Ready(Ok(last));
                }
            }
            if last.is_some() {
                return Poll::Pending;
            }
            match ready!(poll_head(response, context))? {
                Head::Interim(_) if waiting_count == H2_INTERIMS_COUNT_MAX => {
                    return Poll::Ready(Err(Failure::Interims));
                }
                Head::Interim(interim) => {
                    encode_interim(interim.status(), interim.headers(), &mut encoded)?;
                    waiting_count += 1;
                }
                Head::Final(response) => last = Some(response),
            }
        }
    })
    .await
}

/// A head that has come.
enum Head {
    Interim(Response<()>),
    Final(Response<RecvStream>),
}

fn poll_head(response: &mut ResponseFuture, context: &mut Context<'_>) -> Poll<Result<Head, h2::Error>> {
    if let Poll::Ready(Some(interim)) = response.poll_informational(context) {
        return Poll::Ready(interim.map(Head::Interim));
    }
    Poll::Ready(ready!(Pin::new(response).poll(context)).map(Head::Final))
}
