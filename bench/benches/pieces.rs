//! The time to collect what is to be written, and to keep count of what has been.

use std::{hint::black_box, io::IoSlice};

use criterion::Criterion;
use proxy::{http1::Pieces, limits::PIECES_COUNT_MAX};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    pieces(&mut criterion);
    criterion.final_summary();
}

/// A head of 600 bytes with so many cuts, our own bytes in each, and the body behind it.
fn fill(pieces: &mut Pieces, cuts: usize) {
    pieces.clear();
    for cut in 0..cuts {
        let range = 600 / cuts * cut..600 / cuts * (cut + 1) - 1;
        let filled = pieces.push(range).and_then(|()| pieces.add(b"via: x\r\n"));
        filled.expect("twice the cuts and one are fewer than the limit");
    }
    pieces.push(600..4096).expect("twice the cuts and one are fewer than the limit");
}

fn pieces(criterion: &mut Criterion) {
    let buffer = vec![b'x'; 4096];
    let mut group = criterion.benchmark_group("pieces");
    for cuts in [1, 4, 12] {
        let mut pieces = Pieces::default();
        group.bench_function(format!("fill, {cuts} cuts"), |bencher| {
            bencher.iter(|| fill(black_box(&mut pieces), cuts));
        });
        fill(&mut pieces, cuts);
        group.bench_function(format!("slices, {cuts} cuts"), |bencher| {
            bencher.iter(|| {
                let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
                black_box(black_box(&pieces).slices(&buffer, &mut slices));
                black_box(slices[0].len())
            });
        });
        group.bench_function(format!("advance by 1000, {cuts} cuts"), |bencher| {
            bencher.iter(|| {
                pieces.rewind();
                for _ in 0..3 {
                    pieces.advance(black_box(1000));
                }
                pieces.is_written()
            });
        });
    }
    group.finish();
}
