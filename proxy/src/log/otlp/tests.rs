use std::time::Instant;

use serde_json::json;

use super::*;
use crate::{
    error::Refusal,
    http1::{Reject, RequestId, Scheme, Traceparent},
    limits::LOG_HOST_BYTES_MAX,
    log::record::{Phases, Text, Tried},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const STARTED: Duration = Duration::new(1_770_681_599, 42);

fn recorded() -> Trace {
    let sent = Traceparent::parse(format!("00-{TRACE}-b7ad6b7169203331-01").as_bytes()).unwrap();
    Trace::recorded(sent, SpanId::of_bits(0x17).unwrap())
}

fn record() -> Record {
    let mut record = Record::new("192.0.2.7:40000".parse().ok(), 0, Instant::now());
    record.note_line(b"GET /hello?secret HTTP/1.1\r\n");
    Record {
        version: Some(Version::Http11),
        status: Some(200),
        bytes_out: 12,
        upstream: Some(Tried { instance: 7, addr: "10.0.0.1:8080".parse().unwrap() }),
        phases: Phases {
            head: Some(Duration::from_nanos(5)),
            upstream: Some(Duration::from_nanos(70)),
            first_byte: Some(Duration::from_nanos(900)),
            end: Duration::from_nanos(2000),
        },
        host: Text::new(b"shop.example:81"),
        ..record
    }
}

fn span(record: &Record, trace: &Trace) -> serde_json::Value {
    let mut text = Vec::new();
    push_span(record, trace, "front", STARTED, &mut text);
    serde_json::from_slice(&text).unwrap()
}

/// An attribute of a span.
fn told(record: &Record, key: &str) -> Option<String> {
    let span = span(record, &recorded());
    let all = span["attributes"].as_array().unwrap();
    let mut values = all.iter().filter(|attribute| attribute["key"] == key).map(|it| &it["value"]);
    let value = values.next()?;
    assert!(values.next().is_none(), "{key} is there twice: {span}");
    let value = value.get("stringValue").or(value.get("intValue"));
    Some(value.unwrap().as_str().unwrap().to_owned())
}

#[test]
fn a_span_is_as_the_protocol_has_it() {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let number = |key: &str, value: &str| json!({ "key": key, "value": { "intValue": value } });
    let expected = json!({
        "traceId": TRACE,
        "spanId": "0000000000000017",
        "parentSpanId": "b7ad6b7169203331",
        "flags": 0x301,
        "name": "GET",
        "kind": 2,
        "startTimeUnixNano": "1770681599000000042",
        "endTimeUnixNano": "1770681599000002042",
        "attributes": [
            text("http.request.method", "GET"),
            text("url.scheme", "http"),
            text("url.path", "/hello"),
            text("server.address", "shop.example"),
            number("server.port", "81"),
            text("client.address", "192.0.2.7"),
            number("client.port", "40000"),
            text("network.protocol.name", "http"),
            text("network.protocol.version", "1.1"),
            number("http.response.status_code", "200"),
            number("http.request.body.size", "0"),
            number("http.response.body.size", "12"),
            text("concertina.role", "front"),
            text("concertina.upstream.address", "10.0.0.1:8080"),
            number("concertina.upstream.instance", "7"),
            text("concertina.end", "done"),
        ],
        "events": [
            { "timeUnixNano": "1770681599000000112", "name": "connected" },
            { "timeUnixNano": "1770681599000000942", "name": "first_byte" },
        ],
    });
    assert_eq!(span(&record(), &recorded()), expected);
}

#[test]
fn a_trace_that_begins_here_has_no_parent() {
    let told = recorded().told;
    let begun = span(&record(), &Trace::begun(told.trace_id, told.parent_id, true, true));
    assert_eq!((begun.get("parentSpanId"), &begun["flags"]), (None, &json!(0x103)));
}

#[test]
fn an_error_is_what_this_server_or_an_upstream_did_wrong() {
    let not_found = Record { status: Some(404), ..record() };
    let failed = Record { status: Some(500), ..record() };
    let truncated = Record { end: End::Truncated, ..record() };
    let gone = Record { status: None, end: End::ClientGone, ..record() };
    let refused =
        Record { status: Some(400), end: End::Refused(Refusal::Request(Reject::Target)), ..record() };
    let nobody = Record { status: Some(503), end: End::Refused(Refusal::NoUpstream), ..record() };
    for (record, error, is_error) in [
        (record(), None, false),
        (not_found, None, false),
        (failed, Some("500"), true),
        (truncated, Some("truncated"), true),
        (gone, Some("client-gone"), false),
        (refused, None, false),
        (nobody, Some(Refusal::NoUpstream.word()), true),
    ] {
        assert_eq!(told(&record, "error.type").as_deref(), error);
        let status = is_error.then(|| json!({ "code": 2 }));
        assert_eq!(span(&record, &recorded()).get("status"), status.as_ref(), "{error:?}");
        assert_eq!(told(&record, "concertina.end").as_deref(), Some(record.end.word()));
    }
}

#[test]
fn a_path_is_what_lies_between_host_and_query() {
    for (target, expected) in [
        ("/a/b?c=http://x/", "/a/b"),
        ("/", "/"),
        ("*", "*"),
        ("http://a/b?c", "/b"),
        ("http://a?c", "/"),
        ("https://a", "/"),
        ("/x://y/z", "/x://y/z"),
        ("", ""),
        ("?", ""),
        ("://", "/"),
    ] {
        assert_eq!(path(target.as_bytes()), expected.as_bytes(), "{target}");
    }
}

#[test]
fn a_host_is_told_whole_or_not_at_all() {
    let host = |host: &[u8]| {
        let record = Record { host: Text::new(host), ..record() };
        (told(&record, "server.address"), told(&record, "server.port"))
    };
    let (whole, longer) = (vec![b'x'; LOG_HOST_BYTES_MAX], vec![b'x'; LOG_HOST_BYTES_MAX + 1]);
    assert_eq!(host(&whole).0.unwrap().len(), LOG_HOST_BYTES_MAX);
    for (given, address, port) in [
        (&b"a"[..], Some("a"), None),
        (b"a:80", Some("a"), Some("80")),
        (b"[::1]", Some("[::1]"), None),
        (b"[::1]:8080", Some("[::1]"), Some("8080")),
        (b"a:", Some("a"), None),
        (b"", None, None),
        (&longer, None, None),
    ] {
        assert_eq!(host(given), (address.map(Into::into), port.map(Into::into)), "{given:?}");
    }
}

#[test]
fn what_few_requests_have_is_told_of_those() {
    let mut other = record();
    other.note_line(b"PROP\xffFIND http://a/\xe4\"\n HTTP/1.1\r\n");
    assert_eq!(told(&other, "http.request.method").as_deref(), Some("_OTHER"));
    assert_eq!(told(&other, "http.request.method_original").as_deref(), Some("PROP\u{fffd}FIND"));
    assert_eq!(span(&other, &recorded())["name"], "HTTP");
    let streamed = Record { is_http2: true, version: None, scheme: Scheme::Https, retries: 2, ..record() };
    assert_eq!(told(&streamed, "network.protocol.version").as_deref(), Some("2"));
    assert_eq!(told(&streamed, "url.scheme").as_deref(), Some("https"));
    assert_eq!(told(&streamed, "http.request.resend_count").as_deref(), Some("2"));
    let named = Record { id: RequestId::parse(b"mine-1"), client: None, upstream: None, ..record() };
    assert_eq!(told(&named, "concertina.request_id").as_deref(), Some("mine-1"));
    assert_eq!((told(&named, "client.address"), told(&named, "concertina.upstream.address")), (None, None));
}

#[test]
fn spans_are_sent_as_those_of_a_node() {
    let read: serde_json::Value = serde_json::from_slice(&document("proxy1", b"{},{}")).unwrap();
    let of_node = &read["resourceSpans"][0];
    let told: Vec<_> = of_node["resource"]["attributes"].as_array().unwrap().iter().collect();
    let instance = json!({ "key": "service.instance.id", "value": { "stringValue": "proxy1" } });
    assert_eq!((told.len(), told[2]), (3, &instance));
    assert_eq!(told[0]["value"]["stringValue"], "concertina");
    assert_eq!(of_node["scopeSpans"][0]["spans"], json!([{}, {}]));
}

#[test]
fn a_time_is_64_bits_however_wrong_the_clock_is() {
    let most = Duration::from_nanos(u64::MAX);
    for (started, told) in [
        (Duration::ZERO, "0"),
        (most - Duration::from_nanos(1), "18446744073709551614"),
        (most, "18446744073709551615"),
        (most + Duration::from_nanos(1), "18446744073709551615"),
    ] {
        let mut text = Vec::new();
        push_span(&record(), &recorded(), "front", started, &mut text);
        let span: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(span["startTimeUnixNano"], told);
    }
}
