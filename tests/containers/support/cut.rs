//! A cut through the network of a scene that neither half is told of: packets go, and arrive nowhere.

use std::process::Command;

use super::{scene::Scene, skip};

/// An Ethernet address that nobody has. A `blackhole` route would not do: it tells the sender, whose connects fail at once.
const NOBODY: &str = "02:00:00:00:00:01";

/// Who sends, by a process in its network, and to which address.
struct Way {
    pid: String,
    ip: String,
}

/// Every way between two halves.
pub(crate) struct Cut {
    ways: Vec<Way>,
}

impl Cut {
    /// Whether the networks of containers can be entered. It needs root.
    pub(crate) fn is_possible() -> bool {
        // To enter one's own takes the same rights.
        let mut enter = Command::new("nsenter");
        enter.args(["--net=/proc/self/ns/net", "ip", "-V"]);
        let is_possible = enter.output().is_ok_and(|output| output.status.success());
        if !is_possible {
            skip::test("way into the networks of containers (nsenter and ip, as root)");
        }
        is_possible
    }

    /// Looks up everything that takes time.
    pub(crate) fn between(scene: &Scene, halves: [&[&str]; 2]) -> Self {
        let mut ways = Vec::new();
        for (half, other) in [(halves[0], halves[1]), (halves[1], halves[0])] {
            let ips: Vec<String> = other.iter().map(|node| scene.ip(node)).collect();
            for node in half {
                let pid = scene.inspect(node, "{{.State.Pid}}");
                ways.extend(ips.iter().map(|ip| Way { pid: pid.clone(), ip: ip.clone() }));
            }
        }
        Self { ways }
    }

    pub(crate) fn cut(&self) {
        for way in &self.ways {
            way.order(&["replace", &way.ip, "lladdr", NOBODY, "nud", "permanent", "dev", "eth0"]);
        }
    }

    pub(crate) fn heal(&self) {
        for way in &self.ways {
            way.order(&["del", &way.ip, "dev", "eth0"]);
        }
    }
}

impl Way {
    fn order(&self, arguments: &[&str]) {
        let mut enter = Command::new("nsenter");
        enter.args(["-t", &self.pid, "-n", "ip", "neigh"]).args(arguments);
        let output = enter.output().unwrap();
        assert!(output.status.success(), "{enter:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
