//! `h2load`: requests by HTTP/2, many streams on each connection.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};

use super::{
    generator::{Report, url},
    load::Shape,
};

/// `h2load`, ready to make one load. It tells no percentiles of latency.
pub(super) struct H2load {
    executable: PathBuf,
    url: String,
    connections: usize,
    streams: usize,
}

/// Why what `h2load` says is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAReport {
    #[error("no line says that HTTP/2 was spoken")]
    Protocol,
    #[error("no line begins with \"requests:\"")]
    Missing,
    #[error("the requests' line has no number of {0:?}")]
    Item(&'static str),
}

/// The report without its duration: that of `h2load` is rounded.
fn parse(text: &str) -> Result<Report, NotAReport> {
    if !text.lines().any(|line| line.trim() == "Application protocol: h2") {
        return Err(NotAReport::Protocol);
    }
    let line = text.lines().find_map(|line| line.strip_prefix("requests:")).ok_or(NotAReport::Missing)?;
    let number = |name: &'static str| {
        let item = line.split(',').find_map(|item| item.trim().strip_suffix(name));
        item.and_then(|number| number.trim().parse().ok()).ok_or(NotAReport::Item(name))
    };
    // What failed by a fault of the connection, or by its time, is among what failed.
    Ok(Report { requests: number("succeeded")?, errors: number("failed")?, ..Report::default() })
}

impl H2load {
    pub(super) fn new(executable: &Path, shape: &Shape, streams: usize, proxy: SocketAddr) -> Self {
        Self {
            executable: executable.to_owned(),
            url: url(shape, proxy),
            connections: shape.connections,
            streams,
        }
    }

    /// Makes the load for so long, on the core that the caller runs on.
    pub(super) fn run(&self, time: Duration) -> anyhow::Result<Report> {
        let mut command = Command::new(&self.executable);
        command.args(["-t", "1", "-c", &self.connections.to_string(), "-m", &self.streams.to_string()]);
        command.args(["-D", &time.as_secs().to_string(), &self.url]);
        let output = command.stdin(Stdio::null()).output().context("cannot run h2load")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = || format!("h2load: {text}{}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), said());
        let duration_us = u64::try_from(time.as_micros())?;
        Ok(Report { duration_us, ..parse(&text).with_context(said)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "TLS Protocol: TLSv1.3\nApplication protocol: h2\nfinished in 2.00s, 1000.00 req/s, 55.5KB/s\n\
        requests: 2003 total, 2003 started, 2000 done, 1990 succeeded, 10 failed, 4 errored, 2 timeout\n\
        status codes: 1990 2xx, 0 3xx, 6 4xx, 0 5xx\n";

    #[test]
    fn the_report_has_what_succeeded_and_what_did_not() {
        assert_eq!(parse(SAID), Ok(Report { requests: 1990, errors: 10, ..Report::default() }));
    }

    #[test]
    fn another_protocol_and_another_text_are_no_report() {
        let other = SAID.replace("protocol: h2", "protocol: http/1.1");
        assert_eq!(parse(&other), Err(NotAReport::Protocol));
        assert_eq!(parse(&SAID.replace("requests:", "")), Err(NotAReport::Missing));
        assert_eq!(parse(&SAID.replace("1990 succ", "x succ")), Err(NotAReport::Item("succeeded")));
    }
}
