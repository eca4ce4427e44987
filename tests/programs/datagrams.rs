//! Programs that ask for names, in front of the project's own DNS server behind the proxy.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
};

use crate::{program::is_there, proxy::Proxy};

/// Clients, each with a port and one question in the air.
const CLIENTS_COUNT: &str = "20";

/// A DNS server that knows nobody, for as long as this value lives: what is under its zone does not exist, which is an answer too.
struct Dns {
    child: Child,
    addr: SocketAddr,
}

impl Dns {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_concertina"));
        command.args(["dns", "--listen", "127.0.0.1:0", "--forward", "off", "--feed", "/nonexistent/feed"]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let addr = lines.find_map(|line| line.split_once("dns listening on ")?.1.trim().parse().ok());
        thread::spawn(move || lines.for_each(drop));
        Self { child, addr: addr.expect("a server that listens") }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn in_front_of(servers: &[Dns]) -> Proxy {
    let addrs: Vec<_> = servers.iter().map(|server| server.addr.to_string()).collect();
    let upstream = format!("dnsserver={}", addrs.join(","));
    Proxy::start_with(&["--listen", "udp://127.0.0.1:0=dnsserver", "--upstream", &upstream])
}

#[test]
fn dig_has_the_same_answer_through_the_proxy_though_one_server_is_gone() {
    if !is_there("dig", "-v") {
        return;
    }
    let mut servers = [Dns::start(), Dns::start()];
    let proxy = in_front_of(&servers);
    let ask = |addr: SocketAddr| {
        let mut dig = Command::new("dig");
        dig.args(["@127.0.0.1", "-p", &addr.port().to_string(), "+tries=1", "+time=5", "+noall"]);
        dig.args(["+comments", "+question", "+qid=7", "localhost", "A"]);
        let output = dig.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stdout).unwrap()
    };
    let direct = ask(servers[0].addr);
    assert!(direct.contains("id: 7"), "{direct}");
    (0..8).for_each(|_| assert_eq!(ask(proxy.addr), direct));
    servers[0].child.kill().unwrap();
    servers[0].child.wait().unwrap();
    // Each is asked once: a question that nobody was there for goes to the other.
    (0..16).for_each(|_| assert_eq!(ask(proxy.addr), direct));
}

#[test]
fn dnsperf_loses_no_question() {
    if !is_there("dnsperf", "-h") {
        return;
    }
    let servers = [(); 3].map(|()| Dns::start());
    let proxy = in_front_of(&servers);
    let mut questions = tempfile::NamedTempFile::new().unwrap();
    (0..64).for_each(|number| writeln!(questions, "name{number} A").unwrap());
    let mut dnsperf = Command::new("dnsperf");
    dnsperf
        .args(["-s", "127.0.0.1", "-p", &proxy.addr.port().to_string(), "-t", "5", "-d"])
        .arg(questions.path());
    dnsperf.args(["-c", CLIENTS_COUNT, "-q", CLIENTS_COUNT, "-n", "1000000", "-Q", "20000", "-l", "3"]);
    let output = dnsperf.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let count = |words: &str| -> u64 {
        let line = said.lines().find(|line| line.trim_start().starts_with(words)).expect(words);
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    let (sent, answered, lost) =
        (count("Queries sent:"), count("Queries completed:"), count("Queries lost:"));
    eprintln!("{sent} questions, {answered} answered");
    assert!(sent > 1000 && (sent, lost) == (answered, 0), "{said}");
}
