//! What the role's processes tell by `sd_notify(3)`: at an abstract name that is in their environment, and who said it is the kernel's word.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram as StdDatagram},
    },
};

use program::notify::{MESSAGE_BYTES_MAX, MESSAGE_DESCRIPTORS_MAX, Message};
use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg,
        sockopt::set_socket_passcred,
    },
    process::Pid,
};
use tokio::{io::Interest, net::UnixDatagram};

/// One of them.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) from: Pid,
    pub(crate) message: Message,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Where they come.
#[derive(Debug)]
pub(crate) struct Notices {
    socket: UnixDatagram,
    name: String,
}

impl Notices {
    pub(crate) fn open() -> io::Result<Self> {
        // A path could be left over, or be on a file system that is read-only.
        let name = format!("concertina/{:032x}", rand::random::<u128>());
        let socket = StdDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        set_socket_passcred(&socket, true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket)?, name: format!("@{name}") })
    }

    /// What the role's processes have in their environment.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits until there may be one.
    pub(crate) async fn readable(&self) {
        if self.socket.readable().await.is_err() {
            // Only an event loop that ends says so.
            std::future::pending::<()>().await;
        }
    }

    /// The next one, if it is there. What is none is dropped, with its descriptors.
    pub(crate) fn take(&self) -> Option<Notice> {
        loop {
            match self.socket.try_io(Interest::READABLE, || self.receive()) {
                Ok(Some(notice)) => return Some(notice),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    fn receive(&self) -> io::Result<Option<Notice>> {
        // One byte more than the longest: what fills it was truncated.
        let mut bytes = [0; MESSAGE_BYTES_MAX + 1];
        let mut space = [MaybeUninit::uninit();
            rustix::cmsg_space!(ScmRights(MESSAGE_DESCRIPTORS_MAX), ScmCredentials(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut beside, flags)?;
        let (mut from, mut descriptors) = (None, Vec::new());
        for message in beside.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(rights) => descriptors.extend(rights),
                RecvAncillaryMessage::ScmCredentials(who) => from = Some(who.pid),
                _ => {}
            }
        }
        // Of a process in another namespace there is no number.
        let Some(from) = from else { return Ok(None) };
        if received.flags.contains(ReturnFlags::CTRUNC) {
            tracing::warn!(from = from.as_raw_nonzero(), "some descriptors of a notice were lost");
        }
        match Message::parse(&bytes[..received.bytes]) {
            Ok(message) => Ok(Some(Notice { from, message, descriptors })),
            Err(why) => {
                tracing::warn!(from = from.as_raw_nonzero(), %why, "a notice that is none");
                Ok(None)
            }
        }
    }
}
