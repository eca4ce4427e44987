//! Why a message is refused: closed, counted, and each with one status.

/// The words of rejects, one for a request's and one for a response's, so that each can be a constant.
macro_rules! words {
    ($($reject:ident => $word:literal,)*) => {
        /// What it is called in logs and counters where a request has the defect.
        pub fn word(self) -> &'static str {
            match self { $(Self::$reject => $word,)* }
        }

        /// The same where an upstream's response has it.
        pub fn response_word(self) -> &'static str {
            match self { $(Self::$reject => concat!("response-", $word),)* }
        }
    };
}

/// A refusal. The status is what a client is told; the same defect in an upstream's message is told as 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Reject {
    /// Anything that is no HTTP/1 head.
    #[error("malformed head")]
    Malformed,
    /// A line that does not end in CR LF (RFC 9112 2.2).
    #[error("line not ended by CR LF")]
    BareLineEnd,
    /// A field name that is empty or no token.
    #[error("malformed field name")]
    FieldName,
    /// A field name over [`crate::limits::FIELD_NAME_BYTES_MAX`].
    #[error("field name too long")]
    FieldNameTooLong,
    /// A control character in a field value, or a folded line.
    #[error("malformed field value")]
    FieldValue,
    /// HTTP/0.9, HTTP/2 and other fictions.
    #[error("unsupported version")]
    Version,
    /// A head over [`crate::limits::HEAD_BYTES_MAX`].
    #[error("head too large")]
    HeadTooLarge,
    /// More fields than [`crate::limits::FIELDS_COUNT_MAX`], or more names in Connection.
    #[error("too many fields")]
    TooManyFields,
    /// A head with more parts to cut out than [`crate::limits::PIECES_COUNT_MAX`] allows.
    #[error("too many hop-by-hop fields")]
    TooManyCuts,
    /// A target over [`crate::limits::TARGET_BYTES_MAX`].
    #[error("target too long")]
    TargetTooLong,
    /// A target that is in none of the four forms of RFC 9112 3.2.
    #[error("malformed target")]
    Target,
    /// No Host in HTTP/1.1 (RFC 9112 3.2).
    #[error("no host")]
    HostMissing,
    /// Two Hosts.
    #[error("repeated host")]
    HostRepeated,
    /// A Host that is no authority.
    #[error("malformed host")]
    HostMalformed,
    /// Both Content-Length and Transfer-Encoding: the classic of request smuggling (RFC 9112 6.1).
    #[error("both content-length and transfer-encoding")]
    LengthAndCoding,
    /// Two Content-Lengths, or a list of them.
    #[error("repeated content-length")]
    LengthRepeated,
    /// A Content-Length that is not one plain decimal number, or that of a CONNECT, which has no content.
    #[error("malformed content-length")]
    LengthMalformed,
    /// A Transfer-Encoding that is anything but `chunked`.
    #[error("unsupported transfer-encoding")]
    Coding,
    /// A Transfer-Encoding in HTTP/1.0.
    #[error("transfer-encoding in http/1.0")]
    CodingInHttp10,
    /// A chunk size that is not 1 to [`crate::limits::CHUNK_SIZE_DIGITS_MAX`] hex digits.
    #[error("malformed chunk size")]
    ChunkSize,
    /// Anything but CR LF after a chunk's data.
    #[error("malformed chunk end")]
    ChunkEnd,
    /// A malformed extension, or more than [`crate::limits::CHUNK_EXTENSION_BYTES_MAX`] of them.
    #[error("malformed or excessive chunk extension")]
    ChunkExtension,
    /// A malformed trailer, or more than [`crate::limits::TRAILER_BYTES_MAX`] of them.
    #[error("malformed or excessive trailer")]
    Trailer,
    /// A body over the size that was set, or chunks that add up to more.
    #[error("body too large")]
    BodyTooLarge,
    /// CONNECT: this is no forward proxy.
    #[error("connect is not served")]
    Connect,
    /// TRACE: it reflects credentials to scripts.
    #[error("trace is not served")]
    Trace,
    /// OPTIONS with `Max-Forwards: 0`: who gets it answers (RFC 9110 7.6.2). It is refused to the upstream, not to the client.
    #[error("this proxy is the last to be asked")]
    LastForward,
    /// Nobody serves what is asked for.
    #[error("nothing is served at this host and path")]
    NoRoute,
    /// A host that the certificate which the client was shown is not for (RFC 9110 15.5.20).
    #[error("the certificate of this connection is not for this host")]
    Misdirected,
}

impl Reject {
    /// Every refusal, so that counters and tests can enumerate them.
    pub const ALL: [Self; 29] = [
        Self::Malformed,
        Self::BareLineEnd,
        Self::FieldName,
        Self::FieldNameTooLong,
        Self::FieldValue,
        Self::Version,
        Self::HeadTooLarge,
        Self::TooManyFields,
        Self::TooManyCuts,
        Self::TargetTooLong,
        Self::Target,
        Self::HostMissing,
        Self::HostRepeated,
        Self::HostMalformed,
        Self::LengthAndCoding,
        Self::LengthRepeated,
        Self::LengthMalformed,
        Self::Coding,
        Self::CodingInHttp10,
        Self::ChunkSize,
        Self::ChunkEnd,
        Self::ChunkExtension,
        Self::Trailer,
        Self::BodyTooLarge,
        Self::Connect,
        Self::Trace,
        Self::LastForward,
        Self::NoRoute,
        Self::Misdirected,
    ];

    words! {
        Malformed => "malformed",
        BareLineEnd => "bare-lf",
        FieldName => "field-name",
        FieldNameTooLong => "field-name-too-long",
        FieldValue => "field-value",
        Version => "version",
        HeadTooLarge => "head-too-large",
        TooManyFields => "too-many-fields",
        TooManyCuts => "too-many-cuts",
        TargetTooLong => "target-too-long",
        Target => "target",
        HostMissing => "host-missing",
        HostRepeated => "host-repeated",
        HostMalformed => "host-malformed",
        LengthAndCoding => "length-and-coding",
        LengthRepeated => "length-repeated",
        LengthMalformed => "length-malformed",
        Coding => "coding",
        CodingInHttp10 => "coding-in-http10",
        ChunkSize => "chunk-size",
        ChunkEnd => "chunk-end",
        ChunkExtension => "chunk-extension",
        Trailer => "trailer",
        BodyTooLarge => "body-too-large",
        Connect => "connect",
        Trace => "trace",
        LastForward => "last-forward",
        NoRoute => "no-route",
        Misdirected => "misdirected",
    }

    /// The status that a client is told.
    pub fn status(self) -> u16 {
        match self {
            Self::LastForward => 200,
            Self::NoRoute => 404,
            Self::Misdirected => 421,
            Self::HeadTooLarge | Self::TooManyFields | Self::TooManyCuts | Self::FieldNameTooLong => 431,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::Version => 505,
            // RFC 9112 6.1: a server that receives a transfer coding it does not understand responds with 501.
            Self::Coding => 501,
            Self::Connect | Self::Trace => 405,
            _ => 400,
        }
    }
}
