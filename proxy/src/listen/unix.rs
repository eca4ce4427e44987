//! Listeners at files: made, taken over from who crashed, and removed.
//!
//! That a file is nobody's, and to take its place, are several system calls, and so are to make a socket and to listen at it. Whoever does
//! so holds a lock on the directory meanwhile, which leaves nothing behind: two that start at one moment do not take each other's fresh
//! socket for one that was left.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{SOCKET_MODE, UnixPath};

/// Longest wait for others in the same directory, each of which needs a millisecond; who holds it for longer is no proxy.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const LOCK_PERIOD: Duration = Duration::from_millis(2);

/// A socket's file, as it was found: another one at the same path is somebody else's.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: UnixPath,
    file: (u64, u64),
}

impl SocketFile {
    /// The socket that is there now.
    pub(crate) fn find(path: &UnixPath) -> Option<Self> {
        Some(Self { path: path.clone(), file: identity(path.as_path())? })
    }

    pub(crate) fn path(&self) -> &UnixPath {
        &self.path
    }

    /// Removes it, if it is still there.
    pub(crate) fn remove(self) {
        // Who holds the lock takes the place of a socket that nobody listens at any more: it removes ours.
        let _lock = lock(&self.path, LOCK_TIMEOUT);
        self.remove_locked();
    }

    fn remove_locked(self) {
        if identity(self.path.as_path()) == Some(self.file)
            && let Err(error) = fs::remove_file(self.path.as_path())
        {
            tracing::warn!(path = %self.path.as_path().display(), %error, "cannot remove a socket");
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(path).ok().filter(|found| found.file_type().is_socket())?;
    Some((found.dev(), found.ino()))
}

/// Makes a socket there and has it listen by `prepare`: nobody can connect before it has its mode. One that nobody listens at goes.
///
/// # Errors
/// Somebody listens there, the file is none of a socket, or the kernel's.
pub(crate) fn bind(
    path: &UnixPath,
    mode: Option<u32>,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<Socket> {
    let _lock = lock(path, LOCK_TIMEOUT);
    let addr = SockAddr::unix(path.as_path())?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    match socket.bind(&addr) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let stale = find_stale(path, &addr)?;
            tracing::info!(path = %path.as_path().display(), "nobody listens at a socket: taken over");
            stale.remove_locked();
            socket.bind(&addr)?;
        }
        bound => bound?,
    }
    set_mode(path, mode.unwrap_or(SOCKET_MODE))?;
    prepare(&socket)?;
    Ok(socket)
}

/// Locks the directory within so long; none where that cannot be: there, two at one moment are the operator's to avoid.
fn lock(path: &UnixPath, patience: Duration) -> Option<File> {
    let parent = path.as_path().parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new("."))).ok()?;
    let started = Instant::now();
    loop {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::Error(_)) => return None,
            Err(TryLockError::WouldBlock) if started.elapsed() < patience => thread::sleep(LOCK_PERIOD),
            Err(TryLockError::WouldBlock) => {
                // Whoever may read the directory can hold it for ever; that is no reason not to start.
                tracing::warn!(path = %path.as_path().display(), "the directory of a socket stays locked by another program");
                return None;
            }
        }
    }
}

/// Has those connect whom the mode lets write.
///
/// # Errors
/// It is not ours.
pub(crate) fn set_mode(path: &UnixPath, mode: u32) -> io::Result<()> {
    fs::set_permissions(path.as_path(), Permissions::from_mode(mode))
}

/// What a process has left that ended without an end.
fn find_stale(path: &UnixPath, addr: &SockAddr) -> io::Result<SocketFile> {
    let Some(file) = SocketFile::find(path) else {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
    };
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(addr) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(file),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        // The queue of somebody who listens is full, or it is a socket of another kind.
        Err(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there")),
        Ok(()) => Err(io::Error::new(ErrorKind::AddrInUse, format!("{} listens there", listener_of(&probe)))),
    }
}

/// Whoever listens at the other end. A process of another PID namespace has no number here.
fn listener_of(connected: &Socket) -> String {
    let pid = socket_peercred(connected).map(|who| who.pid.as_raw_nonzero().get()).unwrap_or_default();
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim_end()),
        Err(_) => "a process of another container".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::{UnixListener, UnixStream},
        sync::Barrier,
    };

    use super::*;

    fn place() -> (tempfile::TempDir, UnixPath) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s").to_str().unwrap().parse().unwrap();
        (folder, path)
    }

    fn listen(socket: &Socket) -> io::Result<()> {
        socket.listen(16)
    }

    fn mode_of(path: &UnixPath) -> u32 {
        fs::metadata(path.as_path()).unwrap().mode() & 0o777
    }

    #[test]
    fn a_socket_that_nobody_listens_at_is_taken_over_and_gets_its_mode() {
        let (_folder, path) = place();
        drop(UnixListener::bind(path.as_path()).unwrap());
        let prepare = |socket: &Socket| {
            assert!(UnixStream::connect(path.as_path()).is_err(), "it has no queue yet");
            assert_eq!(mode_of(&path), 0o660);
            socket.listen(16)
        };
        let socket = bind(&path, None, prepare).unwrap();
        UnixStream::connect(path.as_path()).unwrap();
        drop(socket);
        drop(bind(&path, Some(0o600), listen).unwrap());
        assert_eq!(mode_of(&path), 0o600);
    }

    #[test]
    fn who_listens_is_named_and_stays_and_so_does_a_file_that_is_no_socket() {
        let (_folder, path) = place();
        let living = UnixListener::bind(path.as_path()).unwrap();
        let refused = bind(&path, None, listen).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        let own = format!("process {} (", std::process::id());
        assert!(refused.to_string().contains(&own), "{refused}");
        UnixStream::connect(path.as_path()).unwrap();
        drop(living);
        fs::remove_file(path.as_path()).unwrap();
        fs::write(path.as_path(), "mine").unwrap();
        assert_eq!(bind(&path, None, listen).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(path.as_path()).unwrap(), b"mine");
    }

    #[test]
    fn of_two_that_take_over_a_file_at_one_moment_one_has_it_and_is_reached() {
        let (_folder, path) = place();
        for round in 0..200 {
            drop(UnixListener::bind(path.as_path()).unwrap());
            let start = Barrier::new(2);
            let take = || {
                start.wait();
                let taken = bind(&path, None, listen);
                start.wait();
                let is_reached = UnixStream::connect(path.as_path()).is_ok();
                start.wait();
                (taken, is_reached)
            };
            let outcomes =
                thread::scope(|scope| [scope.spawn(take), scope.spawn(take)].map(|it| it.join().unwrap()));
            assert!(outcomes.iter().all(|(_, is_reached)| *is_reached), "round {round}: {outcomes:?}");
            let refused: Vec<_> = outcomes.iter().filter_map(|(taken, _)| taken.as_ref().err()).collect();
            assert!(
                matches!(&refused[..], [error] if error.kind() == ErrorKind::AddrInUse),
                "round {round}: {outcomes:?}"
            );
            drop(outcomes);
            fs::remove_file(path.as_path()).unwrap();
        }
    }

    #[test]
    fn nobody_takes_a_file_while_another_takes_one_in_its_directory() {
        let (folder, path) = place();
        let other = File::open(folder.path()).unwrap();
        other.lock().unwrap();
        assert!(lock(&path, Duration::ZERO).is_none(), "whoever waits in vain goes on without it");
        thread::scope(|scope| {
            let taking = scope.spawn(|| bind(&path, None, listen));
            assert!(!path.as_path().exists());
            other.unlock().unwrap();
            taking.join().unwrap().unwrap();
        });
        assert!(lock(&path, Duration::ZERO).is_some(), "given back");
    }

    #[test]
    fn only_the_file_that_was_found_is_removed() {
        let (folder, path) = place();
        let first = UnixListener::bind(path.as_path()).unwrap();
        let file = SocketFile::find(&path).unwrap();
        // Still there, so that its number is not given to the next.
        fs::rename(path.as_path(), folder.path().join("first")).unwrap();
        let second = UnixListener::bind(path.as_path()).unwrap();
        file.remove();
        UnixStream::connect(path.as_path()).unwrap();
        SocketFile::find(&path).unwrap().remove();
        assert!(!path.as_path().exists());
        drop((first, second));
    }
}
