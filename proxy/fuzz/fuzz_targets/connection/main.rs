//! Connections: whatever a client and an upstream send each other, in whatever order, the upstream gets well-formed requests, and
//! the client believes only what an upstream said to the end.
//!
//! An input is a script: 0xFF and a letter begin each step, and what follows it is sent.
//!
//! ```text
//! c bytes   the client sends        u bytes   the upstream's newest connection sends
//! C         it closes its half      U         it closes its half
//! X         it resets               R         it resets
//! k         at the start: a client's half-close means that it waits
//! ```

#![no_main]

mod check;
mod scene;

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::peer::Side;

/// What is there when all of a script has been played.
#[derive(Debug, Default)]
pub struct Played {
    client: Side,
    /// In the order in which the proxy connected.
    upstreams: Vec<Side>,
}

fuzz_target!(|input: &[u8]| {
    let played = scene::play(input);
    check::check(&played);
});
