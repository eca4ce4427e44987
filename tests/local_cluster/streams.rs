//! What a program is started with, its streams and its limits, neither ends nor freezes it.

use std::{
    fs::{self, File},
    io::{PipeReader, PipeWriter, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use rustix::process::Signal;

use crate::support::{
    http,
    network::Network,
    program::{Running, concertina},
    wait::until,
};

/// Signals enough that their log lines would fill whatever a program keeps for a stream.
const SIGNALS_COUNT: usize = 50;

/// A pipe that nobody reads, and that has no room left.
fn stuck() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 512]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// A program, and how to tell that it serves.
struct Program<'a> {
    name: &'static str,
    command: Command,
    serves: Box<dyn Fn() -> bool + 'a>,
}

impl Program<'_> {
    fn start(self, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Running {
        let running = Running::start_into(self.command, stdout, stderr);
        until(&format!("{} serves", self.name), || (self.serves)().then_some(()));
        running
    }
}

fn sidecar(network: &Network) -> Program<'_> {
    let mut command = concertina(["sidecar", "--role", "dnsserver", "--node", "billing1", "--feed"]);
    command.arg(network.feed("billing1")).args(["--bind", &network.gossip("billing1")]);
    let serves = Box::new(|| network.ask("billing1", "members").code == Some(0));
    Program { name: "sidecar", command, serves }
}

/// The program that listens where this node serves.
fn listening<'a>(network: &'a Network, node: &'static str, arguments: &[&str]) -> Program<'a> {
    let command = concertina(arguments);
    let serves = Box::new(move || TcpStream::connect(network.service(node)).is_ok());
    Program { name: node, command, serves }
}

/// A proxy in front of nobody.
fn proxy(network: &Network) -> Program<'_> {
    let listen = format!("http://{}=web", network.service("proxyserver"));
    let upstream = format!("web={}", network.service("billing1"));
    listening(network, "proxyserver", &["proxy", "--listen", &listen, "--upstream", &upstream])
}

/// Every program.
fn programs(network: &Network) -> [Program<'_>; 5] {
    let at = |node: &str| network.service(node).to_string();
    let feed = network.feed("appserver2").display().to_string();
    [
        sidecar(network),
        proxy(network),
        listening(network, "dnsserver", &["dns", "--feed", &feed, "--listen", &at("dnsserver")]),
        listening(
            network,
            "frontserver1",
            &["front", "--node", "f", "--feed", &feed, "--listen", &at("frontserver1")],
        ),
        listening(network, "appserver1", &["app", "--node", "a", "--listen", &at("appserver1")]),
    ]
}

#[test]
fn streams_that_cannot_be_written_or_are_stuck_neither_end_nor_freeze_any_program() {
    let network = Network::claim();
    let (_reader, stuck) = stuck();
    let streams: [fn(&PipeWriter) -> Stdio; 2] =
        [|_| full().into(), |stuck| stuck.try_clone().unwrap().into()];
    for stream in streams {
        for program in programs(&network) {
            let name = program.name;
            let mut running = program.start(stream(&stuck), stream(&stuck));
            running.signal(Signal::TERM);
            assert_eq!(running.ended().code(), Some(0), "{name}");
        }
    }
}

#[test]
fn a_proxy_whose_log_is_stuck_serves_and_drains() {
    let network = Network::claim();
    let (_reader, stuck) = stuck();
    let mut proxy = proxy(&network).start(Stdio::null(), stuck);
    (0..SIGNALS_COUNT).for_each(|_| proxy.signal(Signal::USR1));
    assert_eq!(http::get(network.service("proxyserver"), "/").unwrap().status, 502);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().code(), Some(0));
}

#[test]
fn a_cluster_whose_launcher_nobody_reads_is_scaled_and_stopped() {
    let network = Network::claim();
    let dir = network.place.join("cluster");
    let (_reader, stuck) = stuck();
    let mut command = concertina(["up", "--listen", "127.0.0.1:0", "--dir"]);
    command.arg(&dir);
    let mut launcher = Running::start_into(command, stuck.try_clone().unwrap(), stuck);
    let order = |order: &str| {
        let mut command = concertina(order.split(' '));
        command.arg("--dir").arg(&dir).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    };
    until("a cluster", || order("wait --role frontserver --node proxyserver --visible").then_some(()));
    assert!(order("scale app=2"));
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.ended().code(), Some(0));
}

#[test]
fn an_error_is_told_where_it_can_be_and_ends_its_program_where_it_cannot() {
    for stream in [Stdio::from(full()), stuck().1.into()] {
        let mut wrong = concertina(["members", "--feed", "/nonexistent"]);
        assert_eq!(wrong.stderr(stream).status().unwrap().code(), Some(1));
    }
    let (_reader, stuck) = stuck();
    let mut running = Running::start_into(concertina(["--nonsense"]), Stdio::null(), stuck);
    assert_eq!(running.ended().code(), Some(2));
}

#[test]
fn a_program_takes_the_descriptors_that_it_may_have_and_its_role_those_that_it_was_given() {
    let network = Network::claim();
    let of_role = network.place.join("of-role");
    let script = format!("ulimit -Sn > {}; exec sleep 1000", of_role.display());
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 100; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_concertina"), "sidecar"]);
    command.args(["--role", "web", "--node", "billing1", "--bind", &network.gossip("billing1"), "--feed"]);
    command.arg(network.feed("billing1")).args(["--", "sh", "-c", &script]);
    let running = Running::start_into(command, Stdio::null(), Stdio::null());
    let said =
        until("the role's limit", || fs::read_to_string(&of_role).ok().filter(|said| said.ends_with('\n')));
    assert_eq!(said, "100\n");
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.id())).unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [soft, hard, _] = files.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{files}") };
    assert_eq!(soft, hard);
}
