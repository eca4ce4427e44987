//! Claims about bodies: what passes of them, in whatever segments, and what is refused.

use std::io::IoSlice;

use proptest::prelude::*;

use super::*;
use crate::limits::{PIECES_COUNT_MAX, TRAILER_NAME_BYTES_MAX};

/// What passes of a body that arrives in pieces of `step` bytes, and how many bytes were taken.
fn pass(framing: Framing, keep_framing: bool, input: &[u8], step: usize) -> Passed {
    pass_of(Body::new(framing, keep_framing), input, step)
}

type Passed = Result<(Vec<u8>, usize, bool), Reject>;

fn pass_of(mut body: Body, input: &[u8], step: usize) -> Passed {
    let (mut output, mut taken) = (Vec::new(), 0);
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

fn chunked(input: &[u8]) -> Passed {
    chunks_of(Body::new(Framing::Chunked, true), input)
}

fn chunks_of(body: Body, input: &[u8]) -> Passed {
    let whole = pass_of(body, input, input.len().max(1));
    for step in 1..input.len().min(40) {
        assert_eq!(pass_of(body, input, step), whole, "in pieces of {step}");
    }
    whole
}

/// What passes of a trailer section, in every segmentation into two and into many.
fn trailers(trailers: Trailers, section: &str) -> String {
    let body = Body::new(Framing::Chunked, true).with_trailers(trailers);
    let input = format!("0\r\n{section}\r\n").into_bytes();
    let (passed, taken, is_done) = chunks_of(body, &input).unwrap();
    assert!(taken == input.len() && is_done);
    for cut in 1..input.len() {
        let (mut body, mut output) = (body, Vec::new());
        for part in [&input[..cut], &input[cut..]] {
            let mut pieces = Pieces::default();
            assert_eq!(body.scan(part, 0, &mut pieces), Ok(part.len()));
            let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
            let count = pieces.slices(part, &mut slices);
            slices[..count].iter().for_each(|slice| output.extend_from_slice(slice));
        }
        assert_eq!(output, passed, "cut at {cut}");
    }
    let passed = String::from_utf8(passed).unwrap();
    passed.strip_prefix("0\r\n").unwrap().strip_suffix("\r\n").unwrap().to_owned()
}

#[test]
fn trailers_that_belong_into_a_head_are_dropped_line_by_line_and_the_others_pass() {
    let none = Trailers::default();
    for (section, passed) in [
        ("Content-Length: 5\r\n", ""),
        ("transfer-ENCODING: chunked\r\nX-Sum:\t1 \r\n", "X-Sum:\t1 \r\n"),
        (
            "grpc-status:0\r\nHost: b\r\ngrpc-message: \r\nSet_Cookie: a\r\nY:\r\n",
            "grpc-status:0\r\ngrpc-message: \r\nY:\r\n",
        ),
        ("Content-Type: text/plain\r\nX-T: v\r\n", "X-T: v\r\n"),
        ("Host:\r\nHosts: a\r\nHost: \r\n", "Hosts: a\r\n"),
        ("x-forwarded-for: 6.6.6.6\r\n", "x-forwarded-for: 6.6.6.6\r\n"),
    ] {
        assert_eq!(trailers(none, section), passed, "{section:?}");
    }
    let section = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX: y\r\nx_real_ip: 6.6.6.6\r\n";
    assert_eq!(trailers(none.without_way(true), section), "X: y\r\n");
    let long = format!("{}: 1\r\nX: y\r\n", "n".repeat(TRAILER_NAME_BYTES_MAX + 1));
    assert_eq!(trailers(none, &long), "X: y\r\n");
}

#[test]
fn trailers_that_connection_names_are_dropped() {
    let mut named = Trailers::default();
    named.nominate(b"x-sum");
    assert_eq!(trailers(named, "X-Sum: 1\r\nX-Sums: 2\r\n"), "X-Sums: 2\r\n");
}

#[test]
fn many_dropped_trailers_pass_in_as_many_writes_as_they_need() {
    let many = |lines: &str| format!("0\r\n{}\r\n", lines.repeat(3 * PIECES_COUNT_MAX)).into_bytes();
    assert_eq!(chunked(&many("Host: a\r\nX: y\r\n")).unwrap().0, many("X: y\r\n"));
}

#[test]
fn blanks_behind_a_size_are_taken_from_an_origin_only_and_never_passed_on() {
    let padded = Body::new(Framing::Chunked, true).padded();
    let input = b"4   \r\nwiki\r\n5\t ;x=\" \"\r\npedia\r\n0 \r\n\r\n";
    let plain = b"4\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\n";
    assert_eq!(chunks_of(padded, input).unwrap().0, plain);
    assert_eq!(chunked(input), Err(Reject::ChunkSize));
    for bad in [&b" 4\r\n"[..], b"4 4\r\n", b"4 x\r\n", b"4 \n", b"4 \rx", b" \r\n", b"4\x0b\r\n"] {
        assert_eq!(chunks_of(padded, bad), Err(Reject::ChunkSize), "{}", String::from_utf8_lossy(bad));
    }
    let blanks = |count: usize| format!("1{}\r\n", " ".repeat(count)).into_bytes();
    // The first of them ends the size and is not counted.
    assert!(pass_of(padded, &blanks(CHUNK_EXTENSION_BYTES_MAX + 1), 9999).is_ok());
    assert_eq!(pass_of(padded, &blanks(CHUNK_EXTENSION_BYTES_MAX + 2), 9999), Err(Reject::ChunkExtension));
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
    let cases: [(&[u8], Reject); 21] = [
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
        (b"0\r\nHost : b\r\n", Reject::Trailer),
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
    fn segmentation_never_changes_the_verdict(
        input in "[0-9a-f;\r\nA:\" ]{0,40}", step in 1usize..10, is_padded: bool,
    ) {
        let strict = Body::new(Framing::Chunked, true);
        let (input, body) = (input.as_bytes(), if is_padded { strict.padded() } else { strict });
        prop_assert_eq!(pass_of(body, input, step), pass_of(body, input, input.len().max(1)));
    }

    #[test]
    fn a_trailer_passes_whole_or_not_at_all_in_any_segmentation(
        lines in prop::collection::vec(("(Host|X-Sum|te|If-A|N|[a-z-]{1,9}|[A-Z]{60,70})", "[ -~]{0,9}"), 0..40),
        step in 1usize..90,
    ) {
        let mut named = Trailers::default();
        named.nominate(b"n");
        let section: String = lines.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
        let input = format!("1\r\nx\r\n0\r\n{section}\r\n").into_bytes();
        let body = Body::new(Framing::Chunked, true).with_trailers(named);
        let (passed, taken, is_done) = pass_of(body, &input, step).unwrap();
        prop_assert!(taken == input.len() && is_done);
        let expected: String = lines.iter().filter(|(name, _)| {
            let mut held = TrailerName::default();
            name.bytes().for_each(|byte| held.push(byte));
            held.passing(&named).is_some()
        }).map(|(name, value)| format!("{name}:{value}\r\n")).collect();
        prop_assert_eq!(String::from_utf8(passed).unwrap(), format!("1\r\nx\r\n0\r\n{expected}\r\n"));
    }
}
