//! A front, its feed and its apps in one process, over real sockets.

mod support;

use support::{
    accept, ask, bind, draining, hello, read_head, ready, start_app, start_app_at, start_front,
    start_front_beside, suspect,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::spawn_local,
    time::Instant,
};

const REQUEST: &[u8] = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
const HI: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n";

#[tokio::test(flavor = "local")]
async fn hello_goes_through_the_front_to_an_app() {
    let app = start_app("appserver1").await;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, app.addr)]).await;
    let answer = ask(front.addr, "GET", "/hello").await;
    assert_eq!(answer.body, "Hello frontserver1, I'm appserver1 !\n");
    assert!(answer.head.contains("content-type: text/plain"), "{answer:?}");
    front.stopped().await;
    app.stopped().await;
}

#[tokio::test(flavor = "local")]
async fn head_is_a_get_without_its_body() {
    let app = start_app("appserver1").await;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, app.addr)]).await;
    for (addr, path) in [(app.addr, "/hello/frontserver1"), (front.addr, "/hello")] {
        let answer = ask(addr, "HEAD", path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert!(answer.head.contains("content-length: 37"), "{answer:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn what_traces_and_names_a_request_comes_to_the_app_with_every_attempt_and_nothing_else_does() {
    let (app, addr) = bind("127.0.0.1:0").await;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, addr)]).await;
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
                 tracestate: a=1\r\ntracestate: b=2\r\nx-request-id: mine-1\r\n";
    let request = format!("GET /hello HTTP/1.1\r\nHost: x\r\nCookie: secret\r\n{trace}\r\n");
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut kept = accept(&app).await;
    let told = format!("GET /hello/frontserver1 HTTP/1.1\r\nhost: {addr}\r\n{trace}\r\n");
    assert_eq!(read_head(&mut kept).await, told);
    kept.write_all(HI).await.unwrap();
    read_head(&mut client).await;
    client.read_exact(&mut [0; 3]).await.unwrap();

    // The same again, on a kept connection that dies of it.
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut kept).await, told);
    drop(kept);
    assert_eq!(read_head(&mut accept(&app).await).await, told);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_ends_its_side_first_still_gets_its_answer() {
    let app = start_app("appserver1").await;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, app.addr)]).await;
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("I'm appserver1 !\n"), "{answer}");
}

#[tokio::test(flavor = "local")]
async fn what_the_front_does_not_serve_is_refused_with_a_reason() {
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![]).await;
    let elsewhere = ask(front.addr, "GET", "/hello/").await;
    assert_eq!((elsewhere.status, elsewhere.body.as_str()), (404, "nothing here, expected /hello\n"));
    let posted = ask(front.addr, "POST", "/hello").await;
    assert_eq!((posted.status, posted.head.contains("allow: get, head")), (405, true));
}

#[tokio::test(flavor = "local")]
async fn all_apps_answer_over_a_few_requests() {
    let (one, two) = (start_app("appserver1").await, start_app("appserver2").await);
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, one.addr), ready(2, two.addr)]).await;
    let mut answers = [0, 0];
    for _ in 0..60 {
        answers[usize::from(hello(front.addr).await.contains("appserver2"))] += 1;
    }
    assert!(answers.iter().all(|n| *n > 0), "{answers:?}");
}

#[tokio::test(flavor = "local")]
async fn without_a_ready_app_the_client_is_told_to_come_again() {
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![]).await;
    let answer = ask(front.addr, "GET", "/hello").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "no appserver is ready\n"));
    assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
}

#[tokio::test(flavor = "local")]
async fn a_request_before_the_first_table_waits_for_it() {
    let app = start_app("appserver1").await;
    let (front, mut sidecar) = start_front().await;
    let mut early = TcpStream::connect(front.addr).await.unwrap();
    early.write_all(REQUEST).await.unwrap();
    sidecar.tell(vec![ready(1, app.addr)]).await;
    assert!(read_head(&mut early).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn without_a_sidecar_requests_are_refused_after_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let front = start_front_beside(dir.path().join("nobody.sock")).await;
    assert_eq!(ask(front.addr, "GET", "/hello").await.status, 503);
}

#[tokio::test(flavor = "local")]
async fn a_draining_app_gets_nothing_new_and_finishes_what_it_has() {
    let (slow, slow_addr) = bind("127.0.0.1:0").await;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, slow_addr)]).await;
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    let mut at_slow = accept(&slow).await;
    assert!(read_head(&mut at_slow).await.starts_with("GET /hello/frontserver1 HTTP/1.1\r\n"));

    let other = start_app("appserver2").await;
    let apps = vec![draining(1, slow_addr), ready(2, other.addr)];
    let applied = sidecar.tell(apps.clone()).await;
    assert_eq!((applied.draining[0].instance, applied.draining[0].in_flight), (1, 1));
    for _ in 0..20 {
        assert_eq!(hello(front.addr).await, "Hello frontserver1, I'm appserver2 !\n");
    }

    let (most, last) = HI.split_at(HI.len() - 1);
    at_slow.write_all(most).await.unwrap();
    read_head(&mut client).await;
    client.read_exact(&mut [0; 2]).await.unwrap();
    assert_eq!(sidecar.tell(apps).await.draining[0].in_flight, 1, "the last byte is still to come");
    at_slow.write_all(last).await.unwrap();
    assert_eq!(sidecar.applied().await.draining[0].in_flight, 0);
    assert_eq!(client.read_u8().await.unwrap(), b'\n');
    assert_eq!(at_slow.read(&mut [0]).await.unwrap(), 0, "its connection is not kept");
}

#[tokio::test(flavor = "local")]
async fn a_table_that_drains_or_omits_an_app_closes_its_idle_connections() {
    let (one, one_addr) = bind("127.0.0.1:0").await;
    let (front, mut sidecar) = start_front().await;
    for without in [vec![draining(1, one_addr)], vec![]] {
        sidecar.tell(vec![ready(1, one_addr)]).await;
        let request = spawn_local(ask(front.addr, "GET", "/hello"));
        let mut at_one = accept(&one).await;
        read_head(&mut at_one).await;
        at_one.write_all(HI).await.unwrap();
        assert_eq!(request.await.unwrap().status, 200);
        let applied = sidecar.tell(without).await;
        assert!(applied.draining.iter().all(|d| d.in_flight == 0));
        assert_eq!(at_one.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test(flavor = "local")]
async fn a_dead_app_costs_no_request() {
    // Bound but not listening: connects are refused, and nobody else gets the port.
    let dead = TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let alive = start_app("appserver2").await;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, dead.local_addr().unwrap()), ready(2, alive.addr)]).await;
    for _ in 0..20 {
        assert_eq!(hello(front.addr).await, "Hello frontserver1, I'm appserver2 !\n");
    }
}

#[tokio::test(flavor = "local")]
async fn when_most_apps_die_at_once_every_request_finds_a_living_one() {
    let bind = |_| {
        let dead = TcpSocket::new_v4().unwrap();
        dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        dead
    };
    let dead: Vec<_> = (0..29).map(bind).collect();
    let alive = start_app("appserver30").await;
    let (front, mut sidecar) = start_front().await;
    let addrs = dead.iter().map(|dead| dead.local_addr().unwrap()).chain([alive.addr]);
    sidecar.tell((1..).zip(addrs).map(|(n, addr)| ready(n, addr)).collect()).await;
    let requests: Vec<_> = (0..20).map(|_| spawn_local(hello(front.addr))).collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), "Hello frontserver1, I'm appserver30 !\n");
    }
}

#[tokio::test(flavor = "local")]
async fn when_all_apps_refuse_the_client_learns_why() {
    let dead = TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, dead.local_addr().unwrap())]).await;
    let answer = ask(front.addr, "GET", "/hello").await;
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("appserver1: cannot connect: Connection refused"), "{answer:?}");
}

#[tokio::test(flavor = "local")]
async fn an_app_restarted_at_its_address_costs_no_request() {
    // An address of its own, so that no other test takes the port meanwhile.
    let app = start_app_at("127.0.9.1:0", "appserver1").await;
    let addr = app.addr;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, addr)]).await;
    hello(front.addr).await;
    app.stopped().await;
    let _app = start_app_at(&addr.to_string(), "appserver2").await;
    assert_eq!(hello(front.addr).await, "Hello frontserver1, I'm appserver2 !\n");
    sidecar.tell(vec![ready(2, addr)]).await;
    assert_eq!(hello(front.addr).await, "Hello frontserver1, I'm appserver2 !\n");
}

#[tokio::test(flavor = "local")]
async fn a_kept_connection_that_dies_unanswered_is_replaced_by_a_fresh_one() {
    let (app, addr) = bind("127.0.0.1:0").await;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, addr)]).await;
    let first = spawn_local(ask(front.addr, "GET", "/hello"));
    let mut kept = accept(&app).await;
    read_head(&mut kept).await;
    kept.write_all(HI).await.unwrap();
    assert_eq!(first.await.unwrap().status, 200);

    let second = spawn_local(ask(front.addr, "GET", "/hello"));
    read_head(&mut kept).await;
    drop(kept);
    let mut fresh = accept(&app).await;
    read_head(&mut fresh).await;
    fresh.write_all(HI).await.unwrap();
    assert_eq!(second.await.unwrap().body, "hi\n");
}

#[tokio::test(flavor = "local")]
async fn what_an_app_was_asked_that_is_lost_another_answers_as_soon_as_there_is_one() {
    let other = start_app("appserver2").await;
    for case in 0..3 {
        let (silent, addr) = bind("127.0.0.1:0").await;
        let (lost, other) = (suspect(1, addr), ready(2, other.addr));
        let tables = match case {
            0 => vec![vec![other]],
            1 => vec![vec![lost, other]],
            _ => vec![vec![lost], vec![], vec![other]],
        };
        let (front, mut sidecar) = start_front().await;
        sidecar.tell(vec![ready(1, addr)]).await;
        let request = spawn_local(ask(front.addr, "GET", "/hello"));
        let mut at_silent = accept(&silent).await;
        read_head(&mut at_silent).await;
        for table in tables {
            assert!(!request.is_finished());
            sidecar.tell(table).await;
        }
        assert_eq!(request.await.unwrap().body, "Hello frontserver1, I'm appserver2 !\n");
        assert_eq!(at_silent.read(&mut [0]).await.unwrap(), 0, "nobody waits there any more");
    }
}

#[tokio::test(flavor = "local")]
async fn what_nobody_else_can_answer_waits_for_the_app_that_is_lost() {
    let (frozen, addr) = bind("127.0.0.1:0").await;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, addr)]).await;
    let request = spawn_local(ask(front.addr, "GET", "/hello"));
    let mut at_frozen = accept(&frozen).await;
    read_head(&mut at_frozen).await;
    sidecar.tell(vec![suspect(1, addr)]).await;
    sidecar.tell(vec![]).await;
    sidecar.tell(vec![ready(1, addr)]).await;
    at_frozen.write_all(HI).await.unwrap();
    assert_eq!(request.await.unwrap().body, "hi\n");
}

#[tokio::test(flavor = "local")]
async fn an_app_that_is_silent_for_too_long_is_a_gateway_timeout() {
    let (app, addr) = bind("127.0.0.1:0").await;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, addr)]).await;
    let request = spawn_local(ask(front.addr, "GET", "/hello"));
    let mut silent = accept(&app).await;
    read_head(&mut silent).await;
    tokio::time::pause();
    let answer = request.await.unwrap();
    assert_eq!(answer.status, 504);
    assert!(answer.body.contains("appserver1: no answer within 10s"), "{answer:?}");
}

#[tokio::test(flavor = "local")]
async fn a_stopped_front_finishes_what_is_in_flight_and_closes_what_idles() {
    let (app, addr) = bind("127.0.0.1:0").await;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, addr)]).await;
    let mut idle = TcpStream::connect(front.addr).await.unwrap();
    let mut busy = TcpStream::connect(front.addr).await.unwrap();
    busy.write_all(REQUEST).await.unwrap();
    let mut at_app = accept(&app).await;
    read_head(&mut at_app).await;

    front.stop.send(()).unwrap();
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    assert!(TcpStream::connect(front.addr).await.is_err(), "no new connection");
    assert!(!front.ended.is_finished());
    at_app.write_all(HI).await.unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("connection: close") && answer.ends_with("hi\n"), "{answer}");
    front.ended.await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn a_drain_ends_at_its_limit() {
    let (app, addr) = bind("127.0.0.1:0").await;
    let (front, mut sidecar) = start_front().await;
    sidecar.tell(vec![ready(1, addr)]).await;
    let mut busy = TcpStream::connect(front.addr).await.unwrap();
    busy.write_all(REQUEST).await.unwrap();
    let mut at_app = accept(&app).await;
    read_head(&mut at_app).await;
    tokio::time::pause();
    let stopped = Instant::now();
    front.stopped().await;
    assert_eq!(stopped.elapsed().as_secs(), 5);
}

#[tokio::test(flavor = "local")]
async fn a_taken_port_is_one_clear_error() {
    let (_taken, addr) = bind("127.0.9.2:0").await;
    let args = app::AppArgs {
        listen: addr,
        feed: "/nonexistent/feed.sock".into(),
        node: Some("appserver1".parse().unwrap()),
    };
    let error = app::run_app(args).await.unwrap_err().to_string();
    for part in
        [&format!("--listen {addr}: cannot listen there"), "Address already in use", "choose another port"]
    {
        assert!(error.contains(part), "{error}");
    }
}
