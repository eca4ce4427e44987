//! Spans as OTLP has them in JSON (OpenTelemetry Protocol 1.x, "JSON Protobuf Encoding"): ids in hexadecimal, 64-bit numbers as text. What
//! a span says is called as in the semantic conventions for HTTP; `concertina.…` is what these do not know. Pure functions.

use std::{borrow::Cow, fmt::Display, time::Duration};

use serde::{Serialize, Serializer};

use super::{Record, record::End};
use crate::http1::{SpanId, Trace, TraceId, Version, verb::Verb};

/// `SPAN_KIND_SERVER`: it answers somebody else.
const SERVER: u8 = 2;

/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`, and that it is: whoever has asked is another process.
const PARENT_IS_KNOWN: u32 = 0x100;
/// See [`PARENT_IS_KNOWN`].
const PARENT_IS_REMOTE: u32 = 0x200;

/// A span.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Span<'a> {
    trace_id: Written<TraceId>,
    span_id: Written<SpanId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<Written<SpanId>>,
    flags: u32,
    name: &'static str,
    kind: u8,
    start_time_unix_nano: Written<u64>,
    end_time_unix_nano: Written<u64>,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<Event>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: Value<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Value<'a> {
    StringValue(Cow<'a, str>),
    IntValue(Written<u64>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    time_unix_nano: Written<u64>,
    name: &'static str,
}

#[derive(Serialize)]
struct Status {
    code: u8,
}

/// What is said as text.
struct Written<T>(T);

impl<T: Display> Serialize for Written<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

/// What is known of whom a span is about.
#[derive(Default)]
struct Attributes<'a>(Vec<Attribute<'a>>);

impl<'a> Attributes<'a> {
    fn say(&mut self, key: &'static str, text: impl Into<Cow<'a, str>>) {
        self.0.push(Attribute { key, value: Value::StringValue(text.into()) });
    }

    fn count(&mut self, key: &'static str, number: u64) {
        self.0.push(Attribute { key, value: Value::IntValue(Written(number)) });
    }
}

/// Appends the span of a request of a role that started at a time since the Unix epoch.
pub(super) fn push_span(record: &Record, trace: &Trace, role: &str, started: Duration, text: &mut Vec<u8>) {
    let verb = verb(record);
    // 64 bits: a clock of after 2554 must not take along the other spans of its batch.
    let at = |phase: Duration| Written(u64::try_from((started + phase).as_nanos()).unwrap_or(u64::MAX));
    let event = |name, phase: Option<Duration>| phase.map(|phase| Event { name, time_unix_nano: at(phase) });
    let events = [event("connected", record.phases.upstream), event("first_byte", record.phases.first_byte)];
    let remote = if trace.parent.is_some() { PARENT_IS_REMOTE } else { 0 };
    let span = Span {
        trace_id: Written(trace.told.trace_id),
        span_id: Written(trace.told.parent_id),
        parent_span_id: trace.parent.map(Written),
        flags: PARENT_IS_KNOWN | remote | u32::from(trace.told.flags()),
        // Its target is the client's choice: a name must be one of few.
        name: if verb == Verb::Other { "HTTP" } else { verb.word() },
        kind: SERVER,
        start_time_unix_nano: at(Duration::ZERO),
        end_time_unix_nano: at(record.phases.end),
        attributes: attributes(record, verb, role),
        events: events.into_iter().flatten().collect(),
        status: is_error(record).then_some(Status { code: ERROR }),
    };
    let written = serde_json::to_writer(text, &span);
    debug_assert!(written.is_ok(), "memory takes whatever is written to it");
}

fn attributes<'a>(record: &'a Record, verb: Verb, role: &'a str) -> Vec<Attribute<'a>> {
    let mut told = Attributes(Vec::with_capacity(20));
    if verb == Verb::Other {
        told.say("http.request.method", "_OTHER");
        told.say("http.request.method_original", String::from_utf8_lossy(record.method.bytes()));
    } else {
        told.say("http.request.method", verb.word());
    }
    told.say("url.scheme", record.scheme.name());
    told.say("url.path", String::from_utf8_lossy(path(record.target.bytes())));
    if let Some((host, port)) = host_and_port(record) {
        told.say("server.address", host);
        if let Some(port) = port {
            told.count("server.port", port.into());
        }
    }
    if let Some(client) = record.client {
        told.say("client.address", client.ip().to_string());
        told.count("client.port", client.port().into());
    }
    told.say("network.protocol.name", "http");
    match (record.is_http2, record.version) {
        (true, _) => told.say("network.protocol.version", "2"),
        (false, Some(Version::Http10)) => told.say("network.protocol.version", "1.0"),
        (false, Some(Version::Http11)) => told.say("network.protocol.version", "1.1"),
        (false, None) => {}
    }
    if let Some(status) = record.status {
        told.count("http.response.status_code", status.into());
    }
    told.count("http.request.body.size", record.bytes_in);
    told.count("http.response.body.size", record.bytes_out);
    if record.retries > 0 {
        told.count("http.request.resend_count", record.retries.into());
    }
    if let Some(error) = error_type(record) {
        told.say("error.type", error);
    }
    if !role.is_empty() {
        told.say("concertina.role", role);
    }
    if let Some(upstream) = &record.upstream {
        told.say("concertina.upstream.address", upstream.addr.to_string());
        told.count("concertina.upstream.instance", upstream.instance);
    }
    if let Some(id) = &record.id {
        told.say("concertina.request_id", id.as_str());
    }
    told.say("concertina.end", record.end.word());
    told.0
}

fn verb(record: &Record) -> Verb {
    str::from_utf8(record.method.bytes()).map_or(Verb::Other, Verb::of)
}

/// The path of a target, be it absolute. What is asked behind it (`url.query`) may be a secret, and is not told.
fn path(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    let target = &target[..end];
    let Some(scheme) = target.windows(3).position(|part| part == b"://").filter(|_| target[0] != b'/') else {
        return target;
    };
    let rest = &target[scheme + 3..];
    rest.iter().position(|&byte| byte == b'/').map_or(b"/", |slash| &rest[slash..])
}

/// Whom the client has asked, if all of that was kept.
fn host_and_port(record: &Record) -> Option<(&str, Option<u16>)> {
    let host = str::from_utf8(record.host.bytes()).ok()?;
    if host.is_empty() || record.host.is_cut {
        return None;
    }
    match host.rsplit_once(':') {
        // The colons of an address of version 6 are in brackets.
        Some((host, port)) if !port.ends_with(']') => Some((host, port.parse().ok())),
        _ => Some((host, None)),
    }
}

/// 4xx is the client's error, not this server's (semantic conventions for HTTP spans, "Status").
fn is_error(record: &Record) -> bool {
    record.status.is_some_and(|status| status >= 500) || record.end == End::Truncated
}

fn error_type(record: &Record) -> Option<Cow<'static, str>> {
    match record.end {
        End::Done | End::Refused(_) if !is_error(record) => None,
        End::Done => record.status.map(|status| status.to_string().into()),
        end => Some(end.word().into()),
    }
}

/// What a collector is sent: spans, each behind a comma but the first, of the proxy beside this node.
pub(super) fn document(node: &str, spans: &[u8]) -> Vec<u8> {
    let text = |key, text| Attribute { key, value: Value::StringValue(Cow::Borrowed(text)) };
    let resource = [
        text("service.name", "concertina"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", node),
    ];
    // Text alone can be written.
    let resource = serde_json::to_string(&resource).unwrap_or_default();
    let start = format!(
        "{{\"resourceSpans\":[{{\"resource\":{{\"attributes\":{resource}}},\"scopeSpans\":[{{\"scope\":{{\"name\":\"concertina.proxy\"}},\"spans\":["
    );
    [start.as_bytes(), spans, b"]}]}]}"].concat()
}

#[cfg(test)]
mod tests;
