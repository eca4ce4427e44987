//! The time of a table: as a frame, out and in, and as news for a consumer.

use std::hint::black_box;

use bench::corpus;
use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput};
use feed::{
    FromSidecar, RoleTable,
    frame::{ConsumerCodec, SidecarCodec, SidecarHello, VERSION},
    subscriber::Subscriber,
};
use tokio_util::codec::{Decoder as _, Encoder as _};

const COUNTS: [u32; 2] = [100, 1000];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    frames(&mut criterion);
    news(&mut criterion);
    criterion.final_summary();
}

fn encode(table: RoleTable, bytes: &mut BytesMut) {
    let encoded = SidecarCodec::default().encode(FromSidecar::Table(table), bytes);
    encoded.expect("a table has nothing that JSON has not");
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for count in COUNTS {
        let table = corpus::table(1, count);
        let mut line = BytesMut::new();
        encode(table.clone(), &mut line);
        group.throughput(Throughput::Bytes(line.len() as u64));
        let mut bytes = BytesMut::new();
        group.bench_function(format!("encode {count}"), |bencher| {
            bencher.iter_batched(
                || table.clone(),
                |table| {
                    bytes.clear();
                    encode(table, &mut bytes);
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("decode {count}"), |bencher| {
            bencher.iter_batched_ref(
                || line.clone(),
                |line| ConsumerCodec::default().decode(line),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn subscriber(table: RoleTable) -> Subscriber {
    let mut subscriber = Subscriber::default();
    subscriber.handle_connected();
    let node = "dnsserver".parse().expect("letters make a name");
    let hello = SidecarHello { version: VERSION, node, cluster: "default".into() };
    let frames = [FromSidecar::Hello(hello), FromSidecar::Table(table), FromSidecar::Synced { epoch: 1 }];
    for frame in frames {
        subscriber.handle_frame(frame).expect("hello, table and synced come in this order");
    }
    subscriber
}

/// What a table costs a consumer, given one that it already has: one endpoint more, or nothing new.
fn news(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("subscriber");
    for count in COUNTS {
        for (name, next) in [("one more", corpus::table(2, count + 1)), ("the same", corpus::table(1, count))]
        {
            group.bench_function(format!("{name}, {count}"), |bencher| {
                bencher.iter_batched(
                    || (subscriber(corpus::table(1, count)), FromSidecar::Table(next.clone())),
                    |(mut subscriber, frame)| (black_box(subscriber.handle_frame(frame).is_ok()), subscriber),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}
