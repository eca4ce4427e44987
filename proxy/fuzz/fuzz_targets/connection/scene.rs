//! A script in action, on one thread: the proxy's session in an event loop, the peers' ends as plain sockets beside it.

use std::net::{Ipv4Addr, TcpListener};

use proxy::{config::HalfClosed, fuzzing::Bench};
use proxy_fuzz::peer::{Ending, Peer, QUIET_TURNS_COUNT, Side, pair};

use crate::Played;

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
