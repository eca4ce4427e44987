//! Addresses of name servers, as people write them.

use std::net::{IpAddr, SocketAddr};

/// The port of name servers, which is meant where an address names none.
pub(crate) const DNS_PORT: u16 = 53;

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an IP address or IP:port, like 192.0.2.1, 192.0.2.1:53 or [2001:db8::1]:53")]
pub struct NotAnAddr;

pub(crate) fn parse_addr(text: &str) -> Result<SocketAddr, NotAnAddr> {
    let with_port = text.parse::<SocketAddr>();
    with_port.or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, DNS_PORT).into())).map_err(|_| NotAnAddr)
}
