//! A message as bytes, and the sending of bytes at a pace.

use std::{io, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::{
    PATIENCE,
    pace::Pace,
    pattern::Pattern,
    scene::{End, Framing, Message, Scene},
};

/// What stands behind the last chunk of those that have trailers.
pub(crate) const TRAILERS: [&str; 2] = ["X-Bodies-Sum: 42", "X-Bodies-End: yes"];

/// Between head and body of those that are split: time for a proxy to look at the head alone. Nothing depends on it.
const SPLIT_PAUSE: Duration = Duration::from_millis(1);

/// Where a message is cut.
pub(crate) struct Wire {
    pub(crate) bytes: Vec<u8>,
    pub(crate) head_bytes: usize,
}

/// The request at this position of a scene.
pub(crate) fn encode_request(scene: &Scene, position: usize) -> Wire {
    let exchange = &scene.exchanges[position];
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: bodies\r\nCookie: {}\r\n",
        exchange.method,
        scene.target(position),
        scene.cookie()
    );
    if exchange.is_last {
        head += "Connection: close\r\n";
    }
    encode(head, &exchange.request, true, scene.request_pattern(position))
}

/// The response to it, as much as the origin sends of it.
pub(crate) fn encode_response(scene: &Scene, position: usize) -> Wire {
    let exchange = &scene.exchanges[position];
    let mut head = format!("HTTP/1.1 {} Bodies\r\nX-Bodies: {}\r\n", exchange.status, scene.target(position));
    if exchange.end == End::Close {
        head += "Connection: close\r\n";
    }
    let mut wire =
        encode(head, &exchange.response, exchange.has_response_body(), scene.response_pattern(position));
    if let End::Cut { permille, .. } = exchange.end {
        let body_bytes = (wire.bytes.len() - wire.head_bytes) * permille / 1000;
        wire.bytes.truncate(wire.head_bytes + body_bytes);
    }
    wire
}

fn encode(mut head: String, message: &Message, has_body: bool, pattern: Pattern) -> Wire {
    head += &match message.framing {
        Framing::None | Framing::UntilClose => String::new(),
        Framing::Length => format!("Content-Length: {}\r\n", message.bytes),
        Framing::Chunked(_) => "Transfer-Encoding: chunked\r\n".to_owned(),
    };
    head += "\r\n";
    let mut bytes = head.into_bytes();
    let head_bytes = bytes.len();
    if has_body {
        encode_body(message, pattern, &mut bytes);
    }
    Wire { bytes, head_bytes }
}

fn encode_body(message: &Message, pattern: Pattern, bytes: &mut Vec<u8>) {
    let Framing::Chunked(chunks) = message.framing else {
        return bytes.extend(pattern.bytes(0..message.bytes));
    };
    let mut rng = StdRng::seed_from_u64(chunks.seed);
    let mut at = 0;
    loop {
        let size = rng.random_range(1..=chunks.bytes_max).min(message.bytes - at);
        let extension = if chunks.extensions && rng.random_bool(0.2) { ";x=\"a;b\"" } else { "" };
        bytes.extend(format!("{size:x}{extension}\r\n").into_bytes());
        if size == 0 {
            break;
        }
        bytes.extend(pattern.bytes(at..at + size));
        bytes.extend(b"\r\n");
        at += size;
    }
    for trailer in TRAILERS.iter().filter(|_| chunks.trailers) {
        bytes.extend(format!("{trailer}\r\n").into_bytes());
    }
    bytes.extend(b"\r\n");
}

/// Sends it at the message's pace, for as long as this is wanted.
pub(crate) async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    wire: &Wire,
    message: &Message,
    mut is_wanted: impl FnMut() -> bool,
) -> io::Result<()> {
    let (head, body) = wire.bytes.split_at(if message.is_split { wire.head_bytes } else { 0 });
    to.write_all(head).await?;
    if message.is_split {
        sleep(SPLIT_PAUSE).await;
    }
    send_paced(to, body, &message.write, &mut is_wanted).await
}

/// Sends bytes at a pace, for as long as this is wanted.
pub(crate) async fn send_paced(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    pace: &Pace,
    mut is_wanted: impl FnMut() -> bool,
) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() && is_wanted() {
        let piece = &bytes[sent..bytes.len().min(sent + pace.piece_bytes(sent))];
        timeout(PATIENCE, to.write_all(piece)).await.map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{sent} of {} bytes were taken, no more", bytes.len()),
            )
        })??;
        let pause = pace.pause(sent, sent + piece.len());
        sent += piece.len();
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
    Ok(())
}
