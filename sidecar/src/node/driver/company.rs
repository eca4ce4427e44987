//! Who finds nobody says so, and why, as far as it can be found out.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use tokio::{
    net::TcpStream,
    task::spawn_local,
    time::{Instant, timeout},
};

use super::{Driver, Event};
use crate::{
    cluster::input::Input,
    node::{
        link::{SharedGate, unix_ms},
        seeds::{Known, Sources},
        stream::{read_beginning, read_packet_within, write_packet},
    },
    wire::{
        gate::Session,
        packet::{DATAGRAM_BYTES_MAX, Envelope, Kind, PacketError},
    },
};

/// How long a node looks for company before it complains, and again after that; the pause doubles. Seeds may start later.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// How often it is looked whether there still is some.
const LOOK_PERIOD: Duration = Duration::from_secs(10);

/// Longest wait for each thing that a seed may say.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Seeds that are asked: a name may have hundreds of addresses.
const ASKED_MAX: usize = 16;

/// Whom the node could know, and when it is looked next whether it does.
#[derive(Debug)]
pub(super) struct Company {
    pub(super) seeds: Known,
    /// Whether there is nowhere to look for any.
    is_without: bool,
    /// Whether it is right that it knows nobody.
    founds: bool,
    pub(super) look_at: Instant,
    pause: Duration,
}

impl Company {
    pub(super) fn new(sources: &Sources, founds: bool) -> Self {
        let (look_at, is_without) = (Instant::now() + PAUSE_MIN, sources.is_empty());
        Self { seeds: Known::default(), is_without, founds, look_at, pause: PAUSE_MIN }
    }

    fn is_there(&mut self, now: Instant) {
        (self.look_at, self.pause) = (now + LOOK_PERIOD, PAUSE_MIN);
    }

    fn is_missing(&mut self, now: Instant) {
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.look_at = now + self.pause;
    }
}

impl Driver {
    /// Looks whether anybody is known; if not, finds out why.
    pub(super) fn look_for_company(&mut self) {
        let now = Instant::now();
        if self.membership.has_company() || self.membership.is_leaving() || self.company.founds {
            return self.company.is_there(now);
        }
        self.company.is_missing(now);
        if self.company.is_without {
            let why = "no seed: give one with --join, or take the nameservers with --join-nameservers";
            return self.apply_alone(why.to_owned());
        }
        let mut reasons: Vec<String> =
            self.company.seeds.silent().map(|(source, why)| format!("{source}: {why}")).collect();
        let own = self.gate.borrow().own();
        let seeds = self.company.seeds.addrs().into_iter().filter(|seed| *seed != own).take(ASKED_MAX);
        let asked: Vec<_> = seeds
            .map(|seed| {
                let summary = self.membership.encode_summary();
                ask(seed, summary, self.gate.clone(), self.envelope)
            })
            .collect();
        let events = self.events.clone();
        spawn_local(async move {
            reasons.extend(join_all(asked).await);
            let _ = events.send(Event::Alone(reasons.join("; ")));
        });
    }

    pub(super) fn apply_alone(&mut self, why: String) {
        if !self.membership.has_company() {
            tracing::warn!(seeds = %why, "no seed answers yet");
            self.input(Input::Alone(why));
        }
    }
}

/// Why this seed may not have answered by datagram.
async fn ask(seed: SocketAddr, summary: Vec<u8>, gate: SharedGate, envelope: Envelope) -> String {
    let why = match timeout(ANSWER_TIMEOUT, TcpStream::connect(seed)).await {
        Err(_) => "no answer".to_owned(),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "nobody listens there".to_owned()
        }
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(stream)) => listen(stream, seed, summary, &gate, envelope).await.to_owned(),
    };
    format!("{seed}: {why}")
}

/// What a sidecar that accepts a stream does with an exchange of states.
async fn listen(
    mut stream: TcpStream,
    seed: SocketAddr,
    summary: Vec<u8>,
    gate: &SharedGate,
    envelope: Envelope,
) -> &'static str {
    const HANGS_UP: &str =
        "it hangs up: is it of another --cluster, has it another key, or does it not hear this address?";
    const OTHER_CLUSTER: &str = "it is of another --cluster";
    let has_keys = Session::is_greeted(&gate.borrow());
    let mut greeting = None;
    if has_keys {
        greeting = match timeout(ANSWER_TIMEOUT, read_packet_within(&mut stream, DATAGRAM_BYTES_MAX)).await {
            Err(_) => return "it does not seal its gossip, and this node has a --key-file",
            Ok(Err(_)) => return HANGS_UP,
            Ok(Ok(greeting)) => Some(greeting),
        };
    }
    let session = Session::dialled(&gate.borrow(), seed, greeting.as_deref());
    let sealed = match session {
        Ok(mut session) => session.seal(&mut gate.borrow_mut(), summary, unix_ms()),
        Err(PacketError::Cluster) => return OTHER_CLUSTER,
        Err(_) => return "what listens there is no sidecar of this version",
    };
    let answer = async {
        write_packet(&mut stream, &sealed).await.ok()?;
        read_beginning(&mut stream, DATAGRAM_BYTES_MAX).await.ok()
    };
    match timeout(ANSWER_TIMEOUT, answer).await {
        Err(_) => "it accepts a connection and does not answer",
        Ok(None) => HANGS_UP,
        Ok(Some(packet)) => match envelope.parse(&packet) {
            Ok((Kind::Challenge, _)) if !has_keys => "it seals its gossip, and this node has no --key-file",
            Err(PacketError::Cluster) => OTHER_CLUSTER,
            _ => "it answers by TCP, and no datagram of it arrives: is UDP blocked?",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_come_after_two_seconds_and_ever_more_seldom_until_there_is_company() {
        let sources = Sources { join: Vec::new(), resolv_conf: None, zone: String::new() };
        let mut company = Company::new(&sources, false);
        let start = company.look_at - PAUSE_MIN;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let now = company.look_at;
            company.is_missing(now);
            pauses.push((company.look_at - now).as_secs());
        }
        assert_eq!(pauses, [4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        company.is_there(start);
        assert_eq!(company.look_at, start + LOOK_PERIOD);
        company.is_missing(start);
        assert_eq!(company.look_at, start + 2 * PAUSE_MIN);
    }
}
