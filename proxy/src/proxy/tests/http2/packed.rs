//! Claims about numbers in heads that are too large: none becomes a small one by the arithmetic of whoever reads it.

use frames::{
    ACK, BEGIN, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, SETTINGS, frame, get as get_frame, next,
};

use super::*;

/// An integer of HPACK (RFC 7541 5.1) behind a prefix of so many bits, all of which are set: it is larger than they can say.
fn integer(pattern: u8, prefix_bits: u32, value: u128) -> Vec<u8> {
    let most = (1_u128 << prefix_bits) - 1;
    let (mut rest, mut bytes) = (value - most, vec![pattern | u8::try_from(most).unwrap()]);
    while rest >= 0x80 {
        bytes.push(0x80 | u8::try_from(rest & 0x7f).unwrap());
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// Blocks that are a head which says `first`, and besides a number that is a small one where so many bits are all there are.
fn wrapping_blocks(first: &[u8]) -> Vec<Vec<u8>> {
    let wrapping = [32, 64].map(|bits| 1_u128 << bits);
    let block = |wrapping: u128| {
        [
            // An entry of the table, and a name of it.
            [first, &integer(0x80, 7, wrapping + 16)].concat(),
            [first, &integer(0x40, 6, wrapping + 58), b"\x01y"].concat(),
            // The lengths of a name and of a value, plain and by Huffman's code, where nothing at all comes of it.
            [first, b"\x40", &integer(0, 7, wrapping + 1), b"x\x01y"].concat(),
            [first, b"\x40\x01x", &integer(0, 7, wrapping + 1), b"y"].concat(),
            [first, b"\x40\x01x", &integer(0x80, 7, wrapping)].concat(),
            // The size of the table, which is said first.
            [&integer(0x20, 5, wrapping + 31), first].concat(),
        ]
    };
    wrapping.into_iter().flat_map(block).collect()
}

#[test]
fn an_integer_of_a_client_that_would_wrap_ends_its_connection_and_is_no_request() {
    let requests = Arc::new(AtomicU32::new(0));
    let counted = requests.clone();
    let upstream = origin(move |stream, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        answer(stream, "HTTP/1.1 204 x\r\n\r\n")
    });
    let proxy = start_h2c(upstream, "");
    for block in wrapping_blocks(&get_frame(1)[9..]) {
        let mut client = connect(&proxy);
        let head = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
        client.write_all(&[BEGIN, &head].concat()).unwrap();
        let told: Vec<_> = std::iter::from_fn(|| next(&mut client)).collect();
        let is_error = |it: &frames::Frame| it.kind == GOAWAY && it.payload[4..8] != [0; 4];
        assert!(told.iter().any(is_error), "{block:x?}: {told:?}");
        assert!(!told.iter().any(|it| it.kind == HEADERS), "{block:x?}: {told:?}");
    }
    assert_eq!(requests.load(Ordering::Relaxed), 0);
    proxy.stop();
}

/// An origin that answers each stream with such a head, and some of a body.
fn start_packed(block: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let block = block.clone();
            thread::spawn(move || {
                let begin = &BEGIN[..24];
                let mut begun = [0; 24];
                if stream.read_exact(&mut begun).is_err() || begun != begin {
                    return;
                }
                let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[]));
                while let Some(told) = next(&mut stream) {
                    let said = match (told.kind, told.flags) {
                        (SETTINGS, 0) => frame(SETTINGS, ACK, 0, &[]),
                        (HEADERS, _) => {
                            let head = frame(HEADERS, END_HEADERS, told.stream, &block);
                            [head, frame(DATA, 0, told.stream, b"hello")].concat()
                        }
                        _ => continue,
                    };
                    if stream.write_all(&said).is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

/// What a client of HTTP/1.1 is told of such an answer.
fn status_of(block: Vec<u8>) -> u16 {
    let flags = "--workers=1 --upstream-protocol=app=h2c --timeouts=drain=10ms,connect=20s";
    let proxy = start(&[start_packed(block)], flags);
    let mut client = connect(&proxy);
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").unwrap();
    let status = read_status(&mut client);
    drop(client);
    proxy.stop();
    status
}

/// 200, as HPACK's static table has it.
const OK: &[u8] = &[0x88];

#[test]
fn an_integer_of_an_upstream_that_would_wrap_is_no_answer() {
    for block in wrapping_blocks(OK) {
        assert_eq!(status_of(block.clone()), 502, "{block:x?}");
    }
    assert_eq!(status_of(OK.to_vec()), 200);
}

#[test]
fn a_length_of_an_upstream_that_would_wrap_is_no_answer_and_the_longest_is_one() {
    for (length, status) in [
        ("999999999999999999", 200),
        ("1000000000000000000", 502),
        ("9223372036854775807", 502),
        ("9223372036854775808", 502),
        ("18446744073709551615", 502),
        ("18446744073709551616", 502),
        // 5 in 64 bits, and in 128.
        ("18446744073709551621", 502),
        ("340282366920938463463374607431768211461", 502),
    ] {
        // Literal, by the name of entry 28.
        let length_bytes = u8::try_from(length.len()).unwrap();
        let block = [OK, &[0x0f, 0x0d, length_bytes], length.as_bytes()].concat();
        assert_eq!(status_of(block), status, "{length}");
    }
}
