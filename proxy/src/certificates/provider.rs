//! Whose cryptography it is: *ring*'s, and Graviola's for the key exchange that *ring* has not.
//!
//! What was recorded of today's connections may be opened by a quantum computer later. X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem) is safe
//! as long as one of its two halves is. Browsers offer it first.

use rustls::crypto::{CryptoProvider, ring};

/// What clients are served with: where the processor can do it, the exchange that outlives quantum computers comes first. A client that does
/// not offer it goes by the next.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if is_fit_for_graviola() {
        provider.kx_groups.insert(0, rustls_graviola::kx::X25519MLKEM768);
    }
    provider
}

/// It panics on others: on a processor of before 2014, or where an emulator hides some of what it can.
#[cfg(target_arch = "x86_64")]
pub(super) fn is_fit_for_graviola() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("adx")
        && has!("aes")
        && has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
pub(super) fn is_fit_for_graviola() -> bool {
    use std::arch::is_aarch64_feature_detected as has;
    has!("aes") && has!("neon") && has!("pmull") && has!("sha2")
}
