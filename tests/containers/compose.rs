//! The same cluster by compose.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{
    hello::{answers, hello},
    load::Load,
    scene::{PREFIX, Scene},
    sealed::Certificates,
    wait::until,
};

/// The file of this project.
fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/compose.yml")
}

#[test]
fn compose_starts_and_scales_the_same_cluster() {
    let Some(scene) = Scene::new("compose", false) else { return };
    let compose = Compose::new(&scene, file());
    compose.up(&["--scale", "appserver=3", "--scale", "frontserver=2"]);
    let addr = compose.published(80);
    until("six pairs answer", || {
        let answers = answers(addr, 80);
        (answers.iter().filter(|answer| answer.starts_with("Hello ")).count() == 6).then_some(())
    });
    let load = Load::start(addr);
    compose.up(&["--scale", "appserver=1", "--scale", "frontserver=1"]);
    assert_eq!(answers(addr, 20).len(), 1, "only the remaining pair answers");
    load.end();
}

/// The file with what its comments say of TLS instead of what stands there without.
fn sealed(file: &str) -> String {
    let (before, rest) = file.split_once("    # For TLS: ").unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    let is_commented = |line: &&str| line.starts_with("    # ");
    let said: Vec<&str> = rest.lines().take_while(is_commented).collect();
    let kept: Vec<&str> = before.lines().filter(|line| !line.starts_with("    ports: ")).collect();
    let uncommented = said.iter().map(|line| line.replacen("# ", "", 1));
    let after = rest.lines().skip(said.len()).map(str::to_owned);
    let lines = kept.into_iter().map(str::to_owned).chain(uncommented).chain(after);
    lines.map(|line| line + "\n").collect()
}

#[test]
fn compose_takes_certificates_by_a_volume_as_the_comments_of_its_file_say() {
    let Some(certificates) = Certificates::make() else { return };
    let Some(scene) = Scene::new("compose", false) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compose.yml");
    fs::write(&path, sealed(&fs::read_to_string(file()).unwrap())).unwrap();
    let mut compose = Compose::new(&scene, path);
    compose.certificates = Some(certificates.folder());
    compose.up(&[]);
    let addr = compose.published(443);
    let answer = until("the first request is served", || certificates.hello(addr));
    assert!(answer.starts_with("Hello "), "{answer}");
    assert!(hello(compose.published(80)).is_ok(), "and at the other port as before");
}

/// `docker compose` or `docker-compose`, whichever is there.
struct Compose {
    project: String,
    file: PathBuf,
    certificates: Option<String>,
}

impl Compose {
    fn new(scene: &Scene, file: PathBuf) -> Self {
        Self { project: scene.tag().to_owned(), file, certificates: None }
    }

    fn command(&self) -> Command {
        let plugin = Command::new("docker").args(["compose", "version"]).output();
        let mut command = if plugin.is_ok_and(|output| output.status.success()) {
            let mut command = Command::new("docker");
            command.arg("compose");
            command
        } else {
            Command::new("docker-compose")
        };
        command.arg("-f").arg(&self.file).args(["-p", &self.project]);
        // No fixed port: the engine chooses one.
        command.env("REGISTRY", PREFIX).env("HTTP_PORT", "127.0.0.1:").env("HTTPS_PORT", "127.0.0.1:");
        command.envs(self.certificates.iter().map(|folder| ("CERTIFICATES", folder)));
        command
    }

    fn up(&self, scales: &[&str]) {
        let output = self.command().args(["up", "-d", "--no-build"]).args(scales).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn published(&self, port: u16) -> SocketAddr {
        let output = self.command().args(["port", "proxyserver", &port.to_string()]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let _ = self.command().args(["down"]).output();
    }
}
