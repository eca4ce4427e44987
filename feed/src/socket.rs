//! A Unix socket's path: taken in one step, and given back only while what is there is still ours.
//!
//! Looking at a path, removing what is left over there and binding are three system calls, and two programs that start at one
//! moment would take each other's fresh socket for a leftover. So whoever takes a path holds a lock on its directory meanwhile, which
//! leaves nothing behind. What is removed is a socket at which nobody answers, and nothing else.

use std::{
    fs::{File, FileType, Permissions, TryLockError},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep},
};

/// Longest path of a Unix socket on Linux in bytes (unix(7)), less its final zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where a sidecar has its feed unless it is told otherwise.
pub const FEED_PATH: &str = "/run/concertina/feed.sock";

/// Where it has it instead if that is on a read-only file system: in memory that every container has for itself.
pub const READ_ONLY_FEED_PATH: &str = "/dev/shm/concertina/feed.sock";

/// Longest wait for others that take a path in the same directory, each of which needs a millisecond.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const LOCK_PERIOD: Duration = Duration::from_millis(5);

/// Why a path cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something else is there, which is left alone.
    #[error("is {0}, not a socket: choose another path, or remove it")]
    NotASocket(&'static str),
    /// A live program has it.
    #[error("another program serves there")]
    Served,
    /// The kernel takes no path of this length.
    #[error("too long: a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes")]
    TooLong,
    /// Somebody holds the lock on the directory.
    #[error("its directory is locked by another program")]
    Locked,
    /// Anything else.
    #[error("cannot listen there: {0}")]
    Io(#[from] io::Error),
}

impl SocketError {
    /// Whether nothing can be put there, whoever tries.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }
}

/// A socket that listens, and its path.
#[derive(Debug)]
pub struct Served {
    /// Keep it for as long as the listener.
    pub path: OwnPath,
    /// Accepts.
    pub listener: UnixListener,
}

/// A path with our socket. Dropping it removes the socket, unless somebody has put another there. Drop the listener after it: that
/// keeps the inode's number from being used again.
#[derive(Debug)]
pub struct OwnPath {
    path: PathBuf,
    inode: Inode,
}

#[derive(Debug, PartialEq, Eq)]
struct Inode {
    device: u64,
    number: u64,
}

/// Listens at a path, in the place of a socket that nobody serves any more, and lets in whom `mode` lets write.
///
/// # Errors
/// The path cannot be taken; what is there stays as it is.
pub async fn listen(path: &Path, mode: u32) -> Result<Served, SocketError> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(SocketError::TooLong);
    }
    let directory = directory(path);
    std::fs::create_dir_all(directory)?;
    let _lock = lock(directory).await?;
    remove_leftover(path).await?;
    // It fails where something has come to be there after all; a bind never replaces anything.
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    let inode = inode(path)?;
    Ok(Served { listener, path: OwnPath { path: path.to_owned(), inode } })
}

async fn remove_leftover(path: &Path) -> Result<(), SocketError> {
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !there.is_socket() {
        return Err(SocketError::NotASocket(kind(there)));
    }
    match UnixStream::connect(path).await {
        // Bound by a process that has ended: its kernel knows no listener for it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(std::fs::remove_file(path)?),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error.into()),
        // One whose backlog is full is served, too.
        Ok(_) | Err(_) => Err(SocketError::Served),
    }
}

fn kind(there: FileType) -> &'static str {
    match there {
        there if there.is_dir() => "a directory",
        there if there.is_symlink() => "a symbolic link",
        there if there.is_file() => "a file",
        there if there.is_fifo() => "a pipe",
        _ => "a device",
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Locks the directory; none on a file system that has no locks, where two at one moment are the operator's to avoid.
async fn lock(directory: &Path) -> Result<Option<File>, SocketError> {
    let file = File::open(directory)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(_)) => return Ok(None),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_PERIOD).await,
            Err(TryLockError::WouldBlock) => return Err(SocketError::Locked),
        }
    }
}

fn inode(path: &Path) -> io::Result<Inode> {
    let there = std::fs::symlink_metadata(path)?;
    Ok(Inode { device: there.dev(), number: there.ino() })
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        let Ok(directory) = File::open(directory(&self.path)) else { return };
        // Who holds the lock is taking the path of a socket that nobody serves any more: it removes ours.
        let is_locked = matches!(directory.try_lock(), Err(TryLockError::WouldBlock));
        if !is_locked && inode(&self.path).is_ok_and(|there| there == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    async fn said(path: &Path) -> String {
        listen(path, 0o600).await.unwrap_err().to_string()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_socket_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, inner) =
            (dir.path().join("file"), dir.path().join("link"), dir.path().join("inner"));
        std::fs::write(&file, "precious").unwrap();
        symlink(&file, &link).unwrap();
        std::fs::create_dir(&inner).unwrap();
        assert!(said(&file).await.starts_with("is a file, not a socket"), "{}", said(&file).await);
        assert!(said(&link).await.starts_with("is a symbolic link, not a socket"), "{}", said(&link).await);
        assert!(said(&inner).await.starts_with("is a directory, not a socket"), "{}", said(&inner).await);
        assert!(link.is_symlink() && inner.is_dir());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_served_path_is_refused_and_a_leftover_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deeper").join("feed.sock");
        let first = listen(&path, 0o660).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert_eq!(said(&path).await, "another program serves there");
        // As after a SIGKILL: nobody listens, and the path is there.
        std::mem::forget(first.path);
        drop(first.listener);
        let second = listen(&path, 0o600).await.unwrap();
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(second.path);
        assert!(!path.exists(), "given back");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_that_another_put_there_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("feed.sock");
        let ours = listen(&path, 0o600).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let theirs = listen(&path, 0o600).await.unwrap();
        drop(ours.path);
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(theirs);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_path_at_the_limit_is_taken_and_a_longer_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let rest = SOCKET_PATH_BYTES_MAX - dir.path().as_os_str().len() - 1;
        assert!(listen(&dir.path().join("x".repeat(rest)), 0o600).await.is_ok());
        let longer = said(&dir.path().join("x".repeat(rest + 1))).await;
        assert_eq!(longer, "too long: a socket's path has at most 107 bytes");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_takes_a_path_waits_for_who_is_taking_one_in_the_same_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("feed.sock");
        let other = lock(dir.path()).await.unwrap();
        let mut taking = std::pin::pin!(listen(&path, 0o600));
        tokio::select! {
            biased;
            taken = &mut taking => panic!("not waited: {taken:?}"),
            () = std::future::ready(()) => assert!(!path.exists()),
        }
        drop(other);
        taking.await.unwrap();
    }

    #[test]
    fn of_many_that_take_a_leftover_at_one_moment_one_has_it_and_is_reached() {
        const TAKERS: usize = 4;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("feed.sock");
        for round in 0..20 {
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(TAKERS);
            let take = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                start.wait();
                let taken = runtime.block_on(listen(&path, 0o600));
                start.wait();
                let is_reached = std::os::unix::net::UnixStream::connect(&path).is_ok();
                start.wait();
                (taken.is_ok(), is_reached)
            };
            let outcomes = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..TAKERS).map(|_| scope.spawn(take)).collect();
                takers.into_iter().map(|taker| taker.join().unwrap()).collect::<Vec<_>>()
            });
            assert_eq!(outcomes.iter().filter(|(taken, _)| *taken).count(), 1, "round {round}: {outcomes:?}");
            assert!(outcomes.iter().all(|(_, is_reached)| *is_reached), "round {round}: {outcomes:?}");
            assert!(!path.exists(), "given back in round {round}");
        }
    }
}
