//! The snapshot: a file with the other members' gossip addresses, so that a sidecar which starts again finds its cluster
//! without a seed.
//!
//! ```text
//! concertina-snapshot 1 CLUSTER
//! 10.0.0.1:7946
//! …
//! end 1
//! ```
//!
//! It is replaced as a whole and never half written; one that is damaged, or another cluster's, is as good as none.

use std::{
    fs::{self, File},
    io::{self, Read},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::watch;

use crate::node::replace::replace;

/// Most addresses kept: any one that answers is enough.
pub(crate) const ADDRS_MAX: usize = 1024;

/// Longest snapshot in bytes: the longest IPv6 addresses with their ports, and two lines around them.
const BYTES_MAX: usize = ADDRS_MAX * 50 + 512;

/// What every snapshot begins with.
const FIRST_WORD: &str = "concertina-snapshot ";

/// Changes within this time are one write.
const SETTLE_PERIOD: Duration = Duration::from_secs(1);

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A directory, a pipe, a device.
    #[error("not a file")]
    NotAFile,
    /// Longer than any snapshot.
    #[error("longer than {BYTES_MAX} bytes")]
    TooLong,
    /// Not a snapshot, or not all of one.
    #[error("not a whole snapshot")]
    Malformed,
    /// Of another cluster.
    #[error("of another cluster")]
    Foreign,
}

/// The text of a snapshot.
pub(crate) fn encode(cluster: &str, addrs: &[SocketAddr]) -> String {
    let addrs = &addrs[..addrs.len().min(ADDRS_MAX)];
    let lines: String = addrs.iter().map(|addr| format!("{addr}\n")).collect();
    format!("concertina-snapshot 1 {cluster}\n{lines}end {}\n", addrs.len())
}

/// Reads a snapshot of this cluster.
pub(crate) fn parse(cluster: &str, text: &str) -> Result<Vec<SocketAddr>, SnapshotError> {
    let whole = text.strip_suffix('\n').ok_or(SnapshotError::Malformed)?;
    let (first, rest) = whole.split_once('\n').ok_or(SnapshotError::Malformed)?;
    let of = first.strip_prefix("concertina-snapshot 1 ").ok_or(SnapshotError::Malformed)?;
    if of != cluster {
        return Err(SnapshotError::Foreign);
    }
    let mut lines: Vec<&str> = rest.split('\n').collect();
    let last = lines.pop().unwrap_or_default();
    let addrs: Result<Vec<SocketAddr>, _> = lines.iter().map(|line| line.parse()).collect();
    let addrs = addrs.map_err(|_| SnapshotError::Malformed)?;
    if last != format!("end {}", addrs.len()) || addrs.len() > ADDRS_MAX {
        return Err(SnapshotError::Malformed);
    }
    Ok(addrs)
}

/// Reads the file; none if there is none yet.
pub(crate) fn read(path: &Path, cluster: &str) -> Result<Vec<SocketAddr>, SnapshotError> {
    match read_text(path) {
        Ok(text) => parse(cluster, &text),
        Err(SnapshotError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn read_text(path: &Path) -> Result<String, SnapshotError> {
    // To open a pipe would wait for somebody to write.
    if !fs::metadata(path)?.is_file() {
        return Err(SnapshotError::NotAFile);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > BYTES_MAX {
        return Err(SnapshotError::TooLong);
    }
    String::from_utf8(bytes).map_err(|_| SnapshotError::Malformed)
}

/// Replaces the file, if it is a snapshot, whole or not, or empty, or not there. Whatever else somebody keeps under this name is not ours.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), SnapshotError> {
    match read_text(path) {
        Ok(there) if there.is_empty() || there.starts_with(FIRST_WORD) => {}
        Err(SnapshotError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(_) => return Err(SnapshotError::Malformed),
        Err(error) => return Err(error),
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // A symbolic link stays one: what it leads to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    Ok(replace(&path, text.as_bytes(), |new| new.set_permissions(fs::Permissions::from_mode(0o644)))?)
}

/// Writes what changes, for as long as the sender lives. Who knows nobody keeps the last file: it is what helps then.
pub(crate) async fn keep(path: PathBuf, cluster: String, mut addrs: watch::Receiver<Vec<SocketAddr>>) {
    let mut has_failed = false;
    while addrs.changed().await.is_ok() {
        tokio::time::sleep(SETTLE_PERIOD).await;
        let text = encode(&cluster, &addrs.borrow_and_update());
        let to = path.clone();
        // A disk may take its time; the gossip must not wait for it.
        let written = tokio::task::spawn_blocking(move || write(&to, &text)).await;
        // Once: where it cannot be written, it cannot at every change.
        let is_first = !std::mem::replace(&mut has_failed, !matches!(written, Ok(Ok(()))));
        if let Ok(Err(error)) = written
            && is_first
        {
            tracing::warn!(path = %path.display(), %error, "--snapshot is not written: what is there stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addrs(count: usize) -> Vec<SocketAddr> {
        let ip = |n: usize| [0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, n as u16];
        (0..count).map(|n| SocketAddr::from((ip(0xffff - n), 65535))).collect()
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_a_missing_one_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deeper").join("snapshot");
        assert!(read(&path, "default").unwrap().is_empty());
        for count in [3, 0, ADDRS_MAX] {
            write(&path, &encode("default", &addrs(count))).unwrap();
            assert_eq!(read(&path, "default").unwrap(), addrs(count));
        }
        write(&path, &encode("default", &addrs(ADDRS_MAX + 1))).unwrap();
        assert_eq!(read(&path, "default").unwrap(), addrs(ADDRS_MAX), "as many as are kept");
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn every_truncation_and_every_foreign_file_is_refused() {
        let text = encode("default", &addrs(3));
        for end in 0..text.len() {
            assert!(
                matches!(
                    parse("default", &text[..end]),
                    Err(SnapshotError::Malformed | SnapshotError::Foreign)
                ),
                "{end}"
            );
        }
        assert!(matches!(parse("other", &text), Err(SnapshotError::Foreign)));
        for bad in [
            text.replace("end 3", "end 2"),
            text.replace("ffff", "x"),
            format!("{text}\n"),
            text.replace(" 1 ", " 2 "),
        ] {
            assert!(matches!(parse("default", &bad), Err(SnapshotError::Malformed)), "{bad}");
        }
    }

    #[test]
    fn a_file_at_the_limit_is_read_and_a_longer_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        for (length, too_long) in [(BYTES_MAX, false), (BYTES_MAX + 1, true)] {
            std::fs::write(&path, "x".repeat(length)).unwrap();
            let refused = read(&path, "default").unwrap_err();
            assert_eq!(matches!(refused, SnapshotError::TooLong), too_long, "{refused}");
        }
        std::fs::write(&path, [0xff]).unwrap();
        assert!(matches!(read(&path, "default"), Err(SnapshotError::Malformed)));
        assert!(matches!(read(dir.path(), "default"), Err(SnapshotError::NotAFile)), "a directory");
    }

    #[test]
    fn what_is_no_snapshot_is_left_alone_and_a_damaged_or_empty_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        let text = encode("default", &addrs(1));
        let long = "x".repeat(BYTES_MAX + 1);
        for theirs in [&b"precious"[..], &[0xff], long.as_bytes()] {
            fs::write(&path, theirs).unwrap();
            write(&path, &text).unwrap_err();
            assert_eq!(fs::read(&path).unwrap(), theirs);
        }
        assert!(matches!(write(dir.path(), &text), Err(SnapshotError::NotAFile)));
        for ours in ["", &text[..text.len() / 2], &encode("other", &addrs(2))] {
            fs::write(&path, ours).unwrap();
            write(&path, &text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = parse("default", &format!("concertina-snapshot 1 default\n{text}\n"));
        }
    }
}
