//! Descriptors that are kept for the role's next process.

use std::{
    fs,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
};

use program::{listen_fds::SOCKETS_COUNT_MAX, notify::DescriptorName};
use rustix::{fs::fstat, process::Pid};

#[derive(Debug)]
struct Kept {
    name: DescriptorName,
    descriptor: OwnedFd,
    file: (u64, u64),
    /// Whose it was first.
    by: Option<Pid>,
}

impl Kept {
    /// Lets go of it for good. The file of a Unix socket that the role's process has made goes, too, since nobody listens there any more.
    fn end(self) {
        let addr = UnixListener::from(self.descriptor).local_addr().ok();
        let path = addr.as_ref().and_then(|addr| addr.as_pathname()).filter(|_| self.by.is_some());
        if let Some(Err(error)) = path.map(fs::remove_file) {
            tracing::debug!(name = %self.name, %error, "a socket's file is not removed");
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<Kept>);

/// There is no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{SOCKETS_COUNT_MAX} descriptors are kept already")]
pub(crate) struct Full;

impl Held {
    /// Keeps a descriptor. One that is kept already is not kept twice, whatever it is called.
    pub(crate) fn keep(
        &mut self,
        name: DescriptorName,
        descriptor: OwnedFd,
        by: Option<Pid>,
    ) -> Result<(), Full> {
        // What cannot be looked at is of no use to anybody.
        let Ok(file) = fstat(&descriptor).map(|stat| (stat.st_dev, stat.st_ino)) else { return Ok(()) };
        if self.0.iter().any(|kept| kept.file == file) {
            return Ok(());
        }
        if self.0.len() >= SOCKETS_COUNT_MAX {
            return Err(Full);
        }
        self.0.push(Kept { name, descriptor, file, by });
        Ok(())
    }

    /// Lets go of all of this name.
    pub(crate) fn remove(&mut self, name: &DescriptorName) {
        self.0.retain(|kept| kept.name != *name);
    }

    /// Lets go of what only this process had: nobody else accepts what waits there.
    pub(crate) fn remove_of(&mut self, by: Pid) {
        self.0.extract_if(.., |kept| kept.by == Some(by)).for_each(Kept::end);
    }

    pub(crate) fn clear(&mut self) {
        self.0.drain(..).for_each(Kept::end);
    }

    /// For the next process.
    pub(crate) fn all(&self) -> Vec<(&DescriptorName, BorrowedFd<'_>)> {
        self.0.iter().map(|kept| (&kept.name, kept.descriptor.as_fd())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn name(text: &str) -> DescriptorName {
        text.parse().unwrap()
    }

    fn names(held: &Held) -> Vec<&str> {
        held.all().into_iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn what_is_kept_is_kept_once_until_its_name_or_its_process_is_let_go_of() {
        let mut held = Held::default();
        let socket = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let [a, b] = [socket(), socket()];
        let by = |number| Pid::from_raw(number);
        held.keep(name("a"), a.try_clone().unwrap(), by(1)).unwrap();
        held.keep(name("again"), a, by(2)).unwrap();
        held.keep(name("b"), b, by(2)).unwrap();
        held.keep(name("b"), socket(), by(3)).unwrap();
        assert_eq!(names(&held), ["a", "b", "b"]);
        held.remove_of(by(2).unwrap());
        assert_eq!(names(&held), ["a", "b"]);
        held.remove(&name("b"));
        assert_eq!(names(&held), ["a"]);
    }

    #[test]
    fn a_sockets_file_goes_with_the_socket_if_the_role_has_made_it() {
        let folder = tempfile::tempdir().unwrap();
        for (name, by, is_removed) in [("role", Pid::from_raw(1), true), ("systemd", None, false)] {
            let path = folder.path().join(name);
            let mut held = Held::default();
            let socket = OwnedFd::from(UnixListener::bind(&path).unwrap());
            held.keep(self::name(name), socket, by).unwrap();
            held.clear();
            assert_eq!(!path.exists(), is_removed, "{name}");
        }
    }

    #[test]
    fn so_many_are_kept_and_no_more() {
        let mut held = Held::default();
        for number in 0..=SOCKETS_COUNT_MAX {
            let (socket, _) = rustix::pipe::pipe().unwrap();
            let kept = held.keep(name("x"), socket, None);
            assert_eq!(kept.is_ok(), number < SOCKETS_COUNT_MAX, "{number}");
        }
    }
}
