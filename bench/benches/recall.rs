//! What it costs a request that it may be asked for by its id later: noted while it is under way, and one in 64 kept. The id itself, which it
//! has in any case, is measured beside it.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use proxy::recalling::Recalling;

const HEAD: &[u8] = b"GET /api/orders/17?x=y HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
    Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\nAccept-Encoding: gzip, deflate, br\r\n\r\n";

fn recall(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recall");
    let mut recalling = Recalling::default();
    group.bench_function("an id", |bencher| bencher.iter(|| recalling.id()));
    group.bench_function("an id and notes", |bencher| bencher.iter(|| recalling.pass(black_box(HEAD))));
    group.finish();
}

criterion_group!(benches, recall);
criterion_main!(benches);
