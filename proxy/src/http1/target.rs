//! The characters of a path as routes compare them: as the most generous origin would read it, so that no rule for a path can be walked
//! around by another spelling.
//!
//! ```text
//! //a/%62%2Fc  ─▶ /a/b/c
//! ```

/// What is unreserved is the same escaped or not (RFC 3986 6.2.2.2). An escaped slash, and several in a row, are one to many origins (nginx,
/// among others). All else stays as it is.
#[derive(Debug, Clone)]
pub struct Characters<'a> {
    path: &'a [u8],
    at: usize,
    /// The last was a slash.
    is_behind_slash: bool,
}

impl<'a> Characters<'a> {
    /// Those of a path, from its beginning.
    pub fn of(path: &'a [u8]) -> Self {
        Self { path, at: 0, is_behind_slash: false }
    }

    /// The next one as it is written, unescaped, and how long that is.
    fn written(&self) -> Option<(u8, usize)> {
        let rest = &self.path[self.at..];
        if let [b'%', high, low, ..] = rest
            && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
        {
            let escaped = u8::try_from(high << 4 | low).unwrap_or_default();
            if escaped.is_ascii_alphanumeric() || b"-._~/".contains(&escaped) {
                return Some((escaped, 3));
            }
        }
        rest.first().map(|byte| (*byte, 1))
    }
}

impl Iterator for Characters<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        loop {
            let (byte, length) = self.written()?;
            self.at += length;
            if byte == b'/' && std::mem::replace(&mut self.is_behind_slash, true) {
                continue;
            }
            self.is_behind_slash = byte == b'/';
            return Some(byte);
        }
    }
}

/// How much of a target its first characters take, with the slashes behind them but one: what stays does not begin with two, which would be
/// a host to whoever resolves it.
pub(super) fn stripped_bytes(target: &[u8], count: usize) -> usize {
    let path = memchr::memchr(b'?', target).map_or(target, |end| &target[..end]);
    let mut characters = Characters::of(path);
    characters.by_ref().take(count).for_each(drop);
    let mut at = characters.at;
    while path.get(at..).is_some_and(|rest| rest.starts_with(b"//")) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_same_characters_however_it_is_spelled() {
        for path in ["/a/b", "//a/b", "/%61/b", "/a%2fb", "/a%2F/b", "/a///b", "%2f/a/%62"] {
            let characters: Vec<u8> = Characters::of(path.as_bytes()).collect();
            assert_eq!(String::from_utf8(characters).unwrap(), "/a/b", "{path}");
        }
        for path in ["/%20%zz%", "*", "/a%252fb", "/A"] {
            assert_eq!(Characters::of(path.as_bytes()).collect::<Vec<_>>(), path.as_bytes());
        }
    }

    #[test]
    fn what_is_stripped_ends_where_its_characters_do() {
        for (target, stays) in [
            ("/api/x", "/x"),
            ("//api//x", "/x"),
            ("/%61pi%2fx", "%2fx"),
            ("/api", ""),
            ("/api?a=/api//", "?a=/api//"),
            ("/api///evil", "/evil"),
        ] {
            assert_eq!(&target[stripped_bytes(target.as_bytes(), "/api".len())..], stays);
        }
    }
}
