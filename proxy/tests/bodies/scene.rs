//! What happens on one client's connection, drawn from a seed: its exchanges, one after another.

use std::{fmt, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    buffers::Buffers,
    pace::{Pace, draw_pause},
    pattern::Pattern,
};

const EXCHANGES_COUNT_MAX: usize = 8;

/// Where a proxy does something else than just before: a head's buffer, a response's buffer and the least that is spliced, a
/// full pipe; and what no buffer holds.
const THRESHOLDS_BYTES: [usize; 3] = [16 * 1024, 64 * 1024, 256 * 1024];
const LARGE_BYTES: [usize; 4] = [1 << 20, 2 << 20, 3 << 20, 4 << 20];

/// The answer of an origin that resets its connection right behind it: what is still in its kernel would be lost.
const RESET_ANSWER_BYTES_MAX: usize = 2 * 1024;

/// Chunks of one body at most, in the mean: each costs a program that reads strictly some steps.
const CHUNKS_COUNT_MAX: usize = 300;

pub(crate) struct Scene {
    pub(crate) number: usize,
    /// Which of the seed's scenes it is.
    pub(crate) drawn: usize,
    pub(crate) buffers: Buffers,
    pub(crate) exchanges: Vec<Exchange>,
}

pub(crate) struct Exchange {
    pub(crate) method: &'static str,
    pub(crate) status: u16,
    pub(crate) request: Message,
    pub(crate) response: Message,
    pub(crate) answer: Answer,
    pub(crate) end: End,
    pub(crate) origin_buffers: Buffers,
    /// The client sends its next request without waiting for the answer to this one.
    pub(crate) is_pipelined: bool,
    /// The client says that this is its last.
    pub(crate) is_last: bool,
    /// A client that hears that its connection will be closed stops sending.
    pub(crate) stops_when_closed: bool,
}

pub(crate) struct Message {
    pub(crate) framing: Framing,
    pub(crate) bytes: usize,
    pub(crate) write: Pace,
    pub(crate) read: Pace,
    /// The body is not sent before the head has left.
    pub(crate) is_split: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length,
    Chunked(Chunks),
    UntilClose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunks {
    pub(crate) seed: u64,
    pub(crate) bytes_max: usize,
    pub(crate) extensions: bool,
    pub(crate) trailers: bool,
}

/// When the origin answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// When it has the whole request.
    Whole,
    /// When it has so many bytes of its body, and has thought for a while, in which it reads none.
    Early { after: usize, pause: Duration, rest: Rest },
}

/// What an origin that has answered early does with the rest of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    ReadMeanwhile,
    ReadAfterwards,
    /// It half-closes behind its answer and drops what comes, as RFC 9112 9.6 has it.
    Drop,
    /// It closes with the rest unread: a reset.
    Reset,
}

/// What the origin does at the end of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Keep,
    Close,
    /// It dies when it has sent so many thousandths of the body.
    Cut {
        permille: usize,
        reset: bool,
    },
}

/// Enough scenes for so many exchanges.
pub(crate) fn draw_scenes(seed: u64, exchanges: usize) -> Vec<Scene> {
    let (mut scenes, mut drawn) = (Vec::new(), 0);
    while drawn < exchanges {
        let scene = Scene::draw(&mut rng_of(seed, scenes.len()), scenes.len());
        drawn += scene.exchanges.len();
        scenes.push(scene);
    }
    scenes
}

/// One of them, so many times.
pub(crate) fn draw_scene(seed: u64, drawn: usize, count: usize) -> Vec<Scene> {
    let again = |number| Scene { number, ..Scene::draw(&mut rng_of(seed, drawn), drawn) };
    (0..count).map(again).collect()
}

/// Each scene has a generator of its own, so that it can be played alone.
pub(crate) fn rng_of(seed: u64, drawn: usize) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(0x1_0000_0001).wrapping_add(drawn as u64))
}

impl Scene {
    pub(crate) fn draw(rng: &mut StdRng, drawn: usize) -> Self {
        let buffers = Buffers::draw(rng);
        let mut exchanges = Vec::new();
        for _ in 0..rng.random_range(1..=EXCHANGES_COUNT_MAX) {
            let exchange = Exchange::draw(rng);
            let is_end = exchange.ends_connection();
            exchanges.push(exchange);
            if is_end {
                break;
            }
        }
        if let Some(last) = exchanges.last_mut() {
            last.is_last = rng.random_bool(0.25);
            last.is_pipelined = false;
        }
        Self { number: drawn, drawn, buffers, exchanges }
    }

    /// Whose target is this?
    pub(crate) fn target(&self, position: usize) -> String {
        format!("/bodies/{}/{position}", self.number)
    }

    pub(crate) fn cookie(&self) -> String {
        format!("client={}", self.number)
    }

    pub(crate) fn request_pattern(&self, position: usize) -> Pattern {
        Pattern((self.number as u64) << 16 | (position as u64) << 1)
    }

    pub(crate) fn response_pattern(&self, position: usize) -> Pattern {
        Pattern((self.number as u64) << 16 | (position as u64) << 1 | 1)
    }
}

impl Exchange {
    fn draw(rng: &mut StdRng) -> Self {
        let method = match rng.random_range(0..20) {
            0..7 => "GET",
            7..9 => "HEAD",
            9..16 => "POST",
            _ => "PUT",
        };
        let has_body = matches!(method, "POST" | "PUT") || (method == "GET" && rng.random_bool(0.1));
        let request_framing = if !has_body {
            Framing::None
        } else if rng.random_bool(0.6) {
            Framing::Length
        } else {
            Framing::Chunked(Chunks::draw(rng))
        };
        let mut request = Message::draw(rng, request_framing);
        let answer = Answer::draw(rng, request.bytes);
        if matches!(answer, Answer::Early { pause, .. } if !pause.is_zero()) && rng.random_bool(0.7) {
            // All that there is room for is sent while the origin thinks, and the end waits in the proxy.
            request.write = Pace::fast();
        }
        let framing = draw_response_framing(rng, method, answer);
        let mut response = Message::draw(rng, framing);
        if let Answer::Early { rest: Rest::Reset, .. } = answer {
            response.bytes = response.bytes.min(RESET_ANSWER_BYTES_MAX);
            (response.write, response.is_split) = (Pace::fast(), false);
        }
        let status = if response.framing == Framing::None { [204, 304][rng.random_range(0..2)] } else { 200 };
        let end = End::draw(rng, method, &response, answer);
        Self {
            method,
            status,
            request,
            response,
            answer,
            end,
            origin_buffers: Buffers::draw_open(rng),
            is_pipelined: rng.random_bool(0.1),
            is_last: false,
            stops_when_closed: rng.random_bool(0.5),
        }
    }

    /// There can be no exchange behind it.
    fn ends_connection(&self) -> bool {
        self.response.framing == Framing::UntilClose || matches!(self.end, End::Cut { .. })
    }

    pub(crate) fn has_response_body(&self) -> bool {
        self.method != "HEAD" && self.response.framing != Framing::None
    }

    pub(crate) fn is_early(&self) -> bool {
        self.answer != Answer::Whole
    }

    /// A proxy may close the client's connection after it, if it says so.
    pub(crate) fn may_close(&self) -> bool {
        self.is_last || self.is_early() || self.response.framing == Framing::UntilClose
    }

    /// The origin breaks its connection, and a proxy cannot always have seen the answer before.
    pub(crate) fn may_fail(&self) -> bool {
        matches!(self.end, End::Cut { .. }) || matches!(self.answer, Answer::Early { rest: Rest::Reset, .. })
    }
}

impl Message {
    fn draw(rng: &mut StdRng, framing: Framing) -> Self {
        let bytes = if framing == Framing::None { 0 } else { draw_bytes(rng) };
        let framing = match framing {
            Framing::Chunked(chunks) => {
                let least = bytes / CHUNKS_COUNT_MAX * 2 + 1;
                Framing::Chunked(Chunks { bytes_max: chunks.bytes_max.max(least), ..chunks })
            }
            other => other,
        };
        let (write, read) = (Pace::draw(rng, bytes), Pace::draw(rng, bytes));
        Self { framing, bytes, write, read, is_split: rng.random_bool(0.5) }
    }
}

impl Chunks {
    fn draw(rng: &mut StdRng) -> Self {
        Self {
            seed: rng.random(),
            bytes_max: 1 << rng.random_range(0..20),
            extensions: rng.random_bool(0.3),
            trailers: rng.random_bool(0.3),
        }
    }
}

impl Answer {
    fn draw(rng: &mut StdRng, request_bytes: usize) -> Self {
        if request_bytes == 0 || rng.random_bool(0.6) {
            return Self::Whole;
        }
        let after = match rng.random_range(0..3) {
            0 => 0,
            1 => rng.random_range(0..request_bytes),
            // What is left fits into a pipe, and into what the kernels hold.
            _ => {
                let rest_bytes = 1 << rng.random_range(0..20);
                request_bytes - rng.random_range(1..=request_bytes.min(rest_bytes))
            }
        };
        let pause = if rng.random_bool(0.4) { Duration::ZERO } else { draw_pause(rng) };
        let rest = match rng.random_range(0..10) {
            0..2 => Rest::ReadMeanwhile,
            2..7 => Rest::ReadAfterwards,
            7..8 => Rest::Drop,
            _ => Rest::Reset,
        };
        Self::Early { after, pause, rest }
    }
}

impl End {
    fn draw(rng: &mut StdRng, method: &str, response: &Message, answer: Answer) -> Self {
        let is_until_close = response.framing == Framing::UntilClose;
        let cut =
            Self::Cut { permille: rng.random_range(0..1000), reset: is_until_close || rng.random_bool(0.5) };
        match (answer, rng.random_range(0..20)) {
            // Who keeps a connection and resets it may hit the next request on it, which may not be sent twice.
            (Answer::Early { rest: Rest::Drop | Rest::Reset, .. }, _) => Self::Close,
            (Answer::Whole, 0) if response.bytes > 0 && method != "HEAD" => cut,
            (_, 0..4) => Self::Close,
            _ if is_until_close => Self::Close,
            _ => Self::Keep,
        }
    }
}

fn draw_response_framing(rng: &mut StdRng, method: &str, answer: Answer) -> Framing {
    match rng.random_range(0..20) {
        // Of a connection that is reset, nobody knows whether it was to be the end.
        _ if matches!(answer, Answer::Early { rest: Rest::Reset, .. }) => Framing::Length,
        0..2 => Framing::None,
        2..4 if method != "HEAD" => Framing::UntilClose,
        2..12 => Framing::Length,
        _ => Framing::Chunked(Chunks::draw(rng)),
    }
}

/// As many as a body may have.
pub(crate) fn draw_bytes(rng: &mut StdRng) -> usize {
    match rng.random_range(0..20) {
        0..2 => rng.random_range(0..=1),
        2..8 => around(rng, &THRESHOLDS_BYTES),
        8..11 => rng.random_range(0..40 * 1024),
        11..16 => {
            let magnitude = rng.random_range(1..21);
            rng.random_range(0..1 << magnitude)
        }
        _ => around(rng, &LARGE_BYTES),
    }
}

fn around(rng: &mut StdRng, all: &[usize]) -> usize {
    all[rng.random_range(0..all.len())] + rng.random_range(0..3) - 1
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}: {:?}", self.number, self.buffers)?;
        self.exchanges
            .iter()
            .enumerate()
            .try_for_each(|(position, exchange)| write!(f, "\n      {position}: {exchange}"))
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, status, request, response, answer, end, .. } = self;
        write!(f, "{method} {request}\n         {answer:?}, {end:?}, {:?}", self.origin_buffers)?;
        let words = [
            (self.is_pipelined, ", pipelined"),
            (self.is_last, ", last"),
            (self.stops_when_closed, ", stops when closed"),
        ];
        words.iter().filter(|(is_so, _)| *is_so).try_for_each(|(_, word)| f.write_str(word))?;
        write!(f, "\n         {status} {response}")
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { framing, bytes, write, read, is_split } = self;
        let split = if *is_split { ", split" } else { "" };
        write!(f, "{framing:?} {bytes}{split}, written {write:?}, read {read:?}")
    }
}

#[test]
fn a_seed_draws_the_same_scenes_every_time_and_a_scene_stays_when_there_are_more() {
    let text = |scenes: &[Scene]| scenes.iter().map(Scene::to_string).collect::<Vec<_>>();
    let (some, more) = (text(&draw_scenes(1, 50)), text(&draw_scenes(1, 100)));
    assert_eq!(some, more[..some.len()]);
    assert_ne!(some, text(&draw_scenes(2, 50))[..]);
}

#[test]
fn every_kind_of_exchange_is_drawn() {
    let scenes = draw_scenes(1, 2000);
    let all = || scenes.iter().flat_map(|scene| &scene.exchanges);
    let claims: [fn(&Exchange) -> bool; 12] = [
        |e| e.method == "HEAD",
        |e| e.method == "GET" && e.request.bytes > 0,
        |e| e.request.bytes == 64 * 1024 - 1,
        |e| e.response.bytes == (4 << 20) + 1 && e.response.framing == Framing::Length,
        |e| matches!(e.request.framing, Framing::Chunked(chunks) if chunks.trailers && chunks.extensions),
        |e| e.response.framing == Framing::UntilClose,
        |e| e.is_pipelined && e.is_early(),
        |e| matches!(e.answer, Answer::Early { rest: Rest::ReadMeanwhile, .. }),
        |e| matches!(e.answer, Answer::Early { rest: Rest::ReadAfterwards, after: 0, .. }),
        |e| matches!(e.answer, Answer::Early { rest: Rest::Drop, .. }),
        |e| matches!(e.answer, Answer::Early { rest: Rest::Reset, .. }),
        |e| matches!(e.end, End::Cut { .. }),
    ];
    for (number, claim) in claims.iter().enumerate() {
        assert!(all().any(claim), "claim {number}");
    }
}
