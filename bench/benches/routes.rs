//! What it costs to find the role of a request, by the number of routes.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use feed::Route;
use proxy::route::{Key, Table};

/// Hosts of ten paths each, and as many suffixes as a tenth of them.
fn table(count: usize) -> Table<usize> {
    let route = |i: usize| match i % 10 {
        0 => format!("*.zone{}.example.com", i / 10),
        path => format!("shop{}.example.com/api/v{path}", i / 10),
    };
    (0..count).map(|i| (route(i).parse::<Route>().expect("a route"), i)).collect()
}

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for count in [1, 100, 10_000] {
        let table = table(count);
        for (name, host, target) in [
            ("exact", "shop0.example.com", "/api/v7/orders/17?x=y"),
            ("suffix", "a.b.zone0.example.com:8080", "/"),
            ("none", "nobody.example.org", "/api/v7/orders/17"),
        ] {
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| {
                    let key = Key::new(black_box(host.as_bytes()), black_box(target.as_bytes()));
                    key.ok().and_then(|key| table.find(&key).copied())
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, routes);
criterion_main!(benches);
