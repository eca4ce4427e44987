//! Claims about what passes of a head, and what is added.

use std::io::IoSlice;

use crate::{
    http1::{
        Date, Parse, Pieces, Reject,
        Version::*,
        head::{Exchanged, Hop, parse_request, parse_response},
    },
    limits::PIECES_COUNT_MAX,
};

fn passed<T>(
    input: &str,
    parse: impl Fn(&mut [u8], &mut Pieces) -> Result<Parse<T>, Reject>,
) -> Result<String, Reject> {
    let (mut buffer, mut pieces) = (input.as_bytes().to_vec(), Pieces::default());
    assert!(matches!(parse(&mut buffer, &mut pieces)?, Parse::Done(_)), "incomplete");
    let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
    let count = pieces.slices(&buffer, &mut slices);
    Ok(slices[..count].iter().map(|slice| String::from_utf8_lossy(slice)).collect())
}

fn request(input: &str) -> Result<String, Reject> {
    passed(input, |buffer, pieces| parse_request(buffer, Hop::plain("role"), pieces))
}

fn response(input: &str, exchanged: Exchanged<'_>) -> Result<String, Reject> {
    passed(input, |buffer, pieces| parse_response(buffer, exchanged, pieces))
}

const GET: Exchanged<'_> = Exchanged {
    to_head: false,
    client: Http11,
    upgrade: false,
    keep_alive: true,
    is_rest_long: false,
    is_http2: false,
    via: None,
    date: None,
    fields: None,
    cookie: None,
    request_id: None,
};

#[test]
fn a_request_without_anything_to_cut_is_one_piece_of_the_bytes_that_came() {
    let input = b"POST /a?b HTTP/1.1\r\nhOST: a\r\nX:  y \r\nX: z\r\nContent-Length: 0\r\n\r\n";
    let mut pieces = Pieces::default();
    parse_request(&mut input.to_vec(), Hop::plain("role"), &mut pieces).unwrap();
    assert_eq!(pieces.single(input), Some(&input[..]));
}

#[test]
fn the_version_is_the_proxys_own() {
    let old = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
    assert_eq!(request(old).unwrap(), old.replace("1.0", "1.1"));
    let old = "HTTP/1.0 204 No Content\r\n\r\n";
    assert_eq!(response(old, GET).unwrap(), old.replace("1.0", "1.1"));
}

#[test]
fn absolute_targets_become_origin_targets() {
    for (method, target, after) in [
        ("GET", "http://a/b?c", "/b?c"),
        ("GET", "HTTP://A", "/"),
        ("GET", "http://a?c", "/?c"),
        ("OPTIONS", "http://a", "*"),
        ("OPTIONS", "http://a/", "/"),
        ("OPTIONS", "*", "*"),
    ] {
        let input = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(request(&input).unwrap(), input.replace(target, after), "{target}");
    }
}

#[test]
fn a_request_without_host_gets_its_targets_or_the_roles() {
    assert_eq!(request("GET http://a:1/b HTTP/1.0\r\n\r\n").unwrap(), "GET /b HTTP/1.1\r\nHost: a:1\r\n\r\n");
    assert_eq!(
        request("GET /b HTTP/1.0\r\nX: y\r\n\r\n").unwrap(),
        "GET /b HTTP/1.1\r\nX: y\r\nHost: role\r\n\r\n"
    );
}

#[test]
fn an_absolute_target_wins_over_host() {
    for (target, host, forwarded) in [
        ("http://a", "A", "Host: A\r\nX: y\r\n"),
        ("http://a:80", "a", "X: y\r\nHost: a:80\r\n"),
        ("http://a", "a:80", "X: y\r\nHost: a\r\n"),
        ("http://b:81", "a", "X: y\r\nHost: b:81\r\n"),
    ] {
        for version in ["1.0", "1.1"] {
            let input = format!("GET {target}/c HTTP/{version}\r\nHost: {host}\r\nX: y\r\n\r\n");
            let output = format!("GET /c HTTP/1.1\r\n{forwarded}\r\n");
            assert_eq!(request(&input), Ok(output), "{target} {host}");
        }
    }
    assert_eq!(request("GET http://a/ HTTP/1.1\r\nHost: b,c\r\n\r\n"), Err(Reject::HostMalformed));
    let longest = "x".repeat(4000);
    let input = format!("GET http://{longest}/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(request(&input), Ok(format!("GET / HTTP/1.1\r\nHost: {longest}\r\n\r\n")));
}

#[test]
fn a_request_that_counts_its_proxies_is_counted_down_and_answered_at_zero() {
    let with = |method: &str, value: &str| {
        request(&format!("{method} * HTTP/1.1\r\nHost: a\r\nMax-Forwards: {value}\r\nX: y\r\n\r\n"))
    };
    for (came, left) in [("1", "0"), ("10", "9"), ("0010", "9"), ("99999999999999999999", "4294967294")] {
        let output = format!("OPTIONS * HTTP/1.1\r\nHost: a\r\nX: y\r\nMax-Forwards: {left}\r\n\r\n");
        assert_eq!(with("OPTIONS", came), Ok(output));
    }
    assert_eq!(with("OPTIONS", "0"), Err(Reject::LastForward));
    assert_eq!(with("OPTIONS", "00"), Err(Reject::LastForward));
    for none in ["", "-1", "1.5", "x"] {
        let output = format!("OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: {none}\r\nX: y\r\n\r\n");
        assert_eq!(with("OPTIONS", none), Ok(output));
    }
    let get = "GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n";
    assert_eq!(request(get).as_deref(), Ok(get), "RFC 9110 7.6.2: it means nothing with other methods");
}

#[test]
fn who_can_take_trailers_has_them_asked_for() {
    let asked = |version: &str, fields: &str| {
        request(&format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n")).unwrap()
    };
    let te = "TE: trailers;q=1, gzip\r\nte: x, Trailers\r\n";
    assert!(asked("1.1", te).ends_with("Host: a\r\nConnection: TE\r\nTE: trailers\r\n\r\n"));
    let both = format!("{te}Connection: TE, Upgrade\r\nUpgrade: x\r\n");
    assert!(asked("1.1", &both).ends_with("Upgrade: x\r\nConnection: Upgrade, TE\r\nTE: trailers\r\n\r\n"));
    assert!(!asked("1.0", te).contains("TE") && !asked("1.1", "TE: gzip\r\n").contains("TE"));
}

#[test]
fn framing_that_nothing_follows_is_not_passed_on() {
    let asked = Exchanged { upgrade: true, ..GET };
    for (status, field, passes) in [
        ("204 No Content", "Content-Length: 0", false),
        ("204 No Content", "Transfer-Encoding: chunked", false),
        ("103 Early Hints", "Content-Length: 5", false),
        ("103 Early Hints", "Transfer-Encoding: chunked", false),
        ("304 Not Modified", "Content-Length: 5", true),
        ("304 Not Modified", "Transfer-Encoding: chunked", false),
        ("205 Reset Content", "Content-Length: 0", true),
    ] {
        let input = format!("HTTP/1.1 {status}\r\nX: y\r\n{field}\r\n\r\n");
        let output = if passes { input.clone() } else { input.replace(&format!("{field}\r\n"), "") };
        assert_eq!(response(&input, asked), Ok(output));
    }
    let switch = |field: &str| {
        format!("HTTP/1.1 101 Switching Protocols\r\n{field}Upgrade: x\r\nConnection: Upgrade\r\n\r\n")
    };
    for field in ["Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n"] {
        assert_eq!(response(&switch(field), asked), Ok(switch("")));
    }
}

#[test]
fn a_length_that_is_said_twice_is_passed_on_once() {
    for lengths in ["Content-Length: 5\r\nX: y\r\ncontent-length: 5\r\n", "Content-Length: 5 , 5\r\nX: y\r\n"]
    {
        let output = response(&format!("HTTP/1.1 200 OK\r\n{lengths}\r\n"), GET);
        assert_eq!(output.as_deref(), Ok("HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\n"));
    }
    let none = response("HTTP/1.1 204 No Content\r\nContent-Length: 0, 0\r\n\r\n", GET);
    assert_eq!(none.as_deref(), Ok("HTTP/1.1 204 No Content\r\n\r\n"));
}

#[test]
fn a_final_response_without_a_date_gets_one() {
    let date = Date::from_unix(784_111_777);
    let dated = Exchanged { date: Some(&date), ..GET };
    let own = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let with = |field: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{field}\r\n");
    assert_eq!(response(&with(""), dated), Ok(with(own)));
    assert_eq!(response(&with("date: x\r\n"), dated), Ok(with("date: x\r\n")));
    assert_eq!(response(&with("Date: x\r\nConnection: Date\r\n"), dated), Ok(with(own)));
    let early = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    assert_eq!(response(early, dated).as_deref(), Ok(early));
}

#[test]
fn what_ends_here_is_cut_out_before_anything_is_put_in() {
    let input =
        "GET / HTTP/1.1\r\nConnection: Upgrade, X\r\nX: 1\r\nHost: a\r\nUpgrade: x\r\nTE: y\r\nY: 2\r\n\r\n";
    let output = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nY: 2\r\nConnection: Upgrade\r\n\r\n";
    assert_eq!(request(input).unwrap(), output);
    let old = input.replace("HTTP/1.1", "HTTP/1.0");
    assert_eq!(request(&old).unwrap(), "GET / HTTP/1.1\r\nHost: a\r\nY: 2\r\n\r\n");
}

#[test]
fn as_many_cuts_as_a_write_has_slices_are_made_and_no_more() {
    let cuts = |count: usize| {
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\n{}\r\n", "x: 1\r\ny: 2\r\n".repeat(count))
    };
    let fits = PIECES_COUNT_MAX - 1;
    assert_eq!(request(&cuts(fits)).unwrap().matches("y: 2").count(), fits);
    assert_eq!(request(&cuts(fits + 1)), Err(Reject::TooManyCuts));
}

#[test]
fn a_client_is_told_what_becomes_of_its_connection() {
    let ok = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let with = |field: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{field}\r\n");
    assert_eq!(response(ok, GET).unwrap(), with(""));
    assert_eq!(response(ok, Exchanged { keep_alive: false, ..GET }).unwrap(), with("Connection: close\r\n"));
    let old = Exchanged { client: Http10, ..GET };
    assert_eq!(response(ok, old).unwrap(), with("Connection: keep-alive\r\n"));
    assert_eq!(response(ok, Exchanged { keep_alive: false, ..old }).unwrap(), with("Connection: close\r\n"));
    let early = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    assert_eq!(response(early, Exchanged { keep_alive: false, ..GET }).unwrap(), early);
}

#[test]
fn via_names_this_hop_and_the_version_that_came_to_it() {
    let hop = Hop { via: Some("p"), ..Hop::plain("role") };
    let asked = |version: &str| {
        let input =
            format!("GET / HTTP/{version}\r\nHost: a\r\nVia: 1.1 x\r\nConnection: Via\r\nVia: 1.1 y\r\n\r\n");
        passed(&input, |buffer, pieces| parse_request(buffer, hop, pieces))
    };
    for version in ["1.0", "1.1"] {
        let expected = format!("GET / HTTP/1.1\r\nHost: a\r\nVia: {version} p\r\n\r\n");
        assert_eq!(asked(version), Ok(expected), "what Connection names goes first");
        let input = format!("HTTP/{version} 204 No Content\r\nVia: 1.1 x\r\nConnection: keep-alive\r\n\r\n");
        let output = response(&input, Exchanged { via: Some("p"), ..GET });
        assert_eq!(output, Ok(format!("HTTP/1.1 204 No Content\r\nVia: 1.1 x\r\nVia: {version} p\r\n\r\n")));
    }
}

#[test]
fn via_says_2_0_of_what_came_by_http_2_whatever_it_is_written_as_here() {
    let hop = Hop { via: Some("p"), is_http2: true, ..Hop::plain("role") };
    let asked =
        passed("GET / HTTP/1.1\r\nHost: a\r\n\r\n", |buffer, pieces| parse_request(buffer, hop, pieces));
    assert_eq!(asked.unwrap(), "GET / HTTP/1.1\r\nHost: a\r\nVia: 2.0 p\r\n\r\n");
    let exchanged = Exchanged { via: Some("p"), is_http2: true, ..GET };
    let told = response("HTTP/1.1 204 No Content\r\n\r\n", exchanged);
    assert_eq!(told.unwrap(), "HTTP/1.1 204 No Content\r\nVia: 2.0 p\r\n\r\n");
}

#[test]
fn http_1_0_is_never_told_of_a_transfer_coding() {
    for status in ["200 OK", "304 Not Modified"] {
        let passed = status.starts_with("200");
        let input = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n");
        let output = response(&input, Exchanged { client: Http10, ..GET }).unwrap();
        assert!(!output.contains("chunked") && output.contains("X: y"), "{output}");
        assert_eq!(response(&input, GET).unwrap().contains("chunked"), passed);
    }
}

#[test]
fn upgrade_passes_only_where_it_says_what_is_spoken_or_to_be_spoken() {
    let asked = Exchanged { upgrade: true, ..GET };
    for (status, length, passes) in [
        ("101 Switching Protocols", "", true),
        ("426 Upgrade Required", "Content-Length: 0\r\n", true),
        ("200 OK", "Content-Length: 0\r\n", false),
    ] {
        let input = format!("HTTP/1.1 {status}\r\nConnection: Upgrade\r\nUpgrade: x\r\n{length}\r\n");
        let (field, named) = if passes { ("Upgrade: x\r\n", "Connection: Upgrade\r\n") } else { ("", "") };
        let output = format!("HTTP/1.1 {status}\r\n{field}{length}{named}\r\n");
        assert_eq!(response(&input, asked), Ok(output));
    }
}
