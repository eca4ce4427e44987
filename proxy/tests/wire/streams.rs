//! A client that says in streams of HTTP/2 what a script says in HTTP/1: one request after another, and the answers as text (`normal.rs`).

use std::{collections::VecDeque, io, net::SocketAddr, sync::mpsc as std_mpsc, time::Duration};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::HeaderMap;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{JoinHandle, LocalSet},
};

use crate::{
    normal::{Head, Normal, Part},
    script::{Dates, End},
    translated::{header_map, request},
};

/// Most frames that one piece of a body is cut into.
const FRAMES_COUNT_MAX: usize = 200;

/// What a client is to do.
enum Command {
    Send(Vec<u8>),
    HalfClose,
    Reset,
}

/// What it has seen.
enum Told {
    Bytes(Vec<u8>),
    /// An answer is whole.
    Answered,
    /// A stream was reset.
    Reset,
    /// The connection has ended.
    Over(End),
    /// What it was to send cannot be said.
    Wrong(String),
}

/// The client in a script's hands.
#[derive(Debug)]
pub(crate) struct Streams {
    commands: Option<UnboundedSender<Command>>,
    told: std_mpsc::Receiver<Told>,
    patience: Duration,
    /// Looks at what is sent: how many requests there were, and by which methods.
    requests: Normal,
    asked: usize,
    answered: usize,
    ended: Option<End>,
    is_over: bool,
}

impl Streams {
    /// `seed` cuts bodies into frames; none leaves them as they are sent.
    pub(crate) fn connect(addr: SocketAddr, patience: Duration, dates: Dates, seed: Option<u64>) -> Self {
        let (commands, wanted) = unbounded_channel();
        let (tell, told) = std_mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            let tell_end = tell.clone();
            let played = LocalSet::new().block_on(&runtime, Player { tell, dates, seed }.play(addr, wanted));
            if let Err(why) = played {
                let _ = tell_end.send(Told::Wrong(why));
            }
        });
        Self {
            commands: Some(commands),
            told,
            patience,
            requests: Normal::of_requests(),
            asked: 0,
            answered: 0,
            ended: None,
            is_over: false,
        }
    }

    /// Sends, and returns the methods of the requests that begin with it.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Vec<String> {
        let parts = self.requests.push(bytes).unwrap_or_default();
        let methods = parts.iter().filter_map(|part| match part {
            Part::Head(head) => head.line.split(' ').next().map(str::to_owned),
            _ => None,
        });
        let methods: Vec<_> = methods.collect();
        self.asked += methods.len();
        self.command(Command::Send(bytes.to_vec()));
        methods
    }

    pub(crate) fn half_close(&self) {
        self.command(Command::HalfClose);
    }

    pub(crate) fn reset(&self) {
        self.command(Command::Reset);
    }

    fn command(&self, command: Command) {
        // Who has ended cannot be told; that it has is seen.
        let _ = self.commands.as_ref().map(|commands| commands.send(command));
    }

    /// Text that has come; nothing at the end of a stream that was reset, or of the connection.
    pub(crate) fn read(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if self.ended.is_some() {
                return Ok(Vec::new());
            }
            if let Some(bytes) = self.next()? {
                return Ok(bytes);
            }
        }
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.told.recv_timeout(self.patience) {
            // A frame without data is nothing; to who reads, nothing is the end.
            Ok(Told::Bytes(bytes)) => return Ok(Some(bytes).filter(|bytes| !bytes.is_empty())),
            Ok(Told::Answered) => self.answered += 1,
            Ok(Told::Reset) => self.ended = Some(End::Broken),
            Ok(Told::Over(end)) => {
                self.is_over = true;
                // An answer that has not ended with END_STREAM is broken, however its connection ended.
                let end = if self.answered < self.asked { End::Broken } else { end };
                self.ended = self.ended.or(Some(end));
            }
            Ok(Told::Wrong(why)) => return Err(io::Error::other(why)),
            Err(std_mpsc::RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
            Err(std_mpsc::RecvTimeoutError::Disconnected) => {
                self.is_over = true;
                self.ended = self.ended.or(Some(End::Closed));
            }
        }
        Ok(None)
    }

    /// Reads until all that was asked is answered, or the stream or the connection has ended; the end, and the text before it.
    pub(crate) fn read_end(&mut self) -> io::Result<(End, Vec<u8>)> {
        let mut rest = Vec::new();
        while self.ended.is_none() && (self.asked == 0 || self.answered < self.asked) {
            rest.extend(self.next()?.unwrap_or_default());
        }
        Ok((self.ended.unwrap_or(End::Closed), rest))
    }

    /// Reads to the end of the connection.
    pub(crate) fn read_over(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        while !self.is_over {
            rest.extend(self.next()?.unwrap_or_default());
        }
        Ok(rest)
    }
}

struct Player {
    tell: std_mpsc::Sender<Told>,
    dates: Dates,
    seed: Option<u64>,
}

/// A stream whose request is not whole.
struct Open {
    stream: SendStream<Bytes>,
    has_ended: bool,
}

impl Open {
    /// A request whose end is not known by what came of it is whole now; any other breaks off.
    fn half_close(&mut self, requests: &mut Normal, parts: &mut VecDeque<Part>) {
        parts.extend(requests.end());
        if parts.is_empty() {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

impl Player {
    async fn play(self, addr: SocketAddr, mut wanted: UnboundedReceiver<Command>) -> Result<(), String> {
        let wrong = |error: &dyn std::fmt::Display| format!("the client: {error}");
        let stream = TcpStream::connect(addr).await.map_err(|error| wrong(&error))?;
        stream.set_nodelay(true).map_err(|error| wrong(&error))?;
        let made = h2::client::Builder::new().enable_push(false).handshake::<_, Bytes>(stream).await;
        let (mut sender, connection) = made.map_err(|error| wrong(&error))?;
        let mut connection = tokio::task::spawn_local(connection);
        let mut is_over = false;
        let mut cuts = self.seed.map(StdRng::seed_from_u64);
        let (mut requests, mut parts) = (Normal::of_requests(), VecDeque::new());
        let (mut open, mut answer): (Option<Open>, Option<JoinHandle<()>>) = (None, None);
        loop {
            tokio::select! {
                biased;
                command = wanted.recv() => match command {
                    // The connection goes with this task.
                    None => return Ok(()),
                    Some(Command::Send(bytes)) => parts.extend(requests.push(&bytes)?),
                    Some(Command::HalfClose) => {
                        if let Some(open) = open.as_mut().filter(|open| !open.has_ended) {
                            open.half_close(&mut requests, &mut parts);
                        }
                    }
                    Some(Command::Reset) => {
                        if let Some(open) = &mut open {
                            open.stream.send_reset(Reason::CANCEL);
                        }
                    }
                },
                over = &mut connection, if !is_over => {
                    is_over = true;
                    // What came with the end came before it, and is read and told before.
                    if let Some(answer) = answer.take() {
                        let _ = answer.await;
                    }
                    let end = if let Ok(Ok(())) = over { End::Closed } else { End::Broken };
                    let _ = self.tell.send(Told::Over(end));
                }
                () = ended(&mut answer) => answer = None,
            }
            loop {
                if matches!(parts.front(), Some(Part::Head(_))) && answer.is_some() {
                    break;
                }
                match parts.pop_front() {
                    None => break,
                    Some(Part::Head(head)) => {
                        let (response, stream) = self.ask(&mut sender, &head).await?;
                        let reader = Reader { tell: self.tell.clone(), dates: self.dates };
                        answer = Some(tokio::task::spawn_local(reader.read(response)));
                        open = Some(Open { stream, has_ended: head.is_whole });
                    }
                    Some(part) => {
                        if let Some(open) = open.as_mut().filter(|open| !open.has_ended) {
                            send_part(open, part, &mut cuts);
                        }
                    }
                }
            }
        }
    }

    async fn ask(
        &self,
        sender: &mut SendRequest<Bytes>,
        head: &Head,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), String> {
        let request = request(head)?;
        while head.is_upgrade && !sender.is_extended_connect_protocol_enabled() {
            // It is known when the proxy's settings are.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        std::future::poll_fn(|context| sender.poll_ready(context))
            .await
            .map_err(|error| format!("the connection: {error}"))?;
        sender.send_request(request, head.is_whole).map_err(|error| format!("the request: {error}"))
    }
}

async fn ended(answer: &mut Option<JoinHandle<()>>) {
    match answer {
        Some(answer) => drop(answer.await),
        None => std::future::pending().await,
    }
}

/// Sends a part. Whether it arrives is seen by what is answered.
fn send_part(open: &mut Open, part: Part, cuts: &mut Option<StdRng>) {
    match part {
        Part::Head(_) => {}
        Part::Data(bytes) => {
            let least = bytes.len() / FRAMES_COUNT_MAX + 1;
            let mut rest = Bytes::from(bytes);
            while !rest.is_empty() {
                let count = cuts.as_mut().map_or(rest.len(), |rng| {
                    rng.random_range(1..=rest.len() / 2 + 1).max(least).min(rest.len())
                });
                let _ = open.stream.send_data(rest.split_to(count), false);
            }
        }
        Part::End(trailers) => {
            open.has_ended = true;
            let _ = match header_map(&trailers) {
                Ok(trailers) if !trailers.is_empty() => open.stream.send_trailers(trailers),
                _ => open.stream.send_data(Bytes::new(), true),
            };
        }
    }
}

/// Reads one answer.
struct Reader {
    tell: std_mpsc::Sender<Told>,
    dates: Dates,
}

impl Reader {
    async fn read(self, response: ResponseFuture) {
        let told = match self.read_all(response).await {
            Ok(()) => Told::Answered,
            Err(_) => Told::Reset,
        };
        let _ = self.tell.send(told);
    }

    fn tell(&self, part: &Part) {
        let _ = self.tell.send(Told::Bytes(part.render()));
    }

    async fn read_all(&self, mut response: ResponseFuture) -> Result<(), h2::Error> {
        let response = loop {
            let polled = std::future::poll_fn(|context| {
                if let std::task::Poll::Ready(Some(interim)) = response.poll_informational(context) {
                    return std::task::Poll::Ready(interim.map(Err));
                }
                std::pin::Pin::new(&mut response).poll(context).map(|final_one| final_one.map(Ok))
            });
            match polled.await? {
                Err(interim) => self.tell_head(interim.status(), interim.headers()),
                Ok(response) => break response,
            }
        };
        self.tell_head(response.status(), response.headers());
        let mut body: RecvStream = response.into_body();
        while let Some(data) = body.data().await {
            let data = data?;
            let _ = body.flow_control().release_capacity(data.len());
            self.tell(&Part::Data(data.to_vec()));
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        self.tell(&Part::End(self.fields(&trailers)));
        Ok(())
    }

    fn tell_head(&self, status: http::StatusCode, fields: &HeaderMap) {
        let (line, fields) = (status.as_str().to_owned(), self.fields(fields));
        self.tell(&Part::Head(Head { line, fields, is_upgrade: false, is_whole: false }));
    }

    /// Dates are what scripts see of them. All else stays, whatever it is: a field of one hop would be a fault.
    fn fields(&self, fields: &HeaderMap) -> Vec<(String, Vec<u8>)> {
        let seen = fields.iter().filter_map(|(name, value)| {
            let is_date = name == "date" && value.as_bytes().ends_with(b" GMT");
            let value = match self.dates {
                Dates::Hidden if is_date => return None,
                Dates::Shown if is_date => b"now".to_vec(),
                _ => value.as_bytes().to_vec(),
            };
            Some((name.as_str().to_owned(), value))
        });
        seen.collect()
    }
}
