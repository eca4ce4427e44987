//! What a request asks for, and whether its sender may.
//!
//! GET only reads. What changes something is asked by POST, from the machine itself or with the token. There is one exception: the kubelet's
//! `preStop` knows GET alone, so GET with the token drains. A browser sends neither that nor, by itself, a POST without an Origin: pages that
//! somebody has open on the machine change nothing.
//!
//! Which requests have failed is told to whoever may change something: paths and addresses of clients are not for everybody. What became of one
//! request is told to who knows its id.

use std::net::IpAddr;

use crate::{Token, map::Page};

/// Longest name of a role or node that is asked for: names have as many bytes at most.
pub const NAME_BYTES_MAX: usize = 63;

/// The media type of the newer format of metrics.
const OPENMETRICS: &str = "application/openmetrics-text";

/// A format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format 0.0.4 of Prometheus.
    Prometheus,
}

impl Format {
    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// What was counted, here and at the role's process.
    Metrics(Format),
    /// Whether this sidecar works.
    Health,
    /// Whether the node is ready.
    Ready,
    /// Everything that is known of the node and its cluster.
    State,
    /// Where the members' metrics are, or those of a role's members.
    Sd {
        /// Its name.
        role: Option<String>,
    },
    /// How much the cluster has to do.
    Load,
    /// What is known of a member, and why.
    Explain {
        /// Its name.
        node: String,
    },
    /// What has become of a request.
    Request {
        /// Its id, whatever it is.
        id: String,
    },
    /// Which requests were the last that failed.
    Failed,
    /// The map, or a part of it.
    Page(Page),
    /// How far a drain is.
    Drained,
    /// Drain, and say when nobody uses the node any more.
    Drain,
    /// Have the role's process read its file again.
    Reload,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is nothing there.
    #[error("there is /, /metrics, /health, /ready, /state, /load, /explain, /sd, /drain and /reload")]
    NotFound,
    /// It is asked for by other methods.
    #[error("expected {0}")]
    Method(&'static str),
    /// The value of the query is none.
    #[error("expected {0}")]
    Query(&'static str),
    /// There is a token, and it is another, or there is none.
    #[error("not the token of --admin-token-file")]
    Token,
    /// It changes something or tells of strangers, and its sender has to prove who it is.
    #[error(
        "needs the token of --admin-token-file (Authorization: Bearer TOKEN), or to be asked from this machine"
    )]
    Stranger,
    /// The same, and a web page asks for it.
    #[error("not for web pages")]
    Page,
}

impl Denied {
    /// The status that tells it.
    pub fn status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Method(_) => 405,
            Self::Query(_) => 400,
            Self::Token => 401,
            Self::Stranger | Self::Page => 403,
        }
    }
}

/// A request, as far as it matters.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: Option<&'a str>,
    /// The field Accept.
    pub accept: &'a str,
    /// The field Authorization.
    pub authorization: Option<&'a [u8]>,
    /// There is a field Origin.
    pub has_origin: bool,
    /// Where it comes from.
    pub peer: IpAddr,
}

impl Request<'_> {
    /// What it asks for.
    ///
    /// # Errors
    /// Nothing that there is, or nothing that its sender may have.
    pub fn asked(&self, token: Option<&Token>) -> Result<Asked, Denied> {
        let read = match self.path {
            "/metrics" => Asked::Metrics(self.format()),
            "/health" => Asked::Health,
            "/ready" => Asked::Ready,
            "/state" => Asked::State,
            "/load" => Asked::Load,
            "/explain" => self.explain(token)?,
            "/sd" => Asked::Sd { role: self.role()? },
            "/drain" => return self.asked_to_drain(token),
            "/reload" if self.method == "POST" => return self.check_trusted(token).map(|()| Asked::Reload),
            "/reload" => return Err(Denied::Method("POST")),
            path => Asked::Page(Page::at(path).ok_or(Denied::NotFound)?),
        };
        if self.reads() { Ok(read) } else { Err(Denied::Method("GET, HEAD")) }
    }

    fn asked_to_drain(&self, token: Option<&Token>) -> Result<Asked, Denied> {
        match self.method {
            "POST" => self.check_trusted(token).map(|()| Asked::Drain),
            "GET" if self.authorization.is_some() => self.check_trusted(token).map(|()| Asked::Drain),
            _ if self.reads() => Ok(Asked::Drained),
            _ => Err(Denied::Method("GET, HEAD, POST")),
        }
    }

    fn reads(&self) -> bool {
        matches!(self.method, "GET" | "HEAD")
    }

    /// Whether its sender may change something. A wrong token is told even to the machine itself, which may do without.
    fn check_trusted(&self, token: Option<&Token>) -> Result<(), Denied> {
        match self.authorization {
            Some(given) if token.is_some_and(|token| token.is_given_by(given)) => Ok(()),
            Some(_) => Err(Denied::Token),
            None if !self.peer.to_canonical().is_loopback() => Err(Denied::Stranger),
            None if self.has_origin => Err(Denied::Page),
            None => Ok(()),
        }
    }

    fn format(&self) -> Format {
        if self.accept.contains(OPENMETRICS) { Format::OpenMetrics } else { Format::Prometheus }
    }

    fn role(&self) -> Result<Option<String>, Denied> {
        if self.query.is_none_or(str::is_empty) {
            return Ok(None);
        }
        self.name("role=").map(Some).ok_or(Denied::Query("/sd or /sd?role=NAME"))
    }

    fn explain(&self, token: Option<&Token>) -> Result<Asked, Denied> {
        if self.query == Some("failed") {
            return self.check_trusted(token).map(|()| Asked::Failed);
        }
        let request = self.query.and_then(|query| decoded(query.strip_prefix("request=")?));
        let asked = match request {
            Some(id) => Some(Asked::Request { id }),
            None => self.name("node=").map(|node| Asked::Explain { node }),
        };
        asked.ok_or(Denied::Query("/explain?node=NAME, /explain?request=ID or /explain?failed"))
    }

    /// The name that is all of the query behind this word.
    fn name(&self, word: &str) -> Option<String> {
        let name = self.query?.strip_prefix(word)?;
        let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_part);
        is_name.then(|| name.to_owned())
    }
}

/// A value of a query: ids may have characters that programs write as %2F (RFC 3986, section 2.1). None: it is no text.
fn decoded(value: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), value.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn request<'a>(method: &'a str, path: &'a str) -> Request<'a> {
        let peer = "127.0.0.1".parse().unwrap();
        Request { method, path, query: None, accept: "", authorization: None, has_origin: false, peer }
    }

    fn token() -> Token {
        TOKEN.parse().unwrap()
    }

    #[test]
    fn reading_is_for_everybody_and_by_get_alone() {
        let peer = "10.0.0.1".parse().unwrap();
        for (path, asked) in [
            ("/metrics", Asked::Metrics(Format::Prometheus)),
            ("/health", Asked::Health),
            ("/ready", Asked::Ready),
            ("/state", Asked::State),
            ("/sd", Asked::Sd { role: None }),
            ("/load", Asked::Load),
            ("/", Asked::Page(Page::Document)),
            ("/map.js", Asked::Page(Page::Script)),
        ] {
            for method in ["GET", "HEAD"] {
                assert_eq!(Request { peer, ..request(method, path) }.asked(None), Ok(asked.clone()));
                let wrong = Request { authorization: Some(b"Bearer x"), peer, ..request(method, path) };
                assert_eq!(wrong.asked(Some(&token())), Ok(asked.clone()), "it needs none");
            }
            assert_eq!(request("POST", path).asked(None), Err(Denied::Method("GET, HEAD")));
        }
        assert_eq!(request("GET", "/map.html").asked(None), Err(Denied::NotFound));
        assert_eq!(request("GET", "/metrics/").asked(None), Err(Denied::NotFound));
        assert_eq!(request("GET", "/reload").asked(None), Err(Denied::Method("POST")));
        assert_eq!(Request { peer, ..request("GET", "/drain") }.asked(None), Ok(Asked::Drained));
        assert_eq!(request("PUT", "/drain").asked(None), Err(Denied::Method("GET, HEAD, POST")));
    }

    #[test]
    fn the_format_of_metrics_is_the_older_one_unless_the_newer_is_asked_for() {
        let format = |accept| Request { accept, ..request("GET", "/metrics") }.asked(None);
        for accept in ["", "*/*", "text/plain;version=0.0.4"] {
            assert_eq!(format(accept), Ok(Asked::Metrics(Format::Prometheus)));
        }
        let newer = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(format(newer), Ok(Asked::Metrics(Format::OpenMetrics)));
    }

    #[test]
    fn changes_are_for_the_machine_itself_and_for_whoever_has_the_token() {
        let (token, near, far) = (token(), "127.9.9.9".parse().unwrap(), "10.0.0.1".parse().unwrap());
        let mapped = "::ffff:127.0.0.1".parse().unwrap();
        let right = format!("Bearer {TOKEN}");
        for (path, asked) in [("/drain", Asked::Drain), ("/reload", Asked::Reload)] {
            let post = |peer, authorization: Option<&str>, has_origin, token| {
                let authorization = authorization.map(str::as_bytes);
                Request { authorization, peer, has_origin, ..request("POST", path) }.asked(token)
            };
            for peer in [near, mapped, "::1".parse().unwrap()] {
                assert_eq!(post(peer, None, false, None), Ok(asked.clone()));
                assert_eq!(post(peer, None, false, Some(&token)), Ok(asked.clone()));
            }
            assert_eq!(post(near, None, true, None), Err(Denied::Page));
            for token in [None, Some(&token)] {
                assert_eq!(post(far, None, false, token), Err(Denied::Stranger));
                assert_eq!(post(far, Some("Bearer 0123456789abcdeg"), false, token), Err(Denied::Token));
                assert_eq!(post(near, Some("Bearer "), false, token), Err(Denied::Token));
            }
            assert_eq!(post(far, Some(&right), false, None), Err(Denied::Token), "there is none");
            assert_eq!(post(far, Some(&right), true, Some(&token)), Ok(asked.clone()));
        }
        let get = |given: &str| {
            let authorization = Some(given.as_bytes());
            Request { authorization, peer: far, ..request("GET", "/drain") }.asked(Some(&token))
        };
        assert_eq!(get(&right), Ok(Asked::Drain), "the kubelet can do no better");
        assert_eq!(get("Bearer 0123"), Err(Denied::Token));
    }

    #[test]
    fn a_role_that_is_asked_for_is_a_name() {
        let role = |query| Request { query: Some(query), ..request("GET", "/sd") }.asked(None);
        assert_eq!(role("role=app-1_x"), Ok(Asked::Sd { role: Some("app-1_x".into()) }));
        assert_eq!(role(""), Ok(Asked::Sd { role: None }));
        let longest = format!("role={}", "r".repeat(NAME_BYTES_MAX));
        assert!(role(&longest).is_ok());
        for bad in [&format!("{longest}r"), "role=", "role=a&b=c", "role=a%20b", "x"] {
            assert_eq!(role(bad), Err(Denied::Query("/sd or /sd?role=NAME")), "{bad}");
        }
        let node = |query| Request { query, ..request("GET", "/explain") }.asked(None);
        assert_eq!(node(Some("node=app-1")), Ok(Asked::Explain { node: "app-1".into() }));
        let expected = "/explain?node=NAME, /explain?request=ID or /explain?failed";
        for bad in [
            None,
            Some(""),
            Some("node="),
            Some("node=<b>"),
            Some("role=a"),
            Some("request=%2"),
            Some("request=%ff"),
        ] {
            assert_eq!(node(bad), Err(Denied::Query(expected)), "{bad:?}");
        }
    }

    #[test]
    fn a_request_is_told_to_who_knows_its_id_and_those_that_failed_to_who_may_change_something() {
        let far = "10.0.0.1".parse().unwrap();
        let explain =
            |query, peer| Request { query: Some(query), peer, ..request("GET", "/explain") }.asked(None);
        for (query, id) in [
            ("request=a-1_/+=@~:", "a-1_/+=@~:"),
            ("request=a%2Fb", "a/b"),
            ("request=", ""),
            ("request=%20&", " &"),
        ] {
            assert_eq!(explain(query, far), Ok(Asked::Request { id: id.into() }), "{query}");
        }
        assert_eq!(explain("failed", far), Err(Denied::Stranger));
        assert_eq!(explain("failed", "127.0.0.1".parse().unwrap()), Ok(Asked::Failed));
        let post = Request { query: Some("request=a"), ..request("POST", "/explain") };
        assert_eq!(post.asked(None), Err(Denied::Method("GET, HEAD")));
    }
}
