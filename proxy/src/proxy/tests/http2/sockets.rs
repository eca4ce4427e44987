//! Claims about WebSockets over HTTP/2 (RFC 8441).

use h2::{SendStream, client::ResponseFuture};

use super::*;

/// Asks for a WebSocket, once the client has heard that it may.
async fn open(client: &mut Client) -> (ResponseFuture, SendStream<Bytes>) {
    while !client.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let mut connect = request("CONNECT", "/chat");
    connect.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    client.send_request(connect, false).unwrap()
}

#[test]
fn a_web_socket_is_a_stream() {
    let upstream = origin(|stream, head| {
        assert!(head.contains("Upgrade: websocket") && head.contains("Sec-WebSocket-Key: "), "{head}");
        answer(
            stream,
            "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
        );
        let mut room = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut room) {
            stream.write_all(&room[..count]).unwrap();
        }
        false
    });
    let proxy = start_h2c(upstream, "");
    with_client(&proxy, async |mut client| {
        let (response, mut body) = open(&mut client).await;
        let response = response.await.unwrap();
        assert_eq!((response.status(), response.headers().get("upgrade")), (StatusCode::OK, None));
        let mut heard = response.into_body();
        for text in ["hello", "again"] {
            body.send_data(Bytes::from(text), false).unwrap();
            assert_eq!(heard.data().await.unwrap().unwrap(), text);
        }
        body.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read_body(&mut heard).await.unwrap(), b"");
    });
    proxy.stop();
}

#[test]
fn what_comes_behind_a_refused_upgrade_is_no_request() {
    let requests = Arc::new(AtomicU32::new(0));
    let counted = requests.clone();
    let upstream = origin(move |stream, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
    });
    let proxy = start_h2c(upstream, "");
    with_client(&proxy, async |mut client| {
        let (response, mut body) = open(&mut client).await;
        body.send_data(Bytes::from_static(b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"), false).unwrap();
        // To its client every success says that the WebSocket is open (RFC 8441 5).
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        let told = read_body(&mut response.into_body()).await.unwrap();
        assert_eq!(told, b"the upstream has not switched protocols\n");
        client = client.ready().await.unwrap();
        get(&mut client, "/next").await;
    });
    proxy.stop();
    assert_eq!(requests.load(Ordering::Relaxed), 2);
}
