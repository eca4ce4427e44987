//! Bodies: what passes of one does not depend on how it is cut, and is what a second reader makes of it.
//!
//! The first byte says how the body is framed and whether its chunks' sizes may be padded, the second how it is cut; the rest is the body.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::http1::{Body, Framing, Pieces, Reject};
use proxy_fuzz::{
    gather,
    strict::{Extensions, unchunk},
};

#[derive(Debug, PartialEq, Eq)]
struct Passed {
    output: Vec<u8>,
    taken: usize,
    is_done: bool,
}

/// What passes of a body that comes in segments of at most `longest` bytes.
fn pass(mut body: Body, input: &[u8], longest: usize) -> Result<Passed, Reject> {
    let (mut output, mut taken) = (Vec::new(), 0);
    let mut rest = input;
    let mut step = 1;
    while !rest.is_empty() {
        // Of all lengths up to the longest, in no simple order.
        step = (step * 7 + 3) % longest + 1;
        let (segment, after) = rest.split_at(step.min(rest.len()));
        rest = after;
        let mut at = 0;
        while at < segment.len() && !body.is_done() {
            let mut pieces = Pieces::default();
            let next = body.scan(segment, at, &mut pieces)?;
            assert!(next > at, "it goes on");
            at = next;
            output.extend(gather(&pieces, segment));
        }
        taken += at;
    }
    Ok(Passed { output, taken, is_done: body.is_done() })
}

fuzz_target!(|input: &[u8]| {
    let [kind, cut, body @ ..] = input else { return };
    let framing = match kind % 8 {
        0 => Framing::Length(1 + u64::from(kind / 8)),
        1 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let framed = |keep_framing: bool| {
        let strict = Body::new(framing, keep_framing);
        if kind & 0x40 == 0 { strict } else { strict.padded() }
    };
    let whole = pass(framed(true), body, usize::MAX / 16);
    assert_eq!(pass(framed(true), body, usize::from(*cut) + 1), whole);
    let data = pass(framed(false), body, usize::from(*cut) + 1);
    assert_eq!(data, pass(framed(false), body, usize::MAX / 16));
    let (Ok(whole), Ok(data)) = (&whole, &data) else {
        assert_eq!((whole.as_ref().err(), whole.is_err()), (data.as_ref().err(), data.is_err()));
        return;
    };
    assert_eq!((whole.taken, whole.is_done), (data.taken, data.is_done));
    if framing != Framing::Chunked {
        assert!(whole == data && whole.output == body[..whole.taken]);
        return;
    }
    // What passed is chunks again, without extensions, and means the same as what came.
    let length = whole.is_done.then_some(whole.output.len());
    assert_eq!(unchunk(&whole.output, Extensions::Malformed), Ok((data.output.clone(), length)));
    let came = whole.is_done.then_some(whole.taken);
    assert_eq!(unchunk(&body[..whole.taken], Extensions::Skipped), Ok((data.output.clone(), came)));
});
