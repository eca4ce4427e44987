//! Where clients are sent.

use std::fmt;

use serde::Deserialize;

use super::RouteError;
use crate::http1::head::is_authority;

/// Longest part of a redirect in bytes.
const PART_BYTES_MAX: usize = 1024;

/// A redirect: what it names is otherwise, the rest is as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Redirect {
    /// http or https
    #[serde(default)]
    pub scheme: Option<Scheme>,
    /// HOST or HOST:PORT
    #[serde(default)]
    pub host: Option<String>,
    /// The path; the query stays
    #[serde(default)]
    pub path: Option<String>,
    /// The client may remember it (308); otherwise it asks again next time (307)
    #[serde(default)]
    pub permanent: bool,
}

/// The scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// http
    Http,
    /// https
    Https,
}

impl Redirect {
    /// The same with TLS.
    pub(crate) const TO_HTTPS: Self =
        Self { scheme: Some(Scheme::Https), host: None, path: None, permanent: true };

    pub(super) fn check(&self) -> Result<(), RouteError> {
        if self.scheme.is_none() && self.host.is_none() && self.path.is_none() {
            return Err(RouteError::new(&["redirect"], "redirect: expected a scheme, a host or a path"));
        }
        if let Some(host) = self.host.as_deref().filter(|host| !is_host(host)) {
            let why = format!("redirect: {host:?} is not a host: expected HOST or HOST:PORT");
            return Err(RouteError::new(&["redirect", "host"], why));
        }
        if let Some(path) = self.path.as_deref().filter(|path| !is_path(path)) {
            let why = format!("redirect: {path:?} is not a path: expected one such as /new");
            return Err(RouteError::new(&["redirect", "path"], why));
        }
        Ok(())
    }

    /// The value of Location for a request of this host and target; none where it names no host, and one is needed.
    pub(crate) fn location(&self, host: &[u8], target: &[u8]) -> Option<String> {
        let target = std::str::from_utf8(target).ok()?;
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let path = self.path.as_deref().unwrap_or(path);
        if self.scheme.is_none() && self.host.is_none() {
            return Some(format!("{path}{query}"));
        }
        // Another scheme is spoken at its own port.
        let asked = std::str::from_utf8(host).ok().map(|host| {
            let port = host.rfind(':').filter(|_| !host.ends_with(']') && self.scheme.is_some());
            &host[..port.unwrap_or(host.len())]
        });
        let host = self.host.as_deref().or(asked).filter(|host| !host.is_empty())?;
        // RFC 3986 4.2: without a scheme that of the request stays.
        let scheme = match self.scheme {
            Some(Scheme::Http) => "http:",
            Some(Scheme::Https) => "https:",
            None => "",
        };
        Some(format!("{scheme}//{host}{path}{query}"))
    }
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = self.location(b"HOST", b"PATH").unwrap_or_default();
        write!(f, "{location}{}", if self.permanent { " for good" } else { "" })
    }
}

fn is_host(host: &str) -> bool {
    host.len() <= PART_BYTES_MAX && is_authority(host.as_bytes())
}

fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && !path.starts_with("//")
        && path.len() <= PART_BYTES_MAX
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_changes_what_it_names_and_nothing_else() {
        let redirect = |scheme, host: Option<&str>, path: Option<&str>| Redirect {
            scheme,
            host: host.map(ToOwned::to_owned),
            path: path.map(ToOwned::to_owned),
            permanent: false,
        };
        let location = |redirect: Redirect| redirect.location(b"a.example:8080", b"/x?y=1");
        for (redirect, there) in [
            (redirect(Some(Scheme::Https), None, None), "https://a.example/x?y=1"),
            (redirect(None, Some("b:1"), None), "//b:1/x?y=1"),
            (redirect(None, None, Some("/z")), "/z?y=1"),
            (redirect(Some(Scheme::Http), Some("b"), Some("/z")), "http://b/z?y=1"),
        ] {
            assert_eq!(location(redirect).as_deref(), Some(there));
        }
        let https = redirect(Some(Scheme::Https), None, None);
        assert_eq!(https.location(b"[::1]:80", b"/").as_deref(), Some("https://[::1]/"));
        assert_eq!(https.location(b"", b"/"), None, "to nowhere");
    }
}
