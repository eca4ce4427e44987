//! What would do instead, for errors that people meet.

use std::io::{self, ErrorKind};

/// Where an address cannot be listened on.
pub fn on_listening(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => {
            "another program has the port (`ss -lnp` shows which): stop it, or choose another port"
        }
        ErrorKind::PermissionDenied => {
            "ports below 1024 take root or CAP_NET_BIND_SERVICE: grant it, or choose a higher port"
        }
        ErrorKind::AddrNotAvailable => {
            "no interface has the address (`ip addr` shows them): choose one of those, or 0.0.0.0"
        }
        _ => "choose another address",
    }
}

/// Where a file cannot be listened at.
pub fn on_listening_at_file(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => "stop it, or choose another path",
        ErrorKind::AlreadyExists => "remove it, or choose another path",
        ErrorKind::NotFound => "its directory is missing: make it",
        ErrorKind::PermissionDenied => "its directory has to be writable for this user: grant it",
        _ => "choose another path",
    }
}
