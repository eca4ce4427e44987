//! The time of a head: from the bytes as they were read to the pieces to forward, framing and rewriting included.

use std::hint::black_box;

use bench::corpus;
use criterion::{BatchSize, Criterion, Throughput};
use proxy::http1::{
    Fields, Parse, Pieces, Version,
    fields::Field,
    framing,
    head::{Exchanged, Hop, parse_request, parse_response},
};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    requests(&mut criterion);
    responses(&mut criterion);
    framings(&mut criterion);
    criterion.final_summary();
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request head");
    let heads = [
        ("GET small", corpus::GET_SMALL),
        ("GET browser", corpus::GET_BROWSER),
        ("POST length", corpus::POST_JSON),
        ("POST chunked", corpus::POST_CHUNKED),
    ];
    for (name, head) in heads {
        group.throughput(Throughput::Bytes(head.len() as u64));
        // Parsing writes the version into the buffer: the same bytes that these heads already have.
        let (mut buffer, mut pieces) = (head.to_vec(), Pieces::default());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                pieces.clear();
                let parsed = parse_request(black_box(&mut buffer), Hop::plain("default"), &mut pieces);
                assert!(matches!(black_box(parsed), Ok(Parse::Done(_))));
            });
        });
    }
    let partial = &corpus::GET_BROWSER[..corpus::GET_BROWSER.len() - 2];
    group.throughput(Throughput::Bytes(partial.len() as u64));
    group.bench_function("GET browser, incomplete", |bencher| {
        bencher.iter_batched_ref(
            || (partial.to_vec(), Pieces::default()),
            |(buffer, pieces)| parse_request(black_box(buffer), Hop::plain("default"), pieces),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn responses(criterion: &mut Criterion) {
    let exchanged = Exchanged {
        to_head: false,
        client: Version::Http11,
        upgrade: false,
        keep_alive: true,
        is_rest_long: false,
        is_http2: false,
        via: None,
        date: None,
        fields: None,
        cookie: None,
        request_id: None,
    };
    let mut group = criterion.benchmark_group("response head");
    let heads = [("small", corpus::RESPONSE_SMALL), ("application", corpus::RESPONSE_APPLICATION)];
    for (name, head) in heads {
        group.throughput(Throughput::Bytes(head.len() as u64));
        let (mut buffer, mut pieces) = (head.to_vec(), Pieces::default());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                pieces.clear();
                let parsed = parse_response(black_box(&mut buffer), exchanged, &mut pieces);
                assert!(matches!(black_box(parsed), Ok(Parse::Done(_))));
            });
        });
    }
    group.finish();
}

fn framings(criterion: &mut Criterion) {
    let field = |name, value: &'static str| Field { name, value: value.as_bytes() };
    let cases = [
        ("length", [field("host", "a"), field("accept", "*/*"), field("content-length", "16384")]),
        ("chunked", [field("host", "a"), field("accept", "*/*"), field("transfer-encoding", "chunked")]),
    ];
    let mut group = criterion.benchmark_group("framing");
    for (name, fields) in cases {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let found = Fields::parse(black_box(&fields));
                found.and_then(|found| framing::request_framing(&fields, &found, Version::Http11))
            });
        });
    }
    group.finish();
}
