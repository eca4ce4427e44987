//! An nginx that serves files.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long it may take to start, however busy the machine is.
const START_TIMEOUT: Duration = Duration::from_secs(20);

const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// It and its files live as long as this value.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) addr: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    /// Starts one that has these files, by their names, and waits until it listens.
    pub(crate) fn start<'a>(files: impl Iterator<Item = (String, &'a [u8])>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let serving = format!("root {}/files;", folder.path().display());
        let files_folder = folder.path().join("files");
        fs::create_dir(&files_folder).unwrap();
        for (name, bytes) in files {
            fs::write(files_folder.join(name), bytes).unwrap();
        }
        Self::serve(folder, "", &serving)
    }

    /// Starts one whose only server listens with these options and does this.
    pub(crate) fn serve(folder: TempDir, listening: &str, serving: &str) -> Self {
        // It cannot be told to take a free port; a loopback address of this process alone has the same ones free.
        static STARTED_COUNT: AtomicU16 = AtomicU16::new(0);
        let [.., high, low] = std::process::id().to_be_bytes();
        let port = 8080 + STARTED_COUNT.fetch_add(1, Ordering::Relaxed);
        let addr = SocketAddr::from((Ipv4Addr::new(127, 85, high, low), port));
        let configuration = folder.path().join("nginx.conf");
        let server = format!("listen {addr} {listening}; {serving}");
        fs::write(&configuration, configure(&server, folder.path().to_str().unwrap())).unwrap();
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-c"]).arg(&configuration).stdin(Stdio::null());
        let mut nginx = Self { child: command.spawn().unwrap(), addr, _folder: folder };
        let started = Instant::now();
        while TcpStream::connect(addr).is_err() {
            assert!(nginx.child.try_wait().unwrap().is_none(), "nginx has ended");
            assert!(started.elapsed() < START_TIMEOUT, "not within {START_TIMEOUT:?}: nginx listens");
            thread::sleep(LOOK_PERIOD);
        }
        nginx
    }
}

/// One process, in the foreground, that keeps everything in its folder.
fn configure(server: &str, folder: &str) -> String {
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder};"));
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}
         http {{
             access_log off; sendfile on; {}
             server {{ {server} }}
         }}",
        paths.join(" ")
    )
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
