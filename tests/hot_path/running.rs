//! The proxy under test.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

/// A proxy of one worker, which lives as long as this value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Running {
    /// Starts one in front of this origin. Nobody is idle for too long.
    pub(crate) fn start(origin: SocketAddr) -> Self {
        Self::start_at("http://127.0.0.1:0=origin", origin)
    }

    /// The same with another listener.
    pub(crate) fn start_at(listener: &str, origin: SocketAddr) -> Self {
        Self::start_with(&["--listen", listener, "--upstream", &format!("origin={origin}")])
    }

    /// The same with these flags.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_concertina"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"CONCERTINA_")) {
            command.env_remove(name);
        }
        command.args(["proxy", "--workers", "1", "--timeouts", "idle=10m"]).args(flags);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok).inspect(|line| eprintln!("{line}"));
        let addr = lines.find_map(|line| line.split_once("addr=")?.1.split(' ').next()?.parse().ok());
        // Whatever else it says must not fill the pipe.
        thread::spawn(move || lines.for_each(drop));
        Self { child, addr: addr.expect("a proxy that listens") }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A folder or file that the kernel keeps about it.
    pub(crate) fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.id()))
    }

    /// The same about its worker thread.
    pub(crate) fn proc_of_worker(&self, name: &str) -> PathBuf {
        let threads = std::fs::read_dir(self.proc("task")).unwrap().map(|entry| entry.unwrap().path());
        let is_worker = |comm: Vec<u8>| OsStr::from_bytes(comm.trim_ascii()) == "worker-0";
        let mut workers = threads.filter(|path| std::fs::read(path.join("comm")).is_ok_and(is_worker));
        workers.next().expect("a worker").join(name)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
