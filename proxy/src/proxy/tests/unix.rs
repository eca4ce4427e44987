//! Claims about Unix sockets, on both sides.

use std::{
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use feed::request::{Inquiry, Prospect};

use super::*;
use crate::explain::explain;

/// A proxy of this file, in which `DIR` stands for its directory.
fn start_in(dir: &Path, text: &str) -> (Proxy, Args) {
    let path = dir.join("proxy.toml");
    write(dir, text);
    let timeouts =
        if text.contains("drain") { "--timeouts=queue=20s" } else { "--timeouts=queue=20s,drain=10ms" };
    let flags = ["--config", path.to_str().unwrap(), timeouts, "--workers=2"];
    let args = Cli::try_parse_from(flags).unwrap().args;
    (Proxy::start(&args).unwrap(), args)
}

fn write(dir: &Path, text: &str) {
    let text = text.replace("DIR", dir.to_str().unwrap());
    std::fs::write(dir.join("proxy.toml"), text).unwrap();
}

fn change(proxy: &Proxy, args: &Args) -> anyhow::Result<Change> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { proxy.change(args.plan()?).await })
}

/// An upstream at a file that answers every request with the head that it got, and says so in a field.
fn start_echo(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || serve_echo(&listener));
}

fn serve_echo(listener: &UnixListener) {
    for mut stream in listener.incoming().map_while(Result::ok) {
        thread::spawn(move || {
            let mut head = Vec::new();
            while read_head(&mut stream, &mut head) {
                let start = format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n", head.len());
                if stream.write_all(&[start.as_bytes(), &head].concat()).is_err() {
                    return;
                }
            }
        });
    }
}

fn connect_at(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The status, and the head that the upstream got.
fn ask(stream: &mut UnixStream, bytes: &str) -> (u16, String) {
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut head = Vec::new();
    assert!(read_head(stream, &mut head), "no answer");
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (head[9..12].parse().unwrap(), String::from_utf8(body).unwrap())
}

fn get(path: &Path, target: &str, fields: &str) -> (u16, String) {
    ask(&mut connect_at(path), &format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}

struct Place {
    dir: tempfile::TempDir,
    door: PathBuf,
}

impl Place {
    /// With an upstream at `app`.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        start_echo(&dir.path().join("app"));
        let door = dir.path().join("door");
        Self { dir, door }
    }

    fn start(&self, text: &str) -> (Proxy, Args) {
        start_in(self.dir.path(), &format!("upstream = ['app=unix:DIR/app']\n{text}"))
    }
}

#[test]
fn requests_go_from_a_socket_to_a_socket_and_no_address_is_made_up() {
    let place = Place::new();
    let claimed = "X-Forwarded-For: 192.0.2.66\r\nX-Real-IP: 192.0.2.66\r\nForwarded: for=192.0.2.66\r\n";
    let (proxy, _) = place.start("listen = ['http://unix:DIR/door=app']\nforwarded = 'both'\n");
    let mut client = connect_at(&place.door);
    for _ in 0..3 {
        let (status, head) = ask(&mut client, &format!("GET /x HTTP/1.1\r\nHost: a\r\n{claimed}\r\n"));
        assert_eq!(status, 200);
        assert!(head.contains("Forwarded: for=unknown;host=\"a\";proto=http\r\n"), "{head}");
        assert!(!head.contains("192.0.2.66") && !head.contains("-For:") && !head.contains("-IP:"), "{head}");
    }
    assert_eq!(sum(&proxy, |stats| &stats.connects), 1, "its connection is used again");
    proxy.stop();
    assert!(!place.door.exists(), "it goes with the proxy");
    let (proxy, _) =
        place.start("listen = ['http://unix:DIR/door=app']\nforwarded = 'both'\ntrusted-hops = 1\n");
    let (_, head) = get(&place.door, "/", claimed);
    assert!(head.contains("X-Forwarded-For: 192.0.2.66\r\n"), "{head}");
    assert!(head.contains("X-Real-IP: 192.0.2.66\r\n"), "{head}");
    assert!(head.contains("Forwarded: for=192.0.2.66, for=unknown;"), "{head}");
    proxy.stop();
}

#[test]
fn a_proxy_in_front_says_by_its_header_who_the_client_is() {
    let place = Place::new();
    let (proxy, _) =
        place.start("listen = ['http://unix:DIR/door=app']\nforwarded = 'x'\nproxy-protocol = ['unix:']\n");
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let told = format!("PROXY TCP4 192.0.2.7 192.0.2.8 7 8\r\n{request}");
    let (_, head) = ask(&mut connect_at(&place.door), &told);
    assert!(head.contains("X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto"), "{head}");
    let (_, head) = ask(&mut connect_at(&place.door), &format!("PROXY UNKNOWN\r\n{request}"));
    assert!(!head.contains("X-Forwarded-For"), "{head}");
    let mut silent = connect_at(&place.door);
    silent.write_all(request.as_bytes()).unwrap();
    assert!(!matches!(silent.read(&mut [0; 1]), Ok(1..)), "without a header there is no answer");
    proxy.stop();
}

#[test]
fn who_has_no_address_is_allowed_denied_and_counted_by_the_word_for_it() {
    let place = Place::new();
    let (proxy, _) = place.start(
        "listen = ['http://unix:DIR/door']
         route = [
             { match = '/all', role = 'app', allow = ['0.0.0.0/0', '::/0'] },
             { match = '/unix', role = 'app', allow = ['10.0.0.0/8', 'unix:'] },
             { match = '/denied', role = 'app', deny = ['unix:'] },
             { match = '/other', role = 'app', deny = ['0.0.0.0/0'] },
             { match = '/few', role = 'app', rate-limit = '2/h' },
         ]\n",
    );
    let statuses = |target: &str, count: usize| -> Vec<u16> {
        (0..count).map(|_| get(&place.door, target, "").0).collect()
    };
    assert_eq!(statuses("/all", 1), [403], "it is in no network");
    assert_eq!(statuses("/unix", 1), [200]);
    assert_eq!(statuses("/denied", 1), [403]);
    assert_eq!(statuses("/other", 1), [200]);
    let few = statuses("/few", 4);
    assert!(few[0] == 200 && few[3] == 429, "all are counted as one client: {few:?}");
    proxy.stop();
}

#[test]
fn listeners_come_and_go_with_the_file_and_a_connection_that_is_open_stays() {
    let place = Place::new();
    let one = "upstream = ['app=unix:DIR/app']\nlisten = ['http://unix:DIR/door=app']\n";
    let both = one.replace("/door=app'", "/door=app?mode=600', 'http://unix:DIR/second=app'");
    let (proxy, args) = start_in(place.dir.path(), one);
    let second = place.dir.path().join("second");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.door), 0o660);
    let mut client = connect_at(&place.door);
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(ask(&mut client, request).0, 200);
    for _ in 0..3 {
        write(place.dir.path(), &both);
        assert!(change(&proxy, &args).unwrap().to_string().contains("/second=app"));
        assert_eq!((get(&second, "/", "").0, mode(&place.door)), (200, 0o600));
        write(place.dir.path(), one);
        change(&proxy, &args).unwrap();
        assert!(!second.exists() && mode(&place.door) == 0o660);
        assert_eq!((ask(&mut client, request).0, get(&place.door, "/", "").0), (200, 200));
    }
    // Of a plan that fails as a whole, nothing is left.
    write(place.dir.path(), &both.replace("second=app'", "second=app', 'http://unix:DIR/app=app'"));
    let refused = format!("{:#}", change(&proxy, &args).unwrap_err());
    let own = format!("process {} (", std::process::id());
    assert!(refused.contains(&own) && refused.contains("listens there; stop it"), "{refused}");
    assert!(!second.exists());
    assert_eq!(get(&place.door, "/", "").0, 200);
    proxy.stop();
}

#[test]
fn who_waits_at_a_socket_when_the_proxy_stops_is_answered() {
    let place = Place::new();
    for _ in 0..10 {
        let (proxy, _) = place.start("listen = ['http://unix:DIR/door=app']\ntimeouts = { drain = '20s' }\n");
        let mut clients: Vec<_> = (0..16).map(|_| connect_at(&place.door)).collect();
        for client in &mut clients {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        }
        let stopping = thread::spawn(move || proxy.stop());
        for client in &mut clients {
            assert_eq!(ask(client, "").0, 200);
        }
        stopping.join().unwrap();
        assert!(!place.door.exists());
    }
}

#[test]
fn an_upstream_that_is_not_there_is_refused_and_one_whose_queue_is_full_is_waited_for() {
    let place = Place::new();
    let (proxy, _) = place.start("listen = ['http://unix:DIR/door=app']\n");
    let app = place.dir.path().join("app");
    std::fs::remove_file(&app).unwrap();
    assert_eq!(get(&place.door, "/", "").0, 502);
    // Its queue has one place, which is taken until somebody accepts.
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&app).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let filler = UnixStream::connect(&app).unwrap();
    let mut client = connect_at(&place.door);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(client.read(&mut [0; 1]).is_err(), "it waits");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let listener = UnixListener::from(std::os::fd::OwnedFd::from(socket));
    thread::spawn(move || serve_echo(&listener));
    assert_eq!(ask(&mut client, "").0, 200);
    drop(filler);
    proxy.stop();
}

#[test]
fn bytes_pass_a_tunnel_of_sockets_both_ways_and_each_end_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("db")).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        }
    });
    let text = "listen = ['tcp://unix:DIR/door=db']\nupstream = ['db=unix:DIR/db']\nsend-proxy = ['db=v1']\n";
    let (proxy, _) = start_in(dir.path(), text);
    let mut client = connect_at(&dir.path().join("door"));
    let sent: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_be_bytes()).collect();
    client.write_all(&sent).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).unwrap();
    assert!(heard.strip_prefix(b"PROXY UNKNOWN\r\n") == Some(&sent[..]), "{} bytes", heard.len());
    proxy.stop();
}

#[test]
fn whoever_asks_why_is_told_the_path_of_an_upstream() {
    let place = Place::new();
    let (proxy, _) = place.start("listen = ['http://unix:DIR/door=app']\n");
    let (method, host, target) = ("GET".into(), "a".into(), "/".into());
    let inquiry = Inquiry { method, is_sealed: false, host, target, from: None };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let told = runtime.block_on(async {
        proxy.serves().await;
        explain(&proxy, &inquiry).await
    });
    let choice = serde_json::from_str::<Prospect>(&told).unwrap().choice.unwrap();
    let path = format!("unix:{}", place.dir.path().join("app").display());
    assert_eq!((choice.chosen, &choice.endpoints[0].addr), (Some(0), &path));
    proxy.stop();
}
