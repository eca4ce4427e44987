//! The time of a choice among so many upstreams, by load and by key, a lease and the end of another included; and of what it is
//! made ready by.

use std::hint::black_box;

use bench::corpus;
use criterion::Criterion;
use proxy::choosing::Choosing;

const COUNTS: [u32; 4] = [2, 30, 1000, 10_000];

/// Requests under way.
const UNDER_WAY: usize = 256;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    choices(&mut criterion);
    tables(&mut criterion);
    criterion.final_summary();
}

fn choices(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for count in COUNTS {
        let mut choosing = Choosing::new(&corpus::table(1, count), true, UNDER_WAY);
        group.bench_function(format!("by load, {count}"), |bencher| {
            bencher.iter(|| choosing.choose(black_box(None)));
        });
        let mut key = 0_u64;
        group.bench_function(format!("by key, {count}"), |bencher| {
            bencher.iter(|| {
                key += 1;
                choosing.choose(black_box(Some(key)))
            });
        });
    }
    group.finish();
}

fn tables(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("listing");
    group.sample_size(20);
    for count in COUNTS {
        let table = corpus::table(1, count);
        for (name, is_keyed) in [("by load", false), ("by key", true)] {
            let mut choosing = Choosing::new(&table, is_keyed, 0);
            group.bench_function(format!("{name}, {count}"), |bencher| {
                bencher.iter(|| choosing.apply_table(black_box(&table)));
            });
        }
    }
    group.finish();
}
