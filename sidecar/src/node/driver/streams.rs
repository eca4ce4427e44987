//! Streams between sidecars: exchanges of states, lifelines, orders about keys, questions about load, about requests and for the secret
//! of session tickets.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::{net::TcpStream, sync::oneshot, task::spawn_local, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{Driver, Event, SYNC_TIMEOUT};
use crate::{
    cluster::{membership::SyncTurn, peer::Peer},
    node::{
        key_orders, lifeline,
        link::Link,
        recall::{self, Beside, Recall},
        seats::{Seat, Standing},
        stream::StreamError,
        survey::{Own, Survey},
    },
    wire::packet::{Kind, PacketError},
};

impl Driver {
    /// Exchanges states with a peer: summary, answer, and what it wants.
    pub(super) fn sync_with(&mut self, with: Peer) {
        let (events, gate, summary) =
            (self.events.clone(), self.gate.clone(), self.membership.encode_summary());
        let exchange = async move {
            let stream = match TcpStream::connect(with.addr).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    let _ = events.send(Event::Dead(with));
                    return Err(error.into());
                }
                connected => connected?,
            };
            let mut link = Link::dialled(stream, with.addr, &gate).await?;
            link.send(summary).await?;
            let (answer, rest) = oneshot::channel();
            let message = link.receive().await?;
            let (from, turn) = (with.addr.ip(), SyncTurn::Second);
            let _ = events.send(Event::Sync { from, message, turn, answer: Some(answer) });
            if let Ok(rest) = rest.await {
                link.send(rest).await?;
            }
            Ok::<_, StreamError>(())
        };
        let events = self.events.clone();
        spawn_local(async move {
            match timeout(SYNC_TIMEOUT, exchange).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(with = %with.addr, %error, "state sync"),
                Err(_) => tracing::debug!(with = %with.addr, "state sync timed out"),
            }
            let _ = events.send(Event::SyncEnded(with.addr));
        });
    }

    /// Takes in whoever dials the gossip port: the first packet says what for.
    pub(super) fn accept_stream(&self, stream: TcpStream, from: SocketAddr) {
        let checked = self.gate.borrow().check(from.ip());
        if let Err(why) = checked {
            return self.gate.borrow_mut().note_drop(from.ip(), why);
        }
        let Some(seat) = self.streams.take(from.ip()) else { return };
        let (events, gate) = (self.events.clone(), self.gate.clone());
        spawn_local(async move {
            let opening = async {
                let mut link = Link::accepted(stream, from.ip(), &gate).await?;
                let packet = link.receive().await?;
                Ok::<_, StreamError>((link, packet))
            };
            tokio::select! {
                () = seat.evicted() => {}
                opened = timeout(SYNC_TIMEOUT, opening) => if let Ok(Ok((link, packet))) = opened {
                    let _ = events.send(Event::Stream { link, packet, seat });
                }
            }
        });
    }

    /// Answers a summary, and takes what was wanted; or keeps a lifeline's far end.
    pub(super) fn handle_stream(&mut self, mut link: Link, packet: &[u8], seat: Seat<IpAddr>) {
        match self.envelope.parse(packet) {
            Ok((Kind::Sync, _)) => {
                let from = link.peer();
                let Some(answer) = self.hear_sync(packet, SyncTurn::First, from) else { return };
                seat.note(Standing::Proven);
                let events = self.events.clone();
                let exchange = async move {
                    link.send(answer).await?;
                    let message = link.receive().await?;
                    let turn = SyncTurn::Third;
                    let _ = events.send(Event::Sync { from, message, turn, answer: None });
                    Ok::<_, StreamError>(())
                };
                // Who wants nothing more to be said hangs up.
                in_time(seat, exchange);
            }
            Ok((Kind::Lifeline, payload)) => {
                let Some(peer) = Peer::parse(payload) else {
                    return self.gate.borrow_mut().note_drop(link.peer(), PacketError::Malformed);
                };
                let events = self.events.clone();
                // It lasts, so it is no proof: whoever holds many from one address can do with fewer.
                seat.note(Standing::Spoke);
                spawn_local(async move {
                    tokio::select! {
                        () = seat.evicted() => {}
                        dead = lifeline::watch(peer, link.into_stream()) => if let Some(peer) = dead {
                            let _ = events.send(Event::Dead(peer));
                        }
                    }
                });
            }
            Ok((Kind::Keys, payload)) => {
                let file = self.args.key_file.as_deref();
                match key_orders::handle(payload, &self.gate, &self.envelope, file) {
                    Ok(answer) => in_time(seat, async move { link.send(answer).await }),
                    Err(why) => self.gate.borrow_mut().note_drop(link.peer(), why),
                }
            }
            Ok((Kind::Load, _)) => {
                let (own, envelope) = (self.own(), self.envelope);
                in_time(seat, async move { link.send(own.answer(envelope).await).await });
            }
            Ok((Kind::Recall, payload)) => {
                let Some(which) = recall::parse_which(payload) else {
                    return self.gate.borrow_mut().note_drop(link.peer(), PacketError::Malformed);
                };
                let (beside, envelope) = (self.beside(), self.envelope);
                in_time(seat, async move { link.send(beside.answer(which, envelope).await).await });
            }
            Ok((Kind::Tickets, payload)) => match self.tickets.answer(payload, &self.gate, &self.envelope) {
                Ok(answer) => in_time(seat, async move { link.send(answer).await }),
                Err(why) => self.gate.borrow_mut().note_drop(link.peer(), why),
            },
            Ok((kind, _)) => {
                self.gate.borrow_mut().note_drop(link.peer(), PacketError::Kind(kind as u8));
            }
            Err(why) => self.gate.borrow_mut().note_drop(link.peer(), why),
        }
    }

    /// What this node can say of its load.
    fn own(&self) -> Own {
        Own {
            node: self.node.clone(),
            held_up_by: self.membership.drain_held_up_by(),
            feed: self.args.feed.clone(),
        }
    }

    /// What is needed to ask all of them.
    pub(super) fn survey(&self) -> Survey {
        let others = self.membership.loaded().map(|member| (member.name.clone(), member.addr));
        Survey { own: self.own(), others: others.collect(), gate: self.gate.clone(), envelope: self.envelope }
    }

    fn beside(&self) -> Beside {
        Beside { node: self.node.clone(), feed: self.args.feed.clone() }
    }

    /// What is needed to ask all of them for a request: who passes requests on has load, too.
    pub(super) fn recall(&self) -> Recall {
        let Survey { others, gate, envelope, .. } = self.survey();
        Recall { beside: self.beside(), others, gate, envelope }
    }

    pub(super) fn hold_lifelines(&mut self, peers: &[Peer]) {
        self.lifelines.retain(|peer, _| peers.contains(peer));
        for peer in peers {
            let (events, hello) = (self.events.clone(), self.membership.encode_lifeline());
            let hold = lifeline::hold(*peer, hello, self.gate.clone());
            self.lifelines.entry(*peer).or_insert_with(|| {
                let task = spawn_local(async move { drop(events.send(Event::Dead(hold.await))) });
                AbortOnDropHandle::new(task)
            });
        }
    }
}

/// Goes on with a stream for as long as one may take, and keeps its seat for as long.
fn in_time(seat: Seat<IpAddr>, talking: impl Future<Output = Result<(), StreamError>> + 'static) {
    spawn_local(async move {
        let _seat = seat;
        let _ = timeout(SYNC_TIMEOUT, talking).await;
    });
}
