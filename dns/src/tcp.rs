//! Questions over TCP.

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{AbortHandle, Abortable},
    stream::FuturesUnordered,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    complaint::Complaint,
    connections::Connections,
    handler::{Action, Handler},
    request::Transport,
};

/// How long a client may take to ask, and to take an answer. One that has a question asks it at once; RFC 7766
/// section 6.2.3 recommends seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause when the process is out of descriptors, instead of a loop that burns a core.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

/// The connections of all listeners.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Arc<Mutex<Connections<AbortHandle>>>);

impl Places {
    fn lock(&self) -> MutexGuard<'_, Connections<AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's entry among all, which it leaves when it is dropped.
struct Place {
    id: u64,
    places: Places,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(self.id);
    }
}

/// Where connections come from: a listener, or what a test has instead.
pub(crate) trait Accept {
    /// Waits for a connection.
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)>;
}

impl Accept for TcpListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

/// Answers for ever.
pub(crate) async fn serve(mut listener: impl Accept, handler: Handler, places: Places) -> Infallible {
    let mut conversations = FuturesUnordered::new();
    let mut complaint = Complaint::default();
    let mut accept_at = Instant::now();
    loop {
        let accepted = tokio::select! {
            accepted = async { sleep_until(accept_at).await; listener.accept().await } => accepted,
            Some(_) = conversations.next() => continue,
        };
        match accepted {
            Ok((stream, addr)) => {
                let source = addr.ip().to_canonical();
                match places.lock().make_room(source) {
                    Ok(in_the_way) => in_the_way.iter().for_each(AbortHandle::abort),
                    // The client may come again.
                    Err(_) => continue,
                }
                let (close, closed) = AbortHandle::new_pair();
                let place = Place { id: places.lock().insert(source, close), places: places.clone() };
                let conversation = converse(stream, source, handler.clone(), place);
                conversations.push(Abortable::new(conversation, closed));
            }
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if let Some(count) = complaint.due(Instant::now().into()) {
                    tracing::warn!(%error, count, "cannot accept over TCP, closing idle connections");
                }
                places.lock().take_idlest(None).iter().for_each(AbortHandle::abort);
                accept_at = Instant::now() + EXHAUSTED_PAUSE;
            }
        }
    }
}

/// Answers one question after the other, until the client has no more or is silent.
async fn converse(mut stream: TcpStream, source: IpAddr, handler: Handler, place: Place) -> io::Result<()> {
    loop {
        let message = timeout(IDLE_TIMEOUT, read_message(&mut stream)).await??;
        let reply = match handler.handle(&message, source, Transport::Tcp) {
            Action::Ignore => continue,
            Action::Reply(reply) => reply,
            Action::Forward(request) => {
                place.places.lock().set_busy(place.id, true);
                request.finish().await
            }
        };
        place.places.lock().set_busy(place.id, true);
        timeout(IDLE_TIMEOUT, write_message(&mut stream, &reply)).await??;
        place.places.lock().set_busy(place.id, false);
    }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Length and message leave together (RFC 7766 section 8).
async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::io::Errno;

    use super::*;
    use crate::{
        follow::SharedZone,
        forward::Forwarder,
        upstreams::Upstreams,
        zone::{Settings, Zone},
    };

    /// The machine's shortage: each try counts.
    struct Exhausted<'t>(&'t AtomicUsize);

    impl Accept for Exhausted<'_> {
        async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(Errno::MFILE.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_descriptors_there_are_pauses_and_idle_connections_are_closed() {
        let zone = Zone::new(Settings { origin: "concertina.internal".parse().unwrap(), ttl: 0 });
        let places = Places::default();
        let (close, idle) = AbortHandle::new_pair();
        places.lock().insert([10, 0, 0, 1].into(), close);
        let tries = AtomicUsize::new(0);
        let forwarder = Forwarder::new(Upstreams::new(vec![], vec![]), vec![]);
        let handler = Handler::new(SharedZone::new(zone), forwarder);
        let serving = serve(Exhausted(&tries), handler, places);
        assert!(timeout(Duration::from_secs(1), serving).await.is_err());
        assert!((10..=51).contains(&tries.load(Ordering::Relaxed)), "{tries:?}");
        assert!(Abortable::new(std::future::ready(()), idle).await.is_err());
    }
}
