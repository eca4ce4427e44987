//! Where somebody listens: at a port of an IP address, or at a file.

use std::{fmt, net::SocketAddr, path::Path, str::FromStr, sync::Arc};

/// What the path of a socket begins with, as in the file of nginx.
const UNIX_PREFIX: &str = "unix:";

/// Longest path of a socket in bytes: the kernel has 108 for it, one of which ends it (unix(7)).
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// Where somebody listens. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A port.
    Ip(SocketAddr),
    /// A file.
    Unix(UnixPath),
}

/// The path of a Unix-domain socket: absolute, and within what the kernel takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixPath(Arc<str>);

impl UnixPath {
    /// As a path.
    pub fn as_path(&self) -> &Path {
        Path::new(&*self.0)
    }
}

impl FromStr for UnixPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') || text.ends_with('/') {
            return Err("a socket's path is absolute, such as unix:/run/shop.sock".to_owned());
        }
        // It stands in lists, before a role, and in the names of descriptors.
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b",=?:".contains(&byte)) {
            return Err("a socket's path has printable ASCII without ',', '=', '?' and ':'".to_owned());
        }
        if text.len() > UNIX_PATH_BYTES_MAX {
            return Err(format!(
                "a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes, not {}",
                text.len()
            ));
        }
        Ok(Self(text.into()))
    }
}

impl Address {
    /// It, if it is an IP address with a port.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }

    /// It, if it is a file.
    pub fn unix(&self) -> Option<&UnixPath> {
        match self {
            Self::Ip(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// Each who listens there listens elsewhere: the kernel chooses the port.
    pub(crate) fn is_chosen_by_kernel(&self) -> bool {
        self.ip().is_some_and(|addr| addr.port() == 0)
    }

    /// Where a socket is.
    pub(crate) fn of(addr: &socket2::SockAddr) -> Option<Self> {
        addr.as_socket()
            .map(Self::Ip)
            .or_else(|| Some(Self::Unix(addr.as_pathname()?.to_str()?.parse().ok()?)))
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Ip(addr)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix(UNIX_PREFIX) {
            Some(path) => path.parse().map(Self::Unix),
            None => {
                text.parse().map(Self::Ip).map_err(|_| "the address is not IP:PORT or unix:/PATH".to_owned())
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_port_or_an_absolute_path() {
        for text in ["127.0.0.1:80", "[::1]:80", "unix:/run/shop.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for (bad, why) in [
            ("localhost:80", "not IP:PORT"),
            ("/run/shop.sock", "not IP:PORT"),
            ("unix:shop.sock", "absolute"),
            ("unix:", "absolute"),
            ("unix:/run/", "absolute"),
            ("unix:/run/a=b", "without"),
            ("unix:/run/a b", "printable"),
            ("unix:/run/\u{e9}", "printable"),
        ] {
            let error = bad.parse::<Address>().unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_path_has_at_most_107_bytes() {
        let path = |bytes: usize| format!("unix:/{}", "x".repeat(bytes - 1)).parse::<Address>();
        let longest = path(UNIX_PATH_BYTES_MAX).unwrap();
        let longest = longest.unix().unwrap().as_path();
        assert!(socket2::SockAddr::unix(longest).is_ok(), "the kernel's structure has room for it");
        assert!(path(UNIX_PATH_BYTES_MAX + 1).unwrap_err().contains("at most 107 bytes, not 108"));
    }
}
