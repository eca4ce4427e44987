//! The origin: knows every scene, checks what it is sent, and answers as the scene has it.

use std::{io, net::SocketAddr, sync::Arc};

use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    PATIENCE,
    buffers::Buffers,
    incoming::{Body, Head, Incoming, Stop, Without},
    ledger::Ledger,
    outgoing::{encode_response, send},
    scene::{Answer, End, Exchange, Framing, Rest, Scene},
    tunnel::reset,
};

/// What all connections of the origin share.
pub(crate) struct Origin {
    pub(crate) seed: u64,
    pub(crate) scenes: Arc<Vec<Scene>>,
    pub(crate) ledger: Arc<Ledger>,
    /// Requests under way.
    pub(crate) busy: watch::Sender<usize>,
    /// The proxy is, and gone at the end.
    pub(crate) is_ours: bool,
}

/// Which exchange of which scene.
#[derive(Debug, Clone, Copy)]
struct Place {
    scene: usize,
    position: usize,
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Request,
    Close,
    Reset,
}

/// Why a connection is given up.
enum Fault {
    /// This went wrong in this exchange.
    At(Place, String),
    /// Something came that belongs to none.
    Between(String),
    /// The proxy has ended it, as it may.
    None,
}

impl Origin {
    /// Serves until it is told that the proxy is gone, and with it all that it will ever send.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, mut is_over: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = is_over.wait_for(|is_over| *is_over) => break,
            };
            let Ok((stream, peer)) = accepted else { continue };
            let mut count = 0;
            self.ledger.count(|tally| {
                tally.connections += 1;
                count = tally.connections as u64;
            });
            self.tune(peer, count);
            connections.spawn(self.clone().serve_connection(stream));
            while connections.try_join_next().is_some() {}
        }
        if self.is_ours {
            let _ = timeout(PATIENCE, async { while connections.join_next().await.is_some() {} }).await;
        }
    }

    /// The proxy's end of a connection gets buffers of its own, where it runs in this process.
    fn tune(&self, peer: SocketAddr, count: u64) {
        let buffers = Buffers::draw_open(&mut StdRng::seed_from_u64(self.seed ^ count));
        // Where the kernel lends no descriptors, they stay as they are.
        let _ = Buffers::apply_to_own(|| buffers, peer);
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let mut connection = Connection { origin: &self, incoming: Incoming::new(read), write, last: None };
        match connection.run().await {
            Ok(Next::Reset) => reset(connection.write),
            Ok(Next::Request | Next::Close) | Err(Fault::None) => {}
            Err(Fault::At(place, what)) => {
                let target = self.scenes[place.scene].target(place.position);
                self.ledger.note(place.scene, format!("origin, {target}: {what}"));
            }
            Err(Fault::Between(what)) => {
                let last = connection.last.map(|place| self.scenes[place.scene].target(place.position));
                let last = last.unwrap_or_else(|| "no request".to_owned());
                self.ledger.note_other(format!("origin, behind {last}: {what}"));
            }
        }
    }
}

struct Connection<'a> {
    origin: &'a Origin,
    incoming: Incoming<OwnedReadHalf>,
    write: OwnedWriteHalf,
    last: Option<Place>,
}

/// A request under way.
struct Busy<'a>(&'a watch::Sender<usize>);

impl<'a> Busy<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Connection<'_> {
    async fn run(&mut self) -> Result<Next, Fault> {
        let origin = self.origin;
        while self.incoming.wait().await.is_ok() {
            let _busy = Busy::new(&origin.busy);
            let head = self.incoming.head().await.map_err(|stop| Fault::Between(stop.to_string()))?;
            let place = self.find(&head)?;
            self.last = Some(place);
            let next = self.exchange(place, &head).await?;
            if next != Next::Request {
                return Ok(next);
            }
        }
        Ok(Next::Close)
    }

    /// Whose request this is. It must be one that was sent, by this client, and not twice.
    fn find(&self, head: &Head) -> Result<Place, Fault> {
        let mut words = head.line.split(' ');
        let (method, target) = (words.next(), words.next().unwrap_or_default());
        let mut numbers = target.trim_start_matches("/bodies/").split('/').map(str::parse::<usize>);
        let (Some(Ok(scene)), Some(Ok(position))) = (numbers.next(), numbers.next()) else {
            return Err(Fault::Between(format!("not a request that was sent: {head:?}")));
        };
        let place = Place { scene, position };
        let known =
            self.origin.scenes.get(scene).and_then(|known| Some((known, known.exchanges.get(position)?)));
        let Some((known, exchange)) = known else {
            return Err(Fault::Between(format!("not a request that was sent: {head:?}")));
        };
        let is_right = known.target(position) == target
            && method == Some(exchange.method)
            && head.field("cookie") == Some(&known.cookie());
        if !is_right {
            return Err(Fault::At(place, format!("not the head that was sent: {head:?}")));
        }
        if !self.origin.ledger.see(scene, position) {
            return Err(Fault::At(place, "it has come twice".to_owned()));
        }
        Ok(place)
    }

    async fn exchange(&mut self, place: Place, head: &Head) -> Result<Next, Fault> {
        let scene = &self.origin.scenes[place.scene];
        let exchange = &scene.exchanges[place.position];
        let _ = exchange.origin_buffers.apply(self.write.as_ref());
        self.incoming.set_pace(&exchange.request.read);
        let wrong = |stop: Stop| Fault::At(place, stop.to_string());
        let mut body =
            Body::new(scene.request_pattern(place.position), head, Without::Empty).map_err(wrong)?;
        check_framing(exchange, head).map_err(|what| Fault::At(place, what))?;
        let Answer::Early { after, pause, rest } = exchange.answer else {
            let read = body.read_all(&mut self.incoming).await;
            self.judge(place, &body, read)?;
            return self.answer(place).await;
        };
        let read = body.read(&mut self.incoming, after).await;
        self.judge_rest(place, read)?;
        sleep(pause).await;
        match rest {
            Rest::Reset => {
                self.answer(place).await?;
                Ok(Next::Reset)
            }
            Rest::ReadMeanwhile => {
                let wire = encode_response(scene, place.position);
                let (sent, read) = tokio::join!(
                    send(&mut self.write, &wire, &exchange.response, || true),
                    body.read_all(&mut self.incoming)
                );
                self.judge_rest(place, read)?;
                self.judge_sent(place, sent)?;
                self.judge_whole(place, &body)?;
                Ok(if exchange.end == End::Keep { Next::Request } else { Next::Close })
            }
            Rest::ReadAfterwards | Rest::Drop => {
                let next = self.answer(place).await?;
                if next != Next::Request {
                    let _ = self.write.shutdown().await;
                }
                let read = body.read_all(&mut self.incoming).await;
                self.judge_rest(place, read)?;
                self.judge_whole(place, &body)?;
                Ok(next)
            }
        }
    }

    /// Sends the response, or what it is to send of it.
    async fn answer(&mut self, place: Place) -> Result<Next, Fault> {
        let scene = &self.origin.scenes[place.scene];
        let exchange = &scene.exchanges[place.position];
        let wire = encode_response(scene, place.position);
        let sent = send(&mut self.write, &wire, &exchange.response, || true).await;
        self.judge_sent(place, sent)?;
        Ok(match exchange.end {
            End::Keep => Next::Request,
            End::Close | End::Cut { reset: false, .. } => Next::Close,
            End::Cut { reset: true, .. } => Next::Reset,
        })
    }

    fn has_given_up(&self, place: Place) -> bool {
        self.origin.ledger.has_given_up(place.scene, place.position)
    }

    /// A request that is not answered before it is whole must come whole.
    fn judge(&self, place: Place, body: &Body, read: Result<(), Stop>) -> Result<(), Fault> {
        match read {
            Ok(()) => self.judge_whole(place, body),
            Err(Stop::Wrong(what)) => Err(Fault::At(place, what)),
            Err(_) if self.has_given_up(place) => Err(Fault::None),
            Err(stop) => {
                let expected = self.origin.scenes[place.scene].exchanges[place.position].request.bytes;
                Err(Fault::At(place, format!("{} of {expected} bytes of the body, then {stop}", body.bytes)))
            }
        }
    }

    fn judge_whole(&self, place: Place, body: &Body) -> Result<(), Fault> {
        let request = &self.origin.scenes[place.scene].exchanges[place.position].request;
        if body.bytes != request.bytes {
            let what = format!("a whole body of {} bytes for {}", body.bytes, request.bytes);
            return Err(Fault::At(place, what));
        }
        body.check_trailers(request.framing).map_err(|stop| Fault::At(place, stop.to_string()))
    }

    /// What comes after an early answer may be broken off, but is right as far as it comes.
    fn judge_rest(&self, place: Place, read: Result<(), Stop>) -> Result<(), Fault> {
        match read {
            Ok(()) => Ok(()),
            Err(Stop::Closed | Stop::Broken(_)) => Err(Fault::None),
            Err(Stop::Silent) if self.has_given_up(place) => Err(Fault::None),
            Err(stop) => Err(Fault::At(place, format!("the rest of the body: {stop}"))),
        }
    }

    fn judge_sent(&self, place: Place, sent: io::Result<()>) -> Result<(), Fault> {
        match sent {
            Ok(()) => Ok(()),
            Err(_) if self.has_given_up(place) => Err(Fault::None),
            Err(error) => Err(Fault::At(place, format!("the answer cannot be sent: {error}"))),
        }
    }
}

fn check_framing(exchange: &Exchange, head: &Head) -> Result<(), String> {
    let length = exchange.request.bytes.to_string();
    let is_right = match exchange.request.framing {
        Framing::None | Framing::UntilClose => {
            head.field("content-length").is_none_or(|length| length == "0")
        }
        Framing::Length => head.field("content-length") == Some(&length),
        Framing::Chunked(_) => head.field("transfer-encoding").is_some(),
    };
    if is_right { Ok(()) } else { Err(format!("not the framing that was sent: {head:?}")) }
}
