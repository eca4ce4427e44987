//! Claims about what holds for the requests of a route.

use super::*;

/// A proxy of these routes, in front of a role `app`, and as many upstreams of `web` as there are `webs`.
fn start_routed(routes: &str, upstreams: &[(&str, &[SocketAddr])]) -> (tempfile::TempDir, Proxy) {
    let dir = tempfile::tempdir().unwrap();
    let table = |(role, addrs): &(&str, &[SocketAddr])| {
        let addrs: Vec<_> = addrs.iter().map(SocketAddr::to_string).collect();
        format!("'{role}={}'", addrs.join(","))
    };
    let tables: Vec<_> = upstreams.iter().map(table).collect();
    let path = dir.path().join("proxy.toml");
    let text =
        format!("listen = ['http://127.0.0.1:0']\nupstream = [{}]\nroute = [{routes}]\n", tables.join(", "));
    std::fs::write(&path, text).unwrap();
    let flags = ["--config", path.to_str().unwrap(), "--timeouts=drain=10ms"];
    let proxy = Proxy::start(&Cli::try_parse_from(flags).unwrap().args).unwrap();
    (dir, proxy)
}

/// An upstream that answers every request with the head that it got, as its body.
fn echo(name: &'static str) -> SocketAddr {
    origin(move |stream, head| {
        let length = head.len();
        answer(
            stream,
            &format!(
                "HTTP/1.1 200 x\r\nServer: {name}\r\nX-Inner: y\r\nContent-Length: {length}\r\n\r\n{head}"
            ),
        )
    })
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        let line =
            self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim())
    }
}

/// Sends a request with these lines, and reads its answer. The connection stays.
fn ask(stream: &mut TcpStream, line: &str, fields: &str) -> Answer {
    write!(stream, "{line} HTTP/1.1\r\nHost: a.example:8080\r\n{fields}\r\n").unwrap();
    let mut head = Vec::new();
    assert!(read_head(stream, &mut head), "no answer to {line}");
    let head = String::from_utf8(head).unwrap();
    let mut answer =
        Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head, body: String::new() };
    let length = answer.field("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; if line.starts_with("HEAD") { 0 } else { length }];
    stream.read_exact(&mut body).unwrap();
    answer.body = String::from_utf8(body).unwrap();
    answer
}

#[test]
fn prefixes_are_stripped_and_added_and_fields_set_and_taken_out() {
    let routes = "{ match = '/api', role = 'app', strip-prefix = true, add-prefix = '/v1', \
         request = { set = { X-Env = 'prod' }, remove = ['Cookie'] }, \
         response = { set = { X-Frame-Options = 'DENY' }, remove = ['X-Inner', 'Server'] }, hsts-seconds = 60 }, \
         { match = '/', role = 'app' }";
    let (_dir, proxy) = start_routed(routes, &[("app", &[echo("app")])]);
    let mut client = connect(&proxy);
    for (asked, there) in [
        ("/api/x?y=/api", "/v1/x?y=/api"),
        ("/api", "/v1/"),
        ("/api?y", "/v1/?y"),
        ("/%61pi/%7e", "/v1/%7e"),
        ("//api///evil", "/v1/evil"),
        ("http://a.example/api/z", "/v1/z"),
    ] {
        let answer = ask(
            &mut client,
            &format!("GET {asked}"),
            "Cookie: a=b\r\nx-env: test\r\nX_Env: test\r\nX.ENV: test\r\n",
        );
        assert!(answer.body.starts_with(&format!("GET {there} HTTP/1.1\r\n")), "{}", answer.body);
        assert!(!answer.body.contains("Cookie") && !answer.body.contains("test"), "{}", answer.body);
        assert_eq!(answer.body.matches("X-Env: prod\r\n").count(), 1);
        assert_eq!((answer.field("x-frame-options"), answer.field("x-inner")), (Some("DENY"), None));
        assert_eq!(answer.field("strict-transport-security"), None, "in the clear it means nothing");
        assert_eq!(answer.field("server"), None);
    }
    let plain = ask(&mut client, "GET /apis", "Cookie: a=b\r\n");
    assert!(plain.body.starts_with("GET /apis") && plain.body.contains("Cookie: a=b"), "{}", plain.body);
    assert_eq!(plain.field("x-inner"), Some("y"));
    proxy.stop();
}

#[test]
fn redirects_and_refusals_of_a_route_keep_the_connection() {
    let routes = "{ match = '/old', redirect = { path = '/new', permanent = true } }, \
         { match = '/secure', redirect = { scheme = 'https' } }, \
         { match = '/mine', role = 'app', deny = ['127.0.0.0/8'] }, \
         { match = '/yours', role = 'app', allow = ['10.0.0.0/8'] }, \
         { match = '/sealed', role = 'app', https-only = true }, \
         { match = '/ours', role = 'app', allow = ['127.0.0.1'] }";
    let (_dir, proxy) = start_routed(routes, &[("app", &[echo("app")])]);
    let mut client = connect(&proxy);
    let moved = ask(&mut client, "GET /old/x?y=1", "");
    assert_eq!((moved.status, moved.field("location")), (308, Some("/new?y=1")));
    let secure = ask(&mut client, "HEAD /secure/x", "");
    assert_eq!((secure.status, secure.field("location")), (307, Some("https://a.example/secure/x")));
    let sealed = ask(&mut client, "GET /sealed/x?y", "");
    assert_eq!((sealed.status, sealed.field("location")), (308, Some("https://a.example/sealed/x?y")));
    assert_eq!(ask(&mut client, "GET /mine", "").status, 403);
    assert_eq!(ask(&mut client, "GET /yours", "").status, 403);
    for spelled in ["//mine", "/%2fmine", "/%6dine", "/mine%2Fx", "http://a.example//mine"] {
        assert_eq!(ask(&mut client, &format!("GET {spelled}"), "").status, 403, "{spelled}");
    }
    for spelled in ["/x/..%2fmine", "/x%2f..%2fmine", "/.%2fmine"] {
        assert_eq!(ask(&mut connect(&proxy), &format!("GET {spelled}"), "").status, 400, "{spelled}");
    }
    let ours = ask(&mut client, "GET /ours", "");
    assert_eq!(ours.status, 200, "all on one connection");
    assert_eq!(moved.field("connection"), None);
    // Whoever sends a body nobody reads is told that the connection ends.
    let with_body = ask(&mut client, "POST /mine", "Content-Length: 3\r\n");
    assert_eq!((with_body.status, with_body.field("connection")), (403, Some("close")));
    let summary = proxy.summary();
    for told in ["forbidden=8", "temporary-redirect=1", "permanent-redirect=2"] {
        assert!(summary.contains(told), "{summary}");
    }
    proxy.stop();
}

#[test]
fn a_longest_location_is_told_whole() {
    let (_dir, proxy) = start_routed("{ match = '/', redirect = { scheme = 'https' } }", &[]);
    let target = format!("/{}", "x".repeat(crate::limits::TARGET_BYTES_MAX - 1));
    let answer = ask(&mut connect(&proxy), &format!("GET {target}"), "");
    assert_eq!(answer.field("location"), Some(format!("https://a.example{target}").as_str()));
    proxy.stop();
}

#[test]
fn a_rate_is_kept_for_each_value_of_a_field_and_others_are_told() {
    let routes = "{ match = '/', role = 'app', rate-limit = { rate = '2/h', by = 'header:X-Key' } }";
    let (_dir, proxy) = start_routed(routes, &[("app", &[echo("app")])]);
    let mut client = connect(&proxy);
    let mut status = |key: &str| ask(&mut client, "GET /", &format!("X-Key: {key}\r\n")).status;
    assert_eq!([status("a"), status("a"), status("a"), status("b")], [200, 200, 429, 200]);
    let limited = ask(&mut connect(&proxy), "GET /", "X-Key: a\r\n");
    assert_eq!((limited.status, limited.field("retry-after")), (429, Some("1")), "at every connection");
    proxy.stop();
}

#[test]
fn a_body_may_be_as_long_as_its_route_says() {
    let routes = "{ match = '/small', role = 'app', body-bytes-max = '3' }, { match = '/', role = 'app' }";
    let (_dir, proxy) = start_routed(routes, &[("app", &[echo("app")])]);
    for (target, length, status) in [("/small", 3, 200), ("/small", 4, 413), ("/", 4, 200)] {
        let mut client = connect(&proxy);
        let body = "x".repeat(length);
        write!(client, "POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
            .unwrap();
        assert_eq!(read_status(&mut client), status, "{target} {length}");
    }
    proxy.stop();
}

#[test]
fn requests_are_split_by_weight_and_none_goes_where_nobody_is() {
    let routes = "{ match = '/', roles = { stable = 90, canary = 10 } }, \
         { match = '/half', roles = { stable = 1, gone = 1000 } }";
    let upstreams: [(&str, &[SocketAddr]); 2] =
        [("stable", &[echo("stable")]), ("canary", &[echo("canary")])];
    let (_dir, proxy) = start_routed(routes, &upstreams);
    let mut client = connect(&proxy);
    let mut canaries = 0;
    for _ in 0..1000 {
        canaries += usize::from(ask(&mut client, "GET /", "").field("server") == Some("canary"));
    }
    // Within four standard deviations of a hundred.
    assert!((62..=138).contains(&canaries), "{canaries}");
    for _ in 0..20 {
        assert_eq!(ask(&mut client, "GET /half", "").field("server"), Some("stable"));
    }
    proxy.stop();
}

#[test]
fn a_client_stays_at_its_upstream_by_a_cookie_until_that_drains() {
    let routes = "{ match = '/', role = 'app', sticky = { cookie = 'lb', secret = '0123456789abcdef' } }";
    let upstreams = ["a", "b", "c"].map(echo);
    let (_dir, proxy) = start_routed(routes, &[("app", &upstreams)]);
    let mut client = connect(&proxy);
    let first = ask(&mut client, "GET /", "");
    let cookie = first.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let server = first.field("server").unwrap().to_owned();
    for _ in 0..20 {
        let next = ask(&mut client, "GET /", &format!("Cookie: x=y; {cookie}\r\n"));
        assert_eq!((next.field("server"), next.field("set-cookie")), (Some(server.as_str()), None));
    }
    let stayed = ["a", "b", "c"].iter().position(|name| *name == server).unwrap();
    let state = |i| if i == stayed { EndpointState::Draining } else { EndpointState::Ready };
    let table: Vec<_> = (0..3).map(|i| (i, upstreams[i], state(i))).collect();
    publish(&proxy, &table);
    let moved = ask(&mut client, "GET /", &format!("Cookie: {cookie}\r\n"));
    assert_ne!(moved.field("server"), Some(server.as_str()));
    let cookie = moved.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let again = ask(&mut client, "GET /", &format!("Cookie: {cookie}\r\n"));
    assert_eq!(again.field("server"), moved.field("server"));
    let forged = cookie.replace("lb=", "lb=f");
    assert!(ask(&mut client, "GET /", &format!("Cookie: {forged}\r\n")).field("set-cookie").is_some());
    proxy.stop();
}

#[test]
fn timeouts_and_retries_are_those_of_the_route() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let routes = "{ match = '/quick', role = 'app', timeouts = { response = '100ms' } }, \
         { match = '/once', role = 'app', retries = false }, { match = '/', role = 'app' }";
    let (_dir, proxy) = start_routed(routes, &[("app", &[silent.local_addr().unwrap()])]);
    assert_eq!(ask(&mut connect(&proxy), "GET /quick", "").status, 504);
    let (mut quick, _) = silent.accept().unwrap();
    assert!(read_head(&mut quick, &mut Vec::new()));
    drop(quick);
    let requests = |target: &'static str, answers: u16| {
        let mut client = connect(&proxy);
        let asking = thread::spawn(move || ask(&mut client, &format!("GET {target}"), "").status);
        let (mut first, _) = silent.accept().unwrap();
        assert!(read_head(&mut first, &mut Vec::new()));
        drop(first);
        if answers == 200 {
            let (mut second, _) = silent.accept().unwrap();
            assert!(read_head(&mut second, &mut Vec::new()));
            second.write_all(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
        assert_eq!(asking.join().unwrap(), answers, "{target}");
    };
    requests("/", 200);
    requests("/once", 502);
    proxy.stop();
}

#[test]
fn fields_that_a_route_changes_do_not_come_behind_a_body() {
    let (heard, bodies) = mpsc::channel();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        while !all.ends_with(b"0\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            all.push(byte[0]);
        }
        heard.send(String::from_utf8(all).unwrap()).unwrap();
        let answer = "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Secret: t\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let routes = "{ match = '/', role = 'app', request = { set = { X-User = 'guest' } }, response = { remove = ['X-Secret'] } }";
    let (_dir, proxy) = start_routed(routes, &[("app", &[upstream])]);
    let mut client = connect(&proxy);
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\nX-User: root\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let body = bodies.recv().unwrap();
    assert!(body.contains("X-User: guest") && !body.contains("root"), "{body}");
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("X-Secret"), "{answer}");
    proxy.stop();
}

#[test]
fn what_a_rule_refuses_is_logged_as_it_was_asked_whatever_comes_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let [path, log] = ["proxy.toml", "access.log"].map(|name| dir.path().join(name));
    let text = format!(
        "listen = ['http://127.0.0.1:0']\nupstream = ['app={}']\nworkers = 1\naccess-log = 'json'\naccess-log-file = '{}'\n\
         route = [{{ match = '/', role = 'app' }}, {{ match = '/no', role = 'app', deny = ['127.0.0.0/8'] }}]\n",
        echo("app"),
        log.display()
    );
    std::fs::write(&path, text).unwrap();
    let flags = ["--config", path.to_str().unwrap(), "--timeouts=drain=10ms"];
    let proxy = Proxy::start(&Cli::try_parse_from(flags).unwrap().args).unwrap();
    let mut client = connect(&proxy);
    let next = "GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(format!("GET /no HTTP/1.1\r\nHost: a\r\n\r\n{next}").as_bytes()).unwrap();
    client.read_to_end(&mut Vec::new()).unwrap();
    proxy.stop();
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines
        .iter()
        .map(|line| (&line["method"], &line["target"], &line["protocol"], &line["end"]))
        .collect();
    let expected =
        serde_json::json!([["GET", "/no", "HTTP/1.1", "forbidden"], ["GET", "/next", "HTTP/1.1", "done"]]);
    assert_eq!(serde_json::json!(told), expected, "{text}");
}
