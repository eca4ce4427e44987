//! A role's process is killed, or followed by one of another program, and nobody who waits at its port loses a connection.

mod scene;
mod systemd;

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use scene::{CLIENTS, CONCERTINA, Scene, answer, asked, heard, role_of, under_load};

use crate::support::{
    http,
    length::short_or_long,
    network::Network,
    program::{Ended, Running, concertina},
    stop::Stop,
    wait::{DEADLINE, until},
};

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
        let stop = Stop(&stopping);
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        let upgrades: Vec<_> = (0..3).map(|_| scene.upgrade("").code).collect();
        drop(stop);
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
        let stop = Stop(&stopping);
        let clients: Vec<_> = (0..CLIENTS * 4).map(|_| scope.spawn(ask)).collect();
        let outcomes: Vec<Ended> = (0..upgrades).map(|_| scene.upgrade("")).collect();
        drop(stop);
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
