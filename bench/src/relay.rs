//! The floor: bytes from a client to its own upstream connection and back, and nothing else.
//!
//! A request and its response cost four calls (read, write, read, write) and their share of a wait. What a proxy needs
//! beyond that is what it pays for being one. One client, one upstream connection: nothing is parsed, so nothing can be shared.

use std::{
    convert::Infallible,
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
};

use slab::Slab;

use crate::event_loop::{self, READ_BYTES, Ready, Registry, Serve};

/// `bench relay`: the floor that proxies are measured against.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Where every connection goes; on this machine, since it is connected to while everything else waits
    #[arg(long, value_name = "ADDR")]
    pub to: SocketAddr,
}

/// Relays until it is killed.
///
/// # Errors
/// An address that cannot be listened on.
pub fn run(args: &Args) -> io::Result<Infallible> {
    relay(&event_loop::listen(args.listen)?, args.to)
}

fn relay(listener: &TcpListener, to: SocketAddr) -> io::Result<Infallible> {
    event_loop::run(listener, &mut Relay { to, pairs: Slab::new(), buffer: vec![0; READ_BYTES] })
}

struct Relay {
    to: SocketAddr,
    pairs: Slab<Pair>,
    buffer: Vec<u8>,
}

impl Serve for Relay {
    fn handle_accepted(&mut self, registry: &Registry, socket: OwnedFd) -> io::Result<()> {
        let Ok(upstream) = TcpStream::connect(self.to) else { return Ok(()) };
        upstream.set_nodelay(true)?;
        let ends = [End::new(socket.into()), End::new(upstream)];
        let entry = self.pairs.vacant_entry();
        let token = entry.key() as u64 * 2;
        registry.add(&ends[0].socket, token)?;
        registry.add(&ends[1].socket, token + 1)?;
        entry.insert(Pair { ends });
        Ok(())
    }

    fn handle_ready(&mut self, token: u64, ready: Ready) {
        let (key, side) = ((token / 2) as usize, (token % 2) as usize);
        let Some(pair) = self.pairs.get_mut(key) else { return };
        if pair.handle_ready(side, ready, &mut self.buffer).is_err() || pair.is_over() {
            self.pairs.remove(key);
        }
    }
}

struct Pair {
    ends: [End; 2],
}

struct End {
    socket: TcpStream,
    /// What did not fit into this socket. Until it does, nothing more is read from the other.
    unsent: Vec<u8>,
    /// Everything that it had to say has been read.
    finished: bool,
}

impl End {
    fn new(socket: TcpStream) -> Self {
        Self { socket, unsent: Vec::new(), finished: false }
    }
}

impl Pair {
    fn handle_ready(&mut self, side: usize, ready: Ready, buffer: &mut [u8]) -> io::Result<()> {
        let end = &mut self.ends[side];
        if ready.writable && !end.unsent.is_empty() {
            let sent = event_loop::write(&end.socket, &end.unsent)?;
            end.unsent.drain(..sent);
            // The other side's report came while this one was full.
            self.pump(1 - side, true, buffer)?;
        }
        if ready.readable {
            self.pump(side, ready.ended, buffer)?;
        }
        Ok(())
    }

    /// Passes on what this side has said. A short read means that it has said no more, unless its end is known to follow.
    fn pump(&mut self, side: usize, until_empty: bool, buffer: &mut [u8]) -> io::Result<()> {
        let [first, second] = &mut self.ends;
        let (from, to) = if side == 0 { (first, second) } else { (second, first) };
        while to.unsent.is_empty() && !from.finished {
            let Some(bytes) = event_loop::read(&from.socket, buffer)? else { break };
            if bytes == 0 {
                from.finished = true;
                to.socket.shutdown(Shutdown::Write)?;
                break;
            }
            let sent = event_loop::write(&to.socket, &buffer[..bytes])?;
            to.unsent.extend_from_slice(&buffer[sent..bytes]);
            if bytes < buffer.len() && !until_empty {
                break;
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.ends.iter().all(|end| end.finished && end.unsent.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// A relay in front of a listener that the test accepts from.
    fn start() -> (SocketAddr, TcpListener) {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = event_loop::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let (addr, to) = (listener.local_addr().unwrap(), upstream.local_addr().unwrap());
        std::thread::spawn(move || relay(&listener, to));
        (addr, upstream)
    }

    #[test]
    fn every_byte_passes_even_when_nobody_reads_for_a_while() {
        let (addr, upstream) = start();
        let mut client = TcpStream::connect(addr).unwrap();
        let (mut server, _) = upstream.accept().unwrap();
        let sent: Vec<u8> = (0..32 << 20).map(|i: u32| (i % 251) as u8).collect();
        let expected = sent.clone();
        // The writer blocks until the reader below begins, since 32 MiB fit into no socket.
        let writer = std::thread::spawn(move || {
            server.write_all(&sent).unwrap();
            server
        });
        let mut head = [0; 1000];
        client.read_exact(&mut head).unwrap();
        let mut rest = vec![0; expected.len() - head.len()];
        client.read_exact(&mut rest).unwrap();
        assert!([&head[..], &rest].concat() == expected);
        drop(writer.join().unwrap());
        assert_eq!(client.read(&mut head).unwrap(), 0);
    }

    #[test]
    fn a_half_closed_connection_still_answers() {
        let (addr, upstream) = start();
        let mut client = TcpStream::connect(addr).unwrap();
        let (mut server, _) = upstream.accept().unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question");
        server.write_all(b"answer").unwrap();
        drop(server);
        text.clear();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
    }
}
