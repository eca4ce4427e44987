//! Lines of the log: pure functions of a record and the time. Method and target are a stranger's bytes; nothing of them may
//! look like another field, another line or a terminal's escape sequence.

use std::{io::Write, time::Duration};

use time::OffsetDateTime;

use super::Record;
use crate::http1::{RequestId, Version};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// How a line looks.
pub(super) enum Format {
    /// Apache's common log format: `-` for what is not known, times in UTC. Where requests have ids, the id follows, in quotes, and where they
    /// are traced, the trace's behind that.
    Common,
    /// An object, `null` for what is not known.
    Json,
}

impl Format {
    /// Appends the line of a request of a role that started at a time since the Unix epoch.
    pub(super) fn line(&self, record: &Record, role: &str, started: Duration, text: &mut Vec<u8>) {
        let started = OffsetDateTime::UNIX_EPOCH.checked_add(started.try_into().unwrap_or_default());
        let started = started.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let written = match self {
            Self::Common => common(record, started, text),
            Self::Json => json(record, role, started, text),
        };
        debug_assert!(written.is_ok(), "memory takes whatever is written to it");
    }
}

fn common(record: &Record, at: OffsetDateTime, text: &mut Vec<u8>) -> std::io::Result<()> {
    let (month, (hour, minute, second)) = (MONTHS[usize::from(u8::from(at.month())) - 1], at.time().as_hms());
    let (day, year) = (at.day(), at.year());
    match record.client {
        Some(client) => write!(text, "{}", client.ip())?,
        None => text.push(b'-'),
    }
    write!(text, " - - [{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000] \"")?;
    let (method, target) = (record.method.bytes(), record.target.bytes());
    if method.is_empty() && target.is_empty() {
        text.push(b'-');
    } else {
        push_or_dash(text, method);
        text.push(b' ');
        push_or_dash(text, target);
        text.push(b' ');
        text.extend(protocol(record).unwrap_or("-").as_bytes());
    }
    text.extend(b"\" ");
    match record.status {
        Some(status) => write!(text, "{status} ")?,
        None => text.extend(b"- "),
    }
    match record.bytes_out {
        0 => text.push(b'-'),
        bytes => write!(text, "{bytes}")?,
    }
    // An id has no character that would have to be escaped.
    match (record.id, record.trace) {
        (Some(id), _) => write!(text, " \"{id}\"")?,
        (None, Some(_)) => text.extend(b" \"-\""),
        (None, None) => {}
    }
    if let Some(trace) = record.trace {
        write!(text, " \"{}\"", trace.told.trace_id)?;
    }
    text.push(b'\n');
    Ok(())
}

fn json(record: &Record, role: &str, at: OffsetDateTime, text: &mut Vec<u8>) -> std::io::Result<()> {
    let ((hour, minute, second, ms), date) = (at.time().as_hms_milli(), at.date());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    write!(text, "{{\"time\":\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z\"")?;
    match record.client {
        Some(client) => write!(text, ",\"client\":\"{client}\"")?,
        None => text.extend(b",\"client\":null"),
    }
    // A name has no character that would have to be escaped.
    write!(text, ",\"role\":\"{role}\",\"method\":")?;
    push_string(text, record.method.bytes());
    text.extend(b",\"target\":");
    push_string(text, record.target.bytes());
    write!(
        text,
        ",\"target_cut\":{},\"scheme\":\"{}\",\"protocol\":",
        record.target.is_cut,
        record.scheme.name()
    )?;
    push_string(text, protocol(record).unwrap_or_default().as_bytes());
    push_number(text, "status", record.status.map(u64::from))?;
    push_number(text, "bytes_in", Some(record.bytes_in))?;
    push_number(text, "bytes_out", Some(record.bytes_out))?;
    match &record.upstream {
        Some(upstream) => write!(text, ",\"upstream\":\"{}\"", upstream.addr)?,
        None => text.extend(b",\"upstream\":null"),
    }
    push_number(text, "instance", record.upstream.as_ref().map(|upstream| upstream.instance))?;
    push_number(text, "retries", Some(u64::from(record.retries)))?;
    let us = |time: Option<Duration>| time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    push_number(text, "head_us", us(record.phases.head))?;
    push_number(text, "upstream_us", us(record.phases.upstream))?;
    push_number(text, "first_byte_us", us(record.phases.first_byte))?;
    push_number(text, "end_us", us(Some(record.phases.end)))?;
    write!(text, ",\"end\":\"{}\",\"trace_id\":", record.end.word())?;
    match record.trace {
        Some(trace) => write!(text, "\"{}\"", trace.told.trace_id)?,
        None => text.extend(b"null"),
    }
    text.extend(b",\"id\":");
    push_string(text, record.id.as_ref().map_or("", RequestId::as_str).as_bytes());
    text.extend(b"}\n");
    Ok(())
}

fn protocol(record: &Record) -> Option<&'static str> {
    Some(match (record.is_http2, record.version) {
        (true, _) => "HTTP/2.0",
        (false, Some(Version::Http10)) => "HTTP/1.0",
        (false, Some(Version::Http11)) => "HTTP/1.1",
        (false, None) => return None,
    })
}

/// As Apache does it: backslashes before quotes and backslashes, `\xNN` for what is not visible ASCII.
fn push_or_dash(text: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        text.push(b'-');
    }
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend([b'\\', byte]),
            b' '..=b'~' => text.push(byte),
            _ => text.extend([b'\\', b'x', hex(byte >> 4), hex(byte & 15)]),
        }
    }
}

/// A string of RFC 8259, all ASCII: a byte over 0x7e becomes the character of that number, since nobody knows its charset.
/// Nothing at all is `null`.
fn push_string(text: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        return text.extend(b"null");
    }
    text.push(b'"');
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend([b'\\', byte]),
            b' '..=b'~' => text.push(byte),
            _ => text.extend([b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]),
        }
    }
    text.push(b'"');
}

fn push_number(text: &mut Vec<u8>, key: &str, number: Option<u64>) -> std::io::Result<()> {
    match number {
        Some(number) => write!(text, ",\"{key}\":{number}"),
        None => write!(text, ",\"{key}\":null"),
    }
}

fn hex(digit: u8) -> u8 {
    b"0123456789abcdef"[usize::from(digit & 15)]
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        error::Refusal,
        http1::{Reject, Trace, Traceparent},
        limits::LOG_TARGET_BYTES_MAX,
        log::record::{End, Phases, Tried},
    };

    /// 2026-02-09, a moment before midnight.
    const AT: Duration = Duration::from_millis(1_770_681_599_042);

    fn record() -> Record {
        let mut record = Record::new("192.0.2.7:40000".parse().ok(), 1, Instant::now());
        record.note_line(b"GET /hello?a=b HTTP/1.1\r\n");
        let us = |us| Some(Duration::from_micros(us));
        Record {
            version: Some(Version::Http11),
            status: Some(200),
            bytes_in: 3,
            bytes_out: 12,
            upstream: Some(Tried { instance: 1_763_820_000_123, addr: "10.0.0.1:8080".parse().unwrap() }),
            retries: 1,
            phases: Phases {
                head: us(5),
                upstream: us(70),
                first_byte: us(900),
                end: Duration::from_millis(2),
            },
            ..record
        }
    }

    fn refused() -> Record {
        let mut record = Record::new("[2001:db8::1]:1".parse().ok(), 0, Instant::now());
        record.end = End::Refused(Refusal::Request(Reject::BareLineEnd));
        Record { status: Some(400), ..record }
    }

    fn line(format: &Format, record: &Record) -> String {
        let mut text = Vec::new();
        format.line(record, if record.role == 1 { "front" } else { "app" }, AT, &mut text);
        String::from_utf8(text).unwrap()
    }

    fn as_json(record: &Record) -> String {
        line(&Format::Json, record)
    }

    #[test]
    fn a_common_line_is_apaches() {
        assert_eq!(
            line(&Format::Common, &record()),
            "192.0.2.7 - - [09/Feb/2026:23:59:59 +0000] \"GET /hello?a=b HTTP/1.1\" 200 12\n"
        );
        assert_eq!(
            line(&Format::Common, &refused()),
            "2001:db8::1 - - [09/Feb/2026:23:59:59 +0000] \"-\" 400 -\n"
        );
        let called = Record { id: RequestId::parse(b"a-1"), ..refused() };
        assert!(line(&Format::Common, &called).ends_with("\"-\" 400 - \"a-1\"\n"));
        assert!(as_json(&called).ends_with(",\"id\":\"a-1\"}\n"));
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let sent = Traceparent::parse(format!("00-{trace}-b7ad6b7169203331-01").as_bytes()).unwrap();
        let traced = Record { trace: Some(Trace::passed(sent)), ..refused() };
        assert!(line(&Format::Common, &traced).ends_with(&format!("\"-\" 400 - \"-\" \"{trace}\"\n")));
        let both = Record { trace: traced.trace, ..called };
        assert!(line(&Format::Common, &both).ends_with(&format!("\"-\" 400 - \"a-1\" \"{trace}\"\n")));
        assert!(as_json(&both).ends_with(&format!(",\"trace_id\":\"{trace}\",\"id\":\"a-1\"}}\n")));
        let mut half = Record { status: None, ..refused() };
        half.note_line(b"GET");
        assert!(line(&Format::Common, &half).ends_with("] \"GET - -\" - -\n"));
    }

    #[test]
    fn a_json_line_is_one_object() {
        assert_eq!(
            as_json(&record()),
            "{\"time\":\"2026-02-09T23:59:59.042Z\",\"client\":\"192.0.2.7:40000\",\"role\":\"front\",\
             \"method\":\"GET\",\"target\":\"/hello?a=b\",\"target_cut\":false,\"scheme\":\"http\",\"protocol\":\"HTTP/1.1\",\
             \"status\":200,\"bytes_in\":3,\"bytes_out\":12,\"upstream\":\"10.0.0.1:8080\",\
             \"instance\":1763820000123,\"retries\":1,\"head_us\":5,\"upstream_us\":70,\"first_byte_us\":900,\
             \"end_us\":2000,\"end\":\"done\",\"trace_id\":null,\"id\":null}\n"
        );
        assert_eq!(
            as_json(&refused()),
            "{\"time\":\"2026-02-09T23:59:59.042Z\",\"client\":\"[2001:db8::1]:1\",\"role\":\"app\",\
             \"method\":null,\"target\":null,\"target_cut\":false,\"scheme\":\"http\",\"protocol\":null,\
             \"status\":400,\"bytes_in\":0,\"bytes_out\":0,\"upstream\":null,\
             \"instance\":null,\"retries\":0,\"head_us\":null,\"upstream_us\":null,\"first_byte_us\":null,\
             \"end_us\":0,\"end\":\"bare-lf\",\"trace_id\":null,\"id\":null}\n"
        );
    }

    #[test]
    fn a_client_without_an_address_is_not_known_and_a_socket_is_called_by_its_path() {
        let upstream = Tried { instance: 1, addr: "unix:/run/app.sock".parse().unwrap() };
        let record = Record { client: None, upstream: Some(upstream), ..record() };
        assert!(line(&Format::Common, &record).starts_with("- - - [09/Feb/2026"));
        let read: serde_json::Value = serde_json::from_str(&as_json(&record)).unwrap();
        assert!(read["client"].is_null());
        assert_eq!(read["upstream"], "unix:/run/app.sock");
    }

    #[test]
    fn no_byte_of_a_stranger_breaks_out_of_its_field() {
        let every: Vec<u8> = (0..=255).filter(|byte| !b" \r\n".contains(byte)).collect();
        let mut hostile = record();
        hostile.note_line(&[b"G\"\x1b[2J /", &every[..]].concat());
        let common = line(&Format::Common, &hostile);
        assert!(common.contains("] \"G\\\"\\x1b[2J /\\x00\\x01"), "{common}");
        assert!(
            common.contains("!\\\"#$") && common.contains("[\\\\]") && common.contains("~\\x7f\\x80"),
            "{common}"
        );
        let json = as_json(&hostile);
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        let latin1 = |bytes: &[u8]| -> String { bytes.iter().copied().map(char::from).collect() };
        assert_eq!(read["target"], latin1(hostile.target.bytes()));
        assert!(json.contains("\"method\":\"G\\\"\\u001b[2J\""), "{json}");
        assert!(
            json.contains("!\\\"#$") && json.contains("[\\\\]") && json.contains("~\\u007f\\u0080"),
            "{json}"
        );
        for text in [common, json] {
            let (line, rest) = text.split_once('\n').unwrap();
            assert!(rest.is_empty() && line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
        }
    }

    #[test]
    fn a_target_over_the_limit_is_cut_and_said_to_be() {
        let mut long = record();
        long.note_line(format!("GET /{} HTTP/1.1", "x".repeat(LOG_TARGET_BYTES_MAX)).as_bytes());
        assert!(as_json(&long).contains("x\",\"target_cut\":true,"));
    }
}
