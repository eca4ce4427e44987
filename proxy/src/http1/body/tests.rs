//! Claims about bodies: what passes of them, in whatever segments, and what is refused.

use std::io::IoSlice;

use proptest::prelude::*;

use super::*;
use crate::limits::PIECES_COUNT_MAX;

/// What passes of a body that arrives in pieces of `step` bytes, and how many bytes were taken.
fn pass(
    framing: Framing,
    keep_framing: bool,
    input: &[u8],
    step: usize,
) -> Result<(Vec<u8>, usize, bool), Reject> {
    let (mut body, mut output, mut taken) = (Body::new(framing, keep_framing), Vec::new(), 0);
    for read in input.chunks(step) {
        let mut at = 0;
        while at < read.len() && !body.is_done() {
            let mut pieces = Pieces::default();
            at = body.scan(read, at, &mut pieces)?;
            let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
            let count = pieces.slices(read, &mut slices);
            slices[..count].iter().for_each(|slice| output.extend_from_slice(slice));
        }
        taken += at;
    }
    Ok((output, taken, body.is_done()))
}

fn chunked(input: &[u8]) -> Result<(Vec<u8>, usize, bool), Reject> {
    let whole = pass(Framing::Chunked, true, input, input.len().max(1));
    for step in 1..input.len().min(40) {
        assert_eq!(pass(Framing::Chunked, true, input, step), whole, "in pieces of {step}");
    }
    whole
}

#[test]
fn a_length_ends_a_body_exactly() {
    assert_eq!(pass(Framing::Length(3), true, b"abcdef", 6), Ok((b"abc".to_vec(), 3, true)));
    assert_eq!(pass(Framing::Length(7), true, b"abcdef", 2), Ok((b"abcdef".to_vec(), 6, false)));
}

#[test]
fn chunks_pass_as_they_are_and_what_follows_does_not() {
    let body = b"4\r\nwiki\r\n005\r\npedia\r\n0\r\nX-Sum: 1\r\n\r\n";
    let mut input = body.to_vec();
    input.extend_from_slice(b"GET /");
    assert_eq!(chunked(&input), Ok((body.to_vec(), body.len(), true)));
}

#[test]
fn chunks_are_undone_where_they_are_not_wanted() {
    let input = b"4;x=y\r\nwiki\r\n5\r\npedia\r\n0\r\nA: b\r\n\r\n";
    assert_eq!(pass(Framing::Chunked, false, input, 7), Ok((b"wikipedia".to_vec(), input.len(), true)));
}

#[test]
fn extensions_are_dropped() {
    let input = b"4;a=\"x;\\\"y\"\r\nwiki\r\n0;z\r\n\r\n";
    assert_eq!(chunked(input).unwrap().0, b"4\r\nwiki\r\n0\r\n\r\n");
}

#[test]
fn every_malformed_chunk_is_refused_by_name() {
    let cases: [(&[u8], Reject); 22] = [
        (b"\r\n", Reject::ChunkSize),
        (b"+4\r\n", Reject::ChunkSize),
        (b"-4\r\n", Reject::ChunkSize),
        (b" 4\r\n", Reject::ChunkSize),
        (b"4 \r\n", Reject::ChunkSize),
        (b"0x4\r\n", Reject::ChunkSize),
        (b"4_0\r\n", Reject::ChunkSize),
        (b"4\n", Reject::ChunkSize),
        (b"4\rx", Reject::ChunkSize),
        (b"zz\r\n", Reject::ChunkSize),
        (b"4\r\nwikiX\r\n", Reject::ChunkEnd),
        (b"4\r\nwiki\n", Reject::ChunkEnd),
        (b"4\r\nwiki\rX", Reject::ChunkEnd),
        (b"4;a\nb\r\n", Reject::ChunkExtension),
        (b"4;\"a\r\nb\"\r\n", Reject::ChunkExtension),
        (b"0\r\n\n", Reject::Trailer),
        (b"0\r\nA b: c\r\n", Reject::Trailer),
        (b"0\r\nA\r\n", Reject::Trailer),
        (b"0\r\nA: b\n", Reject::Trailer),
        (b"0\r\n: b\r\n", Reject::Trailer),
        (b"0\r\nContent-Length: 5\r\n", Reject::TrailerForbidden),
        (b"0\r\ntransfer-ENCODING: chunked\r\n", Reject::TrailerForbidden),
    ];
    for (input, reject) in cases {
        assert_eq!(chunked(input), Err(reject), "{:?}", String::from_utf8_lossy(input));
    }
}

#[test]
fn sizes_have_at_most_13_digits() {
    assert!(chunked(b"000000000000f\r\n").is_ok());
    assert_eq!(chunked(b"0000000000000f\r\n"), Err(Reject::ChunkSize));
}

#[test]
fn extensions_and_trailers_are_accepted_up_to_their_limits() {
    let extended = |n: usize| format!("1;{}\r\n", "x".repeat(n - 1)).into_bytes();
    // The CR that ends the extension is counted with it.
    assert!(pass(Framing::Chunked, true, &extended(CHUNK_EXTENSION_BYTES_MAX), 9999).is_ok());
    let over = pass(Framing::Chunked, true, &extended(CHUNK_EXTENSION_BYTES_MAX + 1), 9999);
    assert_eq!(over, Err(Reject::ChunkExtension));
    let trailed = |n: usize| format!("0\r\nA:{}\r\n\r\n", "x".repeat(n - 4)).into_bytes();
    assert!(pass(Framing::Chunked, true, &trailed(TRAILER_BYTES_MAX), 9999).is_ok());
    assert_eq!(pass(Framing::Chunked, true, &trailed(TRAILER_BYTES_MAX + 1), 9999), Err(Reject::Trailer));
}

#[test]
fn a_body_of_the_size_that_is_allowed_passes_and_a_byte_more_is_refused() {
    let scan =
        |framing, input: &[u8]| Body::new(framing, true).limited(9)?.scan(input, 0, &mut Pieces::default());
    assert_eq!(scan(Framing::Length(9), b"wikipedia"), Ok(9));
    assert_eq!(scan(Framing::Length(10), b""), Err(Reject::BodyTooLarge));
    let at_limit = b"4\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\n";
    assert_eq!(scan(Framing::Chunked, at_limit), Ok(at_limit.len()));
    let over = b"4\r\nwiki\r\n6\r\n";
    assert_eq!(scan(Framing::Chunked, over), Err(Reject::BodyTooLarge));
    assert_eq!(scan(Framing::Chunked, b"fffffffffffff\r\n"), Err(Reject::BodyTooLarge));
    assert_eq!(Body::new(Framing::Length(1), true).limited(0), Err(Reject::BodyTooLarge));
}

proptest! {
    #[test]
    fn honest_chunks_pass_unchanged_in_any_segmentation(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..60),
        step in 1usize..90,
    ) {
        let mut input = Vec::new();
        for chunk in &chunks {
            input.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            input.extend(chunk);
            input.extend(b"\r\n");
        }
        input.extend(b"0\r\n\r\n");
        let expected = (input.clone(), input.len(), true);
        prop_assert_eq!(pass(Framing::Chunked, true, &input, step), Ok(expected));
        let data = (chunks.concat(), input.len(), true);
        prop_assert_eq!(pass(Framing::Chunked, false, &input, step), Ok(data));
    }

    #[test]
    fn segmentation_never_changes_the_verdict(input in "[0-9a-f;\r\nA:\" ]{0,40}", step in 1usize..10) {
        let input = input.as_bytes();
        let whole = pass(Framing::Chunked, true, input, input.len().max(1));
        prop_assert_eq!(pass(Framing::Chunked, true, input, step), whole);
    }
}
