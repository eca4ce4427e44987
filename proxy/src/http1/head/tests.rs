//! Claims about heads: what is refused and why, and what is decided about the others.

use std::io::IoSlice;

use super::*;
use crate::{
    http1::{Body, Version::*},
    limits::{
        CHUNK_EXTENSION_BYTES_MAX, FIELD_NAME_BYTES_MAX, HEAD_BYTES_MAX, PIECES_COUNT_MAX, TRAILER_BYTES_MAX,
    },
};

pub(super) type Parsed<T> = Result<Parse<(T, Vec<u8>)>, Reject>;

fn text(pieces: &Pieces, buffer: &[u8]) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
    let count = pieces.slices(buffer, &mut slices);
    slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
}

/// The decision about a request, and what is forwarded of its head.
pub(super) fn request(input: &[u8]) -> Parsed<RequestHead> {
    let (mut buffer, mut pieces) = (input.to_vec(), Pieces::default());
    let route = |asked: Asked<'_>| match asked.host {
        b"nobody.example" => Err(Reject::NoRoute),
        b"another.example" => Err(Reject::Misdirected),
        _ => Ok(Hop::plain("role")),
    };
    Ok(match parse_routed(&mut buffer, &mut pieces, route)? {
        Parse::Done(head) => Parse::Done((head, text(&pieces, &buffer))),
        Parse::NeedMore => Parse::NeedMore,
    })
}

pub(super) fn response(input: &[u8], exchanged: Exchanged<'_>) -> Parsed<ResponseHead> {
    let (mut buffer, mut pieces) = (input.to_vec(), Pieces::default());
    Ok(match parse_response(&mut buffer, exchanged, &mut pieces)? {
        Parse::Done(head) => Parse::Done((head, text(&pieces, &buffer))),
        Parse::NeedMore => Parse::NeedMore,
    })
}

pub(super) const GET: Exchanged<'_> = Exchanged {
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

pub(super) fn accepted<T>(parsed: Parsed<T>) -> (T, Vec<u8>) {
    match parsed {
        Ok(Parse::Done(done)) => done,
        Ok(Parse::NeedMore) => panic!("incomplete"),
        Err(reject) => panic!("{reject}"),
    }
}

/// A limit for the bodies of these tests.
const BODY_BYTES_MAX: u64 = 100_000;

/// Why a whole request, body included, is refused.
fn reject(input: &[u8]) -> Option<Reject> {
    let head = match request(input) {
        Ok(Parse::Done((head, _))) => head,
        Ok(Parse::NeedMore) => return None,
        Err(reject) => return Some(reject),
    };
    let (body, mut at) = (Body::new(head.framing, true).limited(BODY_BYTES_MAX), head.bytes);
    let mut body = match body {
        Ok(body) => body,
        Err(reject) => return Some(reject),
    };
    while at < input.len() && !body.is_done() {
        match body.scan(input, at, &mut Pieces::default()) {
            Ok(next) => at = next,
            Err(reject) => return Some(reject),
        }
    }
    None
}

/// Whole requests around these start lines.
fn lines(lines: &[&str]) -> Vec<Vec<u8>> {
    lines.iter().map(|line| format!("{line}\r\nHost: a\r\n\r\n").into_bytes()).collect()
}

fn fields(fields: &[&str]) -> Vec<Vec<u8>> {
    fields.iter().map(|field| format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n").into_bytes()).collect()
}

fn bodies(bodies: &[&str]) -> Vec<Vec<u8>> {
    let head = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    bodies.iter().map(|body| format!("{head}{body}").into_bytes()).collect()
}

/// Requests that are refused for this reason.
fn refused_for(reject: Reject) -> Vec<Vec<u8>> {
    let many = |text: &str, count: usize| text.repeat(count);
    let whole = |heads: &[&str]| heads.iter().map(|head| head.as_bytes().to_vec()).collect();
    match reject {
        Reject::Malformed => lines(&["GET", "GET  / HTTP/1.1", "G(T / HTTP/1.1", "\r\nGET / HTTP/1.1"]),
        Reject::BareLineEnd => lines(&["\nGET / HTTP/1.1", "GET / HTTP/1.1\nX: y", "GET / HTTP/1.1\rX: y"]),
        Reject::FieldName => fields(&["X : y", ": y", "X", "X: y\r\n folded"]),
        Reject::FieldNameTooLong => fields(&[&format!("{}: y", many("x", FIELD_NAME_BYTES_MAX + 1))]),
        Reject::FieldValue => fields(&["X: a\0b", "X: a\rb", "Transfer-Encoding: \u{b}chunked"]),
        Reject::Version => lines(&["GET / HTTP/1.2", "PRI * HTTP/2.0", "GET / http/1.1"]),
        Reject::HeadTooLarge => fields(&[&format!("X: {}", many("y", HEAD_BYTES_MAX))]),
        Reject::TooManyFields => {
            let named = format!("Connection: {}", many("x,", FIELDS_COUNT_MAX + 1));
            fields(&[&many("X: y\r\n", FIELDS_COUNT_MAX), &named])
        }
        Reject::TooManyCuts => {
            fields(&[&format!("Connection: x{}", many("\r\nx: y\r\nz: y", PIECES_COUNT_MAX))])
        }
        Reject::TargetTooLong => [TARGET_BYTES_MAX, HEAD_BYTES_MAX]
            .iter()
            .flat_map(|bytes| lines(&[&format!("GET /{} HTTP/1.1", many("x", *bytes))]))
            .collect(),
        Reject::Target => {
            lines(&["GET x HTTP/1.1", "GET * HTTP/1.1", "GET /# HTTP/1.1", "GET https://a/ HTTP/1.1"])
        }
        Reject::HostMissing => whole(&["GET / HTTP/1.1\r\n\r\n", "GET http://a/ HTTP/1.1\r\n\r\n"]),
        Reject::HostRepeated => fields(&["hOST: a"]),
        Reject::HostMalformed => {
            whole(&["GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n"])
        }
        Reject::LengthAndCoding => fields(&["Content-Length: 5\r\nTransfer-Encoding: chunked"]),
        Reject::LengthRepeated => fields(&["Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5, 5"]),
        Reject::LengthMalformed => fields(&["Content-Length:", "Content-Length: +5", "Content-Length: 0x5"]),
        Reject::Coding => fields(&["Transfer-Encoding: gzip, chunked", "Transfer-Encoding:"]),
        Reject::CodingInHttp10 => whole(&["PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"]),
        Reject::ChunkSize => bodies(&["\r\n", "+5\r\n", "5\n", "00000000000005\r\n"]),
        Reject::ChunkEnd => bodies(&["1\r\nxx\r\n", "1\r\nx\n"]),
        Reject::ChunkExtension => {
            bodies(&["1;\n", &format!("1;{}\r\n", many("x", CHUNK_EXTENSION_BYTES_MAX))])
        }
        Reject::Trailer => {
            bodies(&["0\r\n\n", "0\r\nX : y\r\n", &format!("0\r\nX:{}", many("y", TRAILER_BYTES_MAX))])
        }
        Reject::BodyTooLarge => {
            let chunked = bodies(&[&format!("{:x}\r\n", BODY_BYTES_MAX + 1)]);
            [chunked, fields(&[&format!("Content-Length: {}", BODY_BYTES_MAX + 1)])].concat()
        }
        Reject::Connect => lines(&["CONNECT a:443 HTTP/1.1"]),
        Reject::Trace => lines(&["TRACE / HTTP/1.1", "TRACE / HTTP/1.1\r\nMax-Forwards: 0"]),
        Reject::NoRoute => whole(&[
            "GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n",
            "GET http://nobody.example HTTP/1.1\r\nHost: a\r\n\r\n",
        ]),
        Reject::Misdirected => whole(&["GET / HTTP/1.1\r\nHost: another.example\r\n\r\n"]),
        Reject::LastForward => lines(&["OPTIONS / HTTP/1.1\r\nMax-Forwards: 0"]),
    }
}

#[test]
fn every_reject_is_given_for_what_it_names_and_none_is_out_of_reach() {
    for expected in Reject::ALL {
        let inputs = refused_for(expected);
        assert!(!inputs.is_empty());
        for input in inputs {
            assert_eq!(reject(&input), Some(expected), "{}", String::from_utf8_lossy(&input));
        }
    }
}

#[test]
fn what_is_asked_for_is_the_same_in_each_form() {
    for (line, host, target) in [
        ("GET /a?b HTTP/1.1\r\nHost: x", "x", "/a?b"),
        ("GET http://y/a?b HTTP/1.1\r\nHost: x", "y", "/a?b"),
        ("GET http://y HTTP/1.1\r\nHost: x", "y", "/"),
        ("GET http://y?b HTTP/1.1\r\nHost: x", "y", "/"),
        ("OPTIONS * HTTP/1.1\r\nHost: x", "x", "*"),
        ("GET / HTTP/1.0", "", "/"),
    ] {
        let mut seen = None;
        let mut buffer = format!("{line}\r\n\r\n").into_bytes();
        let parsed = parse_routed(&mut buffer, &mut Pieces::default(), |asked| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            seen = Some((text(asked.host), text(asked.target)));
            Ok(Hop::plain("role"))
        });
        assert!(matches!(parsed, Ok(Parse::Done(_))), "{line}");
        assert_eq!(seen, Some((host.to_owned(), target.to_owned())), "{line}");
    }
}

#[test]
fn limits_are_kept_to_the_byte() {
    let head = |bytes: usize| {
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(bytes - 32)).into_bytes()
    };
    assert_eq!(reject(&head(HEAD_BYTES_MAX)), None);
    assert_eq!(reject(&head(HEAD_BYTES_MAX + 1)), Some(Reject::HeadTooLarge));
    let full = &head(HEAD_BYTES_MAX + 1)[..HEAD_BYTES_MAX];
    assert_eq!(reject(full), Some(Reject::HeadTooLarge), "a full buffer without an end waits for nothing");
    assert_eq!(request(&full[..HEAD_BYTES_MAX - 1]), Ok(Parse::NeedMore));
    let target =
        |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(bytes - 1)).into_bytes();
    assert_eq!(reject(&target(TARGET_BYTES_MAX)), None);
    assert_eq!(reject(&target(TARGET_BYTES_MAX + 1)), Some(Reject::TargetTooLong));
    let fields = |count: usize| {
        format!("GET / HTTP/1.1\r\n{}Host: a\r\n\r\n", "X: y\r\n".repeat(count - 1)).into_bytes()
    };
    assert_eq!(reject(&fields(FIELDS_COUNT_MAX)), None);
    assert_eq!(reject(&fields(FIELDS_COUNT_MAX + 1)), Some(Reject::TooManyFields));
}

#[test]
fn methods_are_told_apart_by_what_may_be_repeated() {
    for (method, kind, is_repeatable) in [
        ("GET", Method::Safe, true),
        ("OPTIONS", Method::Safe, true),
        ("HEAD", Method::Head, true),
        ("PUT", Method::Idempotent, true),
        ("DELETE", Method::Idempotent, true),
        ("POST", Method::Other, false),
        ("PATCH", Method::Other, false),
        ("get", Method::Other, false),
        ("PROPFIND", Method::Other, false),
    ] {
        let (head, _) = accepted(request(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()));
        assert_eq!((head.method, head.method.is_repeatable()), (kind, is_repeatable), "{method}");
    }
}

#[test]
fn persistence_follows_version_and_connection() {
    for (version, connection, kept) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.1", "Connection: x\r\nConnection: CLOSE\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
        assert_eq!(accepted(request(head.as_bytes())).0.keep_alive, kept, "{head}");
        let head = format!("HTTP/{version} 200 OK\r\nContent-Length: 0\r\n{connection}\r\n");
        assert_eq!(accepted(response(head.as_bytes(), GET)).0.upstream_keep_alive, kept, "{head}");
    }
}

#[test]
fn a_response_that_ends_with_the_connection_keeps_neither() {
    let head = accepted(response(b"HTTP/1.1 200 OK\r\n\r\n", GET)).0;
    assert_eq!(
        (head.framing, head.upstream_keep_alive, head.client_keep_alive),
        (Framing::UntilClose, false, false)
    );
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let head = accepted(response(chunked, Exchanged { client: Http10, ..GET })).0;
    assert_eq!(
        (head.upstream_keep_alive, head.client_keep_alive),
        (true, false),
        "undone chunks have no other end"
    );
    let head = accepted(response(chunked, Exchanged { client: Http10, to_head: true, ..GET })).0;
    assert_eq!((head.upstream_keep_alive, head.client_keep_alive), (true, true));
}

#[test]
fn a_switch_of_protocols_is_accepted_only_by_who_asked_for_it_and_ends_both_connections() {
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let head = accepted(response(switch, Exchanged { upgrade: true, ..GET })).0;
    assert!(!head.upstream_keep_alive && !head.client_keep_alive && !head.is_interim());
    assert_eq!(response(switch, GET), Err(Reject::Malformed));
    for unnamed in ["Upgrade: x\r\n", "Connection: Upgrade\r\n", ""] {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\n{unnamed}\r\n");
        assert_eq!(response(head.as_bytes(), Exchanged { upgrade: true, ..GET }), Err(Reject::Malformed));
    }
    let asked =
        |version| format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    assert!(accepted(request(asked("1.1").as_bytes())).0.upgrade);
    assert!(!accepted(request(asked("1.0").as_bytes())).0.upgrade);
}

#[test]
fn a_status_of_three_digits_passes_even_if_nobody_knows_it() {
    for status in [100, 199, 299, 451, 599, 600, 799, 999] {
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
        let (head, forwarded) = accepted(response(head.as_bytes(), GET));
        assert_eq!(head.status, status);
        assert!(forwarded.starts_with(format!("HTTP/1.1 {status} X\r\n").as_bytes()));
        assert_eq!(head.framing, if status < 200 { Framing::Empty } else { Framing::Length(5) });
    }
    for status in ["000", "099", "1000", "60", "6x0"] {
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(response(head.as_bytes(), GET), Err(Reject::Malformed), "{status}");
    }
}

#[test]
fn only_a_whole_request_line_says_that_a_refused_head_asked_with_head() {
    for good in [
        "HEAD / HTTP/1.1\r\n",
        "HEAD / HTTP/2.0\r\nX",
        "HEAD http://a/ HTTP/1.1\n",
        "HEAD /\x7f HTTP/1.9\r\n",
    ] {
        assert!(is_head_line(good.as_bytes()), "{good:?}");
    }
    for bad in [
        "",
        "HEAD ",
        "HEAD / HTTP/1.1",
        "HEAD \r\n",
        "HEAD /\r\n",
        "HEAD  / HTTP/1.1\r\n",
        "HEAD / x HTTP/1.1\r\n",
        "HEAD / HTTP/\r\n",
        "HEAD of a body\r\n",
        "head / HTTP/1.1\r\n",
        "HEADER / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHEAD / HTTP/1.1\r\n",
    ] {
        assert!(!is_head_line(bad.as_bytes()), "{bad:?}");
    }
}

#[test]
fn authentication_of_the_connection_is_seen_on_either_way() {
    for (field, is_bound) in
        [("Authorization: NTLM x", true), ("Authorization: Basic x", false), ("X: y", false)]
    {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
        assert_eq!(accepted(request(head.as_bytes())).0.is_connection_bound, is_bound, "{field}");
    }
    for (field, is_bound) in
        [("WWW-Authenticate: Negotiate", true), ("WWW-Authenticate: Basic realm=a", false)]
    {
        let head = format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n{field}\r\n\r\n");
        assert_eq!(accepted(response(head.as_bytes(), GET)).0.is_connection_bound, is_bound, "{field}");
    }
}

#[test]
fn what_is_no_response_is_refused_at_its_first_byte() {
    for stray in ["\r", "\n", "\0", "I", "2", " ", "h"] {
        assert_eq!(response(stray.as_bytes(), GET), Err(Reject::Malformed), "{stray:?}");
    }
    assert_eq!(response(b"", GET), Ok(Parse::NeedMore));
}

#[test]
fn authorities_are_hosts_with_ports_and_nothing_else() {
    for good in [
        "a",
        "A.b-c_d~e",
        "a:80",
        "a:",
        "1.2.3.4:65535",
        "[::1]",
        "[::1]:80",
        "[::ffff:1.2.3.4]",
        "%61",
        "a;b",
    ] {
        assert!(is_authority(good.as_bytes()), "{good}");
    }
    for bad in [
        "", ":80", "a:b", "a:123456", "a,b", "u@a", "a/b", "a b", "[", "[]", "[::1", "[g]", "[::1]x", "::1",
        "a]", "\u{e4}",
    ] {
        assert!(!is_authority(bad.as_bytes()), "{bad}");
    }
}
