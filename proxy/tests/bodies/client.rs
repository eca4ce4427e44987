//! A client: sends the requests of its scene and reads the answers, both at once.

use std::net::SocketAddr;

use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
};

use crate::{
    incoming::{Body, Head, Incoming, Stop, Without},
    ledger::Ledger,
    outgoing::{encode_request, send},
    scene::{End, Exchange, Framing, Scene},
};

/// How far the answers are.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    answered: usize,
    /// There will be no more.
    is_closed: bool,
}

/// How sending ended.
#[derive(Debug)]
enum Sent {
    All,
    /// The answers said that the rest is not wanted.
    Enough,
    /// The proxy took no more of this request.
    Broken(usize, std::io::Error),
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    Kept,
    /// It was announced that the connection ends.
    Closed,
    /// The connection has ended in the middle, as it was to be.
    Cut,
}

pub(crate) struct Client<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) ledger: &'a Ledger,
    /// Of other proxies less is expected where origins break their connections.
    pub(crate) is_ours: bool,
}

impl Client<'_> {
    /// # Errors
    /// What is wrong.
    pub(crate) async fn play(&self, proxy: SocketAddr) -> Result<(), String> {
        let stream = self.connect(proxy).await.map_err(|error| format!("connect: {error}"))?;
        let (read, mut write) = stream.into_split();
        let mut incoming = Incoming::new(read);
        let (progress, seen) = watch::channel(Progress::default());
        let (sent, ended) = tokio::try_join!(
            self.send_requests(&mut write, seen),
            self.read_answers(&mut incoming, progress)
        )?;
        match (sent, ended) {
            (_, Answered::Cut) => return Ok(()),
            (Sent::Broken(position, error), Answered::Kept) if !self.may_break(position) => {
                return Err(format!("request {position}: the connection was to be kept, but broke: {error}"));
            }
            // Nothing more is wanted. An error means that it is closed already, which is seen next.
            _ => drop(write.shutdown().await),
        }
        incoming.end().await.map_err(|stop| format!("after the last answer: {stop}"))
    }

    async fn connect(&self, proxy: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        self.scene.buffers.apply(&socket)?;
        socket.set_nodelay(true)?;
        socket.connect(proxy).await
    }

    /// Others may close the client's connection behind this exchange without a word before: its origin has broken its own.
    fn may_break(&self, position: usize) -> bool {
        !self.is_ours && self.scene.exchanges[position].may_fail()
    }

    /// The answer to a request that was sent behind this one is cut, and its end is a reset: what the client has not read of
    /// this answer by then is lost with it.
    fn is_reset_behind(&self, position: usize) -> bool {
        let behind = self.scene.exchanges[position..].windows(2).take_while(|pair| pair[0].is_pipelined);
        behind.into_iter().any(|pair| matches!(pair[1].end, End::Cut { .. }))
    }

    async fn send_requests(
        &self,
        write: &mut OwnedWriteHalf,
        mut progress: watch::Receiver<Progress>,
    ) -> Result<Sent, String> {
        let exchanges = &self.scene.exchanges;
        for (position, exchange) in exchanges.iter().enumerate() {
            let is_its_turn = |progress: &Progress| progress.is_closed || progress.answered >= position;
            let waits = position > 0 && !exchanges[position - 1].is_pipelined;
            // The answers have failed if they are gone: that is told elsewhere.
            if waits && progress.wait_for(is_its_turn).await.is_err() || progress.borrow().is_closed {
                return Ok(Sent::Enough);
            }
            let wire = encode_request(self.scene, position);
            let is_wanted = || !(exchange.stops_when_closed && progress.borrow().is_closed);
            match send(write, &wire, &exchange.request, is_wanted).await {
                Ok(()) if progress.borrow().is_closed => return Ok(Sent::Enough),
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                    return Err(format!("request {position}: {error}"));
                }
                Err(error) => return Ok(Sent::Broken(position, error)),
            }
        }
        Ok(Sent::All)
    }

    async fn read_answers(
        &self,
        incoming: &mut Incoming<OwnedReadHalf>,
        progress: watch::Sender<Progress>,
    ) -> Result<Answered, String> {
        for (position, exchange) in self.scene.exchanges.iter().enumerate() {
            let answered = self.read_answer(position, incoming).await;
            let answered = answered.map_err(|stop| format!("answer {position}: {stop}"))?;
            self.ledger.count(|tally| {
                tally.exchanges += 1;
                match answered {
                    Answered::Cut => tally.failed += 1,
                    Answered::Kept if exchange.is_early() => tally.early_kept += 1,
                    Answered::Closed if exchange.is_early() && !exchange.is_last => tally.early_closed += 1,
                    _ => {}
                }
            });
            let is_closed = answered != Answered::Kept;
            progress.send_replace(Progress { answered: position + 1, is_closed });
            if is_closed {
                return Ok(answered);
            }
        }
        // Whoever sends still goes on.
        Ok(Answered::Kept)
    }

    async fn read_answer(
        &self,
        position: usize,
        incoming: &mut Incoming<OwnedReadHalf>,
    ) -> Result<Answered, Stop> {
        let exchange = &self.scene.exchanges[position];
        let may_fail = exchange.may_fail() || self.is_reset_behind(position);
        let may_be_none = may_fail || position > 0 && self.may_break(position - 1);
        let head = loop {
            let head = match incoming.head().await {
                Err(Stop::Closed | Stop::Broken(_)) if may_be_none => return Ok(Answered::Cut),
                head => head?,
            };
            if !head.line.starts_with("HTTP/1.1 1") {
                break head;
            }
        };
        if exchange.may_fail() && head.line.starts_with("HTTP/1.1 502 ") {
            return Ok(Answered::Cut);
        }
        self.check_head(position, &head)?;
        incoming.set_pace(&exchange.response.read);
        let mut body = if exchange.has_response_body() {
            Body::new(self.scene.response_pattern(position), &head, Without::UntilClose)?
        } else {
            Body::none()
        };
        let is_closed = head.says_close() || body.ends_with_connection();
        if is_closed && !exchange.may_close() {
            return Err(Stop::Wrong(format!("the connection is closed without a reason: {head:?}")));
        }
        match body.read_all(incoming).await {
            Err(Stop::Closed | Stop::Broken(_)) if may_fail => return Ok(Answered::Cut),
            Err(Stop::Wrong(what)) => return Err(Stop::Wrong(what)),
            Err(stop) => {
                let expected = exchange.response.bytes;
                return Err(Stop::Wrong(format!(
                    "{} of {expected} bytes of the body, then {stop}",
                    body.bytes
                )));
            }
            Ok(()) => {}
        }
        if let End::Cut { .. } = exchange.end {
            return self.judge_cut(exchange, &body);
        }
        check_body(exchange, &body)?;
        Ok(if is_closed { Answered::Closed } else { Answered::Kept })
    }

    fn check_head(&self, position: usize, head: &Head) -> Result<(), Stop> {
        let is_right = head.line.starts_with(&format!("HTTP/1.1 {} ", self.scene.exchanges[position].status));
        if is_right && head.field("x-bodies") == Some(&self.scene.target(position)) {
            return Ok(());
        }
        Err(Stop::Wrong(format!("not the answer that was sent: {head:?}")))
    }

    /// What an origin began, and died in, must not look whole.
    fn judge_cut(&self, exchange: &Exchange, body: &Body) -> Result<Answered, Stop> {
        if !self.is_ours && exchange.response.framing == Framing::UntilClose {
            return Ok(Answered::Cut);
        }
        Err(Stop::Wrong(format!("whole after {} bytes, but the origin died in it", body.bytes)))
    }
}

fn check_body(exchange: &Exchange, body: &Body) -> Result<(), Stop> {
    let has_body = exchange.has_response_body();
    let expected = if has_body { exchange.response.bytes } else { 0 };
    if body.bytes != expected {
        return Err(Stop::Wrong(format!("{} bytes of body for {expected}", body.bytes)));
    }
    if has_body { body.check_trailers(exchange.response.framing) } else { Ok(()) }
}
