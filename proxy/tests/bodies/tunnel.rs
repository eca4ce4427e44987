//! Connections through a `tcp://` listener: bytes both ways, each way until its sender half-closes or resets.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{
    PATIENCE,
    buffers::Buffers,
    incoming::{Incoming, Stop, text},
    ledger::Ledger,
    outgoing::send_paced,
    pace::Pace,
    pattern::Pattern,
    scene::{draw_bytes, rng_of},
};

pub(crate) struct Tunnel {
    pub(crate) number: usize,
    /// Which of the seed's tunnels it is.
    pub(crate) drawn: usize,
    client_buffers: Buffers,
    origin_buffers: Buffers,
    up: Flow,
    down: Flow,
    /// The origin says nothing before the client has half-closed.
    origin_waits: bool,
}

/// One direction.
struct Flow {
    bytes: usize,
    write: Pace,
    read: Pace,
    /// Its sender resets the connection behind the last byte, instead of half-closing it.
    is_reset: bool,
}

impl Flow {
    fn draw(rng: &mut StdRng) -> Self {
        let bytes = draw_bytes(rng);
        Self { bytes, write: Pace::draw(rng, bytes), read: Pace::draw(rng, bytes), is_reset: false }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, write, read, is_reset } = self;
        let reset = if *is_reset { ", then a reset" } else { "" };
        write!(f, "{bytes} bytes{reset}, written {write:?}, read {read:?}")
    }
}

impl Tunnel {
    fn draw(rng: &mut StdRng, drawn: usize) -> Self {
        let (client_buffers, origin_buffers) = (Buffers::draw(rng), Buffers::draw_open(rng));
        let (mut up, mut down) = (Flow::draw(rng), Flow::draw(rng));
        match rng.random_range(0..8) {
            0 => up.is_reset = true,
            1 => down.is_reset = true,
            _ => {}
        }
        let origin_waits = !up.is_reset && rng.random_bool(0.2);
        Self { number: drawn, drawn, client_buffers, origin_buffers, up, down, origin_waits }
    }

    fn patterns(&self) -> [Pattern; 2] {
        [0, 1].map(|way| Pattern((self.number as u64) << 1 | way))
    }

    pub(crate) fn has_reset(&self) -> bool {
        self.up.is_reset || self.down.is_reset
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, client_buffers, origin_buffers, up, down, origin_waits, .. } = self;
        let waits = if *origin_waits { ", which waits" } else { "" };
        write!(f, "tunnel {number}: client with {client_buffers:?}, origin with {origin_buffers:?}{waits}")?;
        write!(f, "\n      up {up}\n      down {down}")
    }
}

pub(crate) fn draw_tunnels(seed: u64, count: usize) -> Vec<Tunnel> {
    (0..count).map(|drawn| Tunnel::draw(&mut rng_of(seed, drawn), drawn)).collect()
}

/// One of them, so many times.
pub(crate) fn draw_tunnel(seed: u64, drawn: usize, count: usize) -> Vec<Tunnel> {
    (0..count).map(|number| Tunnel { number, ..Tunnel::draw(&mut rng_of(seed, drawn), drawn) }).collect()
}

/// One end of a tunnel.
struct End<'a> {
    stream: TcpStream,
    sends: &'a Flow,
    receives: &'a Flow,
    send_pattern: Pattern,
    receive_pattern: Pattern,
    /// Sends nothing before it has received everything.
    waits: bool,
}

impl End<'_> {
    /// # Errors
    /// What is wrong with what was received, or with how it ended.
    async fn run(self) -> Result<(), String> {
        let Self { stream, sends, receives, send_pattern, receive_pattern, waits } = self;
        let (read, mut write) = stream.into_split();
        let (received, mut is_received) = watch::channel(false);
        let sending = async {
            if waits {
                // An error means that it was received and the sender dropped.
                let _ = is_received.wait_for(|is_received| *is_received).await;
            }
            let bytes = send_pattern.bytes(0..sends.bytes);
            send_paced(&mut write, &bytes, &sends.write, || true).await?;
            if sends.is_reset { Ok(()) } else { write.shutdown().await }
        };
        let receiving = async {
            let mut incoming = Incoming::new(read);
            incoming.set_pace(&receives.read);
            let count = receive(&mut incoming, receive_pattern).await;
            received.send_replace(true);
            (count, incoming)
        };
        if !sends.is_reset {
            let (sent, (ended, _held)) = tokio::join!(sending, receiving);
            return judge(receives, sent, ended);
        }
        // Whatever comes the other way, and however it ends, is cut off when all is sent.
        let wrong = async {
            match receiving.await {
                (Ended { by: Stop::Wrong(what), .. }, _) => Err(what),
                (_, _held) => std::future::pending().await,
            }
        };
        tokio::select! {
            sent = sending => sent.map_err(|error| format!("sending: {error}"))?,
            wrong = wrong => return wrong,
        }
        reset(write);
        Ok(())
    }
}

/// How receiving ended, and after how many bytes.
struct Ended {
    bytes: usize,
    by: Stop,
}

async fn receive(incoming: &mut Incoming<OwnedReadHalf>, pattern: Pattern) -> Ended {
    let mut bytes = 0;
    loop {
        if let Err(by) = incoming.fill().await {
            return Ended { bytes, by };
        }
        let rest = incoming.take_rest();
        if let Some(at) = pattern.first_wrong(bytes, &rest) {
            let what = format!("wrong from byte {at} on: {}", text(&rest[at - bytes..]));
            return Ended { bytes, by: Stop::Wrong(what) };
        }
        bytes += rest.len();
    }
}

fn judge(receives: &Flow, sent: io::Result<()>, ended: Ended) -> Result<(), String> {
    let Ended { bytes, by } = ended;
    let expected = receives.bytes;
    match (by, sent) {
        (Stop::Wrong(what), _) => Err(what),
        (Stop::Broken(_), _) | (Stop::Closed, Err(_)) if receives.is_reset => Ok(()),
        (Stop::Closed, Ok(())) if receives.is_reset => {
            Err(format!("a reset behind {expected} bytes came as an end in order behind {bytes}"))
        }
        (Stop::Closed, Ok(())) if bytes == expected => Ok(()),
        (by, Ok(())) => Err(format!("{bytes} of {expected} bytes, then {by}")),
        (by, Err(error)) => Err(format!("{bytes} of {expected} bytes, then {by}; sending: {error}")),
    }
}

/// Resets the connection when its other half is dropped, too.
pub(crate) fn reset(write: OwnedWriteHalf) {
    // An error means that it is broken already.
    let _ = SockRef::from(write.as_ref()).set_linger(Some(Duration::ZERO));
    // Dropping it would half-close in order first.
    write.forget();
}

/// # Errors
/// What is wrong at the client's end.
pub(crate) async fn play(tunnel: &Tunnel, proxy: SocketAddr) -> Result<(), String> {
    let connect = async {
        let socket = TcpSocket::new_v4()?;
        tunnel.client_buffers.apply(&socket)?;
        socket.set_nodelay(true)?;
        let mut stream = socket.connect(proxy).await?;
        stream.write_all(&tunnel.number.to_be_bytes()).await?;
        Ok(stream)
    };
    let stream = connect.await.map_err(|error: io::Error| format!("client: connect: {error}"))?;
    let [send_pattern, receive_pattern] = tunnel.patterns();
    let (sends, receives) = (&tunnel.up, &tunnel.down);
    let end = End { stream, sends, receives, send_pattern, receive_pattern, waits: false };
    end.run().await.map_err(|fault| format!("client: {fault}"))
}

/// Serves the far ends until all tunnels have ended.
pub(crate) async fn serve(
    tunnels: Arc<Vec<Tunnel>>,
    listener: TcpListener,
    ledger: Arc<Ledger>,
    mut is_over: watch::Receiver<bool>,
) {
    let mut ends = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = is_over.wait_for(|is_over| *is_over) => break,
        };
        let Ok((stream, _)) = accepted else { continue };
        ledger.count(|tally| tally.connections += 1);
        let (tunnels, ledger) = (tunnels.clone(), ledger.clone());
        ends.spawn(async move { serve_end(&tunnels, stream, &ledger).await });
    }
    let _ = timeout(PATIENCE, async { while ends.join_next().await.is_some() {} }).await;
}

async fn serve_end(tunnels: &[Tunnel], mut stream: TcpStream, ledger: &Ledger) {
    let mut number = [0; size_of::<usize>()];
    if let Err(error) = stream.read_exact(&mut number).await {
        // A reset may have overtaken it.
        if error.kind() != io::ErrorKind::ConnectionReset {
            ledger.note_other(format!("origin: a tunnel without a beginning: {error}"));
        }
        return;
    }
    let Some(tunnel) = tunnels.get(usize::from_be_bytes(number)) else {
        return ledger.note_other(format!("origin: a tunnel begins with {number:?}"));
    };
    let _ = stream.set_nodelay(true).and_then(|()| tunnel.origin_buffers.apply(&stream));
    let [receive_pattern, send_pattern] = tunnel.patterns();
    let (sends, receives) = (&tunnel.down, &tunnel.up);
    let end = End { stream, sends, receives, send_pattern, receive_pattern, waits: tunnel.origin_waits };
    match end.run().await {
        Ok(()) if ledger.see(tunnel.number, 0) => {}
        Ok(()) => ledger.note(tunnel.number, "origin: it was opened twice".to_owned()),
        Err(fault) => ledger.note(tunnel.number, format!("origin: {fault}")),
    }
}
