//! A proxy's node whose program can be replaced, and clients of it.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::process::Pid;

use crate::support::{
    network::Network,
    program::{Ended, Running},
    stop::Stop,
    wait::{DEADLINE, until},
};

/// The program itself.
pub(super) const CONCERTINA: &str = env!("CARGO_BIN_EXE_concertina");

/// Clients that ask at a time, each with a new connection for each request.
pub(super) const CLIENTS: usize = 8;

/// The one child of a sidecar that runs its role, when it is another than `than`.
pub(super) fn role_of(sidecar: &Running, than: Option<Pid>) -> Pid {
    let id = sidecar.id();
    until("the role's process", || {
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        let pids = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        pids.into_iter().find(|pid| Some(*pid) != than)
    })
}

/// A proxy's node whose program is at a path that can be replaced, and an app behind it.
pub(super) struct Scene {
    pub(super) proxy: Running,
    pub(super) addr: SocketAddr,
    pub(super) program: PathBuf,
    _others: [Running; 2],
    pub(super) network: Network,
}

impl Scene {
    pub(super) fn start(flags: &[&str], more: &[&str]) -> Self {
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

    pub(super) fn upgrade(&self, more: &str) -> Ended {
        self.network.ask("proxyserver", &format!("proxy upgrade{more}"))
    }

    /// Puts another program in the place of this one, in one step.
    pub(super) fn replace(&self, with: &Path) {
        let new = self.network.place.join("new");
        symlink(with, &new).unwrap();
        fs::rename(new, &self.program).unwrap();
    }

    pub(super) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.network.place.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

/// What clients saw, each of whom asks once on each connection.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) answers: u64,
    /// Nobody listened, or nobody took the connection in time.
    pub(super) unconnected: Vec<String>,
    /// Nobody answered.
    pub(super) unanswered: Vec<String>,
}

/// Has clients ask for as long as something happens.
pub(super) fn under_load(addr: SocketAddr, happens: impl FnOnce()) -> Seen {
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

pub(super) fn asked(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(b"GET /hello/you HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

pub(super) fn answer(mut stream: TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET /hello/you HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    heard(stream)
}

pub(super) fn heard(mut stream: TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}
