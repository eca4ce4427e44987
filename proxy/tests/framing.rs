//! The length of a request's body, as the proxy sees it and as another server does: where both take a request they must agree,
//! or the proxy and an origin would read different requests from the same bytes.
//!
//! The requests are those of the wire scripts and of `framing/requests.txt`; the other server is hyper. What one refuses
//! and the other does not is listed, with the reason, in `framing/differences.txt`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "framing/case.rs"]
mod case;
#[expect(dead_code, reason = "floods need more of them")]
#[path = "floods/frames.rs"]
mod frames;
#[path = "framing/oddities.rs"]
mod oddities;
#[path = "framing/recorder.rs"]
mod recorder;
#[expect(dead_code, reason = "the wire tests play what is only read here")]
#[path = "wire/script.rs"]
mod script;
#[path = "framing/streams.rs"]
mod streams;
#[path = "framing/strict.rs"]
mod strict;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use http_body_util::Empty;
use hyper::{
    Request, Response,
    body::{Body, Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use proxy::http1::{
    Framing, Parse, Pieces, Reject,
    head::{Hop, parse_request},
};
use script::Act;
use tokio::io::AsyncWriteExt;

/// What the proxy makes of the request at the start of these bytes; none: they do not hold a whole head.
fn seen_by_proxy(bytes: &[u8]) -> Option<Result<Framing, Reject>> {
    // Empty lines before a request are the session's to skip (RFC 9112 2.2).
    let mut bytes = bytes;
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    match parse_request(&mut bytes.to_vec(), Hop::plain("role"), &mut Pieces::default()) {
        Ok(Parse::Done(head)) => Some(Ok(head.framing)),
        Ok(Parse::NeedMore) => None,
        Err(reject) => Some(Err(reject)),
    }
}

/// What hyper makes of it; none: it refuses it.
async fn seen_by_hyper(bytes: &[u8]) -> Option<Framing> {
    let (mut client, server) = tokio::io::duplex(bytes.len() + 64 * 1024);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let seen = Rc::new(Cell::new(None));
    let first = seen.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let body = request.body();
        let framing = match (body.is_end_stream(), body.size_hint().exact()) {
            (true, _) => Framing::Empty,
            (false, Some(bytes)) => Framing::Length(bytes),
            (false, None) => Framing::Chunked,
        };
        // Those that follow are not what is asked about.
        first.set(first.get().or(Some(framing)));
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(server), service);
    // How the connection ends says nothing about the head.
    let _ = tokio::time::timeout(Duration::from_secs(5), served).await.expect("hyper ends");
    seen.get()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The first request of every client of every script, by the script's name.
fn requests() -> BTreeMap<String, Vec<u8>> {
    let mut scripts = script::read_all(&folder().join("wire")).unwrap();
    let more = std::fs::read_to_string(folder().join("framing/requests.txt")).unwrap();
    scripts.extend(script::parse("requests.txt", &more).unwrap());
    let first = |script: &script::Script| {
        script.steps.iter().find_map(|step| match &step.act {
            Act::Send(bytes) if step.peer.starts_with("client") => Some(bytes.clone()),
            _ => None,
        })
    };
    // A claim stays where it is when lines are added above it.
    let name = |script: &script::Script| {
        let (file, rest) = script.name.split_once(':').unwrap();
        format!("{file}: {}", rest.split_once(' ').unwrap().1)
    };
    scripts.iter().filter_map(|script| Some((name(script), first(script)?))).collect()
}

/// The listed differences: `> REFUSAL -- why` hyper accepts, and `< SCRIPT -- why` it refuses.
fn listed(sign: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(folder().join("framing/differences.txt")).unwrap();
    let of_line = |line: &str| {
        let (what, why) = line.strip_prefix(sign)?.split_once(" -- ").expect("a difference and its reason");
        assert!(!why.is_empty(), "{what}");
        Some(what.to_owned())
    };
    text.lines().filter_map(of_line).collect()
}

#[tokio::test]
async fn whoever_takes_a_request_sees_the_same_length() {
    let (mut refused_here, mut refused_there) = (BTreeSet::new(), BTreeSet::new());
    let (mut same, mut both_refuse) = (0, 0);
    for (name, bytes) in requests() {
        let Some(here) = seen_by_proxy(&bytes) else { continue };
        match (here, seen_by_hyper(&bytes).await) {
            (Ok(here), Some(there)) => {
                assert_eq!(here, there, "{name}: {:?}", String::from_utf8_lossy(&bytes));
                same += 1;
            }
            (Err(reject), Some(_)) => drop(refused_here.insert(format!("{reject:?}"))),
            (Ok(_), None) => drop(refused_there.insert(name)),
            (Err(_), None) => both_refuse += 1,
        }
    }
    eprintln!("{same} read alike, {both_refuse} refused by both");
    eprintln!("refused here only: {refused_here:#?}\nrefused there only: {refused_there:#?}");
    assert!(same >= 100 && both_refuse >= 50, "{same} read alike, {both_refuse} refused by both");
    assert_eq!(refused_here, listed("> "), "what is refused here and accepted there");
    assert_eq!(refused_there, listed("< "), "what is accepted here and refused there");
}
