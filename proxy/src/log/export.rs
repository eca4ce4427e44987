//! The thread that posts spans to a collector, one batch after another, each on a connection of its own. It may wait; the writer does not
//! wait for it.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Deserialize;

use super::{
    otlp,
    spans::{Batch, is_due},
};
use crate::{
    config::{Fixed, OtlpEndpoint, OtlpHeader},
    limits::SPANS_ANSWER_BYTES_MAX,
    stats::Stats,
    stream::tls::{CollectorTls, NoTls},
    upstream::follow::Sources,
};

/// How long a collector has for a batch, as OpenTelemetry has it (`OTEL_EXPORTER_OTLP_TIMEOUT`).
const POST_TIMEOUT: Duration = Duration::from_secs(10);

/// The pauses before a batch is posted again that nobody took: a collector that restarts loses none.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Fields of a collector's answer that are read.
const ANSWER_FIELDS_COUNT_MAX: usize = 64;

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer within {POST_TIMEOUT:?}")]
    Timeout,
    #[error(transparent)]
    Tls(NoTls),
    #[error("its answer is no HTTP (where it speaks TLS, expected https:// in --otlp-endpoint)")]
    NotHttp,
    #[error("it answers with {0}")]
    Status(u16),
}

impl PostError {
    /// The collector has not looked at it, and may do so later (OTLP, "Failures" and "OTLP/HTTP Throttling").
    fn is_passing(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Status(429 | 502 | 503 | 504))
    }
}

impl From<NoTls> for PostError {
    fn from(error: NoTls) -> Self {
        match error {
            NoTls::Io(error) => timed_out(error),
            error => Self::Tls(error),
        }
    }
}

/// Whoever takes spans, and how it is spoken to.
pub(super) struct Collector {
    endpoint: OtlpEndpoint,
    /// None: without TLS.
    tls: Option<CollectorTls>,
    /// What a post begins with, before its length.
    head: String,
}

impl Collector {
    /// That of a plan, if it has one.
    ///
    /// # Errors
    /// Nobody is trusted; the message names the setting.
    pub(super) fn of(plan: &Fixed) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = plan.otlp_endpoint.clone() else { return Ok(None) };
        let tls = endpoint.is_sealed.then(|| CollectorTls::new(endpoint.host(), &plan.otlp_trust));
        let tls = tls.transpose().with_context(|| format!("--otlp-endpoint {endpoint}, --otlp-trust"))?;
        let fields: String = plan.otlp_headers.iter().map(OtlpHeader::line).collect();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\n{fields}Content-Type: application/json\r\nConnection: close\r\n",
            endpoint.path, endpoint.authority
        );
        Ok(Some(Self { endpoint, tls, head }))
    }

    /// Posts a document; how many of its spans the collector does not want.
    fn post(&self, document: &[u8]) -> Result<u64, PostError> {
        let until = Instant::now() + POST_TIMEOUT;
        let head = format!("{}Content-Length: {}\r\n\r\n", self.head, document.len());
        let sent = [head.as_bytes(), document].concat();
        let mut timed = Timed { socket: connect(self.endpoint.host(), self.endpoint.port(), until)?, until };
        let answer = match &self.tls {
            None => exchange(&mut timed, &sent)?,
            Some(tls) => exchange(&mut tls.connect(timed)?, &sent)?,
        };
        if !(200..300).contains(&answer.status) {
            return Err(PostError::Status(answer.status));
        }
        Ok(rejected(&answer.body))
    }
}

fn exchange(stream: &mut (impl Read + Write), sent: &[u8]) -> Result<Answer, PostError> {
    stream.write_all(sent).and_then(|()| stream.flush()).map_err(timed_out)?;
    read_answer(stream)
}

/// The thread's own.
pub(super) struct Exporter {
    collector: Collector,
    /// Where the node's name is.
    sources: Arc<Sources>,
    queue: mpsc::Receiver<Batch>,
    stats: Arc<Stats>,
    /// When it was said that spans are not taken.
    told: Option<Instant>,
}

impl Exporter {
    /// `stats` counts what was sent and what was not.
    pub(super) fn new(
        collector: Collector,
        sources: Arc<Sources>,
        queue: mpsc::Receiver<Batch>,
        stats: Arc<Stats>,
    ) -> Self {
        Self { collector, sources, queue, stats, told: None }
    }

    /// Posts what comes until nobody is there from whom more could come.
    pub(super) fn run(mut self) {
        while let Ok(batch) = self.queue.recv() {
            let count = batch.count as u64;
            let document = otlp::document(&self.sources.node_name(), &batch.text);
            drop(batch);
            let failed = match self.post_patiently(&document) {
                Ok(rejected) => rejected.min(count),
                Err(error) => {
                    if is_due(&mut self.told, Instant::now()) {
                        tracing::error!(endpoint = %self.collector.endpoint, %error, "spans are lost: the collector does not take them");
                    }
                    count
                }
            };
            self.stats.spans_failed.add(failed);
            self.stats.spans_sent.add(count - failed);
        }
    }

    fn post_patiently(&self, document: &[u8]) -> Result<u64, PostError> {
        for pause in PAUSES {
            match self.collector.post(document) {
                Err(error) if error.is_passing() => std::thread::sleep(pause),
                posted => return posted,
            }
        }
        self.collector.post(document)
    }
}

fn connect(host: &str, port: u16, until: Instant) -> Result<TcpStream, PostError> {
    let mut last = io::ErrorKind::NotFound.into();
    let addrs: Vec<_> = (host, port).to_socket_addrs().map_err(PostError::Connect)?.collect();
    for (addr, others) in addrs.iter().zip((0..addrs.len()).rev()) {
        // One that does not answer leaves time for the others, and for what is to be said.
        let left = until.saturating_duration_since(Instant::now()).div_f64(others as f64 + 2.0);
        match TcpStream::connect_timeout(addr, left.max(Duration::from_millis(1))) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(PostError::Connect(last))
}

fn timed_out(error: io::Error) -> PostError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => PostError::Timeout,
        _ => error.into(),
    }
}

/// A socket that is waited for until a moment, however much comes before.
struct Timed {
    socket: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// As far as its length was said: nobody waits for the end of another.
    body: Vec<u8>,
}

fn read_answer(from: &mut impl Read) -> Result<Answer, PostError> {
    let mut seen = Vec::new();
    let mut part = [0; 1024];
    loop {
        if let Some(answer) = parse_answer(&seen)? {
            return Ok(answer);
        }
        // With what came before it.
        if seen.len() > SPANS_ANSWER_BYTES_MAX {
            return Err(PostError::NotHttp);
        }
        match from.read(&mut part).map_err(timed_out)? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            count => seen.extend_from_slice(&part[..count]),
        }
    }
}

/// The answer, if it is whole. Interim ones count as none.
fn parse_answer(mut seen: &[u8]) -> Result<Option<Answer>, PostError> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; ANSWER_FIELDS_COUNT_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let bytes = match head.parse(seen) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) if seen.len() < SPANS_ANSWER_BYTES_MAX => return Ok(None),
            _ => return Err(PostError::NotHttp),
        };
        let status = head.code.ok_or(PostError::NotHttp)?;
        if !(100..200).contains(&status) {
            return Ok(parse_body(status, head.headers, seen, bytes));
        }
        seen = &seen[bytes..];
    }
}

/// The answer with this status and these fields, whose body begins there; none: it is not whole.
fn parse_body(status: u16, fields: &[httparse::Header<'_>], seen: &[u8], bytes: usize) -> Option<Answer> {
    let length = fields.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| str::from_utf8(field.value).ok()?.trim().parse::<usize>().ok());
    let length = length.unwrap_or(0).min(SPANS_ANSWER_BYTES_MAX - bytes.min(SPANS_ANSWER_BYTES_MAX));
    seen.get(bytes..bytes + length).map(|body| Answer { status, body: body.to_vec() })
}

/// How many spans a collector has not taken, of those that it was sent (OTLP, "Partial Success").
fn rejected(body: &[u8]) -> u64 {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Told {
        partial_success: Option<Partial>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Partial {
        rejected_spans: serde_json::Value,
    }
    let told: Told = serde_json::from_slice(body).unwrap_or_default();
    let rejected = told.partial_success.unwrap_or_default().rejected_spans;
    // 64-bit numbers are text, and are taken as numbers, too (ProtoJSON).
    rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    fn answer(status: u16, body: &str) -> Option<Answer> {
        Some(Answer { status, body: body.into() })
    }

    #[test]
    fn an_answer_is_whole_with_as_much_of_its_body_as_was_announced() {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", answer(200, "{}")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{", None),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}", answer(200, "")),
            ("HTTP/1.1 503 Busy\r\n\r\n", answer(503, "")),
            ("HTTP/1.1 100 Continue\r\n\r\n", None),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 A\r\n\r\n", answer(202, "")),
            ("HTTP/1.1 20", None),
            ("", None),
        ] {
            assert_eq!(parse_answer(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for bad in ["SSH-2.0\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "\0"] {
            assert!(matches!(parse_answer(bad.as_bytes()), Err(PostError::NotHttp)), "{bad}");
        }
    }

    #[test]
    fn a_head_without_end_is_no_answer_and_a_longer_body_is_cut() {
        let head = |length: usize| format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(length - 20));
        assert!(parse_answer(head(SPANS_ANSWER_BYTES_MAX - 1).as_bytes()).unwrap().is_none());
        assert!(parse_answer(head(SPANS_ANSWER_BYTES_MAX).as_bytes()).is_err());
        let start = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
        let long = format!("{start}{}", "x".repeat(SPANS_ANSWER_BYTES_MAX));
        let body = parse_answer(long.as_bytes()).unwrap().unwrap().body;
        assert_eq!(body.len(), SPANS_ANSWER_BYTES_MAX - start.len());
    }

    #[test]
    fn interim_answers_may_come_one_after_the_other_and_not_for_ever() {
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        let text = |count: usize| interim.repeat(count) + "HTTP/1.1 202 A\r\n\r\n";
        let most = (SPANS_ANSWER_BYTES_MAX - 1024) / interim.len();
        assert_eq!(read_answer(&mut text(most).as_bytes()).unwrap(), answer(202, "").unwrap());
        assert!(matches!(read_answer(&mut text(2 * most).as_bytes()), Err(PostError::NotHttp)));
        // Of any number.
        assert_eq!(parse_answer(text(100_000).as_bytes()).unwrap(), answer(202, ""));
    }

    #[test]
    fn what_a_collector_rejects_is_understood() {
        for (body, count) in [
            ("", 0),
            ("{}", 0),
            ("{\"partialSuccess\":{}}", 0),
            ("{\"partialSuccess\":null}", 0),
            ("{\"partialSuccess\":{\"rejectedSpans\":\"3\",\"errorMessage\":\"no\"}}", 3),
            ("{\"partialSuccess\":{\"rejectedSpans\":4}}", 4),
            ("{\"partialSuccess\":{\"rejectedSpans\":\"-1\"}}", 0),
            ("<html>", 0),
        ] {
            assert_eq!(rejected(body.as_bytes()), count, "{body}");
        }
    }

    #[test]
    fn a_collector_that_does_not_answer_in_time_is_given_up_and_one_that_says_no_is_understood() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = connect("127.0.0.1", port, Instant::now() + POST_TIMEOUT).unwrap();
        let mut timed = Timed { socket, until: Instant::now() + Duration::from_millis(50) };
        assert!(matches!(read_answer(&mut timed), Err(PostError::Timeout)));
        assert!(matches!(read_answer(&mut timed), Err(PostError::Timeout)), "nor afterwards");
        // Who has a port and does not listen refuses for certain: one that was given back may be somebody else's by now.
        let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        nobody.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = nobody.local_addr().unwrap().as_socket().unwrap().port();
        let refused = connect("127.0.0.1", port, Instant::now() + POST_TIMEOUT);
        assert!(refused.is_err_and(|error| error.is_passing()));
        for (status, is_passing) in [(429, true), (503, true), (400, false), (500, false)] {
            assert_eq!(PostError::Status(status).is_passing(), is_passing, "{status}");
        }
        assert!(!PostError::Timeout.is_passing(), "it may have taken it");
    }
}
