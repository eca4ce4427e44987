//! A script in action, on one thread: the proxy's session in an event loop, the peers' ends as plain sockets beside it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use proxy::{config::HalfClosed, fuzzing::Bench};
use socket2::SockRef;

use crate::{Ending, Played, Side};

/// Turns of the event loop after which nothing moves any more if nothing has moved in them: a wake-up, and what it wakes.
const QUIET_TURNS_COUNT: usize = 6;

struct Peer {
    stream: TcpStream,
    side: Side,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        // Thousands of connections a second must not leave their ports behind.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
        Self { stream, side: Side::default() }
    }

    fn send(&mut self, bytes: &[u8]) {
        if self.side.ended.is_none()
            && let Ok(count) = self.stream.write(bytes)
        {
            self.side.sent.extend_from_slice(&bytes[..count]);
        }
    }

    fn close(&mut self) {
        if self.side.ended.is_none() && self.stream.shutdown(Shutdown::Write).is_ok() {
            self.side.ended = Some(Ending::Closed);
        }
    }

    /// Reads what has come; false: nothing.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let mut moved = false;
        while self.side.seen.is_none() {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.side.seen = Some(Ending::Closed),
                Ok(count) => self.side.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.side.seen = Some(Ending::Reset),
            }
            moved = true;
        }
        moved
    }
}

struct Scene {
    listener: TcpListener,
    client: Option<Peer>,
    upstreams: Vec<Option<Peer>>,
    played: Played,
}

impl Scene {
    /// Lets the proxy do what it can.
    async fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < QUIET_TURNS_COUNT {
            tokio::task::yield_now().await;
            let moved = self.look();
            quiet = if moved { 0 } else { quiet + 1 };
        }
    }

    fn look(&mut self) -> bool {
        let mut moved = false;
        while let Ok((stream, _)) = self.listener.accept() {
            self.upstreams.push(Some(Peer::new(stream)));
            self.played.upstreams.push(Side::default());
            moved = true;
        }
        for peer in self.upstreams.iter_mut().chain([&mut self.client]).flatten() {
            moved |= peer.receive();
        }
        moved
    }

    fn act(&mut self, act: u8, bytes: &[u8]) {
        let newest = self.upstreams.len().checked_sub(1);
        let upstream = newest.and_then(|newest| self.upstreams[newest].as_mut());
        match act {
            b'c' => self.client.iter_mut().for_each(|client| client.send(bytes)),
            b'C' => self.client.iter_mut().for_each(Peer::close),
            b'X' => self.played.client = end(&mut self.client),
            b'u' => upstream.into_iter().for_each(|upstream| upstream.send(bytes)),
            b'U' => upstream.into_iter().for_each(Peer::close),
            b'R' => {
                if let Some(newest) = newest.filter(|&newest| self.upstreams[newest].is_some()) {
                    self.played.upstreams[newest] = end(&mut self.upstreams[newest]);
                }
            }
            _ => {}
        }
    }
}

/// Drops a peer's end, which resets it.
fn end(peer: &mut Option<Peer>) -> Side {
    let Some(mut peer) = peer.take() else { return Side::default() };
    peer.receive();
    peer.side.ended.get_or_insert(Ending::Reset);
    peer.side
}

/// Cuts an input into steps.
fn steps(input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    input.split(|&byte| byte == 0xff).filter_map(|step| step.split_first().map(|(act, bytes)| (*act, bytes)))
}

/// Plays a script to its end.
pub fn play(input: &[u8]) -> Played {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build_local(tokio::runtime::LocalOptions::default());
    runtime.expect("an event loop").block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let half_closed = if input.starts_with(b"\xffk") { HalfClosed::Keep } else { HalfClosed::Abort };
        let bench = Bench::start(listener.local_addr().expect("a socket"), half_closed);
        let (near, far) = pair();
        bench.serve(far);
        let mut scene = Scene {
            listener,
            client: Some(Peer::new(near)),
            upstreams: Vec::new(),
            played: Played::default(),
        };
        scene.settle().await;
        for (act, bytes) in steps(input) {
            scene.act(act, bytes);
            scene.settle().await;
        }
        let Scene { client, upstreams, mut played, .. } = scene;
        // The sockets end here, after all that was to be seen.
        if let Some(client) = client {
            played.client = client.side;
        }
        for (peer, side) in upstreams.into_iter().zip(&mut played.upstreams) {
            if let Some(peer) = peer {
                *side = peer.side;
            }
        }
        played
    })
}

fn pair() -> (TcpStream, tokio::net::TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a socket");
    let near = TcpStream::connect(listener.local_addr().expect("a socket")).expect("a socket");
    let (far, _) = listener.accept().expect("a socket");
    far.set_nonblocking(true).expect("a socket");
    (near, tokio::net::TcpStream::from_std(far).expect("a socket"))
}
