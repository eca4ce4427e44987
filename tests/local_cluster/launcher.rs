//! `concertina up`: one command, one address, and nothing left when it ends.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Stdio,
};

use rustix::process::Signal;

use crate::support::{
    cluster::{Cluster, launch},
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
fn bad_usage_ends_with_code_2_and_says_what_would_do() {
    for (line, wrong, accepted) in [
        ("up --fronts 2", "'--fronts'", "'--front'"),
        ("up --listen here", "'here'", "IP:PORT"),
        ("up --front 999", "999", "0..=250"),
        ("scale front=999", "front=999", "front=COUNT or app=COUNT, with a count up to 250"),
        ("scale web=1", "web=1", "front=COUNT or app=COUNT"),
        ("scale", "required", "ROLE=COUNT"),
        ("node halt appserver1", "'halt'", "--help"),
        ("node stop", "required", "NAME"),
        ("node stop app.server", "app.server", "letters, digits"),
        ("serve", "'serve'", "--help"),
        ("sidecar --role billing --check ping", "ping", "tcp, none or http:/path"),
        ("proxy --listen 127.0.0.1:0", "no scheme", "http://ADDR:PORT=ROLE or tcp://ADDR:PORT=ROLE"),
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
