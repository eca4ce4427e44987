//! Roles that are no proxy, and starters that are no sidecar: what they have in common are systemd's protocols.

use std::{fs, net::TcpStream, path::Path, process::Command};

use rustix::process::{Pid, Signal, kill_process};

use super::scene::{CONCERTINA, role_of};
use crate::support::{
    http,
    network::Network,
    program::{Running, run},
    skip,
    wait::until,
};

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
