//! Streams between sidecars: exchanges of states, lifelines, orders about keys.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{net::TcpStream, sync::oneshot, task::spawn_local, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{Driver, Event, STREAMS_MAX, SYNC_TIMEOUT};
use crate::{
    key_orders,
    lifeline::{self, Peer},
    link::Link,
    membership::SyncTurn,
    packet::{Kind, PacketError},
    stream::StreamError,
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
    pub(super) async fn accept_stream(&self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(10)).await;
                return;
            }
        };
        let checked = self.gate.borrow().check(from.ip());
        if let Err(why) = checked {
            return self.gate.borrow_mut().note_drop(from.ip(), why);
        }
        let Some(turn) = Turn::take(&self.streams) else { return };
        let (events, gate) = (self.events.clone(), self.gate.clone());
        spawn_local(async move {
            let opening = async {
                let mut link = Link::accepted(stream, from.ip(), &gate).await?;
                let packet = link.receive().await?;
                Ok::<_, StreamError>((link, packet))
            };
            if let Ok(Ok((link, packet))) = timeout(SYNC_TIMEOUT, opening).await {
                let _ = events.send(Event::Stream { link, packet, turn });
            }
        });
    }

    /// Answers a summary, and takes what was wanted; or keeps a lifeline's far end.
    pub(super) fn handle_stream(&mut self, mut link: Link, packet: &[u8], turn: Turn) {
        match self.envelope.parse(packet) {
            Ok((Kind::Sync, _)) => {
                let from = link.peer();
                let Some(answer) = self.hear_sync(packet, SyncTurn::First, from) else { return };
                let events = self.events.clone();
                let exchange = async move {
                    link.send(answer).await?;
                    let message = link.receive().await?;
                    let turn = SyncTurn::Third;
                    let _ = events.send(Event::Sync { from, message, turn, answer: None });
                    Ok::<_, StreamError>(())
                };
                spawn_local(async move {
                    let _turn = turn;
                    // Who wants nothing more to be said hangs up.
                    let _ = timeout(SYNC_TIMEOUT, exchange).await;
                });
            }
            Ok((Kind::Lifeline, payload)) => {
                let Some(peer) = Peer::parse(payload) else {
                    return self.gate.borrow_mut().note_drop(link.peer(), PacketError::Malformed);
                };
                let events = self.events.clone();
                spawn_local(async move {
                    let _turn = turn;
                    if let Some(peer) = lifeline::watch(peer, link.into_stream()).await {
                        let _ = events.send(Event::Dead(peer));
                    }
                });
            }
            Ok((Kind::Keys, payload)) => {
                let file = self.args.key_file.as_deref();
                match key_orders::handle(payload, &self.gate, &self.envelope, file) {
                    Ok(answer) => drop(spawn_local(async move {
                        let _turn = turn;
                        let _ = timeout(SYNC_TIMEOUT, link.send(answer)).await;
                    })),
                    Err(why) => self.gate.borrow_mut().note_drop(link.peer(), why),
                }
            }
            Ok((kind, _)) => {
                self.gate.borrow_mut().note_drop(link.peer(), PacketError::Kind(kind as u8));
            }
            Err(why) => self.gate.borrow_mut().note_drop(link.peer(), why),
        }
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

/// A place among the streams that are served at a time.
pub(super) struct Turn(Rc<Cell<usize>>);

impl Turn {
    fn take(streams: &Rc<Cell<usize>>) -> Option<Self> {
        (streams.get() < STREAMS_MAX).then(|| {
            streams.set(streams.get() + 1);
            Self(streams.clone())
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_served_up_to_the_limit_and_another_when_one_has_ended() {
        let streams = Rc::default();
        let mut turns: Vec<Turn> = (0..STREAMS_MAX).map_while(|_| Turn::take(&streams)).collect();
        assert_eq!(turns.len(), STREAMS_MAX);
        assert!(Turn::take(&streams).is_none());
        turns.pop();
        assert!(Turn::take(&streams).is_some());
    }
}
