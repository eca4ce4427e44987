//! Claims about traces: what upstreams are told of them, and the spans that a collector gets.

use std::path::Path;

use serde_json::Value;

use super::{
    change::{change, start_with},
    http2::{read_body, request, start_h2c, with_client},
    *,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// How long spans may take that a collector is sent a second later, or has not taken after ten: however busy the machine is.
const SPANS_PATIENCE: Duration = Duration::from_secs(60);

type Fields<'a> = [(&'a str, &'a str)];

/// An origin that answers with the head that it was sent.
fn echo() -> SocketAddr {
    origin(|stream, head| {
        answer(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()))
    })
}

/// Asks over HTTP/1; the answer's body.
fn ask(addr: SocketAddr, sent: &Fields<'_>) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent: String = sent.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("GET /hello?x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{sent}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// The same in a stream of HTTP/2, at the proxy's first listener.
fn ask_by_stream(proxy: &Proxy, sent: &Fields<'_>) -> String {
    let mut asked = request("GET", "/hello?x");
    for (name, value) in sent {
        let name: http::HeaderName = name.parse().unwrap();
        asked.headers_mut().append(name, value.parse().unwrap());
    }
    let body = with_client(proxy, async |client| {
        let mut client = client.ready().await.unwrap();
        let response = client.send_request(asked, true).unwrap().0.await.unwrap();
        read_body(&mut response.into_body()).await.unwrap()
    });
    String::from_utf8(body).unwrap()
}

/// The values of the fields of this name in a head.
fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

/// The objects of a log.
fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What an upstream is to see of a trace.
enum Seen {
    /// These very values.
    Fields(&'static [&'static str], &'static [&'static str]),
    /// A trace of its own, with these flags, and no state.
    Begun(&'static str),
}

#[test]
fn a_trace_goes_on_or_begins_and_the_log_says_which_over_either_version() {
    const FUTURE: &str = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
    let (state, sampled) = (("tracestate", "a=1,b=2"), ("traceparent", SAMPLED));
    let cases: [(&str, &Fields<'_>, Seen); 12] = [
        ("--trace propagate", &[], Seen::Begun("03")),
        ("--trace propagate", &[sampled, state], Seen::Fields(&[SAMPLED], &["a=1,b=2"])),
        ("--trace propagate", &[("traceparent", UNSAMPLED)], Seen::Fields(&[UNSAMPLED], &[])),
        ("--trace propagate", &[("traceparent", FUTURE), state], Seen::Fields(&[SAMPLED], &["a=1,b=2"])),
        ("--trace propagate", &[("traceparent", &SAMPLED[1..]), state], Seen::Begun("03")),
        ("--trace propagate", &[sampled, state, sampled], Seen::Begun("03")),
        ("--trace propagate", &[state, ("tracestate", "c=3")], Seen::Begun("03")),
        ("--trace propagate --trace-sample 0", &[], Seen::Begun("02")),
        ("--trace propagate --trace-sample 0", &[sampled], Seen::Fields(&[SAMPLED], &[])),
        ("--trace restart", &[sampled, state], Seen::Begun("03")),
        ("--trace restart --trace-sample 0", &[sampled], Seen::Begun("02")),
        ("", &[sampled, sampled, state], Seen::Fields(&[SAMPLED, SAMPLED], &["a=1,b=2"])),
    ];
    let (folder, upstream) = (tempfile::tempdir().unwrap(), echo());
    for (number, (flags, sent, seen)) in cases.iter().enumerate() {
        let file = folder.path().join(format!("{number}.log"));
        let log = format!("--access-log json --access-log-file {}", file.display());
        let proxy =
            start_h2c(upstream, &format!("--listen=http://127.0.0.1:0=app --workers=1 {log} {flags}"));
        let heads = [ask_by_stream(&proxy, sent), ask(proxy.addrs()[1], sent)];
        proxy.stop();
        let mut logged = Vec::new();
        for head in &heads {
            let (parents, states) = (values(head, "traceparent"), values(head, "tracestate"));
            match seen {
                Seen::Fields(expected_parents, expected_states) => {
                    assert_eq!((&parents[..], &states[..]), (*expected_parents, *expected_states), "{flags}");
                }
                Seen::Begun(flags) => {
                    let [parent] = parents[..] else { panic!("{head}") };
                    let is_other = parent.starts_with("00-") && !parent.contains(TRACE);
                    assert!(parent.len() == 55 && parent.ends_with(flags) && is_other, "{parent}");
                    assert_eq!(states, [] as [&str; 0]);
                }
            }
            logged.push(if flags.is_empty() { Value::Null } else { parents[0][3..35].into() });
        }
        assert!(flags.is_empty() || matches!(seen, Seen::Fields(..)) == (logged[0] == logged[1]));
        let told: Vec<Value> = lines(&file).iter().map(|line| line["trace_id"].clone()).collect();
        assert_eq!(told, logged, "{flags} {sent:?}");
    }
}

#[test]
fn what_connection_names_takes_no_trace_away() {
    let proxy = start(&[echo()], "--trace propagate");
    let named = ("Connection", "traceparent, tracestate");
    let head = ask(proxy.addrs()[0], &[named, ("traceparent", SAMPLED), ("tracestate", "a=1")]);
    assert_eq!((values(&head, "traceparent"), values(&head, "tracestate")), (vec![SAMPLED], vec![]));
    proxy.stop();
}

#[test]
fn a_request_without_a_route_is_found_by_its_id_and_its_trace() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let log = format!("--access-log json --access-log-file {}", file.display());
    let flags = format!(
        "--listen=http://127.0.0.1:0 --timeouts=drain=10ms {log} --trace propagate --request-id keep"
    );
    let proxy = Proxy::start(&Cli::try_parse_from(flags.split_whitespace()).unwrap().args).unwrap();
    let mut client = connect(&proxy);
    let sent = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine-1\r\ntraceparent: {SAMPLED}\r\n\r\n");
    client.write_all(sent.as_bytes()).unwrap();
    let mut told = Vec::new();
    assert!(read_head(&mut client, &mut told));
    let told = String::from_utf8(told).unwrap();
    assert_eq!((&told[9..12], &values(&told, "x-request-id")[..]), ("404", &["mine-1"][..]));
    proxy.stop();
    let line = &lines(&file)[0];
    assert_eq!((&line["id"], &line["trace_id"]), (&"mine-1".into(), &TRACE.into()), "{line}");
}

/// A collector: what it has been posted, and where.
fn start_collector() -> (SocketAddr, mpsc::Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, (tell, told)) = (listener.local_addr().unwrap(), mpsc::channel());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            assert!(read_head(&mut stream, &mut head), "a head");
            let head = String::from_utf8(head).unwrap();
            let mut body = vec![0; values(&head, "content-length")[0].parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            let _ = tell.send((head, serde_json::from_slice(&body).unwrap()));
            answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
        }
    });
    (addr, told)
}

/// The next so many spans that a collector is posted.
fn spans(collected: &mpsc::Receiver<(String, Value)>, count: usize) -> Vec<Value> {
    let mut spans = Vec::new();
    while spans.len() < count {
        let (head, body) = collected.recv_timeout(SPANS_PATIENCE).expect("spans");
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        assert_eq!(values(&head, "content-type"), ["application/json"]);
        let of_node = &body["resourceSpans"][0];
        assert_eq!(of_node["resource"]["attributes"][0]["value"]["stringValue"], "concertina");
        spans.extend(of_node["scopeSpans"][0]["spans"].as_array().unwrap().clone());
    }
    assert_eq!(spans.len(), count, "{spans:?}");
    spans
}

/// An attribute of a span.
fn attribute<'a>(span: &'a Value, key: &str) -> Option<&'a str> {
    let all = span["attributes"].as_array().unwrap();
    let value = &all.iter().find(|attribute| attribute["key"] == key)?["value"];
    value.get("stringValue").or(value.get("intValue"))?.as_str()
}

#[test]
fn a_collector_gets_a_span_of_each_sampled_request_and_the_upstream_its_id() {
    let (upstream, (collector, collected)) = (echo(), start_collector());
    let flags = "--trace propagate --body-bytes-max 1";
    let proxy = start_h2c(
        upstream,
        &format!("--listen=http://127.0.0.1:0=app {flags} --otlp-endpoint http://{collector}"),
    );
    let addr = proxy.addrs()[1];
    let head = ask(addr, &[("traceparent", UNSAMPLED)]);
    assert_eq!(values(&head, "traceparent"), [UNSAMPLED], "one without a span passes as it is");
    let sampled = [("traceparent", SAMPLED), ("tracestate", "a=1")];
    let heads = [ask(addr, &sampled), ask_by_stream(&proxy, &sampled), ask(addr, &[])];
    let refused = ask(addr, &[("traceparent", SAMPLED), ("Content-Length", "2")]);
    assert!(refused.contains("body"), "{refused}");
    let spans = spans(&collected, heads.len() + 1);
    for (head, version) in heads.iter().zip(["1.1", "2", "1.1"]) {
        let [parent] = values(head, "traceparent")[..] else { panic!("{head}") };
        let is_it = |span: &&Value| {
            span["traceId"].as_str() == Some(&parent[3..35])
                && span["spanId"].as_str() == Some(&parent[36..52])
        };
        let span = spans.iter().find(is_it).unwrap_or_else(|| panic!("{parent}: {spans:?}"));
        let has_client = parent.contains(TRACE);
        assert_eq!(span["parentSpanId"], if has_client { "b7ad6b7169203331".into() } else { Value::Null });
        assert_eq!(values(head, "tracestate").len(), usize::from(has_client));
        assert!(
            !parent.contains("b7ad6b7169203331") && parent.ends_with(if has_client { "01" } else { "03" })
        );
        for (key, value) in [
            ("http.request.method", "GET"),
            ("url.path", "/hello"),
            ("http.response.status_code", "200"),
            ("server.address", "a.example"),
            ("network.protocol.version", version),
            ("concertina.role", "app"),
            ("concertina.upstream.address", &upstream.to_string()),
        ] {
            assert_eq!(attribute(span, key), Some(value), "{key}: {span}");
        }
        let time = |key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"), "{span}");
    }
    let refused = spans.iter().find(|span| attribute(span, "http.response.status_code") == Some("413"));
    let refused = refused.unwrap_or_else(|| panic!("{spans:?}"));
    assert_eq!((refused["traceId"].as_str(), attribute(refused, "url.path")), (Some(TRACE), Some("/hello")));
    assert_eq!(attribute(refused, "concertina.end"), Some("body-too-large"));
    // Counted a moment after the collector has them.
    let began = Instant::now();
    while !proxy.metrics().contains("concertina_proxy_spans_total{result=\"sent\"} 4\n") {
        assert!(began.elapsed() < SPANS_PATIENCE, "{}", proxy.metrics());
        thread::yield_now();
    }
    proxy.stop();
}

#[test]
fn traces_and_their_spans_are_turned_off_and_on_by_reloads() {
    let (upstream, (collector, collected)) = (echo(), start_collector());
    let dir = tempfile::tempdir().unwrap();
    let text = |trace: &str| {
        format!(
            "listen = ['http://127.0.0.1:0=app']\nupstream = ['app={upstream}']\ntrace = '{trace}'\notlp-endpoint = 'http://{collector}'\n"
        )
    };
    let (proxy, args) = start_with(dir.path(), &text("off"));
    let addr = proxy.addrs()[0];
    let is_traced =
        |is_traced: bool| assert_eq!(values(&ask(addr, &[]), "traceparent").len(), usize::from(is_traced));
    is_traced(false);
    change(&proxy, &args, &text("restart")).unwrap();
    is_traced(true);
    let told = change(&proxy, &args, &text("off")).unwrap().to_string();
    assert!(told.starts_with("~ trace\n! otlp-endpoint is not used"), "{told}");
    is_traced(false);
    change(&proxy, &args, &text("restart")).unwrap();
    is_traced(true);
    assert_eq!(spans(&collected, 2).len(), 2);
    proxy.stop();
    assert!(collected.try_recv().is_err(), "there was no span of what was not traced");
}

#[test]
fn a_collector_that_takes_nothing_holds_no_request_up_and_what_it_does_not_take_is_counted() {
    const REQUESTS_COUNT: usize = 4000;
    // All that may wait: a batch that is posted, those behind it, and the next.
    const WAITING_COUNT: usize = 512 * 6;
    // It accepts nobody: the kernel takes what fits in a socket, and nobody reads it.
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let upstream = origin(|stream, _| answer(stream, "HTTP/1.1 204 No Content\r\n\r\n"));
    let proxy = start(&[upstream], &format!("--trace restart --otlp-endpoint {endpoint} --workers 1"));
    let mut client = connect(&proxy);
    for _ in 0..REQUESTS_COUNT {
        client.write_all(REQUEST).unwrap();
        assert_eq!(read_status(&mut client), 204);
    }
    let lost = || {
        let metrics = proxy.metrics();
        let value = |result: &str| {
            let name = format!("concertina_proxy_spans_total{{result=\"{result}\"}} ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
            line.unwrap().parse::<usize>().unwrap()
        };
        assert_eq!(value("sent"), 0);
        value("dropped") + value("failed")
    };
    let began = Instant::now();
    while lost() < REQUESTS_COUNT - WAITING_COUNT {
        assert!(began.elapsed() < SPANS_PATIENCE, "{} are lost: {}", lost(), proxy.summary());
        thread::sleep(Duration::from_millis(20));
    }
    client.write_all(REQUEST).unwrap();
    assert_eq!(read_status(&mut client), 204, "and it goes on");
    proxy.stop();
}

#[test]
fn a_log_that_is_stuck_holds_no_span_up() {
    const REQUESTS_COUNT: usize = 2000;
    let (upstream, (collector, collected)) = (echo(), start_collector());
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("access.log");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        fifo.as_path(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    // It is open at its other end, and nobody reads.
    let _end = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let flags = format!(
        "--access-log json --access-log-file {} --trace restart --otlp-endpoint http://{collector} --workers 1",
        fifo.display()
    );
    let proxy = start(&[upstream], &flags);
    let mut client = connect(&proxy);
    for _ in 0..REQUESTS_COUNT {
        client.write_all(REQUEST).unwrap();
        let mut head = Vec::new();
        assert!(read_head(&mut client, &mut head));
        let head = String::from_utf8(head).unwrap();
        let mut body = vec![0; values(&head, "content-length")[0].parse().unwrap()];
        client.read_exact(&mut body).unwrap();
    }
    assert_eq!(spans(&collected, REQUESTS_COUNT).len(), REQUESTS_COUNT);
    proxy.stop();
}
