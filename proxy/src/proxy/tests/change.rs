//! Claims about plans that change while a proxy runs.

use std::{net::UdpSocket, path::Path};

use super::*;

/// A proxy of this file, in which `APP` and `WEB` stand for upstreams' addresses.
pub(super) fn start_with(dir: &Path, text: &str) -> (Proxy, Args) {
    let path = dir.join("proxy.toml");
    std::fs::write(&path, text).unwrap();
    let flags = ["--config", path.to_str().unwrap(), "--timeouts=drain=10ms"];
    let args = Cli::try_parse_from(flags).unwrap().args;
    (Proxy::start(&args).unwrap(), args)
}

/// Has the proxy go by another text of its file.
pub(super) fn change(proxy: &Proxy, args: &Args, text: &str) -> anyhow::Result<Change> {
    std::fs::write(args.config.as_ref().unwrap(), text).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(proxy.reload(args))
}

/// An upstream that answers every request with this status.
fn upstream(status: u16) -> SocketAddr {
    origin(move |stream, _| answer(stream, &format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n")))
}

fn ask(stream: &mut TcpStream, target: &str) -> u16 {
    write!(stream, "GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    read_status(stream)
}

/// A port that nobody has, nor takes: at an address of its own, where no client's end of a connection is.
fn free() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let [.., number] = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = std::net::Ipv4Addr::new(127, 64 + (high & 15), low, number);
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

#[test]
fn routes_and_listeners_change_and_a_connection_that_is_open_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (app, web, second) = (upstream(201), upstream(202), free());
    let tables = format!("upstream = ['app={app}', 'web={web}']\n");
    let head = format!("{tables}listen = ['http://127.0.0.1:0', 'http://127.0.0.1:0=web']\n");
    let first = format!("{head}route = [{{ match = '/', role = 'app' }}]\n");
    let (proxy, args) = start_with(dir.path(), &first);
    let mut client = connect(&proxy);
    assert_eq!((ask(&mut client, "/"), ask(&mut client, "/x/y")), (201, 201));
    let told = change(
        &proxy,
        &args,
        &format!(
            "{tables}listen = ['http://127.0.0.1:0', 'http://{second}=app']\nroute = [{{ match = '/', role = 'app' }}, {{ match = '/x', role = 'web' }}]\n"
        ),
    );
    let told = told.unwrap().to_string();
    assert!(told.contains("+ route /x") && told.contains(&format!("+ listen http://{second}=app")), "{told}");
    assert_eq!((ask(&mut client, "/"), ask(&mut client, "/x/y")), (201, 202), "on the same connection");
    let mut other = TcpStream::connect(second).unwrap();
    assert_eq!(ask(&mut other, "/x"), 201);
    assert!(TcpStream::connect(proxy.addrs()[1]).is_err(), "that listener is no more");
    let back = change(&proxy, &args, &first).unwrap().to_string();
    assert!(back.contains("- route /x"), "{back}");
    assert_eq!((ask(&mut client, "/x/y"), ask(&mut other, "/x")), (201, 201), "who is there stays");
    assert!(TcpStream::connect(second).is_err());
    proxy.stop();
}

#[test]
fn a_plan_that_cannot_be_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (app, taken) = (upstream(201), TcpListener::bind("127.0.0.1:0").unwrap());
    let taken_addr = taken.local_addr().unwrap();
    let tables = format!("upstream = ['app={app}']\n");
    let first = format!("{tables}listen = ['http://127.0.0.1:0=app']\n");
    let (proxy, args) = start_with(dir.path(), &first);
    let refusal = |text: &str| format!("{:#}", change(&proxy, &args, text).unwrap_err());
    for (text, why) in [
        (format!("{first}listn = 1\n"), "proxy.toml:3:1: unknown field `listn`"),
        (format!("{first}workers = 3\n"), "proxy.toml:3:11: workers: only a restart changes it"),
        (
            format!("{tables}listen = ['http://127.0.0.1:0=app', 'tcp://{taken_addr}=app']\n"),
            "cannot listen there",
        ),
        (String::new(), "proxy.toml: upstream: only a restart changes it"),
    ] {
        let told = refusal(&text);
        assert!(told.contains(why), "{told}");
        assert_eq!(ask(&mut connect(&proxy), "/"), 201);
    }
    assert!(change(&proxy, &args, &first).unwrap().is_nothing());
    proxy.stop();
}

#[test]
fn a_listener_that_is_no_more_is_closed_when_the_change_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let (app, second) = (upstream(201), free());
    let tables = format!("upstream = ['app={app}']\n");
    let without = format!("{tables}listen = ['http://127.0.0.1:0=app']\n");
    let with = format!("{tables}listen = ['http://127.0.0.1:0=app', 'http://{second}=app']\n");
    let (proxy, args) = start_with(dir.path(), &without);
    for _ in 0..100 {
        change(&proxy, &args, &with).unwrap();
        change(&proxy, &args, &without).unwrap();
        drop(TcpListener::bind(second).unwrap());
    }
    proxy.stop();
}

#[test]
fn what_is_said_of_upstreams_holds_from_the_change_on() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let head = format!(
        "upstream = ['app={}']\nlisten = ['http://127.0.0.1:0=app']\nworkers = 1\n",
        listener.local_addr().unwrap()
    );
    let limited = format!("{head}upstream-connections-max = 1\ntimeouts = {{ queue = '20s' }}\n");
    let (proxy, args) = start_with(dir.path(), &limited);
    let mut clients: Vec<TcpStream> = (0..2).map(|_| connect(&proxy)).collect();
    clients.iter_mut().for_each(|client| client.write_all(REQUEST).unwrap());
    let (mut first, _) = listener.accept().unwrap();
    assert!(read_head(&mut first, &mut Vec::new()));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "one at a time");
    listener.set_nonblocking(false).unwrap();
    // Who waits for the limit that is no more waits no more.
    change(&proxy, &args, &format!("{head}timeouts = {{ queue = '20s' }}\n")).unwrap();
    let (mut second, _) = listener.accept().unwrap();
    assert!(read_head(&mut second, &mut Vec::new()));
    for (upstream, status) in [(&mut first, "201"), (&mut second, "201")] {
        write!(upstream, "HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n").unwrap();
    }
    assert!(clients.iter_mut().all(|client| read_status(client) == 201));
    proxy.stop();
}

#[test]
fn a_listener_that_changes_its_protocol_serves_the_new_one_to_who_comes_then() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let table = format!("upstream = ['app={}']\n", listener.local_addr().unwrap());
    let (proxy, args) = start_with(dir.path(), &format!("{table}listen = ['http://127.0.0.1:0=app']\n"));
    change(&proxy, &args, &format!("{table}listen = ['tcp://127.0.0.1:0=app']\n")).unwrap();
    // A server that speaks first, as databases do.
    let mut client = connect(&proxy);
    let (mut upstream, _) = listener.accept().unwrap();
    upstream.write_all(b"220 hello").unwrap();
    let mut heard = [0; 9];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"220 hello");
    proxy.stop();
}

#[test]
fn listeners_for_datagrams_come_and_go_beside_those_for_streams_and_a_flow_stays_where_it_is() {
    let echo = |name: u8| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        thread::spawn(move || {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 9]) {
                let _ = socket.send_to(&[name], from);
            }
        });
        addr
    };
    let (app, web, port) = (echo(b'a'), echo(b'w'), free());
    let tables = format!("upstream = ['app={app}', 'web={web}']\n");
    let plan = |role: &str, other: &str| {
        format!(
            "{tables}listen = ['udp://127.0.0.1:0={role}', 'http://127.0.0.1:0=web'{other}]\nroute = []\n"
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let both = format!(", 'udp://{port}=app', 'tcp://{port}=app'");
    let (proxy, args) = start_with(dir.path(), &plan("app", &both));
    let asked = |client: &UdpSocket, addr: SocketAddr| {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(b"?", addr).unwrap();
        let mut name = [0];
        client.recv_from(&mut name).unwrap();
        name[0]
    };
    let client = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let flow = client();
    assert_eq!((asked(&flow, proxy.addrs()[0]), asked(&client(), port)), (b'a', b'a'));
    change(&proxy, &args, &plan("web", &format!("{both}, 'udp://127.0.0.2:{}=app'", port.port()))).unwrap();
    assert_eq!((asked(&flow, proxy.addrs()[0]), asked(&client(), proxy.addrs()[0])), (b'a', b'w'));
    assert_eq!(asked(&client(), SocketAddr::from(([127, 0, 0, 2], port.port()))), b'a');
    change(&proxy, &args, &plan("web", &format!(", 'tcp://{port}=app', 'http://127.0.0.1:0=app'"))).unwrap();
    assert!(TcpStream::connect(port).is_ok(), "the listener for streams is another");
    let until = Instant::now() + PATIENCE;
    while UdpSocket::bind(port).is_err() {
        assert!(Instant::now() < until, "the address is free again");
        thread::sleep(Duration::from_millis(5));
    }
    proxy.stop();
}
