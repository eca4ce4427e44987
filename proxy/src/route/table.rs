//! Routes compiled for lookups: a few probes of a hash map, however many routes there are.

use std::collections::HashMap;

use feed::{Route, route::Host};

use super::Key;

/// Targets by route. Host exact, then the longest suffix, then any; of these the longest path at a `/`.
#[derive(Debug)]
pub struct Table<T> {
    exact: HashMap<Box<[u8]>, Paths<T>>,
    suffixes: HashMap<Box<[u8]>, Paths<T>>,
    any: Paths<T>,
}

/// The paths of one host.
#[derive(Debug)]
struct Paths<T> {
    by_path: HashMap<Box<[u8]>, T>,
    /// The lengths that there are, longest first.
    lengths: Vec<usize>,
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self { by_path: HashMap::new(), lengths: Vec::new() }
    }
}

impl<T> FromIterator<(Route, T)> for Table<T> {
    /// Of two targets of one route the first has it.
    fn from_iter<I: IntoIterator<Item = (Route, T)>>(routes: I) -> Self {
        let mut table = Self { exact: HashMap::new(), suffixes: HashMap::new(), any: Paths::default() };
        for (route, target) in routes {
            let paths = match route.host() {
                Host::Exact(host) => table.exact.entry(host.as_bytes().into()).or_default(),
                Host::Suffix(suffix) => table.suffixes.entry(suffix.as_bytes().into()).or_default(),
                Host::Any => &mut table.any,
            };
            paths.by_path.entry(route.path().as_bytes().into()).or_insert(target);
            if let Err(at) = paths.lengths.binary_search_by(|length| route.path().len().cmp(length)) {
                paths.lengths.insert(at, route.path().len());
            }
        }
        table
    }
}

impl<T> Table<T> {
    /// What serves this request.
    pub fn find(&self, key: &Key) -> Option<&T> {
        self.find_host(key).or_else(|| self.any.find(key.path()))
    }

    /// All that match, the best first: what serves it, and what would serve it without that.
    pub fn matches<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a T> {
        let (host, path) = (key.host(), key.path());
        let dots = memchr::memchr_iter(b'.', host).filter(|&dot| dot > 0);
        let suffixes = dots.filter_map(move |dot| self.suffixes.get(&host[dot + 1..]));
        let hosts = self.exact.get(host).into_iter().chain(suffixes).chain([&self.any]);
        hosts.flat_map(move |paths| paths.matches(path))
    }

    /// What serves a host by its name, whatever the path: a route for any host is for those who can read requests.
    pub fn find_host(&self, key: &Key) -> Option<&T> {
        let exact = self.exact.get(key.host()).and_then(|paths| paths.find(key.path()));
        exact.or_else(|| self.find_suffix(key.host(), key.path()))
    }

    fn find_suffix(&self, host: &[u8], path: &[u8]) -> Option<&T> {
        if self.suffixes.is_empty() {
            return None;
        }
        // A dot at the front has no label before it.
        let dots = memchr::memchr_iter(b'.', host).filter(|&dot| dot > 0);
        dots.filter_map(|dot| self.suffixes.get(&host[dot + 1..])).find_map(|paths| paths.find(path))
    }
}

impl<T> Paths<T> {
    fn find(&self, path: &[u8]) -> Option<&T> {
        self.matches(path).next()
    }

    fn matches<'a>(&'a self, path: &[u8]) -> impl Iterator<Item = &'a T> {
        let is_boundary = move |length: usize| length == path.len() || path.get(length) == Some(&b'/');
        // Every path begins with the empty one, that of `OPTIONS *` too.
        let lengths = self.lengths.iter().filter(move |&&length| length == 0 || is_boundary(length));
        lengths.filter_map(move |&length| self.by_path.get(&path[..length]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(routes: &[&str]) -> Table<usize> {
        routes.iter().enumerate().map(|(i, text)| (text.parse().unwrap(), i)).collect()
    }

    fn find(table: &Table<usize>, host: &str, target: &str) -> Option<usize> {
        table.find(&Key::new(host.as_bytes(), target.as_bytes()).unwrap()).copied()
    }

    #[test]
    fn the_host_decides_before_the_path_and_the_longer_before_the_shorter() {
        let table = table(&["/", "/api", "*.b.c", "*.c", "a.b.c/x", "/api/v2"]);
        for (host, target, found) in [
            ("a.b.c", "/x/y", Some(4)),
            ("a.b.c", "/y", Some(2)),
            ("x.c", "/x", Some(3)),
            ("c", "/x", Some(0)),
            ("c", "/api", Some(1)),
            ("c", "/api/v2/z?q", Some(5)),
            ("c", "/apis", Some(0)),
        ] {
            assert_eq!(find(&table, host, target), found, "{host}{target}");
        }
        assert_eq!(find(&super::tests::table(&["a/b"]), "a", "/c"), None);
        assert_eq!(find(&super::tests::table(&["/"]), "a", "*"), Some(0));
        assert_eq!(find(&super::tests::table(&["a", "a"]), "a", "/"), Some(0), "the first has it");
    }

    proptest! {
        #[test]
        fn a_compiled_table_finds_what_a_look_at_each_route_finds(
            routes in prop::collection::vec("(|\\*\\.)[ab](\\.[ab]){0,2}(/[ab]{1,2}){0,3}|(/[ab]{1,2}){0,3}", 1..20),
            host in "[ab](\\.[ab]){0,3}",
            target in "(/[ab]{0,2}){1,4}",
        ) {
            let routes: Vec<Route> = routes.iter().filter_map(|text| text.parse().ok()).collect();
            let table: Table<Route> = routes.iter().map(|route| (route.clone(), route.clone())).collect();
            let key = Key::new(host.as_bytes(), target.as_bytes()).unwrap();
            let path = std::str::from_utf8(key.path()).unwrap();
            let naive = routes.iter().filter(|route| route.matches(&host, path)).max_by_key(|route| route.rank());
            let found = table.find(&key);
            prop_assert_eq!(found, naive);
            let all: Vec<&Route> = table.matches(&key).collect();
            let mut naive: Vec<&Route> = routes.iter().filter(|route| route.matches(&host, path)).collect();
            naive.sort_by_key(|route| std::cmp::Reverse(route.rank()));
            naive.dedup();
            prop_assert_eq!(all, naive);
        }
    }
}
