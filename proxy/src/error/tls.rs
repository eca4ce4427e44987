//! Why there is no TLS connection to an upstream.

/// Why there is none. Nothing of a request was sent then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TlsFailure {
    /// What it says is no TLS: it may well speak HTTP without.
    NotSpoken,
    /// It refuses, or both know no version, cipher or curve.
    Refused,
    /// It closed the connection instead.
    Closed,
    /// Its certificate is of nobody who is trusted.
    Untrusted,
    /// Its certificate is for another name.
    WrongName,
    /// Its certificate is not valid any more, or not yet.
    Expired,
    /// Its key is not the one that was pinned.
    WrongKey,
    /// It does not choose HTTP/2.
    NoHttp2,
}

impl TlsFailure {
    /// Every one, by its number.
    pub const ALL: [Self; 8] = [
        Self::NotSpoken,
        Self::Refused,
        Self::Closed,
        Self::Untrusted,
        Self::WrongName,
        Self::Expired,
        Self::WrongKey,
        Self::NoHttp2,
    ];

    /// What it is called in logs and counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotSpoken => "tls-not-spoken",
            Self::Refused => "tls-refused",
            Self::Closed => "tls-closed",
            Self::Untrusted => "tls-untrusted",
            Self::WrongName => "tls-wrong-name",
            Self::Expired => "tls-expired",
            Self::WrongKey => "tls-wrong-key",
            Self::NoHttp2 => "tls-no-http2",
        }
    }

    /// The same of a role, for whoever reads it.
    pub fn reason(self, role: &str) -> String {
        match self {
            Self::NotSpoken => format!("{role} does not speak TLS\n"),
            Self::Refused => format!("{role} refuses to speak TLS with this proxy\n"),
            Self::Closed => format!("{role} closed the connection instead of a TLS handshake\n"),
            Self::Untrusted => format!("{role} has a certificate of nobody who is trusted\n"),
            Self::WrongName => format!("{role} has a certificate for another name\n"),
            Self::Expired => format!("{role} has a certificate that is not valid now\n"),
            Self::WrongKey => format!("{role} has another key than the one that was pinned\n"),
            Self::NoHttp2 => format!("{role} does not choose HTTP/2\n"),
        }
    }
}
