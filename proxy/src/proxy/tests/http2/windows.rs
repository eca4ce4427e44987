//! Claims about streams beside one whose client takes nothing.

use super::{super::origins, *};

const BODY_BYTES: usize = 1 << 20;

/// What a stream's window is unless a client says otherwise (RFC 9113 6.9.2).
const WINDOW_BYTES: usize = 65_535;

/// The body behind a path, which is a number: no two are alike.
fn body_of(path: &str) -> Vec<u8> {
    let number: usize = path.trim_start_matches('/').parse().unwrap();
    pattern(BODY_BYTES + 1000 * number)[number..].to_vec()
}

/// Asks for a body of which only the first window is taken, then for others, and at last for the rest of that one.
fn check_others_go_on(proxy: &Proxy) {
    // Of the connection the client makes room enough: it is one stream alone that is stuck.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    with_client_of(&builder, proxy, async |client| {
        let (slow, _) = client.clone().send_request(request("GET", "/0"), true).unwrap();
        let mut slow = slow.await.unwrap().into_body();
        let mut held = Vec::new();
        while held.len() < WINDOW_BYTES {
            held.extend_from_slice(&slow.data().await.unwrap().unwrap());
        }
        let others = (1..=8).map(|number| {
            let mut client = client.clone();
            tokio::task::spawn_local(async move {
                let path = format!("/{number}");
                client = client.ready().await.unwrap();
                let (status, body) = get(&mut client, &path).await;
                assert!(status == 200 && body == body_of(&path), "{path}: {} bytes", body.len());
            })
        });
        for other in others.collect::<Vec<_>>() {
            other.await.unwrap();
        }
        slow.flow_control().release_capacity(held.len()).unwrap();
        held.extend(read_body(&mut slow).await.unwrap());
        assert!(held == body_of("/0"), "{} bytes", held.len());
    });
}

#[test]
fn a_stream_whose_client_makes_no_room_holds_up_no_other_and_is_whole_once_it_does() {
    let upstream = origin(|stream, head| {
        let body = body_of(head.split(' ').nth(1).unwrap());
        answer(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()))
            && stream.write_all(&body).is_ok()
    });
    let proxy = start_h2c(upstream, "--workers=1 --timeouts=body=60s,drain=10ms");
    check_others_go_on(&proxy);
    proxy.stop();
}

/// Their connection to the upstream is one, too, and its window must not be spent on the stream that is stuck.
#[test]
fn nor_does_it_where_all_of_them_are_streams_of_one_connection_to_the_upstream() {
    let (upstream, _) = origins::start_origin(100, async |_, request, mut respond| {
        let mut rest = Bytes::from(body_of(request.uri().path()));
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let Some(room) = std::future::poll_fn(|context| stream.poll_capacity(context)).await else {
                return;
            };
            let piece = rest.split_to(room.unwrap().min(rest.len()));
            stream.send_data(piece, rest.is_empty()).unwrap();
        }
    });
    let flags = "--workers=1 --upstream-protocol=app=h2c --timeouts=body=60s,drain=10ms";
    let proxy = start_h2c(upstream, flags);
    check_others_go_on(&proxy);
    assert_eq!(sum(&proxy, |stats| &stats.connects), 1);
    proxy.stop();
}
