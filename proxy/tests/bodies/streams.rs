//! A client of HTTP/2: plays the exchanges of its scene as streams of one connection, all at once, within windows of any size.

use std::{future::poll_fn, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use rand::RngExt;
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    PATIENCE,
    ledger::Ledger,
    outgoing::TRAILERS,
    scene::{End, Exchange, Framing, Scene, rng_of},
};

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Whole,
    /// As it was to be: its origin died, or the client has reset it.
    Cut,
}

#[derive(Clone)]
pub(crate) struct Streams {
    pub(crate) seed: u64,
    pub(crate) scenes: Arc<Vec<Scene>>,
    pub(crate) number: usize,
    pub(crate) ledger: Arc<Ledger>,
}

impl Streams {
    fn scene(&self) -> &Scene {
        &self.scenes[self.number]
    }

    /// # Errors
    /// What is wrong.
    pub(crate) async fn play(self, proxy: SocketAddr) -> Result<(), String> {
        let mut rng = rng_of(self.seed ^ 0x5eed, self.scene().drawn);
        let stream = self.connect(proxy).await.map_err(|error| format!("connect: {error}"))?;
        let made = h2::client::Builder::new()
            .initial_window_size(1 << rng.random_range(14..21))
            .initial_connection_window_size(1 << rng.random_range(16..22))
            .max_frame_size(rng.random_range(16_384..=1 << 20))
            .handshake::<_, Bytes>(stream)
            .await;
        let (sender, connection) = made.map_err(|error| format!("connect: {error}"))?;
        let connection = tokio::spawn(connection);
        let mut exchanges = JoinSet::new();
        for position in 0..self.scene().exchanges.len() {
            let resets = rng.random_bool(0.1).then(|| rng.random_range(0..=64 * 1024));
            exchanges.spawn(self.clone().exchange(sender.clone(), position, resets));
        }
        while let Some(ended) = exchanges.join_next().await {
            let ended = ended.map_err(|error| error.to_string())??;
            self.ledger.count(|tally| {
                tally.exchanges += 1;
                tally.failed += usize::from(ended == Ended::Cut);
            });
        }
        drop(sender);
        // It ends when nobody has a stream of it.
        let _ = timeout(PATIENCE, connection).await.map_err(|_| "the connection does not end")?;
        Ok(())
    }

    async fn connect(&self, proxy: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        self.scene().buffers.apply(&socket)?;
        socket.set_nodelay(true)?;
        socket.connect(proxy).await
    }

    /// `resets` is behind how many bytes of the answer the client has had enough.
    async fn exchange(
        self,
        sender: SendRequest<Bytes>,
        position: usize,
        resets: Option<usize>,
    ) -> Result<Ended, String> {
        let wrong = |what: String| format!("stream {position}: {what}");
        let exchange = &self.scene().exchanges[position];
        let mut sender = sender.ready().await.map_err(|error| wrong(format!("no stream: {error}")))?;
        let (request, is_whole) = self.request(position)?;
        let sent = sender.send_request(request, is_whole);
        let (response, mut stream) = sent.map_err(|error| wrong(format!("no stream: {error}")))?;
        let sending = async {
            if !is_whole {
                // What is not taken is told by the answer.
                let _ = self.send_body(position, &mut stream).await;
            }
            std::future::pending::<()>().await;
        };
        let answered = tokio::select! {
            answered = self.read_answer(position, response, resets) => answered,
            () = sending => unreachable!("it waits"),
        };
        match answered {
            Ok(Some(())) => Ok(Ended::Whole),
            Ok(None) => {
                stream.send_reset(Reason::CANCEL);
                Ok(Ended::Cut)
            }
            Err(Fault::Reset(_)) if exchange.may_fail() => Ok(Ended::Cut),
            Err(Fault::Reset(error)) => Err(wrong(format!("reset: {error}"))),
            Err(Fault::Wrong(what)) => Err(wrong(what)),
        }
    }

    fn request(&self, position: usize) -> Result<(Request<()>, bool), String> {
        let exchange = &self.scene().exchanges[position];
        let target = format!("http://bodies{}", self.scene().target(position));
        let mut request =
            Request::builder().method(exchange.method).uri(target).header("cookie", self.scene().cookie());
        if exchange.request.framing == Framing::Length {
            request = request.header("content-length", exchange.request.bytes);
        }
        let is_whole = exchange.request.framing == Framing::None;
        Ok((request.body(()).map_err(|error| error.to_string())?, is_whole))
    }

    async fn send_body(&self, position: usize, stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
        let message = &self.scene().exchanges[position].request;
        let pattern = self.scene().request_pattern(position);
        let mut sent = 0;
        while sent < message.bytes {
            let wanted = message.write.piece_bytes(sent).min(message.bytes - sent);
            stream.reserve_capacity(wanted);
            let Some(granted) = poll_fn(|context| stream.poll_capacity(context)).await else { return Ok(()) };
            let piece = pattern.bytes(sent..sent + granted?.min(wanted));
            let (before, count) = (sent, piece.len());
            stream.send_data(piece.into(), false)?;
            sent += count;
            let pause = message.write.pause(before, sent);
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
        match message.framing {
            Framing::Chunked(chunks) if chunks.trailers => stream.send_trailers(trailers()),
            _ => stream.send_data(Bytes::new(), true),
        }
    }

    /// None: the client has read enough.
    async fn read_answer(
        &self,
        position: usize,
        response: ResponseFuture,
        resets: Option<usize>,
    ) -> Result<Option<()>, Fault> {
        let exchange = &self.scene().exchanges[position];
        let response = patient(response).await?;
        let status = response.status().as_u16();
        if exchange.may_fail() && status == 502 {
            return Err(Fault::Reset("502".to_owned()));
        }
        let target = self.scene().target(position);
        let is_right = status == exchange.status
            && response.headers().get("x-bodies").is_some_and(|of| of.as_bytes() == target.as_bytes());
        if !is_right {
            return Err(Fault::Wrong(format!("not the answer that was sent: {response:?}")));
        }
        let mut body = response.into_body();
        let Some(bytes) = self.read_body(position, &mut body, resets).await? else { return Ok(None) };
        let trailers = poll_fn(|context| body.poll_trailers(context));
        let trailers = patient(trailers).await?.unwrap_or_default();
        if let End::Cut { .. } = exchange.end {
            return Err(Fault::Wrong(format!("whole after {bytes} bytes, but the origin died in it")));
        }
        let expected = if exchange.has_response_body() { exchange.response.bytes } else { 0 };
        if bytes != expected {
            return Err(Fault::Wrong(format!("{bytes} bytes of body for {expected}")));
        }
        check_trailers(exchange, &trailers).map(Some)
    }

    async fn read_body(
        &self,
        position: usize,
        body: &mut RecvStream,
        resets: Option<usize>,
    ) -> Result<Option<usize>, Fault> {
        let (message, pattern) =
            (&self.scene().exchanges[position].response, self.scene().response_pattern(position));
        let mut bytes = 0;
        loop {
            if resets.is_some_and(|after| bytes >= after) && !body.is_end_stream() {
                self.ledger.give_up(self.scene().number, position);
                return Ok(None);
            }
            let next = poll_fn(|context| body.poll_data(context).map(Ok::<_, h2::Error>));
            let Some(data) = patient(next).await? else { return Ok(Some(bytes)) };
            let data = data.map_err(|error| Fault::Reset(error.to_string()))?;
            if let Some(at) = pattern.first_wrong(bytes, &data) {
                return Err(Fault::Wrong(format!("wrong from byte {at} on")));
            }
            let before = bytes;
            bytes += data.len();
            let pause = message.read.pause(before, bytes);
            if !pause.is_zero() {
                sleep(pause).await;
            }
            // Room for the next is granted when this was read.
            let _ = body.flow_control().release_capacity(data.len());
        }
    }
}

/// Why there is no whole answer.
enum Fault {
    Reset(String),
    Wrong(String),
}

async fn patient<T>(next: impl Future<Output = Result<T, h2::Error>>) -> Result<T, Fault> {
    let ended = timeout(PATIENCE, next).await;
    let ended = ended.map_err(|_| Fault::Wrong(format!("nothing came for {PATIENCE:?}")))?;
    ended.map_err(|error| Fault::Reset(error.to_string()))
}

fn trailers() -> HeaderMap {
    let field = |text: &&str| {
        let (name, value) = text.split_once(": ").expect("a field");
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        (name, HeaderValue::from_str(value).expect("a value"))
    };
    TRAILERS.iter().map(field).collect()
}

fn check_trailers(exchange: &Exchange, seen: &HeaderMap) -> Result<(), Fault> {
    let expected = match exchange.response.framing {
        Framing::Chunked(chunks) if chunks.trailers && exchange.has_response_body() => trailers(),
        _ => HeaderMap::new(),
    };
    let is_same = *seen == expected;
    is_same.then_some(()).ok_or_else(|| Fault::Wrong(format!("trailers {seen:?} for {expected:?}")))
}
