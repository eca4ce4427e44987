//! What the images are, and that they can be pushed and pulled.

use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use crate::support::{
    scene::{PREFIX, Scene, docker},
    wait::until,
};

/// Largest image that the project promises.
const IMAGE_BYTES_MAX: u64 = 10_000_000;

#[test]
fn images_are_small_and_have_no_shell() {
    let Some(_scene) = Scene::new("images", false) else { return };
    for role in ["dnsserver", "proxyserver", "frontserver", "appserver"] {
        let image = format!("{PREFIX}/{role}");
        let bytes: u64 = docker(&["image", "inspect", "-f", "{{.Size}}", &image]).parse().unwrap();
        assert!(bytes < IMAGE_BYTES_MAX, "{image} has {bytes} bytes");
        let shell = Command::new("docker")
            .args(["run", "--rm", "--entrypoint", "/bin/sh", &image, "-c", "true"])
            .output();
        assert!(!shell.unwrap().status.success(), "{image} has a shell");
    }
}

/// Debian's registry with a configuration of its own: the packaged one asks for a password.
struct Registry {
    process: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn images_go_to_a_private_registry_and_come_back() {
    let Some(_scene) = Scene::new("registry", false) else { return };
    if Command::new("docker-registry").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI has no docker-registry");
        eprintln!("no docker-registry: skipped");
        return;
    }
    // Below the ephemeral range, so that no connection takes it before the registry does.
    let mut ports = 20_000..30_000;
    let port = ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.yml");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
        dir.path().join("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let mut serve = Command::new("docker-registry");
    serve.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    let _registry = Registry { process: serve.spawn().unwrap(), _dir: dir };
    until("the registry listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    let remote = format!("localhost:{port}/appserver");
    docker(&["tag", &format!("{PREFIX}/appserver"), &remote]);
    docker(&["push", &remote]);
    docker(&["rmi", &remote]);
    docker(&["pull", &remote]);
    docker(&["rmi", &remote]);
}
