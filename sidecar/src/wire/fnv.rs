//! FNV-1a, mixed: a hash that is the same on every machine and in every version, which the standard library's do not promise.

use std::net::{IpAddr, SocketAddr};

/// Takes bytes and gives a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new(salt: u64) -> Self {
        Self(0xcbf2_9ce4_8422_2325 ^ salt)
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(self.0, step))
    }

    pub(crate) fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    pub(crate) fn addr(self, addr: SocketAddr) -> Self {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        self.bytes(&ip.octets()).bytes(&addr.port().to_be_bytes())
    }

    /// Neighbours, such as addresses of one network, must not come out alike: hence the mixing.
    pub(crate) fn finish(self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}
