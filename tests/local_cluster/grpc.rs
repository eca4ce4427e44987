//! gRPC through the proxy, by its own library on both sides, while its servers come and go.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use rcgen::{CertificateParams, KeyPair};
use rustix::process::Signal;

use crate::{
    admin,
    support::{network::Network, program::Running, skip, wait::until},
};

const CALLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/local_cluster/grpc/calls.py");

/// A proxy that is told what the role speaks.
const TOLD: [&str; 2] = ["--upstream-protocol", "rpc=h2c"];

/// The system's own, whose packages have the library.
const PYTHON: &str = "/usr/bin/python3";

/// A network with a proxy in front of the role `rpc`, with these flags; none: the library is not there.
fn claim(flags: &[&str]) -> Option<(Network, [Running; 2])> {
    let network = claim_network()?;
    let servers = start_proxy(&network, "h2c", flags);
    Some((network, servers))
}

/// None: the library is not there.
fn claim_network() -> Option<Network> {
    let found = Command::new(PYTHON).args(["-c", "import grpc"]).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        skip::test("grpcio");
        return None;
    }
    Some(Network::claim())
}

/// A proxy that is spoken to so, and the dnsserver before it.
fn start_proxy(network: &Network, protocol: &str, flags: &[&str]) -> [Running; 2] {
    let dnsserver = network.start("dnsserver");
    let listen = format!("{protocol}://{}=rpc", network.service("proxyserver"));
    let program = env!("CARGO_BIN_EXE_concertina");
    let proxy = [&[program, "proxy", "--listen", &listen], flags].concat();
    [dnsserver, network.wrap("proxyserver", &network.join("proxyserver"), &proxy)]
}

/// A certificate for `rpc` by itself, and its key.
fn certify(network: &Network) -> [String; 2] {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["rpc".to_owned()]).unwrap().self_signed(&key).unwrap();
    [("cert", certificate.pem()), ("key", key.serialize_pem())].map(|(name, text)| {
        let path = network.place.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    })
}

fn serve(network: &Network, node: &str) -> Running {
    serve_with(network, node, &[], &[])
}

/// The same with these flags of the sidecar, and these files of a certificate.
fn serve_with(network: &Network, node: &str, flags: &[&str], files: &[String]) -> Running {
    let service = network.service(node).to_string();
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let mut command = vec![PYTHON, CALLS, "serve", &service, node];
    command.extend(files.iter().map(String::as_str));
    network.wrap(node, &[network.join(node), flags].concat(), &command)
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
    let _rpc = ["rpc1", "rpc2"].map(|node| serve_with(&network, node, &["--protocol", "h2c"], &[]));
    both_are_ready(&network);
    let output = call(&network, "check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn and_over_tls_on_both_sides() {
    let Some(network) = claim_network() else { return };
    let files = certify(&network);
    let ([certificate, key], ca) = (&files, format!("rpc=ca:{}", files[0]));
    let pair = format!("{certificate},{key}");
    let sealed = ["--certificate", &pair, "--upstream-protocol", "rpc=h2", "--upstream-trust", &ca];
    let _servers = start_proxy(&network, "https", &sealed);
    let _rpc = ["rpc1", "rpc2"].map(|node| serve_with(&network, node, &[], &files));
    both_are_ready(&network);
    let output = call(&network, "check").arg(certificate).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn long_streams_live_through_the_drain_of_their_server_and_new_ones_go_elsewhere() {
    let Some(network) = claim_network() else { return };
    let [certificate, key] = certify(&network);
    let pair = format!("{certificate},{key}");
    let _servers = start_proxy(&network, "https", &[&TOLD[..], &["--certificate", &pair]].concat());
    // However slow this machine is, the drain waits for as long as they last.
    let patient = ["--drain-timeout", "60s"];
    let mut rpc = ["rpc1", "rpc2"].map(|node| serve_with(&network, node, &patient, &[]));
    both_are_ready(&network);
    let mut talk = call(&network, "talk");
    let streams = talk.arg(certificate).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut talk = streams.spawn().unwrap();
    let mut said = BufReader::new(talk.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut orders = talk.stdin.take().unwrap();
    assert_eq!(said.next().as_deref(), Some("with rpc1 rpc2"));
    rpc[0].signal(Signal::TERM);
    until("the proxy acts on it", || {
        let (_, metrics) = admin::get(network.service("proxyserver"), "/metrics");
        metrics.contains("\nconcertina_proxy_upstreams{role=\"rpc\",state=\"draining\"} 1\n").then_some(())
    });
    orders.write_all(b"\n").unwrap();
    assert_eq!(said.next().as_deref(), Some("with rpc2"));
    let members = network.ask("proxyserver", "members --role rpc").stdout;
    assert!(members.contains(" draining "), "it waits for its streams: {members}");
    orders.write_all(b"\n").unwrap();
    assert_eq!(said.next().as_deref(), Some("24 ended well, 0 failed"));
    assert!(talk.wait().unwrap().success());
    assert_eq!(rpc[0].ended().code(), Some(0), "{}", rpc[0].said());
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
