//! A script in action: a proxy, its clients and its upstreams.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    time::Duration,
};

use clap::Parser as _;
use proxy::{
    Proxy,
    config::{Args, FixedTable, Given, Listen, Protocol},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    peer::{Peer, Split, text},
    script::{Act, Dates, End, Endpoint, Script, Step},
    sealed::Trust,
    streams::Streams,
};

/// How long a proxy may take to stop, however busy the machine is.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// The hosts of all scripts, which the certificate of a sealed one must be for.
const HOSTS: [&str; 6] = ["a", "b", "app", "a.b", "role", "::1"];

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

struct Stage {
    listener: TcpListener,
    addr: SocketAddr,
    /// Until it is asked to stop.
    proxy: Option<Proxy>,
    stopped: (mpsc::Sender<()>, mpsc::Receiver<()>),
    patience: Duration,
    split: Split,
    /// Clients speak HTTP/2.
    is_streams: bool,
    /// What clients see of the dates that the proxy adds.
    dates: Dates,
    peers: HashMap<String, Peer>,
    /// Connections whose name another one has: what comes on them counts to the end.
    former: Vec<Peer>,
}

/// Plays a script; `patience` bounds each of its steps.
pub(crate) fn play(script: &Script, split: Split, patience: Duration) -> Result<(), String> {
    play_by(script, split, &Over::Nothing, patience)
}

/// The same in streams of HTTP/2, whose frames are cut by this seed.
pub(crate) fn play_streams(script: &Script, seed: u64, patience: Duration) -> Result<(), String> {
    let split = if script.is_split { Split::Random(seed) } else { Split::Whole };
    play_by(script, split, &Over::Streams, patience)
}

/// What is between clients and the proxy.
enum Over {
    Nothing,
    Tls(Box<Trust>),
    Streams,
}

/// The same with clients that are sealed on their way.
pub(crate) fn play_sealed(script: &Script, seed: u64, patience: Duration) -> Result<(), String> {
    let split = if script.is_split { Split::Random(seed) } else { Split::Whole };
    play_by(script, split, &Over::Tls(Box::new(Trust::new(&HOSTS))), patience)
}

fn play_by(script: &Script, split: Split, over: &Over, patience: Duration) -> Result<(), String> {
    let socket = |error: std::io::Error| format!("socket: {error}");
    let listener = TcpListener::bind((own_ip(), 0)).map_err(socket)?;
    SockRef::from(&listener).set_read_timeout(Some(patience)).map_err(socket)?;
    let (addrs, _held) = endpoints(&script.upstreams, &listener).map_err(socket)?;
    let listen: Listen = format!("http://{}:0=app", own_ip()).parse()?;
    let flags = Flags::try_parse_from(["proxy"].into_iter().chain(script.flags.split_whitespace()));
    let (protocol, trust) = match over {
        Over::Nothing => (script.protocol, None),
        Over::Tls(trust) => (Protocol::Https, Some(trust)),
        Over::Streams => (Protocol::H2c, None),
    };
    let certificate = trust.map(|trust| Ok::<_, String>(vec![trust.pair().parse()?])).transpose()?;
    let given = Given {
        listen: Some(vec![Listen { protocol, ..listen.clone() }]),
        certificate,
        feed: Some("/nonexistent".into()),
        upstream: Some(vec![FixedTable {
            role: listen.role.ok_or("a role")?,
            addrs: addrs.into_iter().map(Into::into).collect(),
        }]),
        workers: Some(1),
        timeouts: Some(script.timeouts),
        half_closed: Some(script.half_closed),
        clients_max: Some(100),
        ..flags.map_err(|error| error.to_string())?.args.given
    };
    let proxy = Proxy::start(&Args { given, ..Args::default() });
    let proxy = proxy.map_err(|error| format!("{error:#}"))?;
    let addr = *proxy.addrs().first().ok_or("the proxy does not listen")?;
    let mut stage = Stage {
        listener,
        addr: trust.map_or(addr, |trust| {
            trust.seal_to(addr, "a", script.is_split.then_some(script.steps.len() as u64))
        }),
        proxy: Some(proxy),
        stopped: mpsc::channel(),
        patience,
        split,
        is_streams: matches!(over, Over::Streams),
        dates: script.dates,
        peers: HashMap::new(),
        former: Vec::new(),
    };
    let played = script.steps.iter().try_for_each(|step| {
        stage.act(step).map_err(|error| format!("line {}, {}: {error}", step.line, step.peer))
    });
    stage.stop();
    // Not for ever: a worker that does not end is a failure, too.
    let stopped =
        stage.stopped.1.recv_timeout(STOP_TIMEOUT).map_err(|_| "the proxy does not stop".to_owned());
    played.and(stopped).and_then(|()| stage.check_rest())
}

/// A loopback address of this process alone: at the usual one, a port that was another's a moment ago may still be connected
/// to by whoever has not noticed.
fn own_ip() -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 83, high, low)
}

/// The addresses of the table, and the sockets that make them what they are.
fn endpoints(kinds: &[Endpoint], live: &TcpListener) -> std::io::Result<(Vec<SocketAddr>, Vec<Socket>)> {
    let (mut addrs, mut held) = (Vec::new(), Vec::new());
    for kind in kinds {
        if *kind == Endpoint::Live {
            addrs.push(live.local_addr()?);
            continue;
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((own_ip(), 0)).into())?;
        let addr = socket.local_addr()?;
        if *kind == Endpoint::Silent {
            // A queue for one that is full: the kernel drops further attempts.
            socket.listen(0)?;
            let first = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            first.connect(&addr)?;
            held.push(first);
        }
        addrs.extend(addr.as_socket());
        held.push(socket);
    }
    Ok((addrs, held))
}

impl Stage {
    fn act(&mut self, step: &Step) -> Result<(), String> {
        match &step.act {
            Act::New => return self.connect(&step.peer),
            Act::None => return self.check_nobody(),
            Act::Pause(time) => {
                std::thread::sleep(*time);
                return Ok(());
            }
            Act::Stop => {
                self.stop();
                return Ok(());
            }
            Act::Close => {
                self.take(&step.peer)?;
                return Ok(());
            }
            Act::Reset => {
                let kept = self.take(&step.peer)?.reset()?;
                self.former.extend(kept);
                return Ok(());
            }
            _ => {}
        }
        if !self.peers.contains_key(&step.peer) {
            // Whoever only asks for the end, whatever came before, does not need a connection either.
            if matches!(step.act, Act::End(_, Some(_))) && self.check_nobody().is_ok() {
                return Ok(());
            }
            self.connect(&step.peer)?;
        }
        let split = self.split;
        let peer = self.peers.get_mut(&step.peer).ok_or("not connected")?;
        match &step.act {
            Act::Send(bytes) => {
                peer.send(bytes, split);
                Ok(())
            }
            Act::Receive(bytes) => peer.receive(bytes),
            Act::ReceiveStatus(wanted) => match peer.receive_response()? {
                (status, _) if status == *wanted => Ok(()),
                (status, response) => Err(format!("status {status}: {response:?}")),
            },
            Act::End(ends, without) => {
                let ended = peer.receive_end()?;
                check_end(peer, ended, ends, without.as_deref())
            }
            Act::HalfClose => peer.half_close(),
            Act::Close | Act::Reset | Act::New | Act::None | Act::Stop | Act::Pause(_) => Ok(()),
        }
    }

    /// Asks the proxy to stop; that it has is told through `stopped`.
    fn stop(&mut self) {
        let stopped = self.stopped.0.clone();
        if let Some(proxy) = self.proxy.take() {
            std::thread::spawn(move || {
                proxy.stop();
                let _ = stopped.send(());
            });
        }
    }

    fn take(&mut self, name: &str) -> Result<Peer, String> {
        self.peers.remove(name).ok_or_else(|| "not connected".to_owned())
    }

    /// A client connects; an upstream takes the proxy's next connection.
    fn connect(&mut self, name: &str) -> Result<(), String> {
        let peer = match (name.starts_with("client"), self.is_streams) {
            (true, true) => {
                let seed = if let Split::Random(seed) = self.split { Some(seed) } else { None };
                Peer::in_streams(Streams::connect(self.addr, self.patience, self.dates, seed))
            }
            (true, false) => {
                let stream = TcpStream::connect(self.addr).map_err(|error| format!("connect: {error}"))?;
                Peer::new(stream, self.patience, self.dates)?
            }
            (false, _) => {
                let accepted = self.listener.accept().map_err(|error| format!("no connection: {error}"))?;
                let peer = Peer::new(accepted.0, self.patience, Dates::Kept)?;
                if self.is_streams { peer.behind_streams() } else { peer }
            }
        };
        self.former.extend(self.peers.insert(name.to_owned(), peer));
        Ok(())
    }

    fn check_nobody(&self) -> Result<(), String> {
        let mut listener = [PollFd::new(&self.listener, PollFlags::IN)];
        match poll(&mut listener, Some(&Timespec::default())) {
            Ok(0) => Ok(()),
            Ok(_) => Err("it was connected to".to_owned()),
            Err(error) => Err(format!("poll: {error}")),
        }
    }

    /// The proxy is gone, and so is all that it will ever send: nothing may be left that the script did not say.
    fn check_rest(&mut self) -> Result<(), String> {
        self.check_nobody().map_err(|_| "the proxy made a connection that nobody took".to_owned())?;
        let named = self.peers.drain().map(|(_, peer)| peer);
        for mut peer in named.chain(self.former.drain(..)) {
            let ended = peer.receive_rest()?;
            check_end(&peer, ended, &[End::Closed, End::Broken], None)?;
        }
        Ok(())
    }
}

fn check_end(
    peer: &Peer,
    (end, rest): (End, Vec<u8>),
    wanted: &[End],
    without: Option<&[u8]>,
) -> Result<(), String> {
    match without {
        None if !rest.is_empty() => return Err(format!("more than the script says: {:?}", text(&rest))),
        Some(bytes) if peer.has_seen(bytes, &rest) => {
            return Err(format!("it has seen {:?}", text(&rest)));
        }
        _ => {}
    }
    if wanted.contains(&end) { Ok(()) } else { Err(format!("it was {end:?}")) }
}
