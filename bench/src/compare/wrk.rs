//! `wrk`: the load, and what it has seen of it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};

use super::{generator::Report, load::Shape};

/// How long a response may take before it counts as an error.
const TIMEOUT: &str = "10s";

const REPORT_SCRIPT: &str = include_str!("../../wrk/report.lua");

/// Why a line of `wrk` is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAReport {
    #[error("no line begins with \"report\"")]
    Missing,
    #[error("{0:?} is not NAME=NUMBER with a name that the report has")]
    Item(String),
}

/// Finds the line that the script writes.
fn parse(text: &str) -> Result<Report, NotAReport> {
    let line = text.lines().find_map(|line| line.strip_prefix("report ")).ok_or(NotAReport::Missing)?;
    let mut report = Report::default();
    for item in line.split_whitespace() {
        let refused = || NotAReport::Item(item.to_owned());
        let (name, number) = item.split_once('=').ok_or_else(refused)?;
        let number: u64 = number.parse().map_err(|_| refused())?;
        match name {
            "requests" => report.requests = number,
            "duration_us" => report.duration_us = number,
            "connect" | "read" | "write" | "status" | "timeout" => report.errors += number,
            "p50_us" => report.p50_us = Some(number),
            "p99_us" => report.p99_us = Some(number),
            _ => return Err(refused()),
        }
    }
    Ok(report)
}

/// The script for a load. Only global settings: see the file's own comment.
fn script(shape: &Shape) -> String {
    let mut settings = String::new();
    if shape.body_bytes > 0 {
        settings += &format!("wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {})\n", shape.body_bytes);
    }
    if shape.close {
        settings += "wrk.headers[\"Connection\"] = \"close\"\n";
    }
    if shape.pause_ms > 0 {
        settings += &format!("function delay() return {} end\n", shape.pause_ms);
    }
    settings + REPORT_SCRIPT
}

/// `wrk`, ready to make one load.
pub(super) struct Wrk {
    executable: PathBuf,
    script: PathBuf,
    url: String,
    connections: usize,
}

impl Wrk {
    pub(super) fn new(
        executable: &Path,
        dir: &Path,
        shape: &Shape,
        proxy: SocketAddr,
    ) -> anyhow::Result<Self> {
        let path = dir.join("load.lua");
        std::fs::write(&path, script(shape)).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            executable: executable.to_owned(),
            script: path,
            url: super::generator::url(shape, proxy),
            connections: shape.connections,
        })
    }

    /// Makes the load for so long, on the core that the caller runs on.
    pub(super) fn run(&self, time: Duration) -> anyhow::Result<Report> {
        let mut command = Command::new(&self.executable);
        command.args(["-t", "1", "-c", &self.connections.to_string(), "--timeout", TIMEOUT]);
        command.args(["-d", &format!("{}s", time.as_secs()), "-s"]).arg(&self.script).arg(&self.url);
        let output = command.stdin(Stdio::null()).output().context("cannot run wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = || format!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), said());
        parse(&text).with_context(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::load::Load;

    #[test]
    fn the_report_is_found_among_what_wrk_says() {
        let text = "Running 1s test @ http://127.0.0.1:8080/\n  1 threads and 64 connections\n\
            report requests=41230 duration_us=1000123 connect=1 read=2 write=3 status=4 timeout=5 p50_us=640 p99_us=1200\n";
        let report = Report {
            requests: 41230,
            duration_us: 1_000_123,
            errors: 15,
            p50_us: Some(640),
            p99_us: Some(1200),
        };
        assert_eq!(parse(text), Ok(report));
    }

    #[test]
    fn what_is_not_a_report_is_not_taken_for_one() {
        assert_eq!(parse("unable to connect\n"), Err(NotAReport::Missing));
        for bad in ["requests", "requests=", "requests=-1", "requests=nan", "apples=3"] {
            assert_eq!(parse(&format!("report {bad}\n")), Err(NotAReport::Item(bad.into())));
        }
    }

    #[test]
    fn a_script_sets_what_the_load_needs_and_nothing_else() {
        assert_eq!(script(&Load::Small.shape()), REPORT_SCRIPT);
        assert!(script(&Load::Half.shape()).contains("function delay() return 2 end"));
        assert!(script(&Load::Post16k.shape()).contains("string.rep(\"x\", 16384)"));
        assert!(script(&Load::Close.shape()).contains("\"Connection\"] = \"close\""));
        assert!(!REPORT_SCRIPT.contains("function request"));
    }
}
