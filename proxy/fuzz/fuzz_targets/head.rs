//! Heads: nothing panics, and what is accepted means the same to whoever gets it, in whatever segments it came.
//!
//! The first byte says what is parsed and for whom, the second where it is cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::{
    http1::{
        Framing, Parse, Pieces, Reject, Version,
        head::{Exchanged, Hop, RequestHead, ResponseHead, parse_request, parse_response},
    },
    limits::HEAD_BYTES_MAX,
};
use proxy_fuzz::{
    gather,
    strict::{Extensions, Read, read_request, read_response},
};

type Parsed<T> = Result<Parse<(T, Vec<u8>)>, Reject>;

fn parsed<T>(input: &[u8], parse: impl Fn(&mut [u8], &mut Pieces) -> Result<Parse<T>, Reject>) -> Parsed<T> {
    let (mut buffer, mut pieces) = (input.to_vec(), Pieces::default());
    Ok(match parse(&mut buffer, &mut pieces)? {
        Parse::Done(head) => Parse::Done((head, gather(&pieces, &buffer))),
        Parse::NeedMore => Parse::NeedMore,
    })
}

fn request(input: &[u8]) -> Parsed<RequestHead> {
    parsed(input, |buffer, pieces| parse_request(buffer, Hop::plain("role"), pieces))
}

fn response(input: &[u8], exchanged: Exchanged) -> Parsed<ResponseHead> {
    parsed(input, |buffer, pieces| parse_response(buffer, exchanged, pieces))
}

fn check_request(input: &[u8], cut: usize) {
    let whole = request(input);
    // Empty lines in front are skipped by whoever calls.
    if !input.starts_with(b"\r") {
        let part = request(&input[..cut]);
        assert!(part == Ok(Parse::NeedMore) || part == whole, "{part:?} and {whole:?}");
    }
    let Ok(Parse::Done((head, forwarded))) = whole else { return };
    let (again, twice) = match request(&forwarded) {
        Ok(Parse::Done(again)) => again,
        // A field that is added may be one, or some bytes, too many; and the next proxy may be the last.
        Err(Reject::TooManyFields | Reject::HeadTooLarge | Reject::LastForward) => return,
        other => panic!("forwarded, and then {other:?}"),
    };
    assert_eq!((again.method, again.framing, again.upgrade), (head.method, head.framing, head.upgrade));
    assert_eq!((again.version, again.keep_alive), (Version::Http11, true));
    assert_eq!(again.bytes, forwarded.len());
    // Those are counted down again.
    assert!(twice == forwarded || forwarded.starts_with(b"OPTIONS"));
    assert!(matches!(read_request(&forwarded), Read::Message(_)), "{:?}", read_request(&forwarded));
}

fn check_response(input: &[u8], cut: usize, exchanged: Exchanged) {
    let whole = response(input, exchanged);
    let part = response(&input[..cut], exchanged);
    assert!(part == Ok(Parse::NeedMore) || part == whole, "{part:?} and {whole:?}");
    let Ok(Parse::Done((head, forwarded))) = whole else { return };
    let again = match response(&forwarded, exchanged) {
        Ok(Parse::Done((again, _))) => again,
        // So may the Connection be.
        Err(Reject::TooManyFields | Reject::HeadTooLarge) => return,
        other => panic!("forwarded, and then {other:?}"),
    };
    let framing = match head.framing {
        Framing::Chunked if exchanged.client == Version::Http10 => Framing::UntilClose,
        framing => framing,
    };
    assert_eq!((again.status, again.framing), (head.status, framing));
    assert_eq!(again.bytes, forwarded.len());
    assert!(head.client_keep_alive || !again.upstream_keep_alive || head.is_interim());
    let method = if exchanged.to_head { "HEAD" } else { "GET" };
    let (skipped, seen) = read_response(&forwarded, method, Extensions::Malformed);
    assert!(skipped == forwarded.len() || matches!(seen, Read::Message(_)), "{seen:?}");
}

fuzz_target!(|input: &[u8]| {
    let [flags, cut, head @ ..] = input else { return };
    let head = &head[..head.len().min(HEAD_BYTES_MAX)];
    let is = |bit: u8| flags & (1 << bit) != 0;
    let cut = usize::from(*cut) * head.len() / 256;
    if is(0) {
        let client = if is(1) { Version::Http10 } else { Version::Http11 };
        let exchanged = Exchanged {
            to_head: is(2),
            client,
            upgrade: is(3),
            keep_alive: is(4),
            is_rest_long: is(5),
            is_http2: false,
            via: None,
            date: None,
            fields: None,
            cookie: None,
            request_id: None,
        };
        check_response(head, cut, exchanged);
    } else {
        check_request(head, cut);
    }
});
