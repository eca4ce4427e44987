//! Claims about what the requests of streams are called.

use super::*;

/// The only id among the fields of an answer.
fn id_of(response: &Response<RecvStream>) -> String {
    let ids: Vec<_> = response.headers().get_all("x-request-id").iter().collect();
    assert_eq!(ids.len(), 1, "{response:?}");
    ids[0].to_str().unwrap().to_owned()
}

#[test]
fn a_stream_has_one_id_at_the_upstream_at_the_client_and_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    // Says what it was told.
    let upstream = origin(|stream, head| {
        let told: Vec<&str> =
            head.lines().filter(|line| line.to_lowercase().contains("request-id")).collect();
        let told = told.join("\n");
        let length = told.len();
        answer(
            stream,
            &format!("HTTP/1.1 200 OK\r\nX-Request-ID: its\r\nContent-Length: {length}\r\n\r\n{told}"),
        )
    });
    for (number, (how, sent, kept)) in [
        ("make", &["mine"][..], None),
        ("keep", &["mine-1"], Some("mine-1")),
        ("keep", &["a b"], None),
        ("keep", &["a", "b"], None),
        ("keep", &[], None),
    ]
    .into_iter()
    .enumerate()
    {
        let file = folder.path().join(format!("{number}.log"));
        let log = format!("--access-log json --access-log-file {}", file.display());
        let proxy = start_h2c(upstream, &format!("--request-id {how} --body-bytes-max 1 {log}"));
        let named = |method: &str| {
            let mut request = request(method, "/");
            for id in sent {
                request.headers_mut().append("x-request-id", id.parse().unwrap());
            }
            request
        };
        let (told, ids) = with_client(&proxy, async |client| {
            let mut client = client.ready().await.unwrap();
            let answered = client.send_request(named("GET"), true).unwrap().0.await.unwrap();
            let id = id_of(&answered);
            let told = String::from_utf8(read_body(&mut answered.into_body()).await.unwrap()).unwrap();
            let (refused, mut body) = client.send_request(named("POST"), false).unwrap();
            body.send_data("long".into(), true).unwrap();
            let refused = refused.await.unwrap();
            assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
            (told, [id, id_of(&refused)])
        });
        proxy.stop();
        assert_eq!(told, format!("X-Request-ID: {}", ids[0]), "{how} {sent:?}");
        for id in &ids {
            assert!(kept.map_or_else(|| id.len() == 32, |kept| id == kept), "{how} {sent:?}: {id}");
        }
        assert_eq!(ids[0] == ids[1], kept.is_some(), "each made one is another");
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.iter().map(|line| line["id"].as_str().unwrap()).collect::<Vec<_>>(), ids, "{text}");
        assert_eq!(lines[0]["protocol"], "HTTP/2.0");
    }
}
