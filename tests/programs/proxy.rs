//! The proxy under test.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::ffi::OsStrExt,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

/// It lives as long as this value.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) addr: SocketAddr,
    said: Arc<Mutex<String>>,
}

impl Proxy {
    /// Starts one in front of this origin.
    pub(crate) fn start(origin: SocketAddr) -> Self {
        Self::start_with(&[
            "--listen",
            "http://127.0.0.1:0=origin",
            "--upstream",
            &format!("origin={origin}"),
        ])
    }

    /// Starts one with these flags.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        Self::start_in(&[], flags)
    }

    /// The same with these variables.
    pub(crate) fn start_in(variables: &[(&str, &str)], flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_concertina"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"CONCERTINA_")) {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied()).args(["proxy", "--workers", "2"]).args(flags);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let addr = lines.find_map(|line| line.split_once("addr=")?.1.split(' ').next()?.parse().ok());
        // Whatever else it says must not fill the pipe.
        let said = Arc::<Mutex<String>>::default();
        let kept = said.clone();
        thread::spawn(move || {
            lines.for_each(|line| {
                eprintln!("{line}");
                kept.lock().unwrap().extend([&line, "\n"]);
            });
        });
        Self { child, addr: addr.expect("a proxy that listens"), said }
    }

    /// What it has logged since it listens.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
