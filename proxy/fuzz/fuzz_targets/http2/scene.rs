//! An input in action, on one thread: the proxy's connection in an event loop, both peers as plain sockets beside it.

use std::net::{Ipv4Addr, TcpListener};

use proxy::{config::HalfClosed, fuzzing::Bench};
use proxy_fuzz::peer::{Peer, QUIET_TURNS_COUNT, pair};

use crate::{
    Played,
    origin::{Manner, Upstream},
};

/// What a client begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NO_SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// A bit of the first byte: the client closes its half at the end, and reads on; without it, it resets.
const ORDERLY: u8 = 0x10;

/// Bits of types and flags that are orders.
const ALONE: u8 = 0x7f;
const OFTEN: u8 = 0x40;
const LOOKED_AT: u8 = 0x80;
const ANSWERED: u8 = 0x40;
const TIMES: usize = 64;

/// Turns of the event loop that a connection may live on without its client: each of its streams takes some to end.
const LAST_TURNS_COUNT: usize = 5_000;

struct Scene {
    listener: TcpListener,
    client: Peer,
    upstreams: Vec<Upstream>,
    manner: Manner,
}

impl Scene {
    /// Lets the proxy do what it can.
    async fn settle(&mut self, turns_count: usize) {
        let mut quiet = 0;
        while quiet < turns_count {
            tokio::task::yield_now().await;
            quiet = if self.look() { 0 } else { quiet + 1 };
        }
    }

    fn look(&mut self) -> bool {
        let mut moved = self.client.receive();
        while let Ok((stream, _)) = self.listener.accept() {
            self.upstreams.push(Upstream::new(Peer::new(stream)));
            moved = true;
        }
        for upstream in &mut self.upstreams {
            moved |= upstream.turn(self.manner);
        }
        moved
    }

    async fn send(&mut self, frame: &Frame<'_>) {
        if frame.flags & LOOKED_AT != 0 {
            self.settle(1).await;
        }
        if frame.flags & ANSWERED != 0 {
            self.settle(QUIET_TURNS_COUNT).await;
        }
        self.client.send(&frame.bytes());
    }
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u8,
    payload: &'a [u8],
}

impl Frame<'_> {
    fn bytes(&self) -> Vec<u8> {
        if self.kind == ALONE {
            return self.payload.to_vec();
        }
        let payload = self.payload.repeat(if self.kind & OFTEN == 0 { 1 } else { TIMES });
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        let flags = self.flags & !(LOOKED_AT | ANSWERED);
        let head = [length[1], length[2], length[3], self.kind & !OFTEN, flags, 0, 0, 0, self.stream];
        [&head[..], &payload].concat()
    }
}

fn frames(mut input: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (&[kind, flags, stream, length], rest) = input.split_first_chunk::<4>()?;
        let (payload, rest) = rest.split_at(usize::from(length).min(rest.len()));
        input = rest;
        Some(Frame { kind, flags, stream, payload })
    })
}

/// Plays an input to its end, and on until the proxy has noticed that the client is gone.
pub fn play(input: &[u8]) -> Played {
    let Some((&manner, input)) = input.split_first() else { return Played::default() };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build_local(tokio::runtime::LocalOptions::default());
    runtime.expect("an event loop").block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let bench = Bench::start(listener.local_addr().expect("a socket"), HalfClosed::Abort);
        let (near, far) = pair();
        bench.serve_http2(far);
        let mut scene =
            Scene { listener, client: Peer::new(near), upstreams: Vec::new(), manner: Manner(manner) };
        scene.client.send(PREFACE);
        scene.client.send(NO_SETTINGS);
        scene.settle(QUIET_TURNS_COUNT).await;
        for frame in frames(input) {
            scene.send(&frame).await;
        }
        scene.settle(QUIET_TURNS_COUNT).await;
        let mut turns = 0;
        if manner & ORDERLY != 0 {
            scene.client.close();
            while bench.clients_count() > 0 && turns < LAST_TURNS_COUNT {
                tokio::task::yield_now().await;
                scene.look();
                turns += 1;
            }
        }
        let Scene { client, upstreams, .. } = scene;
        let client = client.into_side();
        while bench.clients_count() > 0 {
            assert!(turns < LAST_TURNS_COUNT, "something outlives the client");
            tokio::task::yield_now().await;
            turns += 1;
        }
        let upstreams = upstreams.into_iter().map(|upstream| upstream.peer.into_side()).collect();
        Played { client, upstreams }
    })
}
