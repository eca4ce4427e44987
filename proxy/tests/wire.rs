//! The proxy on the wire: scripts of exact bytes between a client, a real proxy and its upstreams.
//!
//! A file in `wire/` holds scripts; each begins with its claim. What follows the claim is what the script needs, then what
//! happens, in order:
//!
//! ```text
//! title: a request is passed on, and its response back
//! each: GET                                       the script runs once for each, with $ in its place
//! protocol: tcp                                   what the proxy speaks, if not http
//! timeouts: header=300ms                          as --timeouts
//! half-closed: keep                               as --half-closed
//! flags: --body-bytes-max 5                       any others
//! upstreams: live refusing silent                 the table: scripted, refusing and never accepting endpoints, or none
//! dates: shown                                    `Date: now` is expected where the proxy adds one; else scripts do not see it
//! split: no                                       only whole segments: time or segments are what the script is about
//! streams: no -- why                              not in streams of HTTP/2, or `not CASE -- why` for one case
//! sealed: no                                      not through TLS: it is about what is otherwise then, or of too little time for a relay
//! client> $ / HTTP/1.1\r\n                        sends; indented lines continue
//!         Host: a\r\n\r\n
//! upstream< $ / HTTP/1.1\r\nHost: a\r\n\r\n       must receive exactly this
//! upstream> HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n
//! client< status 200                              must receive a whole response with this status
//! client close                                    or half-close, or reset
//! proxy stop                                      the proxy is asked to stop
//! upstream closed                                 the other side ended in order; broken: it reset; gone: either
//! client broken without 0\r\n\r\n                  the same, after whatever else but these bytes
//! ```
//!
//! `upstream` is the connection that the proxy made last and `upstream new` takes the next one; `upstream2` and `client2` are
//! further ones. `upstream none` says that there was none. Bytes are written as in Rust (`\r \n \t \0 \\ \xNN`), and `{ab*3}`
//! is `ababab`. At the end the proxy is stopped: nothing more may have been sent, nobody else may have been connected to.
//!
//! Each script is played with its bytes in whole segments, one by one, and cut at random; and once more through TLS, in records
//! cut at random; and once more in streams of HTTP/2, where what is said is compared and not its bytes. `WIRE=text` plays the scripts with
//! this text in their names, `WIRE_SEED` sets the cuts.

#[path = "wire/normal.rs"]
mod normal;
#[path = "wire/peer.rs"]
mod peer;
#[path = "wire/play.rs"]
mod play;
#[path = "wire/script.rs"]
mod script;
#[path = "sealed/mod.rs"]
mod sealed;
#[path = "wire/streams.rs"]
mod streams;
#[path = "wire/translated.rs"]
mod translated;

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use peer::Split;
use proxy::config::Protocol;
use script::Script;

/// How long a step may take before it has failed, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

/// The same where it is known that it will fail.
const PATIENCE_WITH_THE_WRONG: Duration = Duration::from_secs(1);

/// Scripts played at a time: they wait more than they work.
const PLAYERS_COUNT: usize = 32;

/// The same where each has a relay beside it, which works.
const SEALED_PLAYERS_COUNT: usize = 12;

/// Random segmentations of each script.
const RANDOM_SPLITS_COUNT: u64 = 3;

fn splits(script: &Script, seed: u64) -> Vec<Split> {
    if !script.is_split {
        return vec![Split::Whole];
    }
    let random = (0..RANDOM_SPLITS_COUNT).map(|n| Split::Random(seed.wrapping_add(n)));
    [Split::Whole, Split::Single].into_iter().chain(random).collect()
}

/// How a script is played.
#[derive(Debug, Clone, Copy)]
enum Way {
    Plain(Split),
    Sealed(u64),
    Streams(u64),
}

/// Plays everything in `jobs` and returns what failed.
fn play_all(jobs: Vec<(Script, Way)>, players: usize) -> Vec<String> {
    let (jobs, failures) = (Mutex::new(jobs.into_iter()), Mutex::new(Vec::new()));
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let player = || {
        while let Some((script, way)) = next() {
            let played = match way {
                Way::Plain(split) => play::play(&script, split, PATIENCE),
                Way::Sealed(seed) => play::play_sealed(&script, seed, PATIENCE),
                Way::Streams(seed) => play::play_streams(&script, seed, PATIENCE),
            };
            if let Err(error) = played {
                let failure = format!("{} [{way:?}]\n    {error}", script.name);
                failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
            }
        }
    };
    std::thread::scope(|scope| (0..players).for_each(|_| drop(scope.spawn(player))));
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort();
    failures
}

#[test]
fn every_script_holds_in_every_segmentation() {
    play_scripts(PLAYERS_COUNT, |script, seed| splits(script, seed).into_iter().map(Way::Plain).collect());
}

#[test]
fn every_script_holds_through_tls() {
    play_scripts(SEALED_PLAYERS_COUNT, |script, seed| {
        let is_sealed = script.is_sealed && script.protocol == Protocol::Http;
        is_sealed.then_some(Way::Sealed(seed)).into_iter().collect()
    });
}

#[test]
fn every_script_holds_in_streams() {
    play_scripts(PLAYERS_COUNT, |script, seed| {
        let is_said = script.no_streams.is_none() && script.protocol == Protocol::Http;
        is_said.then_some(Way::Streams(seed)).into_iter().collect()
    });
}

/// Scripts and cases that are played in streams: fewer, and marks have taken what could be said.
const IN_STREAMS_COUNT_MIN: usize = 270;

#[test]
fn each_script_that_is_not_played_in_streams_says_why() {
    let scripts = script::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire"));
    let scripts: Vec<_> = scripts.expect("scripts that can be read");
    let http = scripts.iter().filter(|script| script.protocol == Protocol::Http);
    let (left_out, played): (Vec<_>, Vec<_>) = http.partition(|script| script.no_streams.is_some());
    println!("{} played in streams, {} left out", played.len(), left_out.len());
    assert!(played.len() >= IN_STREAMS_COUNT_MIN, "{} are played", played.len());
    for script in left_out {
        assert!(script.no_streams.as_ref().is_some_and(|why| why.len() >= 10), "{}: why?", script.name);
    }
    let text = "title: a\nstreams: no\nclient new";
    assert!(script::parse("inline", text).is_err_and(|error| error.contains("why")));
}

fn play_scripts(players: usize, ways: impl Fn(&Script, u64) -> Vec<Way>) {
    let scripts = script::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire"));
    let scripts = scripts.expect("scripts that can be read");
    let wanted = std::env::var("WIRE").unwrap_or_default();
    let seed = std::env::var("WIRE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let scripts: Vec<_> = scripts.into_iter().filter(|script| script.name.contains(&wanted)).collect();
    assert!(!scripts.is_empty(), "no script has {wanted:?} in its name");
    let jobs: Vec<_> =
        scripts.iter().flat_map(|s| ways(s, seed).into_iter().map(|way| (s.clone(), way))).collect();
    let count = jobs.len();
    let failures = play_all(jobs, players);
    assert!(failures.is_empty(), "{} of {count} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_script_whose_claim_does_not_hold_fails_where_it_does_not() {
    let request = r"client> GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let response = r"upstream> HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let read = r"upstream< GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (steps, why) in [
        ([request, r"upstream< GET / HTTP/1.1\r\nHost: b", ""], "line 4"),
        (["timeouts: response=100ms", request, "client< status 504\nupstream none"], "was connected to"),
        (["timeouts: response=100ms", request, "client< status 504"], "nobody took"),
        ([request, r"upstream< GET / HTTP/1.1\r\n", ""], "more than the script"),
        (["client new", "client closed", ""], "no end"),
        ([request, read, "client< status 200"], "no answer"),
        ([request, response, "client< status 404"], "status 200"),
        (["timeouts: response=100ms", request, "client closed without 504"], "it has seen"),
    ] {
        let text = format!("title: wrong\nsplit: no\n{}", steps.join("\n"));
        let scripts = script::parse("inline", &text).unwrap();
        let error = play::play(&scripts[0], Split::Whole, PATIENCE_WITH_THE_WRONG);
        assert!(error.as_ref().is_err_and(|error| error.contains(why)), "{why}: {error:?}");
    }
}
