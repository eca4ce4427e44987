//! A real Prometheus that scrapes a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{
    cluster::Cluster,
    program::Running,
    wait::{DEADLINE, look_for},
};

/// Where every node of a cluster has its admin port.
pub(crate) const ADMIN_PORT: u16 = 9790;

/// Where it listens, at the address of a node, which is nobody else's.
const PORT: u16 = 9791;

/// A file of the examples.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// A Prometheus that knows one address: where a node tells of all others.
pub(crate) struct Prometheus {
    addr: SocketAddr,
    _running: Running,
}

impl Prometheus {
    /// One that has the rules of the example, too.
    pub(crate) fn start(cluster: &Cluster, node: &str) -> Self {
        let addr = SocketAddr::new(cluster.service(node).ip(), PORT);
        let config = cluster.place.join("prometheus.yml");
        let sd = SocketAddr::new(cluster.service(node).ip(), ADMIN_PORT);
        let text = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: ['{}']\nscrape_configs:\n  - job_name: concertina\n    \
             http_sd_configs:\n      - {{url: 'http://{sd}/sd', refresh_interval: 500ms}}\n",
            example("alerts.yaml").display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", cluster.place.join("prometheus").display()));
        command.arg(format!("--web.listen-address={addr}"));
        Self { addr, _running: Running::start(command, cluster.place.join("prometheus.log")) }
    }

    fn fetch(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.addr).ok()?;
        write!(stream, "GET /api/v1/{path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// The targets by name, and what was wrong with the last scrape of each; nothing is left out.
    fn targets(&self) -> Option<BTreeMap<String, (String, String)>> {
        let told = self.fetch("targets?state=active")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let target = |target: &Value| {
            (text(&target["labels"]["node"]), (text(&target["health"]), text(&target["lastError"])))
        };
        Some(told["data"]["activeTargets"].as_array()?.iter().map(target).collect())
    }

    pub(crate) fn await_up(&self, nodes: &[&str]) {
        let mut seen = None;
        let are_up = look_for(DEADLINE, || {
            // A scrape that failed, as one does that took too long on a busy machine, is followed by the next.
            let targets = &*seen.insert(self.targets()?);
            let are_up = targets.values().all(|(health, _)| health == "up");
            (are_up && targets.keys().eq(nodes.iter())).then_some(())
        });
        assert!(are_up.is_some(), "Prometheus scrapes {nodes:?}: {seen:?}");
    }

    /// The first value of a query's answer.
    pub(crate) fn value(&self, query: &str) -> Option<f64> {
        self.query(query)?[0]["value"][1].as_str()?.parse().ok()
    }

    /// The samples of a query's answer.
    ///
    /// # Panics
    /// It is none.
    pub(crate) fn query(&self, query: &str) -> Option<Value> {
        let encode = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        let encoded: String = query.bytes().map(encode).collect();
        let told = self.fetch(&format!("query?query={encoded}"))?;
        assert_eq!(told["status"], "success", "{query}: {told}");
        Some(told["data"]["result"].clone())
    }

    /// The names of the rules that were evaluated well.
    ///
    /// # Panics
    /// One was not.
    pub(crate) fn evaluated_rules(&self) -> Option<BTreeSet<String>> {
        let told = self.fetch("rules")?;
        let rules = told["data"]["groups"].as_array()?.iter().filter_map(|group| group["rules"].as_array());
        let mut evaluated = BTreeSet::new();
        for rule in rules.flatten() {
            assert_ne!(rule["health"], "err", "{rule}");
            if rule["health"] == "ok" {
                evaluated.insert(rule["name"].as_str()?.to_owned());
            }
        }
        Some(evaluated)
    }
}
