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
    fs::File,
    io::{self, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::watch;

/// Most addresses kept: any one that answers is enough.
pub(crate) const ADDRS_MAX: usize = 1024;

/// Longest snapshot in bytes: the longest IPv6 addresses with their ports, and two lines around them.
const BYTES_MAX: usize = ADDRS_MAX * 50 + 512;

/// Changes within this time are one write.
const SETTLE_PERIOD: Duration = Duration::from_secs(1);

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
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
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > BYTES_MAX {
        return Err(SnapshotError::TooLong);
    }
    parse(cluster, str::from_utf8(&bytes).map_err(|_| SnapshotError::Malformed)?)
}

/// Replaces the file.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    // The name must not be moved to what is not on the disk yet.
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

/// Writes what changes, for as long as the sender lives. Who knows nobody keeps the last file: it is what helps then.
pub(crate) async fn keep(path: PathBuf, cluster: String, mut addrs: watch::Receiver<Vec<SocketAddr>>) {
    while addrs.changed().await.is_ok() {
        tokio::time::sleep(SETTLE_PERIOD).await;
        let text = encode(&cluster, &addrs.borrow_and_update());
        let to = path.clone();
        // A disk may take its time; the gossip must not wait for it.
        let written = tokio::task::spawn_blocking(move || write(&to, &text)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(path = %path.display(), %error, "--snapshot cannot be written");
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
        assert!(matches!(read(dir.path(), "default"), Err(SnapshotError::Io(_))), "a directory");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = parse("default", &format!("concertina-snapshot 1 default\n{text}\n"));
        }
    }
}
