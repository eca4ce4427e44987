//! gRPC through the proxy, by its own library on both sides, while its servers come and go.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use rustix::process::Signal;

use crate::support::{network::Network, program::Running, skip, wait::until};

const CALLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/local_cluster/grpc/calls.py");

/// A proxy that is told what the role speaks.
const TOLD: [&str; 2] = ["--upstream-protocol", "rpc=h2c"];

/// The system's own, whose packages have the library.
const PYTHON: &str = "/usr/bin/python3";

/// A network with a proxy in front of the role `rpc`, with these flags; none: the library is not there.
fn claim(flags: &[&str]) -> Option<(Network, [Running; 2])> {
    let found = Command::new(PYTHON).args(["-c", "import grpc"]).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        skip::test("grpcio");
        return None;
    }
    let network = Network::claim();
    let dnsserver = network.start("dnsserver");
    let listen = format!("h2c://{}=rpc", network.service("proxyserver"));
    let program = env!("CARGO_BIN_EXE_concertina");
    let proxy = [&[program, "proxy", "--listen", &listen], flags].concat();
    let proxyserver = network.wrap("proxyserver", &network.join("proxyserver"), &proxy);
    Some((network, [dnsserver, proxyserver]))
}

fn serve(network: &Network, node: &str) -> Running {
    serve_with(network, node, &[])
}

/// The same with these flags of the sidecar.
fn serve_with(network: &Network, node: &str, flags: &[&str]) -> Running {
    let service = network.service(node).to_string();
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    network.wrap(node, &[network.join(node), flags].concat(), &[PYTHON, CALLS, "serve", &service, node])
}

fn call(network: &Network, what: &str) -> Command {
    let mut command = Command::new(PYTHON);
    command.args([CALLS, what, &network.service("proxyserver").to_string()]);
    command
}

fn both_are_ready(network: &Network) {
    until("the proxy knows both", || {
        let members = network.ask("proxyserver", "members --role rpc").stdout;
        (members.matches(" ready ").count() == 2).then_some(())
    });
}

#[test]
fn every_kind_of_call_ends_as_it_does_without_a_proxy() {
    let Some((network, _servers)) = claim(&TOLD) else { return };
    let _rpc = ["rpc1", "rpc2"].map(|node| serve(&network, node));
    both_are_ready(&network);
    let output = call(&network, "check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn so_it_does_where_nobody_but_the_servers_says_what_they_speak() {
    let Some((network, _servers)) = claim(&[]) else { return };
    let _rpc = ["rpc1", "rpc2"].map(|node| serve_with(&network, node, &["--protocol", "h2c"]));
    both_are_ready(&network);
    let output = call(&network, "check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn no_call_is_lost_while_servers_are_stopped_and_started() {
    let Some((network, servers)) = claim(&TOLD) else { return };
    let mut rpc = ["rpc1", "rpc2"].map(|node| serve(&network, node));
    both_are_ready(&network);
    let mut load = call(&network, "load").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(load.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(said.next().as_deref(), Some("calling"));
    for _ in 0..2 {
        for (node, running) in ["rpc1", "rpc2"].into_iter().zip(&mut rpc) {
            running.signal(Signal::TERM);
            assert_eq!(running.ended().code(), Some(0), "{}", running.said());
            *running = serve(&network, node);
            both_are_ready(&network);
        }
    }
    load.stdin.take().unwrap().write_all(b"\n").unwrap();
    let told = said.next().unwrap_or_default();
    assert!(load.wait().unwrap().success());
    assert!(told.ends_with(" answered, 0 failed"), "{told}\n{}", servers[1].said());
}
