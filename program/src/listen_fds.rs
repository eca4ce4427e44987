//! Sockets that a process is started with (`sd_listen_fds(3)`): from descriptor 3 on, so many as `LISTEN_FDS` says, called as
//! `LISTEN_FDNAMES` says, for the process that `LISTEN_PID` names.

use std::{
    env,
    ffi::{CString, OsString, c_char},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStringExt, process::CommandExt},
    },
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    net::sockopt::socket_acceptconn,
};

use crate::notify::DescriptorName;

/// The first of them.
const FIRST: RawFd = 3;

/// Most that are taken. A proxy has one for each listener and worker.
pub const SOCKETS_COUNT_MAX: usize = 1024;

/// The variables of the protocol.
const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// What the process id is written into, with room for the largest.
const PID_ENTRY: &[u8] = b"LISTEN_PID=0000000000\0";
const PID_AT: usize = b"LISTEN_PID=".len();

/// Why the variables are not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Not a count, or too large a one.
    #[error("LISTEN_FDS={0:?}: expected a number up to {SOCKETS_COUNT_MAX}")]
    Count(String),
    /// More or fewer names than sockets.
    #[error("LISTEN_FDNAMES has {names} names for {sockets} sockets")]
    Names {
        /// So many names.
        names: usize,
        /// So many sockets.
        sockets: usize,
    },
}

/// The names of what a process with this id is given; of one for whom the variables are not, nothing.
fn parse([pid, count, names]: [Option<&str>; 3], own_pid: u32) -> Result<Vec<String>, ListenError> {
    let is_for_us = pid.and_then(|pid| pid.parse().ok()) == Some(own_pid);
    let Some(count_text) = count.filter(|_| is_for_us) else { return Ok(Vec::new()) };
    let count = count_text.parse().ok().filter(|count: &usize| *count <= SOCKETS_COUNT_MAX);
    let count = count.ok_or_else(|| ListenError::Count(count_text.to_owned()))?;
    let names: Vec<String> = match names {
        None => vec!["unknown".to_owned(); count],
        Some(_) if count == 0 => Vec::new(),
        Some(names) => names.split(':').map(str::to_owned).collect(),
    };
    if names.len() != count {
        return Err(ListenError::Names { names: names.len(), sockets: count });
    }
    Ok(names)
}

/// The listening sockets that this process was started with, each with its name. The first call has them, and no program that this
/// one starts gets them by accident. What listens not is left alone.
///
/// # Errors
/// The variables are not understood.
#[expect(unsafe_code, reason = "a descriptor's number is all that the protocol gives")]
pub fn take() -> Result<Vec<(String, OwnedFd)>, ListenError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let [pid, count, names] = VARIABLES.map(|name| env::var(name).ok());
    let names = parse([pid.as_deref(), count.as_deref(), names.as_deref()], std::process::id())?;
    let own = |(name, number): (String, RawFd)| {
        // SAFETY: the borrow ends with the two calls. Where nothing is open under the number they fail, and change nothing.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        if !socket_acceptconn(borrowed).unwrap_or(false) {
            tracing::warn!(name, descriptor = number, "LISTEN_FDS names what is no listening socket");
            return None;
        }
        fcntl_setfd(borrowed, FdFlags::CLOEXEC).ok()?;
        // SAFETY: the number is one of those that this process was given to own, and the flag above lets only one caller come
        // here. It is no socket of ours that happens to have the number: this process listens nowhere before it has called this.
        Some((name, unsafe { OwnedFd::from_raw_fd(number) }))
    };
    Ok(names.into_iter().zip(FIRST..).filter_map(own).collect())
}

/// Starts a command with these sockets, or with none. Its other hooks run before.
///
/// # Errors
/// It cannot be started.
pub fn spawn(mut command: Command, sockets: &[(&DescriptorName, BorrowedFd<'_>)]) -> io::Result<Child> {
    for name in VARIABLES {
        command.env_remove(name);
    }
    if sockets.is_empty() {
        return command.spawn();
    }
    let first_free = FIRST + RawFd::try_from(sockets.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Out of the way of the numbers that they are to have.
    let sources = sockets.iter().map(|(_, socket)| Ok(fcntl_dupfd_cloexec(socket, first_free)?));
    let sources = sources.collect::<io::Result<Vec<OwnedFd>>>()?;
    // All of those numbers are taken, so that what `spawn` opens, to be told how it went, has none of them.
    let mut fillers = Vec::new();
    while fillers.last().is_none_or(|filler: &OwnedFd| filler.as_raw_fd() < first_free) {
        fillers.push(fcntl_dupfd_cloexec(sources[0].as_fd(), FIRST)?);
    }
    let mut becoming = Becoming::new(&command, sockets, sources)?;
    #[expect(unsafe_code, reason = "descriptors of a child can only be given numbers between fork and exec")]
    // SAFETY: after fork only async-signal-safe work is allowed. `become_it` makes plain system calls and writes into memory that
    // was made before: it takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(move || Err(becoming.become_it()));
    }
    command.spawn()
}

/// All that a forked child needs to become the command. Only the child knows its id, which has to be in its environment: so it is not
/// `Command` that calls exec.
struct Becoming {
    sources: Vec<OwnedFd>,
    program: CString,
    pid_entry: Box<[u8]>,
    arguments: Strings,
    environment: Strings,
}

impl Becoming {
    fn new(
        command: &Command,
        sockets: &[(&DescriptorName, BorrowedFd<'_>)],
        sources: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let names: Vec<&str> = sockets.iter().map(|(name, _)| name.as_str()).collect();
        let own = [format!("LISTEN_FDS={}", sockets.len()), format!("LISTEN_FDNAMES={}", names.join(":"))];
        let mut entries = own.map(OsString::from).to_vec();
        let is_changed = |name: &OsString| command.get_envs().any(|(changed, _)| changed == name);
        let entry =
            |name: OsString, value: OsString| [name, "=".into(), value].into_iter().collect::<OsString>();
        entries.extend(env::vars_os().filter(|(name, _)| !is_changed(name)).map(|(n, v)| entry(n, v)));
        let set = command.get_envs().filter_map(|(name, value)| Some(entry(name.into(), value?.into())));
        entries.extend(set);
        let pid_entry: Box<[u8]> = PID_ENTRY.into();
        let words = std::iter::once(command.get_program()).chain(command.get_args()).map(Into::into);
        Ok(Self {
            sources,
            program: CString::new(command.get_program().to_owned().into_vec())?,
            arguments: Strings::new(words, None)?,
            environment: Strings::new(entries.into_iter(), Some(&pid_entry))?,
            pid_entry,
        })
    }

    /// Returns only if that fails.
    #[expect(
        unsafe_code,
        reason = "see the module: descriptors have to have certain numbers, and exec is called here"
    )]
    fn become_it(&mut self) -> io::Error {
        for (number, source) in (FIRST..).zip(&self.sources) {
            // SAFETY: the source is open; the number's former owner is a copy that this child never uses.
            if unsafe { libc::dup2(source.as_raw_fd(), number) } < 0 {
                return io::Error::last_os_error();
            }
        }
        write_decimal(std::process::id(), &mut self.pid_entry[PID_AT..]);
        // SAFETY: all three are of strings that end with a zero and live in `self`; both lists end with a null pointer.
        unsafe {
            libc::execvpe(self.program.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr());
        }
        io::Error::last_os_error()
    }
}

/// A list of strings as exec(2) takes it.
struct Strings {
    _owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers are to the strings beside them, which nobody changes, and to one that lives as long in `Becoming`.
#[expect(unsafe_code, reason = "pointers to what one owns may go wherever the owner goes")]
unsafe impl Send for Strings {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "as above")]
unsafe impl Sync for Strings {}

impl Strings {
    fn new(strings: impl Iterator<Item = OsString>, more: Option<&[u8]>) -> io::Result<Self> {
        let owned = strings.map(|text| CString::new(text.into_vec())).collect::<Result<Vec<_>, _>>()?;
        let pointers = owned.iter().map(|text| text.as_ptr()).chain(more.map(|text| text.as_ptr().cast()));
        Ok(Self { pointers: pointers.chain([std::ptr::null()]).collect(), _owned: owned })
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// Ended by a zero byte. No leading zeros: systemd's readers take what has them for octal.
fn write_decimal(number: u32, into: &mut [u8]) {
    let digits_count = number.checked_ilog10().unwrap_or_default() as usize + 1;
    let mut rest = number;
    for digit in into[..digits_count].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
    }
    into[digits_count] = 0;
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, process::Stdio};

    use super::*;

    #[test]
    fn only_the_process_that_is_named_has_something_and_each_of_it_has_a_name() {
        let two = [Some("7"), Some("2"), Some("a:b")];
        assert_eq!(parse(two, 7).unwrap(), ["a", "b"]);
        assert_eq!(parse([Some("7"), Some("2"), None], 7).unwrap(), ["unknown", "unknown"]);
        for not_for_us in [[None, None, None], [Some("8"), Some("2"), None], [Some("7"), None, Some("a")]] {
            assert_eq!(parse(not_for_us, 7).unwrap(), [] as [String; 0]);
        }
        assert_eq!(parse([Some("7"), Some("0"), Some("")], 7).unwrap(), [] as [String; 0]);
        let names = parse([Some("7"), Some("3"), Some("a:b")], 7);
        assert_eq!(names, Err(ListenError::Names { names: 2, sockets: 3 }));
    }

    #[test]
    fn so_many_are_taken_and_no_more() {
        let count = |text: &str| parse([Some("7"), Some(text), None], 7);
        assert_eq!(count(&SOCKETS_COUNT_MAX.to_string()).unwrap().len(), SOCKETS_COUNT_MAX);
        for bad in [&(SOCKETS_COUNT_MAX + 1).to_string(), "", "-1", "x"] {
            assert_eq!(count(bad), Err(ListenError::Count(bad.to_string())));
        }
    }

    #[test]
    fn ids_are_written_without_leading_zeros() {
        for id in [0, 7, 10, 4_194_304, u32::MAX] {
            let mut room = PID_ENTRY[PID_AT..].to_vec();
            write_decimal(id, &mut room);
            let end = room.iter().position(|b| *b == 0).unwrap();
            assert_eq!(std::str::from_utf8(&room[..end]), Ok(&*id.to_string()));
        }
    }

    /// What a command says that is started with these sockets.
    fn said(script: &str, sockets: &[(&DescriptorName, BorrowedFd<'_>)], envs: &[(&str, &str)]) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).envs(envs.iter().copied()).env_remove("HOME");
        let output = spawn(command, sockets).unwrap().wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_child_finds_its_sockets_under_their_numbers_and_itself_in_the_variable() {
        let listeners: Vec<TcpListener> =
            (0..40).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let inode =
            |fd: RawFd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string();
        let names: Vec<DescriptorName> = (0..40).map(|i| format!("n{i}").parse().unwrap()).collect();
        for count in [1, 40] {
            let sockets: Vec<_> =
                names.iter().zip(&listeners).map(|(n, l)| (n, l.as_fd())).take(count).collect();
            let script = "[ \"$LISTEN_PID\" = $$ ] && echo $LISTEN_FDS ${LISTEN_FDNAMES%%:*} $GIVEN ${HOME-none}; \
                 for fd in $(seq 3 $((LISTEN_FDS + 3))); do readlink /proc/$$/fd/$fd; done";
            let said = said(script, &sockets, &[("GIVEN", "x")]);
            let mut lines = said.lines();
            assert_eq!(lines.next(), Some(&*format!("{count} n0 x none")), "{said}");
            let expected: Vec<String> = listeners.iter().take(count).map(|l| inode(l.as_raw_fd())).collect();
            assert_eq!(lines.collect::<Vec<_>>(), expected, "and nothing else is open");
        }
        assert_eq!(said("echo ${LISTEN_FDS-none}", &[], &[]), "none\n");
    }

    #[test]
    fn a_command_that_is_not_there_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name: DescriptorName = "x".parse().unwrap();
        let error = spawn(Command::new("/nonexistent"), &[(&name, listener.as_fd())]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
