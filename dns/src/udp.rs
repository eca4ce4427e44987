//! Questions by datagram. Each is answered from the address that it was sent to: where several are listened on
//! through one socket, a client drops what comes from another one than it asked.

use std::{io, io::IoSliceMut, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::{
    io::Interest,
    net::UdpSocket,
    time::{Instant, sleep_until},
};

use crate::{
    complaint::Complaint,
    handler::{Action, Handler},
    request::Transport,
};

/// What is received at once: the kernel may hand over several datagrams of one sender as one.
const RECEIVED_BYTES_MAX: usize = 1 << 16;

/// Pause after an error of the socket, which is the machine's shortage, instead of a loop that burns a core.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// A socket that knows where each datagram was sent to.
#[derive(Debug)]
pub(crate) struct UdpEnd {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl UdpEnd {
    pub(crate) async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(addr).await?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state })
    }

    /// Answers for ever.
    pub(crate) async fn serve(self, handler: Handler) -> std::convert::Infallible {
        let mut buffer = vec![0; RECEIVED_BYTES_MAX];
        let mut forwarding = FuturesUnordered::new();
        let mut complaint = Complaint::default();
        let mut receive_at = Instant::now();
        loop {
            let received = tokio::select! {
                received = async { sleep_until(receive_at).await; self.receive(&mut buffer).await } => received,
                Some(()) = forwarding.next() => continue,
            };
            let meta = match received {
                Ok(meta) => meta,
                Err(error) => {
                    if let Some(count) = complaint.due(Instant::now().into()) {
                        tracing::warn!(%error, count, "cannot receive over UDP");
                    }
                    receive_at = Instant::now() + ERROR_PAUSE;
                    continue;
                }
            };
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                match handler.handle(datagram, meta.addr.ip().to_canonical(), Transport::Udp) {
                    Action::Ignore => {}
                    Action::Reply(reply) => self.send(&reply, &meta).await,
                    Action::Forward(request) => {
                        let end = &self;
                        forwarding.push(async move { end.send(&request.finish().await, &meta).await });
                    }
                }
            }
        }
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<RecvMeta> {
        let receive = || {
            let mut meta = [RecvMeta::default()];
            self.state.recv((&self.socket).into(), &mut [IoSliceMut::new(buffer)], &mut meta)?;
            Ok(meta[0])
        };
        self.socket.async_io(Interest::READABLE, receive).await
    }

    /// Answers what came with `question`: from where it was sent to, or from anywhere if nobody can send from there,
    /// as from a broadcast address. An answer that is lost will be asked for again.
    async fn send(&self, reply: &[u8], question: &RecvMeta) {
        for src_ip in [question.dst_ip, None] {
            let transmit = Transmit {
                destination: question.addr,
                ecn: None,
                contents: reply,
                segment_size: None,
                src_ip,
            };
            let send = || self.state.try_send((&self.socket).into(), &transmit);
            match self.socket.async_io(Interest::WRITABLE, send).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, client = %question.addr, ?src_ip, "answer not sent"),
            }
        }
    }
}
