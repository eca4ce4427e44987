//! What a process tells whoever started it: that it is ready, and which descriptors to keep for its next start (`sd_notify(3)`, and
//! `FDSTORE=1` of `sd_pid_notify_with_fds(3)`). systemd hears it, and so does a sidecar.

use std::{
    env, fmt, io,
    os::{
        fd::BorrowedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    str::FromStr,
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The variable that says where to tell it: a path, or after an `@` an abstract name.
pub const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Longest message in bytes. systemd reads no more.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// Most descriptors of one message: the kernel's own limit (`SCM_MAX_FD`).
pub const MESSAGE_DESCRIPTORS_MAX: usize = 253;

/// Longest name of a descriptor in bytes, as of systemd.
pub const NAME_BYTES_MAX: usize = 255;

/// How long a message may take: who hears it is mostly idle, and takes ten at a time.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// What a descriptor is called by who keeps it. Names are listed with colons between them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DescriptorName(String);

impl DescriptorName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DescriptorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DescriptorName {
    type Err = MessageError;

    fn from_str(text: &str) -> Result<Self, MessageError> {
        let is_allowed = |b: u8| (b' '..=b'~').contains(&b) && b != b':';
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(MessageError::Name)
    }
}

/// What is to be done with descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeping {
    /// Keep those that come with the message, under this name.
    Store(DescriptorName),
    /// Let go of all of this name.
    Remove(DescriptorName),
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The process serves.
    pub is_ready: bool,
    /// What to keep.
    pub keeping: Option<Keeping>,
}

/// Why a message is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It may have gone on.
    #[error("longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// Not text.
    #[error("not UTF-8")]
    NotText,
    /// Of a descriptor.
    #[error("a descriptor's name has 1 to {NAME_BYTES_MAX} printable ASCII characters other than a colon")]
    Name,
    /// What to let go of has to be named.
    #[error("FDSTOREREMOVE without FDNAME")]
    NoName,
}

impl Message {
    /// The process serves.
    pub const READY: Self = Self { is_ready: true, keeping: None };

    /// Reads a message. What it says beside is for others.
    ///
    /// # Errors
    /// It is no message, and nothing of it counts.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| MessageError::NotText)?;
        let value = |of: &str| text.lines().find_map(|line| line.strip_prefix(of)?.strip_prefix('='));
        let is_set = |of: &str| value(of) == Some("1");
        let name = value("FDNAME").map(str::parse).transpose()?;
        let keeping = if is_set("FDSTOREREMOVE") {
            Some(Keeping::Remove(name.ok_or(MessageError::NoName)?))
        } else if is_set("FDSTORE") {
            Some(Keeping::Store(name.unwrap_or_else(|| DescriptorName("stored".to_owned()))))
        } else {
            None
        };
        Ok(Self { is_ready: is_set("READY"), keeping })
    }

    /// The message's text.
    pub fn encode(&self) -> String {
        let ready = if self.is_ready { "READY=1\n" } else { "" };
        match &self.keeping {
            None => ready.to_owned(),
            Some(Keeping::Store(name)) => format!("{ready}FDSTORE=1\nFDNAME={name}\n"),
            Some(Keeping::Remove(name)) => format!("{ready}FDSTOREREMOVE=1\nFDNAME={name}\n"),
        }
    }
}

/// Whoever started this process, and wants to be told.
#[derive(Debug, Clone)]
pub struct Starter(SocketAddr);

impl Starter {
    /// As the environment says; none: nobody wants to know.
    ///
    /// # Errors
    /// It names no socket.
    pub fn from_env() -> io::Result<Option<Self>> {
        let named = env::var(SOCKET_VARIABLE).ok().filter(|named| !named.is_empty());
        named.map(|named| Self::at(&named)).transpose()
    }

    fn at(named: &str) -> io::Result<Self> {
        Ok(Self(match named.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(named)?,
        }))
    }

    /// Tells something, with these descriptors.
    ///
    /// # Errors
    /// Nobody hears it.
    pub fn tell(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        // Dialled anew each time: systemd may have been started anew.
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&self.0)?;
        socket.set_write_timeout(Some(TELL_TIMEOUT))?;
        let mut space =
            [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_DESCRIPTORS_MAX))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let text = message.encode();
        sendmsg(&socket, &[io::IoSlice::new(text.as_bytes())], &mut rights, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DescriptorName {
        text.parse().unwrap()
    }

    #[test]
    fn messages_are_read_as_they_are_written_and_what_else_they_say_is_for_others() {
        let store = Some(Keeping::Store(name("127.0.0.1_80.w0")));
        let remove = Some(Keeping::Remove(name("x")));
        for message in [
            Message::READY,
            Message::default(),
            Message { is_ready: false, keeping: store },
            Message { is_ready: true, keeping: remove },
        ] {
            assert_eq!(Message::parse(message.encode().as_bytes()), Ok(message));
        }
        assert_eq!(Message::parse(b"STATUS=READY=1\nMAINPID=7"), Ok(Message::default()));
        assert_eq!(Message::parse(b"READY=0\nREADYX=1"), Ok(Message::default()));
        let stored = Message { is_ready: false, keeping: Some(Keeping::Store(name("stored"))) };
        assert_eq!(Message::parse(b"FDSTORE=1"), Ok(stored));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(Message::parse(b"FDSTOREREMOVE=1"), Err(MessageError::NoName));
        assert_eq!(Message::parse(b"FDSTORE=1\nFDNAME=a:b"), Err(MessageError::Name));
        assert_eq!(Message::parse(b"\xff"), Err(MessageError::NotText));
        let text = |length| [b"READY=1\n".as_slice(), &vec![b'x'; length - 8]].concat();
        assert_eq!(Message::parse(&text(MESSAGE_BYTES_MAX)), Ok(Message::READY));
        assert_eq!(Message::parse(&text(MESSAGE_BYTES_MAX + 1)), Err(MessageError::TooLong));
    }

    #[test]
    fn names_are_printable_without_colons_and_have_a_longest_length() {
        for good in ["x", "a b", "[__1]_80.w0", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(name(good).as_str(), good);
        }
        for bad in ["", "a:b", "a\nb", "\u{e4}", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(bad.parse::<DescriptorName>(), Err(MessageError::Name), "{bad}");
        }
    }

    #[test]
    fn a_message_comes_with_its_descriptors_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("concertina-test-{}", std::process::id());
        let bound = [
            (path.display().to_string(), SocketAddr::from_pathname(&path).unwrap()),
            (format!("@{abstract_name}"), SocketAddr::from_abstract_name(&abstract_name).unwrap()),
        ];
        for (named, addr) in bound {
            let hears = UnixDatagram::bind_addr(&addr).unwrap();
            let given = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            use std::os::fd::AsFd;
            Starter::at(&named).unwrap().tell(&Message::READY, &[given.as_fd()]).unwrap();
            let mut room = [0; 64];
            let length = hears.recv(&mut room).unwrap();
            assert_eq!(&room[..length], b"READY=1\n");
        }
    }
}
