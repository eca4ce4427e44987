//! Requests of HTTP/2 through a whole proxy, and what its origin reads of them in HTTP/1.1: each is there once and as it was sent, to
//! whoever reads it, or it was refused and is not there.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use proxy::{
    Args, Proxy,
    http1::{
        Body, Framing, Parse, Pieces,
        head::{Hop, parse_request},
    },
};
use tokio::io::AsyncWriteExt;

use crate::{
    case::{Case, literal},
    frames::{BEGIN, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, POST, RST_STREAM, frame, read},
    oddities::{ODDITIES, Verdict},
    recorder::{Record, Recorder},
    strict::{self, Request},
};

/// How long anything may take before it has failed, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

/// Cases in a hurry, and where there is none.
const CASES_COUNT: usize = 500;
const LONG_CASES_COUNT: usize = 5000;

/// `:status: 200` (RFC 7541 appendix A).
const STATUS_200: u8 = 0x88;

/// As a number (RFC 9113 7).
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

#[derive(clap::Parser)]
#[command(no_binary_name = true)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

/// What the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// An answer of the origin, to its end.
    Answered,
    /// Another status.
    Refused,
    /// Its stream, or the connection, is over.
    Reset,
}

fn ask(case: &mut Case, proxy: SocketAddr, recorder: &Recorder) -> Told {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let [first, behind] = case.frames();
    if number("FRAMING_CASE").is_some() {
        println!("{}\n{}", first.escape_ascii(), behind.escape_ascii());
    }
    stream.write_all(&first).unwrap();
    if !behind.is_empty() {
        let tag = format!("x-case: {}\r\n", case.number);
        assert!(
            recorder.wait_for(tag.as_bytes(), PATIENCE),
            "{:?}: the origin has not seen it",
            case.oddities
        );
        stream.write_all(&behind).unwrap();
    }
    let (mut told, mut room) = (Vec::new(), [0; 4096]);
    loop {
        let count = match stream.read(&mut room) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("case {} {:?}: nothing is told: {error}", case.number, case.oddities),
        };
        told.extend_from_slice(&room[..count]);
        let frames = read(&told);
        let head = frames.iter().find(|(kind, _)| *kind == HEADERS).map(|(_, block)| block[0]);
        // An answer of nothing ends with its head.
        let is_answered = head == Some(STATUS_200);
        let is_over = frames.iter().any(|(kind, _)| [RST_STREAM, GOAWAY].contains(kind)) || count == 0;
        match head {
            Some(_) if is_answered => return Told::Answered,
            Some(_) if is_over || frames.iter().any(|(kind, _)| *kind == DATA) => return Told::Refused,
            None if is_over => return Told::Reset,
            _ => {}
        }
    }
}

/// All whole requests of a connection.
fn seen_by_strict(record: &Record) -> Result<Vec<Request>, String> {
    let mut requests = Vec::new();
    let mut at = 0;
    while let Some(request) = strict::read(&record.bytes[at..])? {
        at += request.bytes;
        requests.push(request);
    }
    Ok(requests)
}

/// The same by this project's own parser: where each ends.
fn ends_by_proxy(bytes: &[u8], request: &Request) -> Result<(), String> {
    let mut bytes = bytes.to_vec();
    let parsed = parse_request(&mut bytes, Hop::plain("role"), &mut Pieces::default());
    let Ok(Parse::Done(head)) = parsed else { return Err(format!("the proxy reads {parsed:?}")) };
    let framing = match (request.is_chunked, request.body.len() as u64) {
        (true, _) => Framing::Chunked,
        (false, 0) => Framing::Empty,
        (false, length) => Framing::Length(length),
    };
    let (mut body, mut at) = (Body::new(head.framing, true), head.bytes);
    while !body.is_done() && at < bytes.len() {
        at =
            body.scan(&bytes, at, &mut Pieces::default()).map_err(|reject| format!("the proxy: {reject}"))?;
    }
    let seen = (head.bytes, head.framing, at);
    let read = (request.head_bytes, framing, request.bytes);
    if seen == read { Ok(()) } else { Err(format!("the proxy reads {seen:?}, and not {read:?}")) }
}

/// What hyper makes of a connection: whole requests, without what is only of their form.
async fn seen_by_hyper(bytes: &[u8]) -> Vec<Request> {
    let (mut client, server) = tokio::io::duplex(2 * bytes.len() + 64 * 1024);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let seen = std::cell::RefCell::new(Vec::new());
    let service = service_fn(|request: hyper::Request<Incoming>| async {
        let (head, body) = request.into_parts();
        if let Ok(body) = body.collect().await {
            let trailers = body.trailers().map(fields).unwrap_or_default();
            seen.borrow_mut().push(Request {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                fields: fields(&head.headers),
                body: body.to_bytes().to_vec(),
                trailers,
                ..Request::default()
            });
        }
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let served = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(server), service);
    // How the connection ends says nothing about its requests.
    let _ = tokio::time::timeout(PATIENCE, served).await.expect("hyper ends");
    seen.into_inner()
}

fn fields(map: &hyper::HeaderMap) -> strict::Fields {
    map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

/// What all servers are to agree on.
fn meaning(request: &Request) -> Request {
    let sorted = |fields: &strict::Fields| {
        let lower = fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        let mut lower: Vec<_> = lower.collect();
        lower.sort_by(|(a, _), (b, _)| a.cmp(b));
        lower
    };
    Request {
        fields: sorted(&request.fields),
        trailers: sorted(&request.trailers),
        head_bytes: 0,
        bytes: 0,
        is_chunked: false,
        ..request.clone()
    }
}

/// By the numbers of their cases, what all readers have read of a connection.
async fn read_alike(record: &Record, into: &mut BTreeMap<usize, Vec<Request>>) -> Result<(), String> {
    let requests = seen_by_strict(record)?;
    let by_hyper = seen_by_hyper(&record.bytes).await;
    let (here, there): (Vec<_>, Vec<_>) =
        (requests.iter().map(meaning).collect(), by_hyper.iter().map(meaning).collect());
    if let Some((here, there)) = here.iter().zip(&there).find(|(here, there)| here != there) {
        return Err(format!("hyper reads {there:?}, and not {here:?}"));
    }
    if here.len() != there.len() {
        return Err(format!("hyper reads {} requests, and not {}", there.len(), here.len()));
    }
    let mut at = 0;
    for request in requests {
        ends_by_proxy(&record.bytes[at..], &request)?;
        at += request.bytes;
        let tag = request.values("x-case").concat();
        let number = String::from_utf8(tag).ok().and_then(|tag| tag.parse().ok());
        into.entry(number.ok_or_else(|| format!("of no case: {request:?}"))?).or_default().push(request);
    }
    Ok(())
}

/// Whether what became of a case is what was to become of it.
fn judge(case: &Case, told: Told, seen: &[Request]) -> Result<(), String> {
    match (seen, told, case.verdict) {
        ([_, _, ..], ..) => Err(format!("the origin has seen it {} times", seen.len())),
        ([_], ..) if case.must_be_refused() => {
            Err(format!("the origin has seen it, the client was told {told:?}"))
        }
        ([], Told::Answered, _) => Err("it was answered, and the origin has not seen it".to_owned()),
        ([], _, Verdict::Passes) => Err(format!("it is well-formed, and {told:?}")),
        ([], ..) => Ok(()),
        ([request], Told::Answered, _) | ([request], _, Verdict::Either) => case.compare(request),
        ([_], ..) => Err(format!("the origin has seen it, the client was told {told:?}")),
    }
}

/// A proxy before this origin.
fn start(origin: SocketAddr) -> Proxy {
    let flags =
        format!("--listen=h2c://127.0.0.1:0=app --upstream=app={origin} --workers=1 --timeouts=drain=10ms");
    Proxy::start(&Flags::try_parse_from(flags.split(' ')).unwrap().args).unwrap()
}

#[test]
fn trailers_that_are_malformed_reset_their_stream_and_end_the_connection_of_their_request() {
    let recorder = Recorder::start();
    let proxy = start(recorder.addr);
    let trailers: [(&[u8], &[u8]); 7] = [
        (b"connection", b"close"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"x-sum", b" 1"),
    ];
    for (number, (name, value)) in trailers.into_iter().enumerate() {
        let mut client = TcpStream::connect(proxy.addrs()[0]).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = format!("body {number}");
        let head = [POST, &literal(b"x-case", b"1")].concat();
        let begun = [BEGIN, &frame(HEADERS, END_HEADERS, 1, &head), &frame(DATA, 0, 1, body.as_bytes())];
        client.write_all(&begun.concat()).unwrap();
        // The request is under way before they come.
        assert!(recorder.wait_for(body.as_bytes(), PATIENCE), "{body}");
        client.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &literal(name, value))).unwrap();
        let mut told = Vec::new();
        while !read(&told).iter().any(|(kind, _)| *kind == RST_STREAM) {
            let mut room = [0; 4096];
            let count = client.read(&mut room).unwrap();
            assert!(count > 0, "{}: {told:?}", name.escape_ascii());
            told.extend_from_slice(&room[..count]);
        }
        let reset = read(&told).into_iter().find(|(kind, _)| *kind == RST_STREAM);
        assert_eq!(reset.map(|(_, reason)| reason), Some(PROTOCOL_ERROR.to_vec()), "{}", name.escape_ascii());
        assert!(recorder.wait_for_ends(PATIENCE), "{}: the origin waits", name.escape_ascii());
    }
    proxy.stop();
    let whole: usize = recorder.records(PATIENCE).iter().map(|record| record.whole_bytes).sum();
    assert_eq!(whole, 0, "none of the requests has ended");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test]
async fn a_request_of_http_2_is_read_the_same_by_all_behind_the_proxy_or_by_nobody() {
    let is_long = std::env::var_os("CONCERTINA_LONG").is_some_and(|value| value == "1");
    let today = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    let seed = number("FRAMING_SEED").unwrap_or_else(|| if is_long { today() } else { 1 });
    let count = if is_long { LONG_CASES_COUNT } else { CASES_COUNT };
    println!("FRAMING_SEED={seed}, {count} cases, {} oddities", ODDITIES.len());
    let recorder = Recorder::start();
    let proxy = start(recorder.addr);
    let alone = number("FRAMING_CASE").map(|alone| alone as usize);
    let told: Vec<(Case, Told)> = (0..count)
        .filter(|number| alone.is_none_or(|alone| alone == *number))
        .map(|number| Case::draw(seed, number))
        .map(|mut case| {
            let told = ask(&mut case, proxy.addrs()[0], &recorder);
            (case, told)
        })
        .collect();
    // An origin that is left with half of a request must not wait for the other.
    assert!(recorder.wait_for_ends(PATIENCE), "a request has neither gone on nor ended");
    proxy.stop();
    let mut seen = BTreeMap::new();
    for record in recorder.records(PATIENCE) {
        let read = read_alike(&record, &mut seen).await;
        read.unwrap_or_else(|why| panic!("seed {seed}: {why}\n{}", record.bytes.escape_ascii()));
    }
    let mut failures = Vec::new();
    let (mut passed, mut refused) = (0, 0);
    for (case, told) in &told {
        let seen = seen.remove(&case.number).unwrap_or_default();
        *(if *told == Told::Answered { &mut passed } else { &mut refused }) += 1;
        if let Err(why) = judge(case, *told, &seen) {
            failures.push(format!("case {} {:?} {:?}: {why}", case.number, case.verdict, case.oddities));
        }
    }
    println!("{passed} passed, {refused} refused");
    assert!(failures.is_empty(), "seed {seed}, {} cases:\n{}", failures.len(), failures.join("\n"));
    assert!(seen.is_empty(), "seed {seed}: of no case: {seen:?}");
    let is_fair = passed >= count / 4 && refused >= count / 4;
    assert!(is_fair || alone.is_some(), "{passed} passed, {refused} refused");
}
