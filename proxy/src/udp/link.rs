//! A flow's way to its upstream.

use std::{
    cell::{Cell, RefCell},
    io,
};

use quinn_udp::UdpSocketState;
use rustix::net::{SendFlags, send};
use tokio::net::UdpSocket;

use super::{
    end::{receive_trains, transmit},
    flow::Standing,
    train::Train,
};
use crate::upstream::{Avoided, Lease};

/// The longest first datagram that is kept until it is answered: what fits in a packet of Ethernet, as questions do.
const FIRST_BYTES_MAX: usize = 1500;

/// Datagrams from an upstream after which its flow is more than a question and an answer, and worth a call to have trains.
const TRAINS_AFTER_COUNT: u32 = 8;

/// A socket that is connected to an upstream; the flow counts as in flight there as long as this lives.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: UdpSocket,
    /// Position of the role in the directory.
    pub(super) role: usize,
    pub(super) lease: Lease,
    /// The client's only datagram so far, as long as nobody has said that it arrived. If nobody was there, another has it.
    first: RefCell<Option<Box<[u8]>>>,
    /// Upstreams that were not there for it.
    pub(super) refused: Avoided,
    /// When the upstream has said something last.
    heard_ms: Cell<Option<u64>>,
    heard_count: Cell<u32>,
}

impl Link {
    pub(super) fn new(socket: UdpSocket, (role, lease): (usize, Lease), refused: Avoided) -> Self {
        Self {
            socket,
            role,
            lease,
            first: RefCell::default(),
            refused,
            heard_ms: Cell::new(None),
            heard_count: Cell::new(0),
        }
    }

    /// What is known of the upstream.
    pub(super) fn standing(&self, now_ms: u64) -> Standing {
        let health = &self.lease.upstream.endpoint.health;
        Standing {
            is_released: health.is_released(),
            is_lost: health.is_lost(),
            silent_ms: self.heard_ms.get().map_or(u64::MAX, |heard_ms| now_ms.saturating_sub(heard_ms)),
        }
    }

    /// Whether the upstream is given no more flows: it drains, or is not listed any more.
    pub(super) fn is_leaving(&self) -> bool {
        self.lease.upstream.pool.is_closed()
    }

    /// Keeps the datagram that begins the flow, if it is short.
    pub(super) fn keep_first(&self, datagram: &[u8]) {
        if datagram.len() <= FIRST_BYTES_MAX {
            self.first.replace(Some(datagram.into()));
        }
    }

    /// Gives up the datagram that began the flow.
    pub(super) fn take_first(&self) -> Option<Box<[u8]>> {
        self.first.take()
    }

    /// The upstream has sent datagrams. True of the first ones.
    pub(super) fn note_heard(&self, count: usize, now_ms: u64) -> bool {
        let before = self.heard_count.get();
        let after = before.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        self.heard_count.set(after);
        self.heard_ms.set(Some(now_ms));
        if (before..after).contains(&TRAINS_AFTER_COUNT) {
            // Without trains, datagrams come one by one.
            let _ = receive_trains(&self.socket);
        }
        self.first.take();
        before == 0
    }

    /// Sends to the upstream.
    ///
    /// # Errors
    /// Those of the kernel, and what ICMP said of datagrams before.
    pub(super) fn send(&self, state: &UdpSocketState, train: Train<'_>) -> io::Result<()> {
        if train.is_single() {
            send(&self.socket, train.bytes, SendFlags::empty())?;
            return Ok(());
        }
        state.try_send((&self.socket).into(), &transmit(self.lease.upstream.endpoint.id.addr, None, train))
    }
}
