//! A local cluster that speaks TLS by an authority of its own.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use rustix::process::Signal;

use crate::support::{cluster::launch, place::Place, program::run, turns::Turn};

/// The status and the body that curl gets of this address, or how it ends.
fn curl(arguments: &[&str], url: &str) -> Result<String, Option<i32>> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--noproxy", "*", "--max-time", "20", "--write-out", "%{http_code}"]);
    command.args(["--output", "/dev/null"]).args(arguments).arg(url);
    let ended = run(command);
    if ended.code == Some(0) { Ok(ended.stdout) } else { Err(ended.code) }
}

#[test]
fn up_with_tls_makes_an_authority_once_and_curl_that_trusts_it_is_greeted_after_a_restart_too() {
    let (_turn, place) = (Turn::one(), Place::new());
    let mut kept = String::new();
    for _ in 0..2 {
        let mut up = launch(&place, &["--tls", "127.0.0.1:0"]);
        let told = up.hear("TLS: curl --cacert ");
        up.hear("ready http://");
        let (authority, url) = told.split_once(' ').unwrap();
        let url = format!("{url}hello");
        let certificate = fs::read_to_string(authority).unwrap();
        assert!(kept.is_empty() || kept == certificate, "who trusts it has to do so once");
        kept = certificate;
        assert_eq!(curl(&["--cacert", authority], &url).as_deref(), Ok("200"));
        assert_eq!(
            curl(&["--cacert", authority], &url.replace("localhost", "127.0.0.1")).as_deref(),
            Ok("200")
        );
        assert_eq!(curl(&[], &url), Err(Some(60)), "nobody else trusts it");
        for key in ["tls/ca.key", "tls/localhost.key"] {
            assert_eq!(fs::metadata(place.join(key)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        up.signal(Signal::TERM);
        up.ended();
    }
}
