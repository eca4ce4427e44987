//! HTTP/2 that ends at the proxy, between curl or nghttp2's load generator, and nginx.

use std::process::Command;

use crate::{
    curl, length::short_or_long, lengths, nginx::Nginx, origin, output_of, pattern, program::is_there,
    tls::Keys,
};

#[test]
fn curl_gets_and_uploads_every_byte_by_streams_of_one_connection() {
    if !is_there("curl", "--version") || !is_there("nginx", "-v") || !is_there("openssl", "version") {
        return;
    }
    let (keys, lengths) = (Keys::make(), lengths());
    let all = pattern(*lengths.last().unwrap());
    let nginx = Nginx::start(lengths.iter().map(|length| (format!("{length}"), &all[..*length])));
    let (down, up) = (keys.start_proxy(nginx.addr), keys.start_proxy(origin::start_slow_reader(all.clone())));
    let (cert, file) = (keys.at("cert"), keys.at("upload"));
    std::fs::write(&file, &all).unwrap();
    // Each in a stream of the same connection, at a pace at which all of them are full now and then.
    let url = |length: &usize| format!("https://localhost:{}/{length}", down.addr.port());
    let outputs: Vec<String> = lengths.iter().map(|length| keys.at(&format!("got{length}"))).collect();
    let mut args =
        vec!["--cacert", &cert, "--http2", "--parallel", "--parallel-max", "12", "--limit-rate", crate::RATE];
    let urls: Vec<String> = lengths.iter().map(url).collect();
    for (url, output) in urls.iter().zip(&outputs) {
        args.extend(["--output", output, "--write-out", "%{http_version} ", url]);
    }
    let told = output_of(curl(&args));
    assert_eq!(String::from_utf8_lossy(&told).trim_end(), vec!["2"; lengths.len()].join(" "));
    for (output, length) in outputs.iter().zip(&lengths) {
        assert!(std::fs::read(output).unwrap() == all[..*length], "not the {length} bytes that nginx has");
    }
    let url = format!("https://localhost:{}/", up.addr.port());
    let put = curl(&["--cacert", &cert, "--http2", "--upload-file", &file, &url]);
    assert_eq!(String::from_utf8_lossy(&output_of(put)), format!("all of {}", all.len()));
}

#[test]
fn many_streams_of_many_connections_are_all_answered() {
    if !is_there("h2load", "--version") || !is_there("nginx", "-v") || !is_there("openssl", "version") {
        return;
    }
    let keys = Keys::make();
    let nginx = Nginx::start(std::iter::once(("small".to_owned(), &b"hello"[..])));
    let proxy = keys.start_proxy(nginx.addr);
    let url = format!("https://localhost:{}/small", proxy.addr.port());
    let count = short_or_long("20000", "1000000");
    let output = Command::new("h2load").args(["-n", count, "-c", "16", "-m", "10", &url]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains(&format!("{count} succeeded, 0 failed, 0 errored, 0 timeout")), "{told}");
    assert!(told.contains(&format!("status codes: {count} 2xx")), "{told}");
}
