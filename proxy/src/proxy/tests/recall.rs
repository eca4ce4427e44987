//! Claims about what is kept of requests that were.

use std::time::Instant;

use feed::recall::{Among, Cause, Hop, is_sampled};

use super::*;
use crate::limits::{RECALL_FAILED_COUNT_MAX, RECALL_SAMPLED_COUNT_MAX};

fn recall(proxy: &Proxy, id: &str) -> Recalled {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(proxy.recall(&id.parse().unwrap()))
}

/// The one request of this id that is kept. It is so when it has ended, which its client may see a little earlier.
pub(super) fn hop(proxy: &Proxy, id: &str) -> Hop {
    let started = Instant::now();
    loop {
        let mut hops = recall(proxy, id).hops;
        assert!(hops.len() < 2, "{hops:?}");
        if let Some(hop) = hops.pop() {
            return hop;
        }
        assert!(started.elapsed() < PATIENCE, "nothing is kept of {id}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asks on a connection of its own; the whole head of the answer.
fn ask(proxy: &Proxy, request: &str) -> String {
    let (mut stream, mut head) = (connect(proxy), Vec::new());
    stream.write_all(request.as_bytes()).unwrap();
    assert!(read_head(&mut stream, &mut head), "no answer");
    String::from_utf8(head).unwrap()
}

fn get(id: &str) -> String {
    format!("GET /a/b?c=d HTTP/1.1\r\nHost: shop.example\r\nX-Request-ID: {id}\r\n\r\n")
}

fn serving(status: u16) -> SocketAddr {
    origin(move |stream, _| answer(stream, &format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n")))
}

/// Ids that belong to the sample, or that do not.
fn ids(of_sample: bool) -> impl Iterator<Item = String> {
    (0..).map(|i| format!("{i:016}")).filter(move |id| is_sampled(id.as_bytes()) == of_sample)
}

#[test]
fn a_request_that_is_sent_again_is_told_with_both_upstreams_and_the_cause() {
    let (closing, well) = (origin(|_, _| false), serving(200));
    let proxy = start(&[closing, well], "--request-id=keep --workers=1");
    // Each goes to either of them, by chance, until one has failed.
    let told = ids(false).take(200).find_map(|id| {
        assert!(ask(&proxy, &get(&id)).starts_with("HTTP/1.1 200 "));
        (sum(&proxy, |stats| &stats.retries) > 0).then(|| hop(&proxy, &id))
    });
    let told = told.expect("one of 200 is given to the first");
    assert_eq!((told.cause, told.status, told.end.as_str()), (Cause::Failed, Some(200), "done"));
    assert_eq!(
        (told.method.as_str(), told.host.as_str(), told.path.as_str()),
        ("GET", "shop.example", "/a/b")
    );
    assert_eq!((told.role.as_ref().map(Name::as_str), told.route.as_ref()), (Some("app"), None));
    let [first, second] = &told.attempts[..] else { panic!("{told:?}") };
    assert_eq!((first.addr.clone(), first.failure.as_deref()), (closing.to_string(), Some("closed")));
    assert_eq!((second.addr.clone(), second.failure.as_deref()), (well.to_string(), None));
    let drawn: Vec<_> = first.drawn.iter().map(|drawn| (drawn.addr.as_str(), drawn.weight)).collect();
    let (closing, well) = (closing.to_string(), well.to_string());
    let mut both = [(closing.as_str(), 100), (well.as_str(), 100)];
    if drawn.first() != both.first() {
        both.reverse();
    }
    assert_eq!((drawn, first.by.as_str()), (both.to_vec(), "load"));
    assert!(first.drawn.iter().all(|drawn| drawn.node.is_some()));
    assert!(
        first.failed_us.unwrap() <= told.first_byte_us.unwrap() && told.first_byte_us <= Some(told.whole_us)
    );
    assert!(told.client.unwrap().starts_with("127.0.0.1:"));
    proxy.stop();
}

#[test]
fn a_request_that_fails_is_told_with_the_cause_and_one_that_is_refused_by_the_id_that_it_was_given() {
    let proxy = start(&[origin(|_, _| false)], "--request-id=keep --workers=2");
    let post = "POST /x HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine-1\r\nContent-Length: 0\r\n\r\n";
    assert!(ask(&proxy, post).starts_with("HTTP/1.1 502 "));
    let failed = hop(&proxy, "mine-1");
    assert_eq!(
        (failed.cause, failed.status, failed.end.as_str()),
        (Cause::Failed, Some(502), "upstream-closed")
    );
    assert_eq!(failed.attempts.len(), 1, "{failed:?}");
    assert_eq!(failed.attempts[0].failure.as_deref(), Some("closed"));
    let refused = ask(&proxy, "GET /y HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    let named = refused.lines().find_map(|line| line.strip_prefix("X-Request-ID: ")).unwrap();
    let refused = hop(&proxy, named);
    assert_eq!((refused.cause, refused.status, refused.path.as_str()), (Cause::Refused, Some(400), "/y"));
    assert_eq!((refused.attempts.len(), refused.role), (0, None));
    proxy.stop();
}

#[test]
fn an_error_of_an_upstream_is_kept_even_behind_a_body_that_has_gone_before_it() {
    let upstream = origin(|stream, head| {
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        answer(stream, "HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n")
    });
    let proxy = start(&[upstream], "--request-id=keep --workers=1");
    let body = "x".repeat(300_000);
    let head = format!(
        "PUT /up HTTP/1.1\r\nHost: a\r\nX-Request-ID: up-1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    assert!(ask(&proxy, &(head + &body)).starts_with("HTTP/1.1 500 "));
    let told = hop(&proxy, "up-1");
    assert_eq!((told.cause, told.end.as_str(), told.path.as_str()), (Cause::Failed, "done", "/up"));
    assert_eq!(told.attempts[0].addr, upstream.to_string());
    proxy.stop();
}

#[test]
fn of_requests_that_go_well_the_sample_is_kept_and_of_those_without_ids_nothing() {
    let upstream = serving(204);
    let proxy = start(&[upstream], "--request-id=keep --workers=1");
    let [other, sampled] = [false, true].map(|of_sample| ids(of_sample).next().unwrap());
    for id in [&other, &sampled] {
        assert!(ask(&proxy, &get(id)).starts_with("HTTP/1.1 204 "));
    }
    let told = hop(&proxy, &sampled);
    assert_eq!((told.cause, told.status, told.attempts.len()), (Cause::Sampled, Some(204), 1));
    assert_eq!((told.attempts[0].failure.as_ref(), told.attempts[0].drawn.len()), (None, 1));
    let all = recall(&proxy, &other);
    assert!(all.hops.is_empty() && !all.is_nameless, "it has ended before the other began");
    let kept = all.kept[&Cause::Sampled];
    assert_eq!((kept.count, kept.room, kept.since_us), (1, RECALL_SAMPLED_COUNT_MAX as u64, None));
    proxy.stop();

    let nameless = start(&[origin(|_, _| false)], "--workers=2");
    assert!(ask(&nameless, &get(&sampled)).starts_with("HTTP/1.1 502 "));
    let told = recall(&nameless, &sampled);
    assert!(told.is_nameless && told.hops.is_empty() && told.kept.values().all(|kept| kept.count == 0));
    assert_eq!(told.kept[&Cause::Failed].room, 2 * RECALL_FAILED_COUNT_MAX as u64, "of both workers");
    nameless.stop();
}

/// Where nobody listens.
fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_choice_is_told_with_how_the_others_stood_and_who_drained() {
    use EndpointState::{Draining, Ready};
    let (well, gone, leaving) = (serving(200), refusing(), serving(200));
    let proxy = start(&[well], "--request-id=keep --workers=1");
    publish(&proxy, &[(0, well, Ready), (1, gone, Ready), (2, leaving, Draining)]);
    let all = Among { endpoints: 3, spared: 0, full: 0, draining: 1 };
    let mut seen = Vec::new();
    for id in ids(true).take(200) {
        assert!(ask(&proxy, &get(&id)).starts_with("HTTP/1.1 200 "));
        let told = hop(&proxy, &id);
        let names: Vec<&str> = told.draining.iter().map(Name::as_str).collect();
        assert_eq!(
            (names, told.draining_untold),
            (vec![fixed_endpoint(2, &leaving.into()).node.as_str()], 0)
        );
        let last = told.attempts.last().unwrap();
        assert_eq!(last.addr, well.to_string());
        assert!(last.drawn.iter().all(|drawn| drawn.tier == "healthy"), "{told:?}");
        seen.push(last.among.unwrap());
        if seen.contains(&Among { spared: 1, ..all }) {
            break;
        }
    }
    assert_eq!(seen.pop(), Some(Among { spared: 1, ..all }), "{seen:?}");
    assert!(seen.iter().all(|among| *among == all), "{seen:?}");
    proxy.stop();
}

#[test]
fn one_that_is_spared_and_chosen_for_want_of_better_ones_is_told_to_be_so() {
    let proxy = start(&[refusing()], "--request-id=keep --workers=1 --upstream-connections-max=1");
    let told = ids(false).take(200).find_map(|id| {
        assert!(ask(&proxy, &get(&id)).starts_with("HTTP/1.1 502 "));
        let told = hop(&proxy, &id);
        let attempt = &told.attempts[0];
        assert_eq!(attempt.failure.as_deref(), Some("connect-failed"));
        (attempt.drawn[0].tier == "spared").then(|| attempt.clone())
    });
    let told = told.expect("one of 200 is within half a second of another");
    assert!(told.drawn[0].is_ejected, "{told:?}");
    assert_eq!(told.among, Some(Among { endpoints: 1, spared: 1, full: 0, draining: 0 }));
    proxy.stop();
}

#[test]
fn the_route_of_a_request_is_told_with_the_next_best() {
    let addr = serving(200);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.toml");
    let routes =
        ["/", "shop.example", "shop.example/a"].map(|route| format!("{{ match = '{route}', role = 'app' }}"));
    let text = format!(
        "listen = ['http://127.0.0.1:0']\nupstream = ['app={addr}']\nroute = [{}]\n",
        routes.join(", ")
    );
    std::fs::write(&path, text).unwrap();
    let flags = format!("--config={} --request-id=keep --workers=1 --timeouts=drain=10ms", path.display());
    let proxy = Proxy::start(&Cli::try_parse_from(flags.split(' ')).unwrap().args).unwrap();
    let requests = [
        ("shop.example", "/a/b?c=d", "shop.example/a", Some("shop.example")),
        ("shop.example", "/ab", "shop.example", Some("/")),
        ("other.example", "/a", "/", None),
    ];
    for ((host, path, route, behind), id) in requests.into_iter().zip(ids(true)) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Request-ID: {id}\r\n\r\n");
        assert!(ask(&proxy, &request).starts_with("HTTP/1.1 200 "), "{host}{path}");
        let told = hop(&proxy, &id);
        assert_eq!((told.route.as_deref(), told.behind.as_deref()), (Some(route), behind), "{host}{path}");
    }
    proxy.stop();
}
