//! Claims about how a connection of HTTP/2 ends, frame by frame.

use frames::{ACK, BEGIN, GOAWAY, HEADERS, PING, expect, frame, get, next};

use super::*;

/// How a head begins that says 204, which is in HPACK's static table.
const NO_CONTENT: u8 = 0x89;

/// RFC 9113 6.8: what a client has sent before it heard of the end must not be lost, and what it sends behind the last stream must not be
/// looked at, for it will ask for that elsewhere.
#[test]
fn a_proxy_that_stops_says_goodbye_twice_and_serves_every_stream_before_the_second_alone() {
    let (upstream, requests) = start_frozen();
    let proxy = start_h2c(upstream, "--timeouts=drain=20s --workers=1");
    let mut client = connect(&proxy);
    client.write_all(&[BEGIN, &get(1)].concat()).unwrap();
    let mut first = requests.recv_timeout(PATIENCE).unwrap();
    let stopping = thread::spawn(|| proxy.stop());
    // The largest number that there is, and NO_ERROR.
    assert_eq!(expect(&mut client, GOAWAY).payload[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let ping = expect(&mut client, PING);
    assert_eq!(ping.flags, 0);
    // This one was on its way.
    client.write_all(&get(3)).unwrap();
    let mut second = requests.recv_timeout(PATIENCE).unwrap();
    second.write_all(b"HTTP/1.1 204 x\r\n\r\n").unwrap();
    let head = expect(&mut client, HEADERS);
    assert_eq!((head.stream, head.payload[0]), (3, NO_CONTENT));
    client.write_all(&frame(PING, ACK, 0, &ping.payload)).unwrap();
    assert_eq!(expect(&mut client, GOAWAY).payload[..8], [0, 0, 0, 3, 0, 0, 0, 0]);
    // And this one was sent against the client's better knowledge.
    client.write_all(&[get(5), frame(PING, 0, 0, b"whatever")].concat()).unwrap();
    assert_eq!(expect(&mut client, PING).payload, b"whatever");
    assert!(requests.try_recv().is_err(), "nobody is asked for it");
    // The connection lasts as long as its streams.
    first.write_all(b"HTTP/1.1 204 x\r\n\r\n").unwrap();
    let head = expect(&mut client, HEADERS);
    assert_eq!((head.stream, head.payload[0]), (1, NO_CONTENT));
    let rest = next(&mut client);
    assert!(rest.is_none(), "{rest:?}");
    drop(client);
    stopping.join().unwrap();
    assert!(requests.try_recv().is_err());
}
