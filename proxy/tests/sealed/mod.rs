//! TLS between a client that speaks none and a proxy that speaks nothing else: whatever is played in the clear is played sealed, too, with
//! records and segments cut at random. An end is passed on as what it was: in order, half, or a reset.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rcgen::{CertificateParams, KeyPair};
use rustix::event::{PollFd, PollFlags, poll};
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring, pki_types::ServerName};
use socket2::SockRef;

/// A certificate in files, and a client's trust in it.
pub(crate) struct Trust {
    folder: tempfile::TempDir,
    client: Arc<ClientConfig>,
}

impl Trust {
    /// For these hosts.
    pub(crate) fn new(names: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.crt"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("a.key"), key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { folder, client: Arc::new(client) }
    }

    /// As `--certificate` takes it.
    pub(crate) fn pair(&self) -> String {
        let file = |name| self.folder.path().join(name).display().to_string();
        format!("{},{}", file("a.crt"), file("a.key"))
    }

    /// An address at which clients in the clear are sealed on their way to that one, as long as the process lives. Without a seed for
    /// cuts, what comes at once leaves at once.
    pub(crate) fn seal_to(&self, proxy: SocketAddr, name: &'static str, seed: Option<u64>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let client = self.client.clone();
        std::thread::spawn(move || {
            for (number, near) in listener.incoming().map_while(Result::ok).enumerate() {
                let client = client.clone();
                std::thread::spawn(move || {
                    let mut cuts = Cuts(seed.map(|seed| StdRng::seed_from_u64(seed ^ (number as u64) << 32)));
                    // Whoever it was lost to, is seen by both sides.
                    let _ = relay(&near, proxy, client, name, &mut cuts);
                });
            }
        });
        addr
    }
}

/// Most bytes of a piece.
const PIECE_BYTES: usize = 40_000;

/// Where what comes is cut.
struct Cuts(Option<StdRng>);

impl Cuts {
    /// How much of so many bytes leaves at once.
    fn of(&mut self, bytes: usize) -> usize {
        self.0.as_mut().map_or(bytes, |rng| rng.random_range(1..=bytes))
    }
}

/// Moves what there is until both ways have ended; an end that is none in order becomes a reset of both.
fn relay(
    near: &TcpStream,
    proxy: SocketAddr,
    config: Arc<ClientConfig>,
    name: &'static str,
    cuts: &mut Cuts,
) -> io::Result<()> {
    let far = TcpStream::connect(proxy)?;
    let tls = ClientConnection::new(config, ServerName::try_from(name).unwrap()).unwrap();
    let mut ways = Ways { near, far: &far, tls, to_near: Vec::new(), to_far: Vec::new(), ended: [false; 2] };
    for stream in [near, &far] {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
    }
    let moved = ways.run(cuts);
    if moved.is_err() {
        for stream in [near, &far] {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
    moved
}

struct Ways<'a> {
    near: &'a TcpStream,
    far: &'a TcpStream,
    tls: ClientConnection,
    to_near: Vec<u8>,
    to_far: Vec<u8>,
    /// What comes from near, and from far.
    ended: [bool; 2],
}

impl Ways<'_> {
    fn run(&mut self, cuts: &mut Cuts) -> io::Result<()> {
        loop {
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.to_far)?;
            }
            if self.ended == [true; 2] && self.to_near.is_empty() && self.to_far.is_empty() {
                return Ok(());
            }
            let mut flags = [PollFlags::empty(); 2];
            let takes = !self.ended[0] && self.to_far.is_empty() && !self.tls.is_handshaking();
            flags[0].set(PollFlags::IN, takes);
            flags[0].set(PollFlags::OUT, !self.to_near.is_empty());
            flags[1].set(PollFlags::IN, !self.ended[1] && self.to_near.is_empty());
            flags[1].set(PollFlags::OUT, !self.to_far.is_empty());
            let mut fds = [PollFd::new(self.near, flags[0]), PollFd::new(self.far, flags[1])];
            poll(&mut fds, None)?;
            let seen = [fds[0].revents(), fds[1].revents()];
            let broken = PollFlags::ERR | PollFlags::NVAL;
            if seen[1].intersects(broken) {
                self.pass_rest(cuts)?;
            }
            if seen.iter().any(|seen| seen.intersects(broken)) {
                return Err(ErrorKind::ConnectionReset.into());
            }
            if seen[1].contains(PollFlags::OUT) {
                let sent = send(self.far, &mut self.to_far, cuts).and_then(|()| self.pass_end(0));
                if sent.is_err() {
                    // The reset came after the look.
                    self.pass_rest(cuts)?;
                    return sent;
                }
            }
            if seen[0].contains(PollFlags::OUT) {
                send(self.near, &mut self.to_near, cuts)?;
                self.pass_end(1)?;
            }
            let is_in = |seen: PollFlags| seen.intersects(PollFlags::IN | PollFlags::HUP);
            if takes && is_in(seen[0]) {
                self.seal(cuts)?;
            }
            if flags[1].contains(PollFlags::IN) && is_in(seen[1]) {
                self.open(cuts)?;
            }
        }
    }

    /// What came before a reset is read, as whoever reads without us would.
    fn pass_rest(&mut self, cuts: &mut Cuts) -> io::Result<()> {
        while !self.ended[1] && matches!(self.open(cuts), Ok(true)) {}
        self.near.set_nonblocking(false)?;
        self.near.write_all(&self.to_near)
    }

    /// In records of any length.
    fn seal(&mut self, cuts: &mut Cuts) -> io::Result<()> {
        let mut piece = vec![0; cuts.of(PIECE_BYTES)];
        match read(self.near, &mut piece)? {
            None => return Ok(()),
            Some(0) => {
                self.ended[0] = true;
                self.tls.send_close_notify();
            }
            Some(count) => {
                let mut rest = &piece[..count];
                while !rest.is_empty() {
                    let (record, behind) = rest.split_at(cuts.of(rest.len()));
                    self.tls.writer().write_all(record)?;
                    self.tls.write_tls(&mut self.to_far)?;
                    rest = behind;
                }
            }
        }
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.to_far)?;
        }
        Ok(())
    }

    /// False: nothing has come.
    fn open(&mut self, cuts: &mut Cuts) -> io::Result<bool> {
        let mut piece = vec![0; cuts.of(PIECE_BYTES)];
        let Some(count) = read(self.far, &mut piece)? else { return Ok(false) };
        let mut rest = &piece[..count];
        loop {
            self.tls.read_tls(&mut rest)?;
            let state = self.tls.process_new_packets().map_err(io::Error::other)?;
            let mut opened = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut opened)?;
            self.to_near.extend(opened);
            if state.peer_has_closed() {
                self.ended[1] = true;
                self.pass_end(1)?;
                return Ok(true);
            }
            if count == 0 {
                // It has ended, and has not said so.
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if rest.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Once all before it has left.
    fn pass_end(&mut self, from: usize) -> io::Result<()> {
        let (to, waiting) = if from == 0 { (self.far, &self.to_far) } else { (self.near, &self.to_near) };
        if self.ended[from] && waiting.is_empty() {
            to.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }
}

fn read(mut from: &TcpStream, into: &mut [u8]) -> io::Result<Option<usize>> {
    match from.read(into) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a part.
fn send(mut to: &TcpStream, waiting: &mut Vec<u8>, cuts: &mut Cuts) -> io::Result<()> {
    let bytes = cuts.of(waiting.len());
    match to.write(&waiting[..bytes]) {
        Ok(count) => drop(waiting.drain(..count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
