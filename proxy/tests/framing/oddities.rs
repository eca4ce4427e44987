//! What may be odd about a request of HTTP/2, and whether it may pass: by RFC 9113 8.2 and 8.3, RFC 9110, and what this proxy says that it
//! refuses.

use std::fmt;

use rand::{RngExt, rngs::StdRng};

use crate::strict::is_of_name;

/// What is to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// It is well-formed.
    Passes,
    /// It may pass as what it is, or be refused.
    Either,
    /// `h2` takes it out before anybody sees it, so that it may pass without what is odd.
    Skipped,
    /// The same where its block has several frames; else it is refused: what `h2` finds wrong is forgotten where a frame ends within a
    /// later field.
    Forgotten,
    Refused,
}

use Verdict::{Either, Forgotten, Passes, Refused, Skipped};

type Text = &'static [u8];

/// What is odd.
#[derive(Clone, Copy)]
pub(crate) enum Oddity {
    /// This pseudo-header has these values: none leaves it out.
    Pseudo(&'static str, &'static [Text]),
    /// There is another one behind a field.
    LatePseudo(Text, Text),
    /// Only the field `host` says whose it is.
    HostAlone(Text),
    /// There are these fields, too.
    Fields(&'static [(Text, Text)]),
    /// There is a byte in the name of a field that was drawn, or in its value.
    NameByte,
    ValueByte,
    /// There is a body, and this is said of its length.
    Length(fn(usize) -> Vec<String>),
    /// There is none, and this is said of its length.
    LengthOfNothing(&'static str),
    /// There are these trailers.
    Trailers(&'static [(Text, Text)]),
    /// There are trailers, and the stream does not end with them.
    OpenTrailers,
    /// There is data behind the end.
    DataBehindEnd,
}

impl Oddity {
    /// Two of one place would undo each other.
    pub(crate) fn place(&self) -> &'static str {
        match self {
            Self::Pseudo(":authority", _) | Self::HostAlone(_) | Self::Fields([(b"host", _), ..]) => {
                "authority"
            }
            Self::Pseudo(name, _) => name,
            Self::LatePseudo(..) => "late",
            Self::Fields(_) | Self::NameByte | Self::ValueByte => "fields",
            Self::Length(_) | Self::LengthOfNothing(_) => "length",
            Self::Trailers(_) | Self::OpenTrailers | Self::DataBehindEnd => "end",
        }
    }

    /// What there is of a name with this byte in it.
    pub(crate) fn draw_name(rng: &mut StdRng) -> (Vec<u8>, Verdict) {
        let byte: u8 = rng.random();
        let is_legal = is_of_name(byte) && !byte.is_ascii_uppercase();
        (vec![b'x', byte, b'y'], if is_legal { Passes } else { Refused })
    }

    /// RFC 9113 8.2.1 forbids three bytes; RFC 9110 5.5 lets all other controls be refused.
    pub(crate) fn draw_value(rng: &mut StdRng) -> (Vec<u8>, Verdict) {
        let byte: u8 = rng.random();
        let verdict = match byte {
            b'\r' | b'\n' | 0 => Refused,
            b'\t' => Passes,
            ..b' ' | 0x7f => Either,
            _ => Passes,
        };
        (vec![b'x', byte, b'y'], verdict)
    }
}

impl fmt::Debug for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = |fields: &[(Text, Text)]| -> Vec<String> {
            fields.iter().map(|(n, v)| format!("{}: {}", n.escape_ascii(), v.escape_ascii())).collect()
        };
        match self {
            Self::Pseudo(name, values) => {
                let values: Vec<_> = values.iter().map(|value| value.escape_ascii().to_string()).collect();
                write!(f, "{name} is {values:?}")
            }
            Self::LatePseudo(name, value) => write!(f, "late {:?}", fields(&[(name, value)])),
            Self::HostAlone(host) => write!(f, "host {} alone", host.escape_ascii()),
            Self::Fields(added) => write!(f, "fields {:?}", fields(added)),
            Self::NameByte => f.write_str("a byte in a name"),
            Self::ValueByte => f.write_str("a byte in a value"),
            Self::Length(says) => write!(f, "length {:?} of 42", says(42)),
            Self::LengthOfNothing(says) => write!(f, "length {says:?} of nothing"),
            Self::Trailers(trailers) => write!(f, "trailers {:?}", fields(trailers)),
            Self::OpenTrailers => f.write_str("trailers without an end"),
            Self::DataBehindEnd => f.write_str("data behind the end"),
        }
    }
}

use Oddity::{
    DataBehindEnd, Fields, HostAlone, LatePseudo, Length, LengthOfNothing, NameByte, OpenTrailers, Pseudo,
    Trailers, ValueByte,
};

/// What would be a request of its own, if a line ended within a value.
const SMUGGLED: Text = b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\nx-case: 0\r\n\r\n";

pub(crate) const ODDITIES: &[(Verdict, Oddity)] = &[
    (Passes, Pseudo(":method", &[b"M-SEARCH"])),
    (Passes, Pseudo(":method", &[b"DELETE"])),
    (Refused, Pseudo(":method", &[])),
    (Forgotten, Pseudo(":method", &[b"POST", b"POST"])),
    (Refused, Pseudo(":method", &[b""])),
    (Refused, Pseudo(":method", &[b"PO ST"])),
    (Refused, Pseudo(":method", &[b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST"])),
    (Refused, Pseudo(":method", &[b"CONNECT"])),
    (Passes, Pseudo(":path", &[b"/a?b=/c&d"])),
    (Passes, Pseudo(":path", &[b"/%0d%0a/..//;x"])),
    (Passes, Pseudo(":path", &[b"/?"])),
    (Refused, Pseudo(":path", &[])),
    (Forgotten, Pseudo(":path", &[b"/", b"/"])),
    (Forgotten, Pseudo(":path", &[b"/", b"/smuggled"])),
    (Refused, Pseudo(":path", &[b""])),
    (Refused, Pseudo(":path", &[b"a"])),
    (Refused, Pseudo(":path", &[b"*"])),
    (Refused, Pseudo(":path", &[b"/a b"])),
    (Refused, Pseudo(":path", &[b"/a HTTP/1.1"])),
    (Refused, Pseudo(":path", &[b"/a\tb"])),
    (Skipped, Pseudo(":path", &[b"/a#b"])),
    (Refused, Pseudo(":path", &[b"/a\0b"])),
    (Refused, Pseudo(":path", &[b"/a\x7fb"])),
    (Refused, Pseudo(":path", &[b"/a\xffb"])),
    (Refused, Pseudo(":path", &[b"/ HTTP/1.1\r\nx-case: 0\r\nx: "])),
    (Refused, Pseudo(":path", &[b"http://b.example/"])),
    (Refused, Pseudo(":path", &[b"//\n"])),
    (Either, Pseudo(":scheme", &[b"https"])),
    (Either, Pseudo(":scheme", &[b"ftp"])),
    (Refused, Pseudo(":scheme", &[])),
    (Either, Pseudo(":scheme", &[b""])),
    (Forgotten, Pseudo(":scheme", &[b"http", b"http"])),
    (Refused, Pseudo(":scheme", &[b"http\r\n"])),
    (Refused, Pseudo(":scheme", &[b"http://b/?"])),
    (Passes, Pseudo(":authority", &[b"A.example:8080"])),
    (Passes, Pseudo(":authority", &[b"[::1]:80"])),
    (Refused, Pseudo(":authority", &[])),
    (Refused, Pseudo(":authority", &[b""])),
    (Forgotten, Pseudo(":authority", &[b"a", b"a"])),
    (Forgotten, Pseudo(":authority", &[b"a", b"b"])),
    (Refused, Pseudo(":authority", &[b"user@a"])),
    (Refused, Pseudo(":authority", &[b"a b"])),
    (Refused, Pseudo(":authority", &[b"a/b"])),
    (Refused, Pseudo(":authority", &[b"a?b"])),
    (Refused, Pseudo(":authority", &[b"a#b"])),
    (Refused, Pseudo(":authority", &[b"a:b"])),
    (Refused, Pseudo(":authority", &[b"a\\b"])),
    (Refused, Pseudo(":authority", &[b"a, b"])),
    (Refused, Pseudo(":authority", &[b"a\r\nx: y"])),
    (Passes, HostAlone(b"b.example:1")),
    (Refused, HostAlone(b"user@a")),
    (Refused, HostAlone(b"a b")),
    (Passes, Fields(&[(b"host", b"a.example")])),
    (Passes, Fields(&[(b"host", b"A.EXAMPLE")])),
    (Refused, Fields(&[(b"host", b"b.example")])),
    (Refused, Fields(&[(b"host", b"a.example:80")])),
    (Refused, Fields(&[(b"host", b"")])),
    (Refused, Fields(&[(b"host", b"a.example"), (b"host", b"a.example")])),
    (Refused, Fields(&[(b"host", b"a.example"), (b"host", b"b.example")])),
    (Forgotten, LatePseudo(b":path", b"/late")),
    (Forgotten, LatePseudo(b":method", b"GET")),
    (Forgotten, LatePseudo(b":authority", b"b.example")),
    (Forgotten, LatePseudo(b":status", b"200")),
    (Refused, LatePseudo(b":other", b"x")),
    (Refused, Pseudo(":other", &[b"x"])),
    (Refused, Pseudo(":status", &[b"200"])),
    (Refused, Pseudo(":protocol", &[b"websocket"])),
    (Passes, NameByte),
    (Passes, ValueByte),
    (Passes, Fields(&[(b"x-a", b""), (b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")])),
    (Passes, Fields(&[(b"cookie", b"a=b"), (b"x-a", b"1"), (b"cookie", b"c=d; e=f"), (b"cookie", b"g")])),
    (Passes, Fields(&[(b"te", b"trailers")])),
    (Passes, Fields(&[(b"expect", b"100-continue")])),
    (Either, Fields(&[(b"expect", b"200-ok")])),
    (Either, Fields(&[(b"transfer_encoding", b"chunked")])),
    (Either, Fields(&[(b"http2-settings", b"AAMAAABkAAQAAP__")])),
    (Either, Fields(&[(b"sec-websocket-key", b"AAAA")])),
    (Forgotten, Fields(&[(b"", b"x")])),
    (Refused, Fields(&[(b"X-Upper", b"x")])),
    (Refused, Fields(&[(b"Transfer-Encoding", b"chunked")])),
    (Refused, Fields(&[(b"x y", b"x")])),
    (Refused, Fields(&[(b"x-a: b\r\nx-c", b"x")])),
    (Refused, Fields(&[(b"x-a", b" x")])),
    (Refused, Fields(&[(b"x-a", b"x ")])),
    (Refused, Fields(&[(b"x-a", b"x\t")])),
    (Refused, Fields(&[(b"x-a", b" ")])),
    (Refused, Fields(&[(b"x-a", b"x\r\ny: z")])),
    (Refused, Fields(&[(b"x-a", b"x\ny: z")])),
    (Refused, Fields(&[(b"x-a", b"x\r y: z")])),
    (Refused, Fields(&[(b"x-a", b"x\0")])),
    (Refused, Fields(&[(b"x-a", SMUGGLED)])),
    (Refused, Fields(&[(b"cookie", b"a=b"), (b"cookie", SMUGGLED)])),
    (Forgotten, Fields(&[(b"connection", b"close")])),
    (Forgotten, Fields(&[(b"connection", b"x-case")])),
    (Forgotten, Fields(&[(b"keep-alive", b"timeout=5")])),
    (Forgotten, Fields(&[(b"proxy-connection", b"keep-alive")])),
    (Forgotten, Fields(&[(b"transfer-encoding", b"chunked")])),
    (Forgotten, Fields(&[(b"transfer-encoding", b"identity")])),
    (Forgotten, Fields(&[(b"upgrade", b"h2c")])),
    (Forgotten, Fields(&[(b"te", b"gzip")])),
    (Forgotten, Fields(&[(b"te", b"trailers, chunked")])),
    (Forgotten, Fields(&[(b"te", b"trailers"), (b"te", b"gzip")])),
    (Passes, Length(|bytes| vec![bytes.to_string()])),
    (Either, Length(|bytes| vec![bytes.to_string(), bytes.to_string()])),
    (Either, Length(|bytes| vec![format!("00{bytes}")])),
    (Either, Length(|bytes| vec![format!("{bytes}, {bytes}")])),
    (Refused, Length(|bytes| vec![(bytes - 1).to_string()])),
    (Refused, Length(|bytes| vec![(bytes + 1).to_string()])),
    (Refused, Length(|bytes| vec![(10 * bytes).to_string()])),
    (Refused, Length(|_| vec!["0".to_owned()])),
    (Refused, Length(|bytes| vec![bytes.to_string(), (bytes + 1).to_string()])),
    (Refused, Length(|bytes| vec!["0".to_owned(), bytes.to_string()])),
    (Refused, Length(|bytes| vec![format!("+{bytes}")])),
    (Refused, Length(|bytes| vec![format!("-{bytes}")])),
    (Refused, Length(|bytes| vec![format!(" {bytes}")])),
    (Refused, Length(|bytes| vec![format!("{bytes} ")])),
    (Refused, Length(|bytes| vec![format!("{bytes}.0")])),
    (Refused, Length(|bytes| vec![format!("0x{bytes:x}")])),
    (Refused, Length(|bytes| vec![format!("{bytes}\r\ntransfer-encoding: chunked")])),
    (Refused, Length(|_| vec![String::new()])),
    // The length itself, if 64 bits were all that is read; one that no body has; and the largest.
    (Refused, Length(|bytes| vec![(u128::from(u64::MAX) + 1 + bytes as u128).to_string()])),
    (Refused, Length(|_| vec![(1_u64 << 63).to_string()])),
    (Refused, Length(|_| vec![u64::MAX.to_string()])),
    (Passes, LengthOfNothing("0")),
    (Refused, LengthOfNothing("1")),
    (Refused, LengthOfNothing("+0")),
    (Refused, LengthOfNothing("")),
    (Passes, Trailers(&[])),
    (Passes, Trailers(&[(b"x-sum", b"1"), (b"x-end", b"")])),
    // These may be dropped, and must not become fields of the head.
    (Passes, Trailers(&[(b"x-sum", b"1"), (b"content-length", b"5"), (b"host", b"b.example")])),
    (Passes, Trailers(&[(b"cookie", b"a=b"), (b"authorization", b"x"), (b"expect", b"100-continue")])),
    (Either, Trailers(&[(b"te", b"trailers")])),
    (Forgotten, Trailers(&[(b"te", b"gzip")])),
    (Forgotten, Trailers(&[(b"connection", b"close")])),
    (Forgotten, Trailers(&[(b"keep-alive", b"timeout=5")])),
    (Forgotten, Trailers(&[(b"proxy-connection", b"close")])),
    (Forgotten, Trailers(&[(b"transfer-encoding", b"chunked")])),
    (Forgotten, Trailers(&[(b"upgrade", b"h2c")])),
    (Forgotten, Trailers(&[(b"x-sum", b"1"), (b"transfer-encoding", b"identity")])),
    (Refused, Trailers(&[(b"X-Sum", b"1")])),
    (Refused, Trailers(&[(b"x sum", b"1")])),
    (Refused, Trailers(&[(b"x-sum", b" 1")])),
    (Refused, Trailers(&[(b"x-sum", b"1\r\nx: y")])),
    (Refused, Trailers(&[(b"x-sum", SMUGGLED)])),
    (Skipped, Trailers(&[(b":path", b"/")])),
    (Refused, OpenTrailers),
    // The request is whole before it.
    (Either, DataBehindEnd),
];
