//! What each rule of a route costs a request, from the bytes of its head to what an upstream is sent of it.

use criterion::{Criterion, criterion_group, criterion_main};
use proxy::ruling::Ruling;

/// A browser's, with a cookie that names an upstream: it is signed, and not for this secret.
const HEAD: &[u8] = b"GET /api/orders/17?x=y HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
    Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\nAccept-Encoding: gzip, deflate, br\r\n\
    Cookie: a=b; lb=0000000000000011-00112233445566778899aabbccddeeff; c=d\r\nX-Inner: y\r\n\r\n";

fn rules(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rule");
    for (name, rules) in [
        ("none", "role = 'a'"),
        ("retries", "role = 'a', retries = false"),
        ("roles", "roles = { a = 95, b = 5 }"),
        ("path", "role = 'a', add-prefix = '/v1'"),
        ("fields", "role = 'a', request = { set = { X-Env = 'prod' }, remove = ['X-Inner'] }"),
        ("access", "role = 'a', allow = ['10.0.0.0/8', '192.168.0.0/16'], deny = ['fd00::/8']"),
        ("rate", "role = 'a', rate-limit = { rate = '4000000000/s' }"),
        ("sticky", "role = 'a', sticky = { cookie = 'lb', secret = '0123456789abcdef' }"),
    ] {
        let mut ruling = Ruling::new(rules);
        let mut head = HEAD.to_vec();
        assert!(ruling.pass(&mut head), "{name}");
        group.bench_function(name, |bencher| bencher.iter(|| ruling.pass(&mut head)));
    }
    group.finish();
}

criterion_group!(benches, rules);
criterion_main!(benches);
