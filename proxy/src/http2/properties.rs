//! Properties of both translations: what is written of a request is read as the same, and a response is read the same in any pieces.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use proptest::prelude::*;

use super::{
    decode::{Decoder, Part, tests::decoded},
    encode::{Coding, encode_data, encode_end, encode_head},
    meter::Meter,
    request::decode_request,
};
use crate::{
    flood::Flood,
    http1::{
        Framing, Parse, Pieces,
        head::{Hop, parse_request},
    },
    limits::FIELDS_COUNT_MAX,
};

/// Names and values as HPACK may carry them: mostly good, and whatever tries to be more than one line.
fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let name = prop_oneof![
        8 => "[a-z][a-z0-9-]{0,8}",
        2 => "(cookie|host|te|content-length|expect|via|x-forwarded-for)",
        1 => "(connection|transfer-encoding|upgrade|keep-alive|proxy-connection|sec-websocket-key)",
        1 => "[!-~]{1,6}",
    ];
    let value = prop_oneof![
        8 => "[ -~]{0,20}".prop_map(String::into_bytes),
        2 => "(a|0|5|chunked|trailers|100-continue|5, 5)".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..12),
    ];
    prop::collection::vec((name, value), 0..8)
}

/// The fields of a head of HTTP/1, as another parser sees them.
fn seen(head: &[u8]) -> (String, String, Vec<(String, Vec<u8>)>) {
    let mut storage = [httparse::EMPTY_HEADER; FIELDS_COUNT_MAX];
    let mut request = httparse::Request::new(&mut storage);
    let Ok(httparse::Status::Complete(bytes)) = request.parse(head) else { panic!("httparse refuses it") };
    assert_eq!(bytes, head.len());
    let fields = request.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
    (request.method.unwrap().to_owned(), request.path.unwrap().to_owned(), fields)
}

/// What of a request whose head has been read: data, and trailers.
fn behind(framing: Framing, bytes: &mut BytesMut) -> (Vec<u8>, Option<HeaderMap>) {
    let (mut decoder, mut data) = (Decoder::behind(framing), Vec::new());
    loop {
        match decoder.decode(bytes).unwrap() {
            Some(Part::Data(piece)) => data.extend_from_slice(&piece),
            Some(Part::End(trailers)) => return (data, trailers),
            None if decoder.is_done() => return (data, None),
            other => panic!("{other:?}"),
        }
    }
}

fn metered(bytes: &[u8], size: usize) -> (Option<Flood>, Option<u64>) {
    let now = std::time::Instant::now();
    let mut meter = Meter::new(now);
    for piece in bytes.chunks(size) {
        meter.give(piece, |_| ());
        if let Err(flood) = meter.take(piece, || now) {
            return (Some(flood), None);
        }
    }
    (None, meter.unfinished())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..Default::default() })]

    #[test]
    fn a_head_that_is_written_is_read_as_the_same_or_refused(
        method in "(GET|HEAD|POST|PUT|OPTIONS|M|CONNECT)",
        target in "(/[!-~]{0,12}|\\*|/|/a b|a)",
        authority in prop::option::of("(a|a.b:80|\\[::1\\]|a@b|A)"),
        fields in fields(),
        is_whole: bool,
    ) {
        let uri = match &authority {
            Some(authority) => format!("https://{authority}{target}"),
            None => target,
        };
        let Ok(request) = Request::builder().method(&*method).uri(uri).body(()) else { return Ok(()) };
        let mut parts = request.into_parts().0;
        for (name, value) in &fields {
            let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|n| n.as_str() == name);
            if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                parts.headers.append(name, value);
            }
        }
        let mut head = Vec::new();
        let Ok(coding) = encode_head(&parts, None, is_whole, "", &mut head) else { return Ok(()) };
        let (seen_method, seen_target, seen_fields) = seen(&head);
        prop_assert_eq!(seen_method, parts.method.as_str());
        prop_assert_eq!(seen_target, parts.uri.path_and_query().unwrap().as_str());
        // Each field is there as often as it was, with its value; of cookies there is one.
        for name in parts.headers.keys().filter(|name| !["cookie", "host"].contains(&name.as_str())) {
            let values: Vec<&[u8]> = parts.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            let named = seen_fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name.as_str()));
            prop_assert_eq!(named.map(|(_, value)| &value[..]).collect::<Vec<_>>(), values, "{}", name);
        }
        let count = |name: &str| seen_fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).count();
        prop_assert_eq!(count("host"), 1);
        prop_assert!(count("cookie") <= 1 && count("connection") == 0);
        // Whoever reads it next sees the end where it was written, or refuses it.
        let length = head.len();
        match parse_request(&mut head, Hop::plain("a"), &mut Pieces::default()) {
            Ok(Parse::Done(parsed)) => {
                prop_assert_eq!(parsed.bytes, length);
                match (coding, parsed.framing) {
                    (Coding::Chunked, Framing::Chunked) => {}
                    // Of a length of 0 nothing comes, and `h2` bears nothing else.
                    (Coding::Plain, Framing::Length(_) | Framing::Empty) => {}
                    // Nothing comes, and so much is waited for: `h2` has refused a length that is not 0.
                    (Coding::Empty, Framing::Empty | Framing::Length(_)) => {}
                    (coding, framing) => prop_assert!(false, "{:?} was written, {:?} was read", coding, framing),
                }
            }
            Ok(Parse::NeedMore) => prop_assert!(false, "it has no end"),
            Err(_) => {}
        }
    }

    #[test]
    fn a_request_that_passes_as_http_1_is_the_same_to_an_upstream_of_http_2(
        method in "(GET|POST|PUT|M)",
        target in "/[a-z?%:@!~]{0,12}",
        authority in "(a|a[.]b:80|\\[::1\\]:8)",
        fields in prop::collection::vec(("x-[a-z]{1,4}", "[!-~]{0,9}"), 0..5),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..30), 0..4),
        says_length: bool,
        trailer in prop::option::of("[!-~]{0,9}"),
    ) {
        let mut request = Request::builder().method(&*method).uri(format!("https://{authority}{target}"));
        for (name, value) in &fields {
            request = request.header(name, value);
        }
        if says_length {
            request = request.header("content-length", pieces.concat().len());
        }
        let parts = request.body(()).unwrap().into_parts().0;
        let trailers = trailer.map(|value| {
            HeaderMap::from_iter([(HeaderName::from_static("x-t"), HeaderValue::from_str(&value).unwrap())])
        });
        let mut bytes = Vec::new();
        let is_whole = pieces.is_empty() && trailers.is_none();
        let coding = encode_head(&parts, None, is_whole, "", &mut bytes).unwrap();
        if !is_whole {
            pieces.iter().for_each(|piece| encode_data(piece, coding, &mut bytes));
            encode_end(trailers.as_ref(), coding, &mut bytes).unwrap();
        }
        let mut bytes = BytesMut::from(&bytes[..]);
        let asked = decode_request(&mut bytes, &http::uri::Scheme::HTTP).unwrap().unwrap();
        prop_assert_eq!((asked.request.method(), asked.request.uri().path_and_query()), (&parts.method, parts.uri.path_and_query()));
        prop_assert_eq!(asked.request.uri().authority(), parts.uri.authority());
        for name in parts.headers.keys() {
            let (seen, said) = (asked.request.headers().get_all(name), parts.headers.get_all(name));
            prop_assert!(seen.iter().eq(said.iter()), "{}", name);
        }
        let (data, passed) = behind(asked.framing, &mut bytes);
        prop_assert_eq!(data, pieces.concat());
        // Trailers have room behind chunks only.
        prop_assert_eq!(passed, trailers.filter(|_| coding == Coding::Chunked));
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn a_response_is_read_the_same_in_any_pieces(
        head in "HTTP/1.1 (200|204|304|103 x\r\n\r\nHTTP/1.1 200|101) (OK)?\r\n((Content-Length|Connection|X-A|Transfer-Encoding): (0|5|close|chunked|x-a)\r\n){0,3}",
        body in prop_oneof!["[a-z]{0,9}", "5\r\n[a-z]{5}\r\n0\r\n(X: y\r\n)?\r\n", "[0-9a-f;\r\n]{0,12}"],
        size in 1_usize..20,
        to_head: bool,
    ) {
        let response = format!("{head}\r\n{body}").into_bytes();
        let whole = decoded(&response, response.len(), to_head);
        prop_assert_eq!(decoded(&response, size, to_head), whole);
    }

    #[test]
    fn no_bytes_make_the_decoder_or_the_meter_panic_and_pieces_do_not_matter_to_either(
        bytes: Vec<u8>,
        start in "(HTTP/1.1 200 OK\r\n(Transfer-Encoding: chunked\r\n\r\n)?)?",
        size in 1_usize..20,
    ) {
        let bytes = [start.as_bytes(), &bytes].concat();
        let _ = decoded(&bytes, size, false);
        prop_assert_eq!(metered(&bytes, size), metered(&bytes, bytes.len().max(1)));
    }
}
