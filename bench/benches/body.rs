//! The time to find out which of 64 KiB belong to a body.

use std::hint::black_box;

use bench::corpus;
use criterion::{Criterion, Throughput};
use proxy::http1::{Body, Framing, Pieces};

/// What a worker reads at a time from an upstream.
const READ_BYTES: usize = proxy::limits::RESPONSE_BUFFER_BYTES;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    scans(&mut criterion);
    criterion.final_summary();
}

fn scans(criterion: &mut Criterion) {
    let chunks = |bytes: usize| corpus::chunked(READ_BYTES / bytes, bytes);
    let cases = [
        ("length", Framing::Length(READ_BYTES as u64), true, vec![b'x'; READ_BYTES]),
        ("chunks of 16 KiB", Framing::Chunked, true, chunks(16 << 10)),
        ("chunks of 1 KiB", Framing::Chunked, true, chunks(1 << 10)),
        ("chunks of 16 B", Framing::Chunked, true, chunks(16)),
        ("chunks of 1 KiB, undone", Framing::Chunked, false, chunks(1 << 10)),
    ];
    let mut group = criterion.benchmark_group("body");
    for (name, framing, keep_framing, bytes) in cases {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut pieces = Pieces::default();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (mut body, mut at) = (Body::new(framing, keep_framing), 0);
                // Pieces run out before the bytes do: they are then written and the scan goes on.
                while !body.is_done() {
                    pieces.clear();
                    at = body.scan(black_box(&bytes), at, &mut pieces).expect("the corpus is well-formed");
                }
                at
            });
        });
    }
    group.finish();
}
