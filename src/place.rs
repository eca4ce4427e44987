//! Where a local cluster is found: its directory, and in it its nodes' sockets.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use anyhow::Context;
use feed::Name;

/// The node that is asked first.
pub(crate) const PROXY: &str = "proxyserver";

/// Where a local cluster lives.
#[derive(clap::Args, Clone)]
pub(crate) struct Dir {
    /// The local cluster's directory: sockets and logs [default: one for each user]
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Dir {
    pub(crate) fn path(&self) -> anyhow::Result<PathBuf> {
        let path = match (&self.dir, std::env::var_os("XDG_RUNTIME_DIR")) {
            (Some(dir), _) => dir.clone(),
            (None, Some(runtime)) => PathBuf::from(runtime).join("concertina"),
            (None, None) => PathBuf::from(format!("/tmp/concertina-{}", rustix::process::geteuid().as_raw())),
        };
        std::path::absolute(&path).with_context(|| format!("--dir {}", path.display()))
    }
}

/// The feed socket of a node of the local cluster in this directory.
pub(crate) fn feed_path(dir: &Path, node: &Name) -> PathBuf {
    dir.join(node.as_str()).join("feed.sock")
}

/// The nodes of the local cluster in this directory whose sidecars answer, the proxyserver first.
pub(crate) fn nodes(dir: &Path) -> Vec<Name> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut nodes: Vec<Name> =
        names.filter(|node| UnixStream::connect(feed_path(dir, node)).is_ok()).collect();
    nodes.sort_by_key(|node| (node.as_str() != PROXY, node.clone()));
    nodes
}
