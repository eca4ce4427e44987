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
fn what_comes_behind_a_refused_upgrade_is_no_request_and_the_log_says_what_its_client_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let log = format!("--access-log json --access-log-file {}", file.display());
    let requests = Arc::new(AtomicU32::new(0));
    let counted = requests.clone();
    let upstream = origin(move |stream, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
    });
    let proxy = start_h2c(upstream, &format!("--body-bytes-max 1 {log}"));
    with_client(&proxy, async |mut client| {
        let (response, mut body) = open(&mut client).await;
        body.send_data(Bytes::from_static(b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"), false).unwrap();
        // To its client every success says that the WebSocket is open (RFC 8441 5).
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        let told = read_body(&mut response.into_body()).await.unwrap();
        assert_eq!(told, b"app has not switched protocols\n");
        client = client.ready().await.unwrap();
        get(&mut client, "/next").await;
        let mut long = request("POST", "/long");
        long.headers_mut().insert("content-length", http::HeaderValue::from_static("2"));
        let (refused, _body) = client.send_request(long, false).unwrap();
        assert_eq!(refused.await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    });
    assert!(proxy.summary().contains("not-switched=1"), "{}", proxy.summary());
    proxy.stop();
    assert_eq!(requests.load(Ordering::Relaxed), 2);
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = ["target", "status", "end", "protocol"]
        .into_iter()
        .map(|key| lines.iter().map(|line| line[key].clone()).collect::<Vec<_>>())
        .collect();
    let expected = serde_json::json!([
        ["/chat", "/next", "/long"],
        [502, 200, 413],
        ["not-switched", "done", "body-too-large"],
        ["HTTP/2.0", "HTTP/2.0", "HTTP/2.0"],
    ]);
    assert_eq!(serde_json::json!(told), expected, "{text}");
}
