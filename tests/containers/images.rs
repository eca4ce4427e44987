//! What the images are, and that they can be pushed and pulled.

use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use crate::support::{
    hello::{get, hello},
    scene::{PREFIX, Scene, docker},
    sealed::Certificates,
    skip,
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

#[test]
fn containers_serve_as_any_user_on_a_read_only_root_and_say_that_they_are_healthy() {
    let Some(mut scene) = Scene::new("hardened", true) else { return };
    let nodes = ["dnsserver", "appserver1", "frontserver1", "proxyserver"];
    for node in nodes {
        let hardened = ["--user", "1000", "--read-only", "--cap-drop", "ALL", "--health-interval", "1s"];
        scene.run_with(node, &hardened);
    }
    let addr = scene.published();
    until("the first request is served", || hello(addr).is_ok().then_some(()));
    for node in nodes {
        until(&format!("{node} is healthy"), || {
            (scene.inspect(node, "{{.State.Health.Status}}") == "healthy").then_some(())
        });
        let health = docker(&["exec", &scene.container(node), "concertina", "health"]);
        assert_eq!(health, "ready", "{node}");
    }
    scene.stop(&nodes);
}

#[test]
fn a_proxy_takes_certificates_by_a_volume_and_every_admin_port_answers_from_outside() {
    let Some(certificates) = Certificates::make() else { return };
    let Some(mut scene) = Scene::new("sealed", true) else { return };
    let asked = ["-p", "127.0.0.1::9790"];
    for node in ["dnsserver", "appserver1", "frontserver1"] {
        scene.run_with(node, &asked);
    }
    let volume = format!("{}:/certificates:ro", certificates.folder());
    let listen = "CONCERTINA_PROXY_LISTEN=http://0.0.0.0:80,https://0.0.0.0:443";
    let sealed = ["-v", &volume, "-e", listen, "-e", "CONCERTINA_PROXY_CERTIFICATES=/certificates"];
    scene.run_with("proxyserver", &[&asked[..], &sealed, &["-p", "127.0.0.1::443"]].concat());
    let addr = scene.published_of("proxyserver", 443);
    let answer = until("the first request is served", || certificates.hello(addr));
    assert_eq!(answer, "Hello frontserver1, I'm appserver1 !\n");
    for (node, metric) in [
        ("dnsserver", "concertina_dns_"),
        ("appserver1", "concertina_service_"),
        ("frontserver1", "concertina_service_"),
        ("proxyserver", "concertina_proxy_"),
    ] {
        let admin = scene.published_of(node, 9790);
        until(&format!("{node} says that it is ready"), || {
            (get(admin, "/health").as_deref() == Ok("ready\n")).then_some(())
        });
        let metrics = get(admin, "/metrics").unwrap();
        assert!(metrics.contains("concertina_node_state{") && metrics.contains(metric), "{node}: {metrics}");
    }
}

#[test]
fn an_image_that_is_asked_for_help_or_a_command_of_ours_answers_as_the_program_does() {
    let Some(_scene) = Scene::new("asked", false) else { return };
    let image = format!("{PREFIX}/appserver");
    assert!(docker(&["run", "--rm", &image, "--help"]).contains("Usage: concertina"));
    let asked = Command::new("docker").args(["run", "--rm", &image, "members"]).output().unwrap();
    let why = String::from_utf8_lossy(&asked.stderr);
    assert!(
        !asked.status.success() && why.contains("no sidecar answers at /run/concertina/feed.sock"),
        "{why}"
    );
}

/// A program that ends with this value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn images_go_to_a_private_registry_and_come_back() {
    let Some(_scene) = Scene::new("registry", false) else { return };
    if Command::new("docker-registry").arg("--version").output().is_err() {
        return skip::test("docker-registry");
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
    // Debian's own configuration asks for a password.
    let _registry = Program(serve.spawn().unwrap());
    until("the registry listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    // Directly, and through a proxy: layers are large uploads whose answers come early, and ranges.
    let through = ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    let mut proxy = Command::new(env!("CARGO_BIN_EXE_concertina"));
    proxy.args(["proxy", "--workers", "1"]).stderr(Stdio::null());
    proxy.args(["--listen", &format!("http://127.0.0.1:{through}=registry")]);
    proxy.args(["--upstream", &format!("registry=127.0.0.1:{port}")]);
    let _proxy = Program(proxy.spawn().unwrap());
    until("the proxy listens", || TcpStream::connect(("127.0.0.1", through)).ok());
    for port in [port, through] {
        let remote = format!("localhost:{port}/appserver");
        docker(&["tag", &format!("{PREFIX}/appserver"), &remote]);
        docker(&["push", &remote]);
        docker(&["rmi", &remote]);
        docker(&["pull", &remote]);
        docker(&["rmi", &remote]);
    }
}
