//! Listening sockets that outlive this process: whoever started it, a sidecar or systemd, keeps them and hands them to the next one, by the
//! protocols of `sd_listen_fds(3)` and `sd_notify(3)`. What waits in the kernel's queues waits on.
//!
//! A queue that nobody reads would be worse than none. So every socket that is given for an address is accepted from: with fewer
//! workers than sockets a worker has several, and with more they share. None is bound beside those that are given: the queue of a
//! process that does not get as far as serving would go with it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use anyhow::Context;
use program::{
    listen_fds,
    notify::{DescriptorName, Keeping, Message, Starter},
};
use socket2::Socket;

use crate::{
    config::{Address, UnixPath},
    listen::unix::SocketFile,
};

/// What this process was started with, and whom it tells.
#[derive(Debug, Default)]
pub(crate) struct Held {
    given: Vec<Given>,
    follows_another: bool,
    /// What is kept for the next process, by the address of the listener.
    kept: Vec<(Address, DescriptorName)>,
    /// Those of Unix sockets that this process, or the one before it, has made.
    files: Vec<SocketFile>,
    starter: Option<Starter>,
}

#[derive(Debug)]
struct Given {
    name: String,
    addr: Address,
    socket: Socket,
}

impl Held {
    /// What the environment says, once.
    ///
    /// # Errors
    /// It is not understood.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        let starter = Starter::from_env().context("NOTIFY_SOCKET")?;
        let given = listen_fds::take()?.into_iter().filter_map(|(name, socket)| Given::new(name, socket));
        let given: Vec<Given> = given.collect();
        let follows_another = !given.is_empty();
        Ok(Self { follows_another, given, starter, ..Self::default() })
    }

    /// Another process had this one's sockets before, and may serve still.
    pub(crate) fn follows_another(&self) -> bool {
        self.follows_another
    }

    /// The sockets that were given for an address, for each worker those that it accepts from; none: bind it.
    pub(crate) fn take(&mut self, addr: &Address, workers: usize) -> io::Result<Option<Vec<Vec<Socket>>>> {
        let mut sockets = Vec::new();
        for given in self.given.extract_if(.., |given| given.addr == *addr) {
            self.files.extend(given.file());
            sockets.push(given.socket);
            self.kept.extend(given.name.parse().ok().map(|name| (addr.clone(), name)));
        }
        if sockets.is_empty() {
            return Ok(None);
        }
        share(&sockets, workers).map(Some)
    }

    /// Has the sockets of an address kept for the next process. At a port that the kernel chose, that one will not listen.
    pub(crate) fn keep(&mut self, addr: &Address, sockets: &[Socket]) {
        self.files.extend(addr.unix().and_then(SocketFile::find));
        let Some(starter) = self.starter.as_ref().filter(|_| !addr.is_chosen_by_kernel()) else { return };
        for (worker, socket) in sockets.iter().enumerate() {
            let Ok(name) = name_of(addr, worker).parse::<DescriptorName>() else { continue };
            let message = Message { is_ready: false, keeping: Some(Keeping::Store(name.clone())) };
            if let Err(error) = starter.tell(&message, &[socket.as_fd()]) {
                tracing::warn!(%addr, %error, "cannot have a listening socket kept");
                return;
            }
            self.kept.push((addr.clone(), name));
        }
    }

    /// Has what is kept of an address let go of, where no listener is from now on: nobody would accept from it.
    pub(crate) fn release(&mut self, addr: &Address) {
        self.files.extract_if(.., |file| addr.unix() == Some(file.path())).for_each(SocketFile::remove);
        let released: Vec<_> = self.kept.extract_if(.., |(of, _)| of == addr).collect();
        for (_, name) in released {
            self.tell(&Message { is_ready: false, keeping: Some(Keeping::Remove(name)) });
        }
    }

    /// Removes the files of sockets that end with this process. Where one is kept, the next process listens there.
    pub(crate) fn remove_files(&mut self) {
        let is_kept = |path: &UnixPath| self.kept.iter().any(|(of, _)| of.unix() == Some(path));
        self.files.extract_if(.., |file| !is_kept(file.path())).for_each(SocketFile::remove);
    }

    /// Says that this process serves. What it was given and does not listen on is not kept any longer, and closed; not before, since the
    /// process before this one goes on with it if this one does not get here.
    pub(crate) fn tell_ready(&mut self) {
        for given in std::mem::take(&mut self.given) {
            given.file().into_iter().for_each(SocketFile::remove);
            let Given { name, addr, .. } = given;
            tracing::warn!(name, %addr, "a socket was given that no --listen is for: closed");
            let keeping = name.parse().ok().map(Keeping::Remove);
            self.tell(&Message { is_ready: false, keeping });
        }
        self.tell(&Message::READY);
    }

    fn tell(&self, message: &Message) {
        if let Some(Err(error)) = self.starter.as_ref().map(|starter| starter.tell(message, &[])) {
            tracing::warn!(%error, "cannot tell whoever started this process");
        }
    }
}

impl Given {
    fn new(name: String, socket: OwnedFd) -> Option<Self> {
        let socket = Socket::from(socket);
        let addr = socket.local_addr().ok().and_then(|addr| Address::of(&addr));
        if addr.is_none() {
            tracing::warn!(name, "a socket was given that has neither an IP address nor a path");
        }
        Some(Self { name, addr: addr?, socket })
    }

    /// Its file, if a proxy has made it. What systemd has made, it gives to the next process, too.
    fn file(&self) -> Option<SocketFile> {
        let path = self.addr.unix().filter(|_| self.name == name_of(&self.addr, 0))?;
        SocketFile::find(path)
    }
}

/// What whoever keeps it calls a worker's socket of a listener. Names are listed with colons between them.
fn name_of(addr: &Address, worker: usize) -> String {
    format!("{addr}.w{worker}").replace(':', "_")
}

/// The sockets that each of so many workers accepts from.
pub(crate) fn share(sockets: &[Socket], workers: usize) -> io::Result<Vec<Vec<Socket>>> {
    let of_worker = |worker| shares(worker, sockets.len(), workers).map(|i| sockets[i].try_clone()).collect();
    (0..workers).map(of_worker).collect()
}

/// Which of so many sockets a worker accepts from. Every socket is some worker's, and every worker has some.
fn shares(worker: usize, sockets: usize, workers: usize) -> impl Iterator<Item = usize> {
    let first = worker % sockets;
    (first..sockets).step_by(workers.max(1)).take(if workers >= sockets { 1 } else { sockets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_is_accepted_from_and_every_worker_accepts_from_one() {
        let all = |sockets, workers| {
            (0..workers).map(|worker| shares(worker, sockets, workers).collect()).collect::<Vec<Vec<_>>>()
        };
        assert_eq!(all(2, 2), [vec![0], vec![1]]);
        assert_eq!(all(5, 2), [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(all(1, 3), [vec![0], vec![0], vec![0]]);
        assert_eq!(all(2, 3), [vec![0], vec![1], vec![0]]);
        for (sockets, workers) in (1..9).flat_map(|sockets| (1..9).map(move |workers| (sockets, workers))) {
            let all = all(sockets, workers);
            assert!(all.iter().all(|of_worker| !of_worker.is_empty()), "{sockets} {workers}: {all:?}");
            assert!(
                (0..sockets).all(|i| all.iter().flatten().any(|j| *j == i)),
                "{sockets} {workers}: {all:?}"
            );
            let count = all.iter().flatten().count();
            assert_eq!(count, sockets.max(workers), "no more than that: {all:?}");
        }
    }

    #[test]
    fn sockets_are_given_by_their_address() {
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (ours, other) = (listen(), listen());
        let addr = Address::from(ours.local_addr().unwrap());
        let given = [ours, other].map(|socket| Given::new("x".into(), socket.into()).unwrap());
        let mut held = Held { given: given.into(), ..Held::default() };
        assert!(held.take(&"127.0.0.1:1".parse().unwrap(), 2).unwrap().is_none());
        let taken = held.take(&addr, 2).unwrap().unwrap();
        assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        assert!(
            taken
                .iter()
                .flatten()
                .all(|socket| Address::of(&socket.local_addr().unwrap()) == Some(addr.clone()))
        );
        assert!(held.take(&addr, 2).unwrap().is_none(), "taken once");
        assert_eq!(held.given.len(), 1);
        held.tell_ready();
        assert_eq!(held.given.len(), 0);
    }

    #[test]
    fn a_file_goes_with_the_process_unless_its_socket_is_kept_or_is_systemds() {
        let folder = tempfile::tempdir().unwrap();
        for (name, is_kept) in [("own", false), ("kept", true), ("systemd", true)] {
            let addr: Address = format!("unix:{}/{name}", folder.path().display()).parse().unwrap();
            let path = addr.unix().unwrap().as_path().to_owned();
            let socket = OwnedFd::from(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let mut held = Held::default();
            match name {
                "own" => held.keep(&addr, &[Socket::from(socket)]),
                _ => {
                    let name = if name == "kept" { name_of(&addr, 0) } else { "shop.socket".to_owned() };
                    held.given.extend(Given::new(name, socket));
                    assert_eq!(held.take(&addr, 2).unwrap().unwrap().len(), 2);
                }
            }
            held.remove_files();
            assert_eq!(path.exists(), is_kept, "{name}");
            held.release(&addr);
            assert_eq!(path.exists(), name == "systemd", "{name}: no listener is there any more");
        }
    }
}
