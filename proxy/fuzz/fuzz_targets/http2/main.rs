//! Connections of HTTP/2: whatever a client sends, the upstream gets well-formed requests, the client gets frames that follow each other
//! as they may, nothing outlives the client, and memory stays bounded.
//!
//! The first byte says how the upstream answers, and how the client ends. Frames follow: a byte for the type, one for the flags, one for the stream, one for the length,
//! and the payload. The types and flags that HTTP/2 has none of are orders:
//!
//! ```text
//! type  0x40  the payload comes 64 times       flags  0x80  all that came before is looked at first
//!       0x7f  the payload alone, without a head       0x40  all goes on once the upstream has answered
//! ```

#![no_main]

mod check;
mod memory;
mod origin;
mod scene;

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::peer::Side;

/// What is there when all frames have been sent.
#[derive(Debug, Default)]
pub struct Played {
    client: Side,
    /// In the order in which the proxy connected.
    upstreams: Vec<Side>,
}

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;

/// More than windows, buffers and HPACK's tables of one connection make (`limits.rs`).
const HELD_BYTES_MAX: usize = 24 * 1024 * 1024;

fuzz_target!(|input: &[u8]| {
    let before = memory::start();
    let played = scene::play(input);
    let held = memory::most().saturating_sub(before);
    assert!(held <= HELD_BYTES_MAX, "{held} bytes were held");
    check::check(&played);
});
