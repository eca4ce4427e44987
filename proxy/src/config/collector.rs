//! Where spans go: the collector, whose certificate is believed, and what it is told of who sends them.

use std::{fmt, str::FromStr};

use super::text::read_as_text;
use crate::http1::fields::is_token;

/// The port of a collector over TLS that is said without one: mostly somebody hosts it.
const HTTPS_PORT: u16 = 443;

/// Fields that a post has anyway, or that say how long it is.
const OWN_FIELDS: [&str; 6] =
    ["connection", "content-encoding", "content-length", "content-type", "host", "transfer-encoding"];

/// Whoever takes spans by OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint {
    /// Over TLS.
    pub is_sealed: bool,
    /// Host and port, as Host says them; over TLS perhaps without the port.
    pub authority: String,
    /// Where traces are posted to.
    pub path: String,
}

read_as_text!(
    OtlpEndpoint,
    "http://HOST:PORT or https://HOST[:PORT], with or without a path before /v1/traces"
);

impl OtlpEndpoint {
    /// The host, an IPv6 address without its brackets.
    pub(crate) fn host(&self) -> &str {
        let host = self.host_and_port().0;
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.host_and_port().1.and_then(|port| port.parse().ok()).unwrap_or(HTTPS_PORT)
    }

    fn host_and_port(&self) -> (&str, Option<&str>) {
        host_and_port(&self.authority)
    }
}

/// The colons of an address of version 6 are in brackets.
fn host_and_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

impl FromStr for OtlpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{text:?} is no place for spans: {why}"));
        let (is_sealed, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return wrong("expected http://HOST:PORT or https://HOST"),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = host_and_port(authority);
        let is_port = port.map_or(is_sealed, |port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if !crate::http1::head::is_authority(authority.as_bytes()) || host.is_empty() || !is_port {
            return wrong(
                "expected a host and its port, such as http://collector:4318, or https:// and a host",
            );
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte)) {
            return wrong("expected a path without a query");
        }
        // As OTEL_EXPORTER_OTLP_ENDPOINT is read (OpenTelemetry Protocol Exporter, Endpoint URLs for OTLP/HTTP).
        let path = format!("{}/v1/traces", path.trim_end_matches('/'));
        Ok(Self { is_sealed, authority: authority.to_owned(), path })
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_sealed { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// A field of each post, such as a key of whoever hosts the collector.
#[derive(Clone, PartialEq, Eq)]
pub struct OtlpHeader {
    name: String,
    value: String,
}

read_as_text!(OtlpHeader, "NAME: VALUE");

impl OtlpHeader {
    /// The line of a head.
    pub(crate) fn line(&self) -> String {
        format!("{}: {}\r\n", self.name, self.value)
    }
}

/// The value is a secret, mostly.
impl fmt::Debug for OtlpHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: …", self.name)
    }
}

impl FromStr for OtlpHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected 'NAME: VALUE', such as 'x-api-key: abc'";
        // Whatever is wrong, the value is not said: it may be a secret all the same.
        let (name, value) = text.split_once(':').ok_or_else(|| format!("no colon: {EXPECTED}"))?;
        let value = value.trim_matches([' ', '\t']);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("{name:?} is no name of a field: {EXPECTED}"));
        }
        if OWN_FIELDS.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            return Err(format!("{name}: each post has its own; expected another field"));
        }
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic() || b" \t".contains(&byte)) {
            return Err(format!("{name}: no value of visible ASCII: {EXPECTED}"));
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_for_spans_has_a_host_a_port_and_the_path_of_traces() {
        for (text, whole, host, port) in [
            ("http://collector:4318", "http://collector:4318/v1/traces", "collector", 4318),
            ("http://127.0.0.1:1/", "http://127.0.0.1:1/v1/traces", "127.0.0.1", 1),
            ("http://[::1]:4318/otlp/", "http://[::1]:4318/otlp/v1/traces", "::1", 4318),
            ("https://a.example", "https://a.example/v1/traces", "a.example", 443),
            ("https://a.example:4318/otlp", "https://a.example:4318/otlp/v1/traces", "a.example", 4318),
            ("https://[::1]", "https://[::1]/v1/traces", "::1", 443),
        ] {
            let endpoint: OtlpEndpoint = text.parse().unwrap();
            assert_eq!(
                (endpoint.to_string().as_str(), endpoint.host(), endpoint.port()),
                (whole, host, port)
            );
        }
        for bad in [
            "collector:4318",
            "grpc://a:1",
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
            "https://",
            "https://:443",
            "https://a:",
            "https://a:0",
            "https://u@a",
        ] {
            assert!(bad.parse::<OtlpEndpoint>().is_err_and(|e| e.contains("no place for spans")), "{bad}");
        }
    }

    #[test]
    fn a_field_for_the_collector_is_one_line_and_its_value_is_never_said() {
        for (text, line) in [
            ("x-api-key: abc", "x-api-key: abc\r\n"),
            ("Authorization:Basic YTpi ", "Authorization: Basic YTpi\r\n"),
            ("a:b:c", "a: b:c\r\n"),
        ] {
            let header: OtlpHeader = text.parse().unwrap();
            assert_eq!((header.line().as_str(), format!("{header:?}").contains('…')), (line, true));
        }
        for bad in [
            "secret",
            ": secret",
            "a b: secret",
            "a: secret\r\nb: c",
            "a: sécret",
            "a:",
            "a: ",
            "Host: secret",
        ] {
            let why = bad.parse::<OtlpHeader>().unwrap_err();
            assert!(why.contains("expected") && (!why.contains("secret") || bad == "secret"), "{bad}: {why}");
        }
    }
}
