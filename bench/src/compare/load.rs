//! The loads: one row of the report each.

use clap::ValueEnum;

/// A row of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Load {
    /// A GET of 35 bytes on 64 connections that stay
    Small,
    /// The same on 512 connections
    Small512,
    /// The same at a rate that no proxy is busy with: for latencies
    Half,
    /// The same on 64 connections, each closed by its client's wish after one request
    Close,
    /// A response of 64 KiB on 64 connections
    Get64k,
    /// A response of 1 MiB on 16 connections
    Get1m,
    /// A request with a body of 16 KiB on 64 connections
    Post16k,
    /// The first load, with 4032 more connections that are open and idle
    Idle4096,
    /// The first load, relayed as TCP
    TcpSmall,
    /// Responses of 1 MiB, relayed as TCP
    Tcp1m,
    /// The first load, sealed by TLS
    TlsSmall,
    /// Responses of 64 KiB, sealed by TLS
    TlsGet64k,
    /// Responses of 1 MiB, sealed by TLS
    TlsGet1m,
    /// A full handshake for each request
    TlsFull,
    /// A handshake by a ticket for each request
    TlsResumed,
    /// A GET of 35 bytes by HTTP/2 on 16 connections with 10 streams each
    Http2Many,
    /// The same on one connection with 100 streams
    Http2One,
}

/// How its requests come to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// HTTP/1.1 in the clear.
    Plain,
    /// The same, through a proxy that only relays bytes.
    Tcp,
    /// HTTP/1.1 sealed by TLS.
    Sealed,
    /// The same, on a connection for each request, with a handshake of this kind.
    Handshake(Handshake),
    /// Sealed HTTP/2 with so many streams on each connection.
    Http2 { streams: usize },
}

/// How much of a handshake is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    /// All of it.
    Full,
    /// What is left of it where the client has a ticket.
    Resumed,
}

impl Way {
    /// TLS is part of it.
    pub(super) fn is_sealed(self) -> bool {
        !matches!(self, Self::Plain | Self::Tcp)
    }
}

/// What a load consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) title: &'static str,
    pub(super) path: &'static str,
    /// Connections that are busy.
    pub(super) connections: usize,
    /// Connections that made one request and then stay idle.
    pub(super) idle: usize,
    /// Every request asks for the connection to be closed.
    pub(super) close: bool,
    /// Bytes of the request's body; with any it is a POST.
    pub(super) body_bytes: usize,
    /// How long each connection waits before its next request.
    pub(super) pause_ms: u32,
    pub(super) way: Way,
}

const SMALL: Shape = Shape {
    title: "35 B GET keep-alive, 64 connections",
    path: "/",
    connections: 64,
    idle: 0,
    close: false,
    body_bytes: 0,
    pause_ms: 0,
    way: Way::Plain,
};

impl Load {
    /// The word for it on the command line and in the CSV file.
    pub(super) fn key(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub(super) fn shape(self) -> Shape {
        match self {
            Self::Small => SMALL,
            Self::Small512 => {
                Shape { title: "35 B GET keep-alive, 512 connections", connections: 512, ..SMALL }
            }
            // At most 80 ÷ 2 ms = 40,000 a second: about half of what the slowest of HAProxy, nginx and us can do here.
            Self::Half => {
                Shape { title: "35 B GET, at most 40,000 a second", connections: 80, pause_ms: 2, ..SMALL }
            }
            Self::Close => Shape { title: "35 B GET, connection closed after each", close: true, ..SMALL },
            Self::Get64k => Shape { title: "64 KiB response, 64 connections", path: "/64k", ..SMALL },
            Self::Get1m => {
                Shape { title: "1 MiB response, 16 connections", path: "/1m", connections: 16, ..SMALL }
            }
            Self::Post16k => Shape { title: "16 KiB POST, 64 connections", body_bytes: 16 << 10, ..SMALL },
            Self::Idle4096 => {
                Shape { title: "35 B GET, 64 of 4096 connections busy", idle: 4096 - 64, ..SMALL }
            }
            Self::TcpSmall => Shape { title: "TCP: 35 B GET, 64 connections", way: Way::Tcp, ..SMALL },
            Self::Tcp1m => {
                Shape { title: "TCP: 1 MiB response, 16 connections", way: Way::Tcp, ..Self::Get1m.shape() }
            }
            Self::TlsSmall => {
                Shape { title: "TLS: 35 B GET keep-alive, 64 connections", way: Way::Sealed, ..SMALL }
            }
            Self::TlsGet64k => Shape {
                title: "TLS: 64 KiB response, 64 connections",
                way: Way::Sealed,
                ..Self::Get64k.shape()
            },
            Self::TlsGet1m => Shape {
                title: "TLS: 1 MiB response, 16 connections",
                way: Way::Sealed,
                ..Self::Get1m.shape()
            },
            Self::TlsFull => handshakes("TLS: a full handshake for each 35 B GET", Handshake::Full),
            Self::TlsResumed => handshakes("TLS: a resumed handshake for each 35 B GET", Handshake::Resumed),
            Self::Http2Many => http2("HTTP/2 in TLS: 35 B GET, 16 connections with 10 streams each", 16, 10),
            Self::Http2One => http2("HTTP/2 in TLS: 35 B GET, 1 connection with 100 streams", 1, 100),
        }
    }
}

fn handshakes(title: &'static str, handshake: Handshake) -> Shape {
    Shape { title, connections: 16, close: true, way: Way::Handshake(handshake), ..SMALL }
}

fn http2(title: &'static str, connections: usize, streams: usize) -> Shape {
    Shape { title, connections, way: Way::Http2 { streams }, ..SMALL }
}
