//! A listener for datagrams at one worker.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use rustix::io::Errno;
use tokio::{
    io::Interest,
    task::{AbortHandle, coop::consume_budget, spawn_local},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    end::{Batch, End, connect},
    flow::{Evicted, Flows, Key},
    link::Link,
    train::{Coupling, Train},
};
use crate::{
    accept::Service,
    error::{AttemptFailure, Fault},
    upstream::{Avoided, Lease, hash},
    worker::Worker,
};

/// Flows of all listeners and workers at a time. Each has a port of its own, of which a machine has 28,000: the other half is for others.
const FLOWS_COUNT_MAX: usize = 16 * 1024;

/// How often flows are looked at that are over, or are as good as over where an upstream drains.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// How often whoever stops looks whether the last answer has come.
const STOP_LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Pause after an error of the socket, which is the machine's shortage, instead of a loop that burns a core.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// How many flows one worker may have, where that many descriptors of it are for flows.
pub(crate) fn flows_count_max(descriptors_max: usize, workers: usize) -> usize {
    (FLOWS_COUNT_MAX / workers.max(1)).min(descriptors_max)
}

/// A client's flow; its task ends with it.
struct Flow {
    worker: Rc<Worker>,
    link: Rc<Link>,
    relaying: AbortHandle,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.relaying.abort();
        self.worker.flows.set(self.worker.flows.get() - 1);
    }
}

/// A listener's part at one worker.
pub(crate) struct Listener {
    worker: Rc<Worker>,
    /// For whom, as of the newest plan.
    service: Rc<RefCell<Service>>,
    end: End,
    port: u16,
    flows: RefCell<Flows<Flow>>,
    batch: RefCell<Batch>,
    coupling: RefCell<Coupling>,
}

impl Listener {
    /// One with a socket that was bound.
    ///
    /// # Errors
    /// The event loop's.
    pub(crate) fn new(
        worker: Rc<Worker>,
        socket: std::net::UdpSocket,
        service: Rc<RefCell<Service>>,
    ) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            port: socket.local_addr()?.port(),
            end: End::new(socket)?,
            flows: RefCell::new(Flows::new()),
            worker,
            service,
            batch: RefCell::default(),
            coupling: RefCell::default(),
        }))
    }

    /// Serves until the listener is to close, and then until those who have asked are answered.
    pub(crate) async fn serve(self: Rc<Self>, closing: impl Future<Output = ()>) {
        let mut closing = std::pin::pin!(closing);
        let mut look = interval(LOOK_PERIOD);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.receive() => {}
                _ = look.tick() => self.end_flows(),
                () = &mut closing => break,
            }
        }
        let until = Instant::now() + self.worker.settings().timeouts.drain;
        loop {
            tokio::select! {
                () = self.receive() => {}
                () = sleep(STOP_LOOK_PERIOD) => {
                    let is_any_asking = self.flows.borrow().is_any_asking(self.worker.deadlines.now_ms());
                    if !is_any_asking || Instant::now() >= until {
                        break;
                    }
                }
            }
        }
        // Their tasks hold the listener.
        self.flows.borrow_mut().clear();
    }

    fn end_flows(&self) {
        let (now_ms, mut flows) = (self.worker.deadlines.now_ms(), self.flows.borrow_mut());
        let idle_ms = u64::try_from(self.worker.settings().timeouts.flow.as_millis()).unwrap_or(u64::MAX);
        while flows.expire(idle_ms, now_ms).is_some() {}
        flows.end_answered(now_ms, |flow| flow.link.is_leaving());
    }

    /// Waits for datagrams of clients and passes them on.
    async fn receive(self: &Rc<Self>) {
        consume_budget().await;
        let received = match self.end.socket.ready(Interest::READABLE | Interest::ERROR).await {
            Ok(ready) => self.batch.borrow_mut().receive(&self.end.socket, &self.end.state, ready),
            Err(error) => Err(error),
        };
        match received {
            Ok(count) => self.handle_batch(&self.batch.borrow(), count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, "no datagrams can be received");
                sleep(ERROR_PAUSE).await;
            }
        }
    }

    fn handle_batch(self: &Rc<Self>, batch: &Batch, count: usize) {
        let key = |position| {
            let message = batch.message(position);
            Key { client: message.from, local: message.to.filter(|ip| !ip.is_multicast()) }
        };
        let mut begin = 0;
        while begin < count {
            let first = key(begin);
            let end = (begin + 1..count).find(|&position| key(position) != first).unwrap_or(count);
            self.handle_client(first, (begin..end).map(|position| batch.message(position).train));
            begin = end;
        }
    }

    /// A client has sent datagrams.
    fn handle_client<'a>(self: &Rc<Self>, key: Key, trains: impl Iterator<Item = Train<'a>> + Clone) {
        let stats = &self.worker.stats;
        let count: usize = trains.clone().map(Train::cars_count).sum();
        stats.datagrams_in.add(count as u64);
        let Some((mut link, is_new)) = self.link(key) else {
            return stats.datagrams_dropped.add(count as u64);
        };
        if let (true, 1, Some(train)) = (is_new, count, trains.clone().next()) {
            link.keep_first(train.bytes);
        }
        let send = |train: Train<'_>| {
            let mut sent = self.end.send_train(train, |train| link.send(&self.end.state, train));
            if sent.as_ref().is_err_and(is_of_upstream)
                && let Some(other) = self.leave(key, &link)
            {
                link = other;
                sent = self.end.send_train(train, |train| link.send(&self.end.state, train));
            }
            stats.datagrams_dropped.add(sent.unwrap_or(train.cars_count()) as u64);
        };
        self.coupling.borrow_mut().couple(trains, self.end.car_bytes_max(), send);
    }

    /// The way of a client's datagrams, and whether it is a new flow's.
    fn link(self: &Rc<Self>, key: Key) -> Option<(Rc<Link>, bool)> {
        let now_ms = self.worker.deadlines.now_ms();
        let known = self.flows.borrow().get(&key).map(|flow| flow.link.clone());
        let Some(link) = known else {
            if is_from_nowhere(key.client) || key.client.port() == self.port && is_own(key.client.ip()) {
                return None;
            }
            return Some((self.begin(key, self.connect(key.client, Avoided::default())?), true));
        };
        if link.standing(now_ms).is_to_be_left() {
            let mut avoid = Avoided::default();
            avoid.insert(link.lease.upstream.endpoint.id);
            if let Some(other) = self.connect(key.client, avoid) {
                self.worker.stats.flows_moved.add(1);
                return Some((self.begin(key, other), true));
            }
        }
        link.take_first();
        self.flows.borrow_mut().apply_client(&key, now_ms);
        Some((link, false))
    }

    /// Begins a flow anew, here or elsewhere.
    fn begin(self: &Rc<Self>, key: Key, link: Link) -> Rc<Link> {
        let (link, stats) = (Rc::new(link), &self.worker.stats);
        let relaying = spawn_local(self.clone().relay(key, link.clone())).abort_handle();
        let (worker, mut flows) = (self.worker.clone(), self.flows.borrow_mut());
        if flows.remove(&key).is_none() {
            stats.flows.add(1);
        }
        // What the listeners of a worker have together is bounded; each may have one.
        let others = worker.flows.get() - flows.len();
        let count_max = worker.flows_max.saturating_sub(others).max(1);
        worker.flows.set(worker.flows.get() + 1);
        let flow = Flow { worker, link: link.clone(), relaying };
        let evicted = flows.insert(key, flow, count_max, self.worker.deadlines.now_ms());
        stats.flows_evicted.add(u64::from(matches!(evicted, Some(Evicted::Living(_)))));
        link
    }

    /// Chooses an upstream that is not to be avoided, and has a socket for it. All proxies choose alike.
    fn connect(&self, client: SocketAddr, mut avoid: Avoided) -> Option<Link> {
        let (role, mut has_made_room) = (self.service.borrow().target.role, false);
        loop {
            let lease = self.lease(role, client, &avoid)?;
            let endpoint = lease.upstream.endpoint.id;
            if avoid.contains(endpoint) {
                return None;
            }
            match connect(endpoint.addr).map_err(|error| failure_of(&error)) {
                Ok(socket) => return Some(Link::new(socket, (role, lease), avoid)),
                Err(AttemptFailure::Descriptors | AttemptFailure::Ports) if has_made_room => return None,
                Err(AttemptFailure::Descriptors | AttemptFailure::Ports) => {
                    has_made_room = true;
                    self.make_room();
                }
                Err(_) => {
                    self.worker.note_fault(role, &lease, Fault::Refused);
                    avoid.insert(endpoint);
                }
            }
        }
    }

    fn lease(&self, role: usize, client: SocketAddr, avoid: &Avoided) -> Option<Lease> {
        let key = self.worker.client_key(role, Some(client)).unwrap_or_else(|| hash::flow_key(client));
        // Where all are at their limit the datagram is dropped: a queue would only make it late.
        let (context, mut ticket) = (Context::from_waker(Waker::noop()), None);
        match self.worker.poll_lease(&context, role, (avoid, Some(key)), &mut ticket) {
            Poll::Ready(leased) => leased.ok().map(|(lease, _)| lease),
            Poll::Pending => None,
        }
    }

    /// Gives up what others need less.
    fn make_room(&self) {
        self.worker.close_idle();
        let evicted = self.flows.borrow_mut().evict();
        self.worker.stats.flows_evicted.add(u64::from(matches!(evicted, Some(Evicted::Living(_)))));
    }

    /// Passes on what the upstream sends.
    async fn relay(self: Rc<Self>, key: Key, link: Rc<Link>) {
        loop {
            consume_budget().await;
            let Ok(ready) = link.socket.ready(Interest::READABLE | Interest::ERROR).await else { return };
            let mut batch = self.batch.borrow_mut();
            match batch.receive(&link.socket, &self.end.state, ready) {
                Ok(count) => self.handle_upstream(key, &link, &batch, count),
                Err(error) if is_of_upstream(&error) => {
                    drop(batch);
                    self.handle_refused(key, &link);
                    return;
                }
                // What ICMP says of datagrams that are too long is for the kernel to act upon.
                Err(_) => {}
            }
        }
    }

    /// An upstream has sent datagrams.
    fn handle_upstream(&self, key: Key, link: &Link, batch: &Batch, count: usize) {
        let (now_ms, stats) = (self.worker.deadlines.now_ms(), &self.worker.stats);
        let trains = (0..count).map(|position| batch.message(position).train);
        let cars_count: usize = trains.clone().map(Train::cars_count).sum();
        if link.note_heard(cars_count, now_ms) {
            self.worker.note_accepted(link.role, &link.lease);
        }
        self.flows.borrow_mut().apply_upstream(&key, now_ms);
        let mut lost = 0;
        let send = |train: Train<'_>| lost += self.end.send(key.client, key.local, train);
        self.coupling.borrow_mut().couple(trains, self.end.car_bytes_max(), send);
        stats.datagrams_out.add((cars_count - lost) as u64);
        stats.datagrams_dropped.add(lost as u64);
    }

    /// ICMP says that nobody is there. A question that nobody can have received goes to another; of any other flow, the client's next
    /// datagram does.
    fn handle_refused(self: &Rc<Self>, key: Key, link: &Rc<Link>) {
        let first = link.take_first();
        let other = self.leave(key, link);
        let sent = other.zip(first).is_some_and(|(other, first)| {
            let train = Train { bytes: &first, car_bytes: first.len() };
            other.keep_first(&first);
            other.send(&self.end.state, train).is_ok()
        });
        self.worker.stats.datagrams_dropped.add(u64::from(!sent));
    }

    /// Moves a flow to another upstream than those that were not there, or ends it.
    fn leave(self: &Rc<Self>, key: Key, link: &Rc<Link>) -> Option<Rc<Link>> {
        self.worker.note_fault(link.role, &link.lease, Fault::Refused);
        let mut avoid = link.refused.clone();
        avoid.insert(link.lease.upstream.endpoint.id);
        let Some(other) = self.connect(key.client, avoid) else {
            self.flows.borrow_mut().remove(&key);
            return None;
        };
        self.worker.stats.flows_moved.add(1);
        Some(self.begin(key, other))
    }
}

/// Whether nobody can be answered there.
fn is_from_nowhere(client: SocketAddr) -> bool {
    client.port() == 0 || client.ip().is_unspecified() || client.ip().is_multicast()
}

/// Whether this machine has the address. A datagram from our own listener would have it answer itself for ever.
fn is_own(ip: IpAddr) -> bool {
    // Whoever can be listened on is here.
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether the kernel has heard, or knows, that nobody is there.
fn is_of_upstream(error: &io::Error) -> bool {
    let gone =
        [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::NOPROTOOPT, Errno::HOSTDOWN];
    error.raw_os_error().is_some_and(|code| gone.contains(&Errno::from_raw_os_error(code)))
}

/// Why there is no socket. Of UDP, the kernel says `AGAIN` where there are no ports.
fn failure_of(error: &io::Error) -> AttemptFailure {
    match error.kind() {
        io::ErrorKind::WouldBlock => AttemptFailure::Ports,
        _ => AttemptFailure::of_connect(error),
    }
}

#[cfg(test)]
mod tests;
