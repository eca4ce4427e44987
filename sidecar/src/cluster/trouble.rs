//! Why a role's process does not pass its check, in so few bytes that an advert has room for it.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    Timeout,
    /// The connection ended without an answer.
    Closed,
    /// It cannot be reached.
    Unreachable,
    /// An HTTP status that is not 2xx.
    Http(u16),
    /// An answer that is not of the protocol of the check.
    Garbled,
    /// A gRPC status that is not OK.
    Grpc(u8),
    /// It says itself that it does not serve.
    NotServing,
    /// The check's program ended with this code.
    Exit(i32),
    /// The check's program was ended by this signal.
    Signal(i32),
    /// The check's program cannot be run.
    NotRunnable,
    /// The role's process has ended, and is started again.
    Down,
}

impl From<&io::Error> for Trouble {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Unreachable,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Closed => f.write_str("connection closed without an answer"),
            Self::Unreachable => f.write_str("cannot be reached"),
            Self::Http(status) => write!(f, "HTTP {status}"),
            Self::Garbled => f.write_str("an answer of another protocol"),
            Self::Grpc(status) => write!(f, "gRPC status {status}"),
            Self::NotServing => f.write_str("it says that it does not serve"),
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Down => f.write_str("its process ended and is started again"),
            Self::NotRunnable => f.write_str("the check's program cannot be run"),
        }
    }
}
