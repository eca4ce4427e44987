//! What a request is routed by, read so that no two implementations could read it differently.

use crate::http1::target::Characters;

/// Bytes of a path by which requests are told apart: no route is longer.
const PATH_BYTES_MAX: usize = feed::route::ROUTE_BYTES_MAX + 1;

/// Bytes of a host name (RFC 1035 2.3.4); no longer one can be looked up.
const HOST_BYTES_MAX: usize = 253;

/// Why a request has no route whatever the routes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unroutable {
    /// Its path has a segment `.` or `..`, escaped or not: an origin that resolves it serves another path than the one that was
    /// looked at (as in CVE-2021-41773), so that rules for paths could be walked around.
    DotSegment,
}

/// A request's host, in lower case and without its port, and the beginning of its path, by its characters ([`crate::http1::target`]).
#[derive(Debug)]
pub struct Key {
    host: [u8; HOST_BYTES_MAX],
    host_bytes: usize,
    path: [u8; PATH_BYTES_MAX],
    path_bytes: usize,
}

impl Key {
    /// Reads them from the value of Host and the target in origin form.
    ///
    /// # Errors
    /// The path leads somewhere else than it says.
    pub fn new(host: &[u8], target: &[u8]) -> Result<Self, Unroutable> {
        let mut key =
            Self { host: [0; HOST_BYTES_MAX], host_bytes: 0, path: [0; PATH_BYTES_MAX], path_bytes: 0 };
        key.read_host(host);
        key.read_path(target)?;
        Ok(key)
    }

    /// The host; empty if it is none that a route could name.
    pub fn host(&self) -> &[u8] {
        &self.host[..self.host_bytes]
    }

    /// The path, or as much of it as routes are told apart by.
    pub fn path(&self) -> &[u8] {
        &self.path[..self.path_bytes]
    }

    fn read_host(&mut self, host: &[u8]) {
        let name = match memchr::memrchr(b':', host) {
            Some(colon) if !host.ends_with(b"]") => &host[..colon],
            _ => host,
        };
        // RFC 1034 3.1: a dot at the end says that the name is complete, and is no part of it.
        let name = name.strip_suffix(b".").unwrap_or(name);
        if let Some(room) = self.host.get_mut(..name.len()) {
            room.copy_from_slice(name);
            room.make_ascii_lowercase();
            self.host_bytes = name.len();
        }
    }

    fn read_path(&mut self, target: &[u8]) -> Result<(), Unroutable> {
        let path = memchr::memchr(b'?', target).map_or(target, |end| &target[..end]);
        // So many bytes of the segment so far are dots, and nothing else.
        let mut dots = None;
        for byte in Characters::of(path) {
            match byte {
                b'/' => {
                    check_segment(dots)?;
                    dots = Some(0);
                }
                b'.' => dots = dots.map(|count: usize| count + 1),
                _ => dots = None,
            }
            if let Some(room) = self.path.get_mut(self.path_bytes) {
                *room = byte;
                self.path_bytes += 1;
            }
        }
        check_segment(dots)
    }
}

fn check_segment(dots: Option<usize>) -> Result<(), Unroutable> {
    if matches!(dots, Some(1 | 2)) { Err(Unroutable::DotSegment) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(host: &str, target: &str) -> (String, String) {
        let key = Key::new(host.as_bytes(), target.as_bytes()).unwrap();
        (String::from_utf8(key.host().to_vec()).unwrap(), String::from_utf8(key.path().to_vec()).unwrap())
    }

    #[test]
    fn a_host_is_its_name_in_lower_case() {
        for (host, name) in [
            ("Shop.Example.com:8080", "shop.example.com"),
            ("a.", "a"),
            ("a.:80", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(key(host, "/").0, name);
        }
        let longest = "a".repeat(HOST_BYTES_MAX);
        assert_eq!(key(&longest, "/").0, longest);
        assert_eq!(key(&format!("{longest}a"), "/").0, "");
    }

    #[test]
    fn a_path_is_what_is_before_the_query_with_what_needs_no_escape_unescaped() {
        for (target, path) in [
            ("/a/b?c/../d", "/a/b"),
            ("/%61%7e%2D", "/a~-"),
            ("//%20%zz%", "/%20%zz%"),
            ("/a%2F%2fb//c/", "/a/b/c/"),
            ("/...", "/..."),
            ("/.a/a./..b", "/.a/a./..b"),
            ("*", "*"),
        ] {
            assert_eq!(key("a", target).1, path);
        }
        let longest = format!("/{}", "a".repeat(2 * PATH_BYTES_MAX));
        assert_eq!(key("a", &longest).1, longest[..PATH_BYTES_MAX]);
    }

    #[test]
    fn a_path_that_leads_elsewhere_has_no_route() {
        let long = format!("/{}/..", "a".repeat(PATH_BYTES_MAX));
        for target in [
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e%2E/a",
            "/a/.%2e",
            "/a/..?b",
            "/x%2f..%2fa",
            "/.%2fa",
            &long,
        ] {
            assert_eq!(Key::new(b"a", target.as_bytes()).err(), Some(Unroutable::DotSegment), "{target}");
        }
    }
}
