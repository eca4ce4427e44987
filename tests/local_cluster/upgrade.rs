//! A role's process is killed, or followed by one of another program, and nobody who waits at its port loses a connection.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    http,
    length::short_or_long,
    network::Network,
    program::{Ended, Running, concertina, run},
    skip,
    wait::{DEADLINE, until},
};

/// The program itself.
const CONCERTINA: &str = env!("CARGO_BIN_EXE_concertina");

/// Clients that ask at a time, each with a new connection for each request.
const CLIENTS: usize = 8;

/// What serves HTTP and keeps its listening socket with who started it, by nothing but the protocols of systemd.
const BY_HAND: &str = r#"
import array, os, socket, sys
def tell(text, *sockets):
    name = os.environ['NOTIFY_SOCKET']
    name = '\0' + name[1:] if name[0] == '@' else name
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [s.fileno() for s in sockets]))] if sockets else []
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendmsg([text.encode()], rights, 0, name)
given = 'nothing'
if os.environ.get('LISTEN_PID') == str(os.getpid()) and os.environ['LISTEN_FDS'] == '1':
    given = os.environ['LISTEN_FDNAMES']
    listener = socket.socket(fileno=3)
else:
    listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
    tell('FDSTORE=1\nFDNAME=by-hand', listener)
tell('READY=1')
while True:
    client, _ = listener.accept()
    client.recv(4096)
    body = f'{os.getpid()} was given {given}'
    client.sendall(f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}'.encode())
    client.close()
"#;

/// The one child of a sidecar that runs its role, when it is another than `than`.
fn role_of(sidecar: &Running, than: Option<Pid>) -> Pid {
    let id = sidecar.id();
    until("the role's process", || {
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        let pids = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        pids.into_iter().find(|pid| Some(*pid) != than)
    })
}

/// A proxy's node whose program is at a path that can be replaced, and an app behind it.
struct Scene {
    proxy: Running,
    addr: SocketAddr,
    program: PathBuf,
    _others: [Running; 2],
    network: Network,
}

impl Scene {
    fn start(flags: &[&str], more: &[&str]) -> Self {
        let network = Network::claim();
        let others = [network.start("dnsserver"), network.start("appserver1")];
        let program = network.place.join("program");
        symlink(CONCERTINA, &program).unwrap();
        let addr = network.service("proxyserver");
        let listen = format!("http://{addr}=appserver");
        let flags =
            [network.join("proxyserver"), flags.iter().map(|flag| (*flag).to_owned()).collect()].concat();
        let command = [&[program.to_str().unwrap(), "proxy", "--listen", &listen], more].concat();
        let mut proxy = network.wrap("proxyserver", &flags, &command);
        proxy.hear("role check passes");
        proxy.hear("says that it is ready");
        network.hear("/hello/you", 200, "Hello you, I'm appserver1 !\n");
        Self { proxy, addr, program, _others: others, network }
    }

    fn upgrade(&self, more: &str) -> Ended {
        self.network.ask("proxyserver", &format!("proxy upgrade{more}"))
    }

    /// Puts another program in the place of this one, in one step.
    fn replace(&self, with: &Path) {
        let new = self.network.place.join("new");
        symlink(with, &new).unwrap();
        fs::rename(new, &self.program).unwrap();
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.network.place.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

/// What clients saw, each of whom asks once on each connection.
#[derive(Debug, Default)]
struct Seen {
    answers: u64,
    /// Nobody listened, or nobody took the connection in time.
    unconnected: Vec<String>,
    /// Nobody answered.
    unanswered: Vec<String>,
}

/// Has clients ask for as long as something happens.
fn under_load(addr: SocketAddr, happens: impl FnOnce()) -> Seen {
    let stopping = AtomicBool::new(false);
    let ask = || {
        let mut seen = Seen::default();
        while !stopping.load(Ordering::Relaxed) {
            match TcpStream::connect_timeout(&addr, DEADLINE) {
                Err(error) => seen.unconnected.push(error.to_string()),
                Ok(stream) => match answer(stream) {
                    Ok(said) if said.contains("200 OK") && said.ends_with("I'm appserver1 !\n") => {
                        seen.answers += 1;
                    }
                    Ok(said) => seen.unanswered.push(format!("{said:?}")),
                    Err(error) => seen.unanswered.push(error.to_string()),
                },
            }
        }
        seen
    };
    /// A test that fails meanwhile ends its clients.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        let stop = Stop(&stopping);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
        happens();
        drop(stop);
        clients.into_iter().map(|client| client.join().unwrap()).fold(Seen::default(), |mut all, seen| {
            all.answers += seen.answers;
            all.unconnected.extend(seen.unconnected);
            all.unanswered.extend(seen.unanswered);
            all
        })
    })
}

#[test]
fn a_process_with_fewer_or_more_workers_leaves_no_queue_unread() {
    let scene = Scene::start(&[], &[]);
    let seen = under_load(scene.addr, || {
        for workers in [5, 2, 1, 3, 1] {
            let text = format!("CONCERTINA_PROXY_WORKERS={workers} exec {CONCERTINA} \"$@\"");
            scene.replace(&scene.script(&format!("workers-{workers}"), &text));
            assert_eq!(scene.upgrade("").code, Some(0));
            // The kernel gives each queue its share of them.
            let answers = (0..64).map(|_| answer(TcpStream::connect(scene.addr).unwrap()).unwrap());
            assert!({ answers }.all(|said| said.contains("200 OK")), "{workers} workers");
        }
    });
    assert!(seen.unconnected.is_empty() && seen.unanswered.is_empty(), "{seen:?}");
}

#[test]
fn a_listener_that_a_new_plan_closes_is_kept_no_longer_and_a_followed_proxy_reads_its_file_again() {
    let network = Network::claim();
    let addr = network.service("proxyserver");
    let other = SocketAddr::new(addr.ip(), addr.port() + 1);
    let file = network.place.join("proxy.toml");
    let write = |listen: &[SocketAddr]| {
        let listen: Vec<String> = listen.iter().map(|addr| format!("\"http://{addr}=app\"")).collect();
        fs::write(&file, format!("listen = [{}]\n", listen.join(", "))).unwrap();
    };
    write(&[addr, other]);
    // Whatever comes is answered, if with an error: nobody serves behind it.
    let command = [CONCERTINA, "proxy", "--config", file.to_str().unwrap(), "--upstream", "app=127.0.0.1:1"];
    let mut proxy = network.wrap("proxyserver", &network.join("proxyserver"), &command);
    proxy.hear("role check passes");
    let is_open =
        |addr| http::get(addr, "/").is_ok_and(|response| response.status == 503 || response.status == 502);
    proxy.hear("says that it is ready");
    until("both are open", || (is_open(addr) && is_open(other)).then_some(()));
    let ask = |question| network.ask("proxyserver", question);
    write(&[addr]);
    assert_eq!(ask("proxy reload").code, Some(0));
    let refused =
        || TcpStream::connect(other).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    until("it is closed", || refused().then_some(()));
    assert_eq!(ask("proxy upgrade").code, Some(0));
    assert!(is_open(addr) && refused());
    write(&[addr, other]);
    until("the new one is asked", || (ask("proxy reload").code == Some(0)).then_some(()));
    until("both are open again", || (is_open(addr) && is_open(other)).then_some(()));
    // The file of a process that is to follow says less: what it does not listen on is closed once it serves.
    write(&[addr]);
    assert_eq!(ask("proxy upgrade").code, Some(0));
    until("it is closed", || refused().then_some(()));
    assert!(is_open(addr));
}

fn asked(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(b"GET /hello/you HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

fn answer(mut stream: TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET /hello/you HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    heard(stream)
}

fn heard(mut stream: TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn upgrades_lose_no_request_of_clients_with_a_connection_for_each() {
    let scene = Scene::start(&[], &[]);
    let upgrades = short_or_long(10, 100);
    let seen = under_load(scene.addr, || {
        for _ in 0..upgrades {
            let before = role_of(&scene.proxy, None);
            let upgraded = scene.upgrade("");
            let lines: Vec<&str> = upgraded.stdout.lines().collect();
            let old = before.as_raw_nonzero();
            assert_eq!((upgraded.code, lines.len()), (Some(0), 3), "{upgraded:?}");
            assert!(lines[0].starts_with(&format!("process {old} serves, process ")), "{upgraded:?}");
            assert!(lines[1].ends_with(&format!(" ms, process {old} drains")), "{upgraded:?}");
            assert!(lines[2].starts_with(&format!("process {old} has ended after ")), "{upgraded:?}");
            assert_ne!(role_of(&scene.proxy, None), before);
        }
    });
    println!(
        "{upgrades} upgrades: {} requests answered, {:?}",
        seen.answers,
        (&seen.unconnected, &seen.unanswered)
    );
    assert!(seen.unconnected.is_empty() && seen.unanswered.is_empty(), "{seen:?}");
    assert!(seen.answers > upgrades, "{seen:?}");
}

fn freeze(process: Pid) {
    kill_process(process, Signal::STOP).unwrap();
    until("it stands still", || {
        // With all of its threads, of which one may still be about to accept.
        let threads = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).unwrap();
        let status =
            |thread: io::Result<fs::DirEntry>| fs::read_to_string(thread.unwrap().path().join("status"));
        { threads }.all(|thread| status(thread).is_ok_and(|s| s.contains("State:\tT"))).then_some(())
    });
}

/// Asks once at a socket, on a connection of its own.
fn answer_at(path: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET /hello/you HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn a_unix_socket_outlives_its_processes_and_goes_with_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door");
    let listen = format!("http://unix:{}=appserver", path.display());
    let mut scene = Scene::start(&["--restart", "on-failure"], &["--listen", &listen]);
    let file = fs::metadata(&path).unwrap().ino();
    let stopping = AtomicBool::new(false);
    let answers = thread::scope(|scope| {
        let ask = || {
            let mut answers = 0;
            while !stopping.load(Ordering::Relaxed) {
                let said = answer_at(&path).map_err(|error| error.to_string());
                if !said.as_ref().is_ok_and(|said| said.contains("200 OK")) {
                    return Err(said);
                }
                answers += 1;
            }
            Ok(answers)
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        let upgrades: Vec<_> = (0..3).map(|_| scene.upgrade("").code).collect();
        stopping.store(true, Ordering::Relaxed);
        assert_eq!(upgrades, [Some(0); 3]);
        clients.into_iter().map(|client| client.join().unwrap().unwrap()).sum::<u64>()
    });
    assert!(answers > 10, "{answers}");
    // What waits while no process is there is served by the next.
    let role = role_of(&scene.proxy, None);
    freeze(role);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..16).map(|_| scope.spawn(|| answer_at(&path))).collect();
        until("they wait", || {
            let sockets = fs::read_to_string("/proc/net/unix").ok()?;
            (sockets.matches(path.to_str()?).count() > 16).then_some(())
        });
        kill_process(role, Signal::KILL).unwrap();
        for said in waiting {
            let said = said.join().unwrap().unwrap();
            assert!(said.ends_with("I'm appserver1 !\n"), "{said}");
        }
    });
    assert_ne!(role_of(&scene.proxy, Some(role)), role);
    assert_eq!(fs::metadata(&path).unwrap().ino(), file, "it was the same socket all the time");
    scene.proxy.signal(Signal::TERM);
    assert_eq!(scene.proxy.ended().code(), Some(0), "{}", scene.proxy.said());
    assert!(!path.exists());
}

#[test]
fn what_waits_in_the_kernels_queue_when_the_process_is_killed_is_served_by_the_next() {
    let mut scene = Scene::start(&["--restart", "on-failure"], &[]);
    for round in 0..short_or_long(4, 50) {
        let role = role_of(&scene.proxy, None);
        let mut inside = http::Connection::open(scene.addr).unwrap();
        assert_eq!(inside.get("/hello/you").unwrap().status, 200);
        // It accepts nobody from here on.
        freeze(role);
        let waiting: Vec<TcpStream> = (0..64).map(|_| asked(scene.addr)).collect();
        kill_process(role, Signal::KILL).unwrap();
        // Whom it had accepted ends with it, and is not left in doubt.
        let ended = inside.get("/hello/you").map(|response| response.status).map_err(|error| error.kind());
        assert!(
            matches!(
                ended,
                Err(io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe)
            ),
            "{ended:?}"
        );
        for stream in waiting {
            let said = heard(stream).unwrap();
            assert!(said.ends_with("I'm appserver1 !\n"), "round {round}: {said}");
        }
        assert_ne!(role_of(&scene.proxy, Some(role)), role);
        // A second later the pause before the next start is the shortest again.
        thread::sleep(Duration::from_millis(1100));
    }
    scene.proxy.signal(Signal::TERM);
    assert_eq!(scene.proxy.ended().code(), Some(0), "{}", scene.proxy.said());
}

#[test]
fn kills_under_load_refuse_no_connection_and_cost_what_was_inside_alone() {
    let scene = Scene::start(&["--restart", "on-failure"], &[]);
    let kills = short_or_long(4, 50);
    let seen = under_load(scene.addr, || {
        for _ in 0..kills {
            let role = role_of(&scene.proxy, None);
            kill_process(role, Signal::KILL).unwrap();
            role_of(&scene.proxy, Some(role));
            serves(&scene);
            thread::sleep(Duration::from_millis(1100));
        }
    });
    println!("{kills} kills: {} answered, {} not", seen.answers, seen.unanswered.len());
    assert_eq!(seen.unconnected, [] as [String; 0], "nobody is refused");
    let inside_max = usize::try_from(kills).unwrap() * CLIENTS;
    assert!(seen.unanswered.len() <= inside_max && seen.answers > kills, "{seen:?}");
    // Whoever was accepted was reset, or its connection ended; nobody heard an error, and nobody waited in vain.
    let is_end = |why: &String| why == "\"\"" || why.contains("reset by peer") || why.contains("Broken pipe");
    assert!(seen.unanswered.iter().all(is_end), "{seen:?}");
}

fn serves(scene: &Scene) {
    until("it serves", || scene.network.ask("proxyserver", "health").stdout.contains("ready").then_some(()));
}

#[test]
fn a_node_whose_process_is_down_is_not_ready_though_its_port_takes_connections() {
    let scene = Scene::start(&["--restart", "on-failure"], &[]);
    scene.replace(&scene.script("broken", "exit 3"));
    kill_process(role_of(&scene.proxy, None), Signal::KILL).unwrap();
    until("it is not ready, and why", || {
        let health = scene.network.ask("proxyserver", "health");
        (health.code == Some(1) && health.stdout.contains("its process ended and is started again"))
            .then_some(())
    });
    let waiting = asked(scene.addr);
    let refused = scene.upgrade("");
    assert!(refused.why().contains("the role's process does not run"), "{refused:?}");
    scene.replace(Path::new(CONCERTINA));
    assert!(heard(waiting).unwrap().ends_with("I'm appserver1 !\n"));
    serves(&scene);
}

#[test]
fn a_new_program_that_does_not_serve_leaves_the_old_process_serving() {
    let scene = Scene::start(&[], &[]);
    let role = role_of(&scene.proxy, None);
    let wrong = [
        (scene.script("ends", "exit 3"), "1m", "it ended before it was ready: exit code 3"),
        (scene.script("hangs", "sleep 3600 & sleep 3600"), "300ms", "it was not ready within 300ms"),
        (scene.network.place.join("missing"), "1m", "cannot run"),
    ];
    let seen = under_load(scene.addr, || {
        for (program, timeout, why) in &wrong {
            scene.replace(program);
            let refused = scene.upgrade(&format!(" --timeout {timeout}"));
            assert!(refused.code == Some(1) && refused.stderr.contains(why), "{refused:?}");
        }
    });
    assert!(seen.unconnected.is_empty() && seen.unanswered.is_empty(), "{seen:?}");
    assert_eq!(role_of(&scene.proxy, None), role);
    until("what the wrong one had started is gone", || {
        (!scene.network.place.processes().iter().any(|process| process.contains("sleep"))).then_some(())
    });
    scene.replace(Path::new(CONCERTINA));
    assert_eq!(scene.upgrade("").code, Some(0), "and the next one takes over");
}

#[test]
fn a_tunnel_stays_open_in_the_old_process_until_its_drain_ends() {
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let network = Network::claim();
    let addr = network.service("proxyserver");
    let (listen, upstream) = (format!("tcp://{addr}=echo"), format!("echo={}", echo.local_addr().unwrap()));
    let command =
        [CONCERTINA, "proxy", "--listen", &listen, "--upstream", &upstream, "--timeouts", "drain=3s"];
    let mut proxy = network.wrap("proxyserver", &network.join("proxyserver"), &command);
    proxy.hear("says that it is ready");
    let mut tunnel = TcpStream::connect(addr).unwrap();
    tunnel.write_all(b"x").unwrap();
    let mut far = until("the tunnel", || {
        // The check's connections come through as well, and say nothing.
        let (mut far, _) = echo.accept().unwrap();
        far.set_read_timeout(Some(DEADLINE)).unwrap();
        far.read(&mut [0; 1]).is_ok_and(|count| count == 1).then_some(far)
    });
    let role = role_of(&proxy, None);
    let upgrade = concertina(["proxy", "upgrade", "--feed", network.feed("proxyserver").to_str().unwrap()]);
    let mut upgrade = Running::start(upgrade, network.place.join("upgrade.log"));
    upgrade.hear("drains");
    let _new = role_of(&proxy, Some(role));
    for (mut from, mut to) in [(&tunnel, &far), (&far, &tunnel)] {
        from.write_all(b"still there").unwrap();
        let mut room = [0; 11];
        to.set_read_timeout(Some(DEADLINE)).unwrap();
        to.read_exact(&mut room).unwrap();
        assert_eq!(&room, b"still there");
    }
    let after_ms = upgrade.hear("has ended after ");
    assert!(after_ms.trim_end_matches(" ms").parse::<u64>().unwrap() >= 2900, "{after_ms}");
    assert_eq!(far.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(upgrade.ended().code(), Some(0));
}

#[test]
fn any_program_that_speaks_systemds_protocols_is_kept_and_followed() {
    let network = Network::claim();
    let _dnsserver = network.start("dnsserver");
    let addr = network.service("billing1");
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let flags = [network.join("billing1"), ["--restart", "on-failure"].map(str::to_owned).into()].concat();
    let mut billing = network.wrap("billing1", &flags, &["python3", "-c", BY_HAND, &ip, &port]);
    billing.hear("role check passes");
    let first = role_of(&billing, None);
    let said = |pid: Pid, given: &str| format!("{} was given {given}", pid.as_raw_nonzero());
    assert_eq!(http::get(addr, "/").unwrap().body, said(first, "nothing"));

    kill_process(first, Signal::KILL).unwrap();
    // Until then it may accept.
    until("it has ended", || {
        (!Path::new(&format!("/proc/{}", first.as_raw_nonzero())).exists()).then_some(())
    });
    // This waits for the next one.
    let answer = http::get(addr, "/").unwrap().body;
    let second = role_of(&billing, Some(first));
    assert_eq!(answer, said(second, "by-hand"));
    until("it is ready", || network.ask("billing1", "health").stdout.contains("ready").then_some(()));

    // What somebody else says there is not heard.
    let environment = fs::read(format!("/proc/{}/environ", second.as_raw_nonzero())).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    let name = environment.split('\0').find_map(|entry| entry.strip_prefix("NOTIFY_SOCKET=")).unwrap();
    let tell = "import os, socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', '\\0' + os.environ['TO'][1:])";
    let mut stranger = Command::new("python3");
    stranger.args(["-c", tell]).env("TO", name);
    assert_eq!(run(stranger).code, Some(0));
    billing.hear("a notice of a process that is not the role's");

    let upgraded = network.ask("billing1", "proxy upgrade");
    assert_eq!(upgraded.code, Some(0), "{upgraded:?}");
    let third = role_of(&billing, Some(second));
    assert_eq!(http::get(addr, "/").unwrap().body, said(third, "by-hand"));
}

#[test]
fn a_role_that_does_not_say_when_it_is_ready_is_not_followed() {
    let network = Network::claim();
    let flags = [network.join("billing1"), ["--check", "none"].map(str::to_owned).into()].concat();
    let mut billing = network.wrap("billing1", &flags, &["sh", "-c", "echo begun; exec sleep 3600"]);
    billing.hear("begun");
    let refused = network.ask("billing1", "proxy upgrade");
    assert!(refused.why().contains("has not said that it is ready"), "{refused:?}");
}

#[test]
fn systemds_own_tool_tells_the_sidecar_that_a_role_is_ready() {
    if Command::new("systemd-notify").arg("--version").output().is_err() {
        return skip::test("systemd-notify");
    }
    let network = Network::claim();
    let flags = [network.join("billing1"), ["--check", "none"].map(str::to_owned).into()].concat();
    let script = "systemd-notify --ready; exec sleep 3600";
    let mut billing = network.wrap("billing1", &flags, &["sh", "-c", script]);
    billing.hear("says that it is ready");
    let first = role_of(&billing, None);
    let upgraded = network.ask("billing1", "proxy upgrade");
    assert_eq!(upgraded.code, Some(0), "{upgraded:?}");
    assert_ne!(role_of(&billing, None), first);
}

#[test]
fn a_role_that_fails_at_its_first_start_ends_the_node_whatever_restarts_it_has() {
    let network = Network::claim();
    let more = ["--check", "none", "--restart", "on-failure"].map(str::to_owned);
    let flags = [network.join("billing1"), more.into()].concat();
    let mut billing = network.wrap("billing1", &flags, &["sh", "-c", "exit 3"]);
    assert_eq!(billing.ended().code(), Some(1), "{}", billing.said());
}

#[test]
fn a_proxy_accepts_from_a_socket_that_systemd_opened_with_all_workers() {
    if Command::new("systemd-socket-activate").arg("--version").output().is_err() {
        return skip::test("systemd-socket-activate");
    }
    let network = Network::claim();
    let _dnsserver = network.start("dnsserver");
    let _appserver = network.start("appserver1");
    let addr = network.service("proxyserver").to_string();
    let listen = format!("http://{addr}=appserver");
    let mut command = Command::new("systemd-socket-activate");
    // The feed is the dnsserver's: this proxy has no sidecar.
    command.args(["-l", &addr, CONCERTINA, "proxy", "--workers", "2", "--listen", &listen, "--feed"]);
    command.arg(network.feed("dnsserver"));
    let mut proxy = Running::start(command, network.place.join("proxy.log"));
    until("somebody listens", || TcpStream::connect(&addr).ok());
    proxy.hear("proxy listening");
    network.hear("/hello/you", 200, "Hello you, I'm appserver1 !\n");
}

#[test]
fn upgrades_lose_no_request_of_clients_that_keep_their_connections() {
    let scene = Scene::start(&[], &[]);
    let (stopping, addr, upgrades) = (AtomicBool::new(false), scene.addr, short_or_long(5, 100));
    let ask = || {
        let (mut kept, mut answers, mut failures) = (None, 0_u64, Vec::new());
        while !stopping.load(Ordering::Relaxed) {
            let connection = kept.take().map_or_else(|| http::Connection::open(addr), Ok);
            let asked = connection.and_then(|mut connection| Ok((connection.get("/hello/you")?, connection)));
            match asked {
                Ok((response, connection)) if response.status == 200 => {
                    answers += 1;
                    kept = Some(connection).filter(|_| !response.is_last());
                }
                other => failures.push(format!("{:?}", other.map(|(response, _)| response))),
            }
        }
        (answers, failures)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS * 4).map(|_| scope.spawn(ask)).collect();
        let outcomes: Vec<Ended> = (0..upgrades).map(|_| scene.upgrade("")).collect();
        stopping.store(true, Ordering::Relaxed);
        let seen: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        let failures: Vec<&String> = seen.iter().flat_map(|(_, failures)| failures).collect();
        let answers: u64 = seen.iter().map(|(answers, _)| answers).sum();
        println!(
            "{upgrades} upgrades: {answers} requests on kept connections answered, {} not",
            failures.len()
        );
        assert_eq!(failures, [] as [&String; 0]);
        assert!(outcomes.iter().all(|ended| ended.code == Some(0)), "{outcomes:?}");
    });
}
