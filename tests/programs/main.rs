//! Ordinary programs on both sides of the built proxy: what they send and get is compared byte by byte.
//!
//! A test is skipped where its program is missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod datagrams;
mod edges;
mod http2;
#[path = "../support/length.rs"]
mod length;
mod nginx;
mod origin;
mod program;
mod proxy;
mod services;
#[path = "../support/skip.rs"]
#[expect(dead_code, reason = "no test here is skipped in part")]
mod skip;
mod spans;
mod streams;
mod tls;
mod trust;
mod unix;

use std::{
    fs,
    io::Read,
    process::{Child, Command, Stdio},
};

use length::short_or_long;
use nginx::Nginx;
use program::is_there;
use proxy::Proxy;

/// Programs at a time.
const CURLS_COUNT: usize = 12;

/// Bytes a second, as curl's `--limit-rate` has it: a second or two for each file, with pauses in which everything on the way is full.
const RATE: &str = "12M";

/// Bytes that are different from one position to the next, for as many as there may be.
fn pattern(length: usize) -> Vec<u8> {
    // xorshift64
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// No two are alike, so that their ends are cut elsewhere.
fn lengths() -> Vec<usize> {
    (0..CURLS_COUNT).map(|number| short_or_long(16_000_000, 50_000_000) + number * 123_457).collect()
}

/// A curl that begins now.
fn curl(args: &[&str]) -> Child {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "60"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What it got, when it has ended well.
fn output_of(mut curl: Child) -> Vec<u8> {
    let mut output = Vec::new();
    curl.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    let status = curl.wait().unwrap();
    assert!(status.success(), "curl ended with {status} after {} bytes", output.len());
    output
}

#[test]
fn curl_gets_every_byte_of_what_nginx_has_however_slowly_it_takes_it() {
    if !is_there("curl", "--version") || !is_there("nginx", "-v") {
        return;
    }
    let lengths = lengths();
    let all = pattern(*lengths.last().unwrap());
    let nginx = Nginx::start(lengths.iter().map(|length| (format!("{length}"), &all[..*length])));
    let proxy = Proxy::start(nginx.addr);
    let get = |length| curl(&["--limit-rate", RATE, &format!("http://{}/{length}", proxy.addr)]);
    let curls: Vec<_> = lengths.iter().map(get).collect();
    std::thread::scope(|scope| {
        for (curl, length) in curls.into_iter().zip(&lengths) {
            let right = &all[..*length];
            scope.spawn(move || assert!(output_of(curl) == right, "not the {length} bytes that nginx has"));
        }
    });
}

#[test]
fn a_slow_origin_gets_every_byte_of_what_curl_uploads() {
    if !is_there("curl", "--version") {
        return;
    }
    let lengths = lengths();
    let all = pattern(*lengths.last().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(origin::start_slow_reader(all.clone()));
    let put = |length: &usize| {
        let file = folder.path().join(length.to_string());
        fs::write(&file, &all[..*length]).unwrap();
        curl(&["--upload-file", file.to_str().unwrap(), &format!("http://{}/", proxy.addr)])
    };
    let curls: Vec<_> = lengths.iter().map(put).collect();
    for (curl, length) in curls.into_iter().zip(&lengths) {
        assert_eq!(String::from_utf8_lossy(&output_of(curl)), format!("all of {length}"));
    }
}

/// Posts again and again on one connection. `requests` sends head and body apart, and repeats nothing.
const POSTS: &str = "
import requests, sys
session = requests.Session()
for n in range(int(sys.argv[2])):
    answer = session.post(sys.argv[1], data=b'x' * (1, 1000, 100_000)[n % 3])
    assert answer.status_code == 200 and answer.content == b'ok', (n, answer.status_code, answer.content)
";

#[test]
fn python_loses_no_post_to_an_origin_that_answers_before_it_has_read_the_body() {
    if !is_there("python3", "--version") || !program::has_python_module("requests") {
        return;
    }
    let proxy = Proxy::start(origin::start_early());
    let posts = short_or_long("600", "6000");
    let url = format!("http://{}/", proxy.addr);
    let clients: Vec<_> = (0..2)
        .map(|_| {
            Command::new("python3").args(["-c", POSTS, &url, posts]).env("NO_PROXY", "*").spawn().unwrap()
        })
        .collect();
    for mut client in clients {
        let status = client.wait().unwrap();
        assert!(status.success(), "python ended with {status}");
    }
}
