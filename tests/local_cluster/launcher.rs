//! `concertina up`: one command, one address, and nothing left when it ends.

use std::{
    ffi::OsStr,
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::ffi::OsStrExt,
    process::Stdio,
};

use rustix::process::Signal;

use crate::support::{
    cluster::{Cluster, launch},
    network::Network,
    place::Place,
    program::{Ended, Running, concertina, run},
    turns::Turn,
    wait::until,
};

fn assert_stops(cluster: &mut Cluster, signal: Signal) {
    cluster.launcher.signal(signal);
    let status = cluster.launcher.ended();
    // Not waited for: what is promised is that nothing is left when the command ends.
    let left = cluster.place.processes();
    assert_eq!((status.code(), left.as_slice()), (Some(0), [].as_slice()), "{signal:?}");
    // Nothing had to be killed: that would be said after this.
    assert!(cluster.launcher.said().ends_with("\nstopping\n"), "{}", cluster.launcher.said());
}

#[test]
fn one_command_greets_and_ctrl_c_ends_it_all() {
    let mut cluster = Cluster::up(&[]);
    let response = cluster.hello();
    assert_eq!((response.status, response.body.as_str()), (200, "Hello frontserver1, I'm appserver1 !\n"));
    let progress = cluster.launcher.said();
    for node in ["dnsserver", "proxyserver", "frontserver1", "appserver1"] {
        assert!(progress.contains(&format!("{node} started at 127.")), "{progress}");
    }
    let map = format!("\nmap http://{}:9790/\n", cluster.service("proxyserver").ip());
    assert!(progress.contains(&map), "{progress}");
    assert!(progress.ends_with(&format!("\nready http://{}/hello\n", cluster.addr)), "{progress}");
    assert_stops(&mut cluster, Signal::INT);
}

#[test]
fn a_cluster_with_a_frozen_node_stops_when_it_is_terminated() {
    let mut cluster = Cluster::up(&[]);
    cluster.order("node pause appserver1");
    assert_stops(&mut cluster, Signal::TERM);
    cluster.up_again();
    assert_eq!(cluster.hello().status, 200);
}

#[test]
fn a_killed_launcher_leaves_no_orphan_not_even_a_frozen_one() {
    let mut cluster = Cluster::up(&[]);
    cluster.order("node pause frontserver1");
    cluster.launcher.signal(Signal::KILL);
    cluster.launcher.ended();
    assert_eq!(cluster.place.left_behind(), [] as [String; 0]);
    cluster.up_again();
    assert_eq!(cluster.hello().status, 200);
}

#[test]
fn a_cluster_that_is_stopped_while_it_starts_leaves_nothing() {
    let (_turn, place) = (Turn::one(), Place::new());
    let mut launcher = launch(&place, &[]);
    launcher.hear("dnsserver started at ");
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.ended().code(), Some(0), "{}", launcher.said());
    assert_eq!(place.processes(), [] as [String; 0]);
}

#[test]
fn a_cluster_that_greets_nobody_does_not_call_itself_ready() {
    let (_turn, place) = (Turn::one(), Place::new());
    let mut launcher = launch(&place, &["--app", "0"]);
    launcher.hear("frontserver1 sees 0 appserver after ");
    // Orders are taken only once the start is over: after this one, nothing more is said of it.
    let mut order = concertina(["scale", "front=1", "--dir"]);
    order.arg(place.path());
    assert_eq!(run(order).code, Some(0));
    launcher.signal(Signal::TERM);
    launcher.ended();
    assert!(!launcher.said().contains("ready http://"), "{}", launcher.said());
}

#[test]
fn a_taken_directory_or_port_is_refused_in_one_line_that_names_it() {
    let (cluster, elsewhere) = (Cluster::up(&[]), Place::new());
    let refused = |listen: SocketAddr, place: &Place| {
        let mut command = concertina(["up", "--listen", &listen.to_string(), "--dir"]);
        command.arg(place.path());
        run(command)
    };
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let dir = refused(free, &cluster.place);
    assert!(dir.why().contains(cluster.place.path().to_str().unwrap()), "{dir:?}");
    assert!(dir.why().contains("already"), "{dir:?}");

    let foreign = TcpListener::bind(free).unwrap();
    for taken in [cluster.addr, foreign.local_addr().unwrap()] {
        let port = refused(taken, &elsewhere);
        assert!(port.why().contains(&format!("--listen {taken}")), "{port:?}");
    }
    assert_eq!(elsewhere.processes(), [] as [String; 0]);
    assert_eq!(cluster.hello().status, 200, "the first cluster is none the worse");
}

#[test]
fn of_two_clusters_that_start_at_once_on_one_port_one_is_refused() {
    // Where no third one looks for a port.
    let (network, places) = (Network::claim(), [Place::new(), Place::new()]);
    let free = network.service("proxyserver");
    let start = |place: &Place| {
        let mut command =
            concertina(["up", "--front", "0", "--app", "0", "--listen", &free.to_string(), "--dir"]);
        command.arg(place.path());
        Running::start(command, place.join("up.log"))
    };
    let mut launchers = places.each_ref().map(start);
    let refused =
        until("one has ended", || launchers.iter().position(|launcher| launcher.said().contains("error: ")));
    assert_eq!(launchers[refused].ended().code(), Some(1));
    let said = launchers[refused].said();
    assert!(said.contains(&format!("--listen {free}")) && !said.contains("running, "), "{said}");
    launchers[1 - refused].hear("running, with nobody to say hello at ");
}

#[test]
fn bad_usage_ends_with_code_2_and_says_what_would_do() {
    for (line, wrong, accepted) in [
        ("up --fronts 2", "'--fronts'", "'--front'"),
        ("up --listen here", "'here'", "IP:PORT"),
        ("up --front 999", "999", "0..=250"),
        ("scale front=999", "front=999", "front=2 or billing=3, with a count up to 250"),
        ("scale a.b=1", "a.b=1", "expected ROLE=COUNT"),
        ("scale", "required", "ROLE=COUNT"),
        ("node halt appserver1", "'halt'", "--help"),
        ("node stop", "required", "NAME"),
        ("node stop app.server", "app.server", "letters, digits"),
        ("serve", "'serve'", "--help"),
        ("sidecar --role billing --check ping", "ping", "tcp, none, http:/path"),
        ("proxy --listen 127.0.0.1:0", "no scheme", "expected http://ADDR:PORT=ROLE, https://ADDR:PORT=ROLE"),
        ("sidecar --role billing --bind here", "'here'", "IP:PORT or an IP, such as 10.0.0.7:7946"),
        ("sidecar --role billing --advertise here", "'here'", "expected an IP address, such as 10.0.0.7"),
        ("sidecar --role billing --port abc", "'abc'", "expected a whole number"),
        ("sidecar --role billing --weight -5", "'-5'", "'--weight"),
        ("sidecar --role billing bash -c true", "'bash'", "concertina sidecar --role web -- bash"),
        ("up --front many", "'many'", "expected a whole number"),
        ("up --front -1", "-1", "0..=250"),
        ("dns --ttl -1", "-1", "0..=2147483647"),
        ("proxy --clients-max x", "'x'", "expected a whole number"),
        ("query ping --timeout 61s", "\"61s\"", "at most 60s"),
        ("proxy --timeouts warp=1s", "warp", "header, body, idle"),
        ("keys install 1234", "found 4 characters", "base64 (44 characters)"),
        ("sidecar --role billing --deny 10.0.0.0/33", "10.0.0.0/33", "CIDR such as 10.0.0.0/8"),
        ("keys use 1234", "found 4 characters", "fingerprint of 16 hex digits"),
        ("wait --role appserver --timeout 3", "\"3\"", "250ms, 5s, 2m or 1h"),
    ] {
        let Ended { code, stdout, stderr } = run(concertina(line.split(' ')));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{line}: {stderr}");
        assert!(stderr.contains(wrong) && stderr.contains(accepted), "{line}: {stderr}");
    }
}

#[test]
fn words_that_are_no_text_are_refused_like_others() {
    let ended = run(concertina([OsStr::from_bytes(b"\xff")]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[test]
fn a_bad_value_of_a_variable_is_refused_with_its_name_and_an_empty_one_is_none() {
    for (variable, command) in [
        ("CONCERTINA_PORT", "sidecar --role billing"),
        ("CONCERTINA_PROXY_WORKERS", "proxy"),
        ("CONCERTINA_UP_APP", ""),
    ] {
        let mut bad = concertina(command.split_whitespace());
        bad.env(variable, "abc");
        let ended = run(bad);
        assert_eq!(ended.code, Some(2));
        assert!(ended.stderr.contains(&format!("the value is that of the variable {variable}")), "{ended:?}");
    }
    let mut empty = concertina(["keys", "generate"]);
    empty.env("CONCERTINA_PORT", "").env("CONCERTINA_LOG", "");
    assert_eq!(run(empty).code, Some(0));
    let mut empty = concertina(["proxy", "--help"]);
    assert_eq!(
        run({
            empty.env("CONCERTINA_PROXY_WORKERS", "");
            empty
        })
        .code,
        Some(0)
    );
}

#[test]
fn a_variable_under_its_former_name_is_heard_and_its_new_name_told() {
    let place = Place::new();
    let mut command = concertina(["proxy", "--listen", "http://127.0.0.1:0=web"]);
    command.env("CONCERTINA_WORKERS", "1").env("CONCERTINA_VIA", "");
    let mut proxy = Running::start(command, place.join("proxy.log"));
    proxy.hear("workers=1");
    assert!(
        proxy.said().contains("CONCERTINA_WORKERS is called CONCERTINA_PROXY_WORKERS now"),
        "{}",
        proxy.said()
    );
    assert!(!proxy.said().contains("CONCERTINA_PROXY_VIA"), "{}", proxy.said());
}

#[test]
fn a_table_for_a_role_that_nobody_listens_for_is_refused() {
    let ended =
        run(concertina(["proxy", "--listen", "http://127.0.0.1:0=web", "--upstream", "wbe=127.0.0.1:99"]));
    assert!(ended.why().contains("--upstream wbe=…: expected a role that --listen names"), "{ended:?}");
}

#[test]
fn a_command_line_is_checked_without_being_run() {
    for (line, code, words) in [
        ("proxy --listen http://127.0.0.1:1=web --via edge", 0, "ok"),
        ("proxy --listen http://127.0.0.1:1=web --balance api=p2c", 1, "that --listen names"),
        ("proxy --listen 127.0.0.1:1", 2, "no scheme"),
        ("sidecar --role web --key-file /nonexistent", 1, "/nonexistent"),
        ("sidecar --role web -- sh -c true", 0, "ok"),
        ("", 2, "COMMAND"),
    ] {
        let mut check = concertina(["check"]);
        check.args(line.split_whitespace());
        let ended = run(check);
        assert_eq!(ended.code, Some(code), "{line}: {ended:?}");
        assert!(format!("{}{}", ended.stdout, ended.stderr).contains(words), "{line}: {ended:?}");
    }
}

#[test]
fn completions_and_manual_pages_know_the_commands_and_flags() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        // More than fits into a pipe.
        let mut script = Running::start(concertina(["completions", shell]), place.join(shell));
        assert_eq!(script.ended().code(), Some(0), "{shell}");
        assert!(script.said().contains("drain-timeout"), "{shell}");
    }
    let mut man = concertina(["man"]);
    man.arg(place.path());
    assert_eq!(run(man).code, Some(0));
    let page = std::fs::read_to_string(place.join("concertina-sidecar.1")).unwrap();
    assert!(page.contains("CONCERTINA_DRAIN_TIMEOUT"), "{page}");
}

#[test]
fn a_file_where_the_feed_should_be_is_named_and_stays() {
    let place = Place::new();
    let path = place.path().join("important.txt");
    std::fs::write(&path, "precious").unwrap();
    let mut command = concertina(["sidecar", "--role", "dnsserver", "--bind", "127.0.0.1:0", "--feed"]);
    command.arg(&path);
    let why = run(command).why().to_owned();
    let expected = format!("error: --feed {}: is a file, not a socket", path.display());
    assert!(why.contains(&expected), "{why}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn an_order_to_no_cluster_fails_in_one_line_that_says_how_to_start_one() {
    let place = Place::new();
    for order in ["scale front=2", "node stop appserver1"] {
        let mut command = concertina(order.split(' '));
        command.arg("--dir").arg(place.path());
        let ended = run(command);
        assert!(ended.why().contains(place.path().to_str().unwrap()), "{order}: {ended:?}");
        assert!(ended.why().contains("concertina up"), "{order}: {ended:?}");
    }
}

#[test]
fn an_answer_that_nobody_reads_ends_its_program_quietly_and_one_that_cannot_be_written_is_told() {
    let mut unread = concertina(["keys", "generate"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let unread = unread.stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((unread.status.code(), String::from_utf8_lossy(&unread.stderr).as_ref()), (Some(141), ""));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let full = concertina(["keys", "generate"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let why = String::from_utf8_lossy(&full.stderr);
    assert!(full.status.code() == Some(1) && why.starts_with("error: cannot write to stdout: "), "{why}");
}

#[test]
fn a_cluster_goes_on_when_nobody_reads_any_more_what_its_launcher_says() {
    let (place, _turn) = (Place::new(), Turn::one());
    let mut launcher = concertina(["up", "--listen", "127.0.0.1:0", "--dir"]);
    launcher.arg(place.path());
    let mut launcher = Running::start_unheard(launcher);
    let order = |order: &str| {
        run({
            let mut command = concertina(order.split(' '));
            command.arg("--dir").arg(place.path());
            command
        })
    };
    until("a cluster", || {
        (order("wait --role frontserver --node proxyserver").code == Some(0)).then_some(())
    });
    assert_eq!(order("scale app=2").code, Some(0));
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.ended().code(), Some(0));
}
