//! The same cluster by compose.

use std::{net::SocketAddr, path::Path, process::Command};

use crate::support::{
    hello::answers,
    load::Load,
    scene::{PREFIX, Scene},
    wait::until,
};

#[test]
fn compose_starts_and_scales_the_same_cluster() {
    let Some(scene) = Scene::new("compose", false) else { return };
    let compose = Compose { project: scene.tag().to_owned() };
    compose.up(&["--scale", "appserver=3", "--scale", "frontserver=2"]);
    let addr = compose.published();
    until("six pairs answer", || {
        let answers = answers(addr, 80);
        (answers.iter().filter(|answer| answer.starts_with("Hello ")).count() == 6).then_some(())
    });
    let load = Load::start(addr);
    compose.up(&["--scale", "appserver=1", "--scale", "frontserver=1"]);
    assert_eq!(answers(addr, 20).len(), 1, "only the remaining pair answers");
    load.end();
}

/// `docker compose` or `docker-compose`, whichever is there.
struct Compose {
    project: String,
}

impl Compose {
    fn command(&self) -> Command {
        let plugin = Command::new("docker").args(["compose", "version"]).output();
        let mut command = if plugin.is_ok_and(|output| output.status.success()) {
            let mut command = Command::new("docker");
            command.arg("compose");
            command
        } else {
            Command::new("docker-compose")
        };
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/compose.yml");
        command.arg("-f").arg(file).args(["-p", &self.project]);
        // No fixed port: the engine chooses one.
        command.env("REGISTRY", PREFIX).env("HTTP_PORT", "127.0.0.1:");
        command
    }

    fn up(&self, scales: &[&str]) {
        let output = self.command().args(["up", "-d", "--no-build"]).args(scales).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn published(&self) -> SocketAddr {
        let output = self.command().args(["port", "proxyserver", "80"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let _ = self.command().args(["down"]).output();
    }
}
