//! How requests are traced: whose trace goes on, how many begin, and where spans go.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use super::text::read_as_text;
use crate::http1::{TraceId, trace_context::RANDOM_BITS};

/// What becomes of the traces that requests are parts of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TraceMode {
    /// Traceparent and tracestate are fields as any others.
    Off,
    /// That of the client goes on, if it sends one; else one begins.
    Propagate,
    /// One begins with each request.
    Restart,
}

/// Which of the traces that begin here are sampled: those whose random bits are no less than this. Whoever else samples by the same bits
/// (W3C Trace Context Level 2, 3.2.2.5.2) has the same traces, or more of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    least: u64,
}

impl Sampling {
    /// All of them.
    pub const ALL: Self = Self { least: 0 };

    /// So many in a hundred; none if that is no share.
    fn of_percent(percent: f64) -> Option<Self> {
        let is_share = (0.0..=100.0).contains(&percent);
        // Between 0 and 2^56, which a float holds.
        is_share.then(|| Self { least: ((1.0 - percent / 100.0) * (1_u64 << RANDOM_BITS) as f64) as u64 })
    }

    /// Whether this trace is one of them.
    pub(crate) fn takes(self, trace: TraceId) -> bool {
        trace.random_bits() >= self.least
    }
}

fn no_share(text: impl fmt::Display) -> String {
    format!("{text}: expected a number from 0 to 100, such as 5 or 0.1")
}

impl FromStr for Sampling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().ok().and_then(Self::of_percent).ok_or_else(|| no_share(text))
    }
}

impl<'de> Deserialize<'de> for Sampling {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let percent = f64::deserialize(from)?;
        Self::of_percent(percent).ok_or_else(|| de::Error::custom(no_share(percent)))
    }
}

impl JsonSchema for Sampling {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sampling".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "number", "minimum": 0, "maximum": 100 })
    }
}

/// Whoever takes spans by OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint {
    /// Host and port, as Host says them.
    pub authority: String,
    /// Where traces are posted to.
    pub path: String,
}

read_as_text!(OtlpEndpoint, "http://HOST:PORT, with or without a path before /v1/traces");

impl FromStr for OtlpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{text:?} is no place for spans: {why}"));
        let Some(rest) = text.strip_prefix("http://") else {
            return wrong("expected http://HOST:PORT; a collector beside this proxy can go on over TLS");
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port = authority.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        let is_authority = crate::http1::head::is_authority(authority.as_bytes());
        if !is_authority || !port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return wrong("expected a host and its port, such as http://collector:4318");
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte)) {
            return wrong("expected a path without a query");
        }
        // As OTEL_EXPORTER_OTLP_ENDPOINT is read (OpenTelemetry Protocol Exporter, Endpoint URLs for OTLP/HTTP).
        let path = format!("{}/v1/traces", path.trim_end_matches('/'));
        Ok(Self { authority: authority.to_owned(), path })
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_from_0_to_100_and_takes_as_many_traces() {
        let trace = |low: u64| TraceId::of_bits(1, low).unwrap();
        let (least, most) = (trace(0xff00_0000_0000_0000), trace(0xff_ffff_ffff_ffff));
        for (text, takes_least, takes_most) in
            [("0", false, false), ("0.00001", false, true), ("50", false, true), ("100", true, true)]
        {
            let sampling: Sampling = text.parse().unwrap();
            assert_eq!((sampling.takes(least), sampling.takes(most)), (takes_least, takes_most), "{text}");
        }
        assert_eq!("100".parse(), Ok(Sampling::ALL));
        let half: Sampling = "50".parse().unwrap();
        assert!(half.takes(trace(1 << 55)) && !half.takes(trace((1 << 55) - 1)));
        for bad in ["-1", "100.1", "NaN", "inf", "5%", ""] {
            assert!(bad.parse::<Sampling>().is_err_and(|error| error.contains("from 0 to 100")), "{bad}");
        }
    }

    #[test]
    fn a_place_for_spans_has_a_host_and_a_port_and_the_path_of_traces() {
        for (text, whole) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://127.0.0.1:1/", "http://127.0.0.1:1/v1/traces"),
            ("http://[::1]:4318/otlp/", "http://[::1]:4318/otlp/v1/traces"),
        ] {
            assert_eq!(text.parse::<OtlpEndpoint>().unwrap().to_string(), whole);
        }
        for bad in [
            "collector:4318",
            "https://a:1",
            "http://a",
            "http://:1",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://u@a:1",
            "http://::1:4318x",
            "http://a:1/b?c",
            "http://a:1/b c",
            "http://a b:1",
            "http://a:1/\r\nX: y",
        ] {
            assert!(bad.parse::<OtlpEndpoint>().is_err_and(|e| e.contains("no place for spans")), "{bad}");
        }
    }
}
