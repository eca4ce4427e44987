//! Routes: which requests a role serves, by their host and path.

use std::{cmp::Reverse, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Longest route in bytes: a long host and a long path.
pub const ROUTE_BYTES_MAX: usize = 253;

/// Most routes that one node claims. Whoever serves more hosts than that lists them at the proxies.
pub const ROUTES_MAX: usize = 8;

/// Longest text of all routes of a node, separators included: as much as there is room for in what a node says of itself.
pub const ROUTES_BYTES_MAX: usize = 192;

/// A host and the beginning of a path, written `HOST[/PATH]`: `shop.example.com/api`, `*.example.com`, `/`.
///
/// A request matches if its host is this one, or ends in this suffix, and its path begins with this one at a `/`. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Route {
    host: Host,
    /// Without a `/` at its end; empty for every path.
    path: Arc<str>,
}

/// Which hosts a route is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// This one, in lower case.
    Exact(Arc<str>),
    /// Every one that ends in a dot and this, in lower case.
    Suffix(Arc<str>),
    /// Every one.
    Any,
}

/// Why a text is not a [`Route`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a route: {why}; expected HOST, HOST/PATH or /PATH, such as shop.example.com/api, *.example.com or /"
)]
pub struct NotARoute {
    text: String,
    why: &'static str,
}

/// The routes that a node claims, the winners first, at most [`ROUTES_MAX`] and [`ROUTES_BYTES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<Route>")]
pub struct Routes(Vec<Route>);

/// Why routes are more than a node may claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoutesError {
    /// Their number.
    #[error("{0} routes, over {ROUTES_MAX}")]
    TooMany(usize),
    /// Their text.
    #[error("routes of {0} bytes in all, over {ROUTES_BYTES_MAX}")]
    TooLong(usize),
}

impl Routes {
    /// These routes, each once.
    ///
    /// # Errors
    /// More or longer ones than a node may claim.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Result<Self, RoutesError> {
        let mut routes: Vec<Route> = routes.into_iter().collect();
        routes.sort();
        routes.dedup();
        let length: usize = routes.iter().map(|route| route.to_string().len() + 1).sum();
        match routes.len() {
            count if count > ROUTES_MAX => Err(RoutesError::TooMany(count)),
            _ if length > ROUTES_BYTES_MAX + 1 => Err(RoutesError::TooLong(length - 1)),
            _ => Ok(Self(routes)),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }
}

impl TryFrom<Vec<Route>> for Routes {
    type Error = RoutesError;

    fn try_from(routes: Vec<Route>) -> Result<Self, RoutesError> {
        Self::new(routes)
    }
}

impl fmt::Display for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, route) in self.iter().enumerate() {
            write!(f, "{}{route}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Route {
    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What paths begin with, without a `/` at its end: empty for every path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether a request for this host, in lower case and without a port, and this path, without a query, matches.
    pub fn matches(&self, host: &str, path: &str) -> bool {
        let is_host = match &self.host {
            Host::Exact(exact) => host == &**exact,
            Host::Suffix(suffix) => {
                host.strip_suffix(&**suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            Host::Any => true,
        };
        let rest = path.strip_prefix(&*self.path);
        is_host && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// What decides between two routes that match a request: the greater one wins. An exact host comes before a suffix, a longer suffix
    /// before a shorter one, and any host last; for hosts of one kind the longer path decides.
    pub fn rank(&self) -> (u8, usize, usize) {
        let (kind, suffix_bytes) = match &self.host {
            Host::Exact(_) => (2, 0),
            Host::Suffix(suffix) => (1, suffix.len()),
            Host::Any => (0, 0),
        };
        (kind, suffix_bytes, self.path.len())
    }
}

impl FromStr for Route {
    type Err = NotARoute;

    fn from_str(text: &str) -> Result<Self, NotARoute> {
        // The text may come from a stranger: quote only as much of it as helps.
        let refused = |why| NotARoute { text: text.chars().take(80).collect(), why };
        if text.is_empty() || text.len() > ROUTE_BYTES_MAX {
            return Err(refused("it has no bytes, or more than 253"));
        }
        let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let host = parse_host(host).map_err(refused)?;
        let path = path.strip_suffix('/').unwrap_or(path);
        check_path(path).map_err(refused)?;
        Ok(Self { host, path: path.into() })
    }
}

fn parse_host(text: &str) -> Result<Host, &'static str> {
    let lower = text.to_ascii_lowercase();
    if lower.is_empty() {
        return Ok(Host::Any);
    }
    let (name, is_suffix) = lower.strip_prefix("*.").map_or((&*lower, false), |suffix| (suffix, true));
    if name.contains('*') {
        return Err("a host has a * only as its first label");
    }
    if name.contains(':') && !name.starts_with('[') {
        return Err("a host is without its port");
    }
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let is_literal = |literal: &str| literal.parse::<std::net::Ipv6Addr>().is_ok();
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match literal {
        Some(literal) if !is_suffix && is_literal(literal) => {}
        Some(_) => return Err("the host is not an address of version 6"),
        None if name.split('.').all(is_label) => {}
        None => return Err("a host has labels of letters, digits, - and _"),
    }
    Ok(if is_suffix { Host::Suffix(name.into()) } else { Host::Exact(name.into()) })
}

/// A path must be one that every implementation reads alike: without a query, escapes, or segments that lead elsewhere.
fn check_path(path: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&b);
    if !path.bytes().all(allowed) {
        return Err("a path has letters, digits and -._~!$&'()*+,;=:@ between its slashes");
    }
    if path.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
        return Err("a path has no empty segments, and none that is . or ..");
    }
    Ok(())
}

impl PartialOrd for Route {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Route {
    /// As lists are read: the winners first, else by their text.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |route: &Self| (Reverse(route.rank()), route.host.clone(), route.path.clone());
        key(self).cmp(&key(other))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Exact(host) => write!(f, "{host}{}", self.path),
            Host::Suffix(suffix) => write!(f, "*.{suffix}{}", self.path),
            Host::Any if self.path.is_empty() => f.write_str("/"),
            Host::Any => f.write_str(&self.path),
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Route {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_route_is_a_host_a_suffix_or_any_and_the_beginning_of_a_path() {
        for text in [
            "shop.example.com/api",
            "*.example.com",
            "/",
            "/a/b",
            "localhost",
            "[::1]/x",
            "10.0.0.1",
            "a_b-c",
        ] {
            assert_eq!(route(text).to_string(), text);
        }
        assert_eq!(route("Shop.Example.COM/Api/").to_string(), "shop.example.com/Api");
        for (bad, why) in [
            ("", "no bytes"),
            ("a b", "labels"),
            ("a..b", "labels"),
            ("a.", "labels"),
            ("shop:80", "without its port"),
            ("a.*.b", "first label"),
            ("*", "first label"),
            ("[::g]", "version 6"),
            ("/a//b", "empty segments"),
            ("/a/../b", "empty segments"),
            ("/.", "empty segments"),
            ("/a?b", "between its slashes"),
            ("/%61", "between its slashes"),
            ("http://a/", "without its port"),
        ] {
            let error = bad.parse::<Route>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("expected HOST"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_route_has_at_most_253_bytes() {
        let longest = format!("/{}", "a".repeat(ROUTE_BYTES_MAX - 1));
        assert!(longest.parse::<Route>().is_ok());
        assert!(format!("{longest}a").parse::<Route>().is_err());
    }

    #[test]
    fn a_node_has_so_many_routes_of_so_many_bytes_each_once() {
        let routes = |count: usize| Routes::new((0..count).map(|i| route(&format!("/{i}"))));
        assert!(routes(ROUTES_MAX).is_ok());
        assert_eq!(routes(ROUTES_MAX + 1), Err(RoutesError::TooMany(ROUTES_MAX + 1)));
        let of = |bytes: usize| Routes::new([route("/"), route(&format!("/{}", "a".repeat(bytes - 3)))]);
        assert_eq!(of(ROUTES_BYTES_MAX).unwrap().to_string().len(), ROUTES_BYTES_MAX);
        assert_eq!(of(ROUTES_BYTES_MAX + 1), Err(RoutesError::TooLong(ROUTES_BYTES_MAX + 1)));
        let twice = Routes::new([route("/"), route("/a"), route("/")]).unwrap();
        assert_eq!(twice.to_string(), "/a,/");
        assert_eq!(serde_json::from_str::<Routes>(r#"["/a","/"]"#).unwrap(), twice);
        assert!(serde_json::from_str::<Routes>(r#"["a b"]"#).is_err());
    }

    #[test]
    fn a_path_matches_at_a_slash_and_a_suffix_at_a_dot() {
        assert!(route("/api").matches("a", "/api") && route("/api").matches("a", "/api/x"));
        assert!(!route("/api").matches("a", "/apix") && !route("/api").matches("a", "/"));
        assert!(route("/").matches("a", "/") && route("/").matches("a", "/x") && route("/").matches("a", ""));
        assert!(route("*.a.b").matches("x.a.b", "/") && route("*.a.b").matches("y.x.a.b", "/"));
        assert!(!route("*.a.b").matches("a.b", "/") && !route("*.a.b").matches("xa.b", "/"));
        assert!(!route("*.a.b").matches(".a.b", "/"));
    }

    #[test]
    fn lists_begin_with_the_winners() {
        let mut routes = ["/", "/api", "*.b", "*.a.b/x", "a.b", "a.b/x"].map(route);
        routes.sort();
        assert_eq!(routes.map(|route| route.to_string()), ["a.b/x", "a.b", "*.a.b/x", "*.b", "/api", "/"]);
    }
}
