//! Properties of heads: neither segments nor another parser see anything else in them.

use proptest::prelude::*;

use super::{
    tests::{GET, Parsed, accepted, request, response},
    *,
};
use crate::http1::Version::*;

/// Heads that are mostly good, with something odd here and there.
fn heads(start: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let end = || prop_oneof![60 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\r\n ")];
    let field = prop_oneof![
        16 => "[A-Za-z-]{1,12}:[ \t]{0,2}[ -~]{0,20}[ \t]{0,1}",
        4 => "(Host|Connection|Upgrade|TE): ?(a|close|keep-alive|upgrade|x, y|X-A|h2c|trailers)",
        1 => "(Content-Length|Transfer-Encoding): ?(0|5|chunked|Chunked|5, 5|)",
        1 => "X-A: [\\x00-\\x7f]{0,6}",
        1 => "[ -~]{0,12}",
    ];
    let fields = prop::collection::vec((field, end()), 0..8);
    let noise = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (start, end(), fields, end(), any::<bool>(), noise).prop_map(
        |(start, eol, fields, last, quiet, noise)| {
            let mut head = format!("{start}{eol}Host: a\r\n").into_bytes();
            for (field, eol) in fields {
                head.extend(format!("{field}{eol}").into_bytes());
            }
            head.extend(last.as_bytes());
            for (at, byte) in noise.into_iter().filter(|_| !quiet) {
                let at = at.index(head.len());
                head[at] = byte;
            }
            head.extend(b"\r\n\r\n");
            head
        },
    )
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    heads("(GET|HEAD|POST|OPTIONS|M) (/|\\*|http://a|HTTP://A/b\\?c|/[!-~]{0,9}) HTTP/1\\.[01]")
}

fn responses() -> impl Strategy<Value = Vec<u8>> {
    heads("HTTP/1\\.[01] (101|1[0-9]{2}|200|204|304|426|[0-9]{3})( [ -~]{0,9})?")
}

/// Parses every prefix, and counts how often a head that comes byte by byte would have been parsed until it was decided.
fn check_prefixes<T: PartialEq + std::fmt::Debug>(
    input: &[u8],
    parse: impl Fn(&[u8]) -> Parsed<T>,
) -> Result<(), TestCaseError> {
    let (whole, mut looks, mut decided) = (parse(input), 0, None);
    for end in 1..=input.len() {
        let parsed = parse(&input[..end]);
        prop_assert!(parsed == Ok(Parse::NeedMore) || parsed == whole, "{end}: {parsed:?}, whole: {whole:?}");
        if decided.is_none() && (end == 1 || is_complete(&input[..end], end - 1)) {
            looks += 1;
            decided = (parsed != Ok(Parse::NeedMore)).then_some(parsed);
        }
    }
    prop_assert_eq!(decided, Some(whole));
    prop_assert!(looks <= 2, "{looks}");
    Ok(())
}

/// A request as httparse sees it.
struct Seen {
    line: [String; 2],
    fields: Vec<(String, Vec<u8>)>,
    bytes: usize,
}

fn seen(input: &[u8]) -> Seen {
    let mut storage = [httparse::EMPTY_HEADER; FIELDS_COUNT_MAX];
    let mut request = httparse::Request::new(&mut storage);
    let Ok(httparse::Status::Complete(bytes)) = request.parse(input) else { panic!("httparse refuses it") };
    let line = [request.method, request.path].map(|part| part.unwrap().to_owned());
    let fields = request.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
    Seen { line, fields, bytes }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..Default::default() })]

    #[test]
    fn segments_never_change_what_a_request_is(input in requests()) {
        // Empty lines in front are the driver's to skip.
        prop_assume!(!input.starts_with(b"\r"));
        check_prefixes(&input, request)?;
    }

    #[test]
    fn segments_never_change_what_a_response_is(input in responses(), upgrade: bool, to_head: bool, old: bool) {
        let client = if old { Http10 } else { Http11 };
        check_prefixes(&input, |input| response(input, Exchanged { to_head, client, upgrade, ..GET }))?;
    }

    #[test]
    fn what_is_accepted_is_what_another_parser_sees(input in requests()) {
        if let Ok(Parse::Done((head, forwarded))) = request(&input) {
            let (before, after) = (seen(&input), seen(&forwarded));
            prop_assert_eq!((before.bytes, after.bytes), (head.bytes, forwarded.len()));
            prop_assert_eq!(&before.line[0], &after.line[0]);
            prop_assert!(before.line[1].ends_with(&after.line[1]) || !before.line[1].starts_with(['/', '*']));
            let (fields, fields_after) = (before.fields, after.fields);
            // Ours come last: a Host that HTTP/1.0 did without or that the target replaces, and Connection with TE.
            let passed = fields_after.iter().take_while(|field| fields.contains(field)).count();
            let mut rest = fields.iter();
            prop_assert!(fields_after[..passed].iter().all(|field| rest.any(|r| r == field)), "in their order");
            prop_assert!(fields_after[passed..].iter().all(|field| ["Host", "Connection", "TE"].contains(&&*field.0)));
            let names = |name: &str| fields_after.iter().filter(|f| f.0.eq_ignore_ascii_case(name)).count();
            prop_assert_eq!((names("Host"), names("Connection")), (1, usize::from(head.upgrade || names("TE") == 1)));
        }
    }

    #[test]
    fn what_is_forwarded_means_the_same_to_the_next(input in requests()) {
        if let Ok(Parse::Done((head, forwarded))) = request(&input) {
            let again = accepted(request(&forwarded)).0;
            prop_assert_eq!((again.method, again.framing, again.upgrade), (head.method, head.framing, head.upgrade));
            prop_assert_eq!((again.version, again.keep_alive), (Http11, true));
        }
    }

    #[test]
    fn what_is_answered_means_the_same_to_the_client(input in responses(), upgrade: bool, to_head: bool) {
        let exchanged = Exchanged { to_head, upgrade, ..GET };
        if let Ok(Parse::Done((head, forwarded))) = response(&input, exchanged) {
            let again = accepted(response(&forwarded, exchanged)).0;
            prop_assert_eq!((again.status, again.framing), (head.status, head.framing));
            prop_assert!(head.client_keep_alive || !again.upstream_keep_alive || head.is_interim());
        }
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(input: Vec<u8>, start in "(GET / HTTP/1.1\r\n|HTTP/1.1 200 OK\r\n|)") {
        let input = [start.as_bytes(), &input].concat();
        let _ = (request(&input), response(&input, GET));
    }
}
