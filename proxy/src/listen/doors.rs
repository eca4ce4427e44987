//! The listeners of one worker, which come and go with plans.

use std::{cell::RefCell, io, net::UdpSocket, rc::Rc, sync::Arc, time::Duration};

use socket2::Socket;
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    accept::{self, Service},
    config::{Address, Listen, Protocol},
    held::Held,
    listen::target::Target,
    udp,
    upstream::directory::Directory,
    worker::Worker,
};

/// How long a listener that has just opened lets clients wait for its first table instead of refusing them: a sidecar answers
/// within milliseconds.
const FIRST_TABLE_TIMEOUT: Duration = Duration::from_secs(1);

/// The same where another process has accepted before this one, and may do so still: nobody is refused for want of a table, and whoever
/// comes waits in the kernel or is served by the other. As long as an upgrade waits for its new process at most.
const SUCCESSOR_TABLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A listener by its address in the plan, for streams or for datagrams; of those with one address, which the kernel chooses a port for,
/// each is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DoorId {
    addr: Address,
    is_of_streams: bool,
    /// So many before it are the same.
    nth: usize,
}

impl DoorId {
    /// Those of a plan's listeners.
    pub(crate) fn of_all(listen: &[Listen]) -> Vec<Self> {
        let place = |listen: &Listen| (listen.addr.clone(), listen.protocol.is_of_streams());
        let nth = |position: usize| {
            listen[..position].iter().filter(|before| place(before) == place(&listen[position])).count()
        };
        let id = |(i, listen): (usize, &Listen)| {
            let (addr, is_of_streams) = place(listen);
            Self { addr, is_of_streams, nth: nth(i) }
        };
        listen.iter().enumerate().map(id).collect()
    }
}

/// A listener as a plan has it.
#[derive(Debug)]
pub(crate) struct DoorPlan {
    pub(crate) id: DoorId,
    pub(crate) listen: Listen,
    /// What this worker serves from; nothing: it is open already.
    pub(crate) sockets: Vec<Bound>,
}

/// A worker's socket of a listener.
#[derive(Debug)]
pub(crate) enum Bound {
    Streams(Socket),
    Datagrams(UdpSocket),
}

impl Bound {
    /// Those of each worker.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub(crate) fn for_all(listen: &Listen, workers: usize, held: &mut Held) -> io::Result<Vec<Vec<Self>>> {
        if listen.protocol.is_of_streams() {
            let sockets = accept::bind(listen, workers, held)?;
            return Ok(sockets.into_iter().map(|of| of.into_iter().map(Self::Streams).collect()).collect());
        }
        // The process before this one may have the address still.
        let addr = listen.addr.ip().ok_or(io::ErrorKind::Unsupported)?;
        let sockets = udp::bind(addr, workers, !held.follows_another())?;
        Ok(sockets.into_iter().map(|socket| vec![Self::Datagrams(socket)]).collect())
    }

    /// Where it is.
    pub(crate) fn local_addr(&self) -> Option<Address> {
        match self {
            Self::Streams(socket) => Address::of(&socket.local_addr().ok()?),
            Self::Datagrams(socket) => socket.local_addr().ok().map(Address::Ip),
        }
    }

    /// A second handle of what may be told later to serve another protocol.
    fn handle(&self) -> io::Result<Option<Socket>> {
        match self {
            Self::Streams(socket) if socket.local_addr()?.is_unix() => Ok(None),
            Self::Streams(socket) => socket.try_clone().map(Some),
            Self::Datagrams(_) => Ok(None),
        }
    }
}

/// All of one worker.
pub(crate) struct Doors {
    /// The worker's position.
    worker_id: usize,
    worker: Rc<Worker>,
    directory: Arc<Directory>,
    first_table_timeout: Duration,
    open: Vec<Door>,
    accepting: JoinSet<()>,
}

struct Door {
    id: DoorId,
    service: Rc<RefCell<Service>>,
    /// To be told what protocol it is for; none for datagrams and at files.
    handles: Vec<Socket>,
    /// Of each socket, ended when nobody can connect there any more.
    closed: Vec<oneshot::Receiver<()>>,
    /// Dropped to close it.
    _is_open: watch::Sender<()>,
}

impl Doors {
    /// None yet; `follows_another` if another process has had them.
    pub(crate) fn new(
        worker_id: usize,
        worker: Rc<Worker>,
        directory: Arc<Directory>,
        follows_another: bool,
    ) -> Self {
        let first_table_timeout = if follows_another { SUCCESSOR_TABLE_TIMEOUT } else { FIRST_TABLE_TIMEOUT };
        let (open, accepting) = (Vec::new(), JoinSet::new());
        Self { worker_id, worker, directory, first_table_timeout, open, accepting }
    }

    /// Opens what is new, and closes what is no more. The roles must be known. What is returned ends when nobody listens any more where it
    /// was closed, which another plan may open again.
    pub(crate) fn apply(&mut self, plans: Vec<DoorPlan>) -> impl Future<Output = ()> + use<> {
        let gone = self.open.extract_if(.., |door| !plans.iter().any(|plan| plan.id == door.id));
        let closed: Vec<_> = gone.flat_map(|door| door.closed).collect();
        for plan in plans {
            let service = Service { protocol: plan.listen.protocol, target: self.target_of(&plan.listen) };
            match self.open.iter().find(|door| door.id == plan.id) {
                Some(door) => door.change(service),
                None => self.open(plan.id, &plan.listen, service, plan.sockets),
            }
        }
        while self.accepting.try_join_next().is_some() {}
        async move {
            for closed in closed {
                let _ = closed.await;
            }
        }
    }

    fn target_of(&self, listen: &Listen) -> Target {
        let role = listen.role.as_ref();
        let position = role.and_then(|role| self.directory.position(role.as_str()));
        match (role, position) {
            (Some(role), Some(position)) => Target::only(position, role.as_str().into()),
            _ => Target::routed(),
        }
    }

    fn open(&mut self, id: DoorId, listen: &Listen, service: Service, sockets: Vec<Bound>) {
        debug_assert!(!sockets.is_empty(), "a listener without a socket");
        let handles = match sockets.iter().filter_map(|socket| socket.handle().transpose()).collect() {
            Ok(handles) => handles,
            Err(error) => return tracing::error!(%listen, %error, "cannot listen there any more"),
        };
        let service = Rc::new(RefCell::new(service));
        let (is_open, watched) = watch::channel(());
        let begin = |socket| self.accept_from(socket, listen, &service, watched.clone());
        let closed = sockets.into_iter().map(begin).collect();
        self.open.push(Door { id, service, handles, closed, _is_open: is_open });
    }

    fn accept_from(
        &mut self,
        socket: Bound,
        listen: &Listen,
        service: &Rc<RefCell<Service>>,
        mut watched: watch::Receiver<()>,
    ) -> oneshot::Receiver<()> {
        let role = listen.role.as_ref().and_then(|role| self.directory.role(role.as_str()));
        let (directory, worker_id) = (self.directory.clone(), self.worker_id);
        let known = async move {
            match role {
                Some(role) => role.first_table(worker_id).await,
                None => directory.synced().await,
            }
        };
        let (worker, served) = (self.worker.clone(), service.clone());
        let first_table_timeout = self.first_table_timeout;
        let (listens, closed) = oneshot::channel();
        self.accepting.spawn_local(async move {
            let mut closing = watched.clone();
            // The kernel takes connections meanwhile.
            tokio::select! {
                _ = timeout(first_table_timeout, known) => {}
                _ = closing.changed() => {}
            }
            let closing = async {
                let _ = watched.changed().await;
            };
            match socket {
                Bound::Streams(socket) => {
                    accept::accept(worker, socket, served, closing).await;
                    drop(listens);
                }
                Bound::Datagrams(socket) => {
                    // Others may listen beside it, and flows that live keep it.
                    drop(listens);
                    udp::serve(worker, socket, served, closing).await;
                }
            }
        });
        closed
    }

    /// Closes all, once whoever waits in the kernel's queues is accepted.
    pub(crate) async fn close(mut self) {
        self.open.clear();
        while self.accepting.join_next().await.is_some() {}
    }
}

impl Door {
    fn change(&self, service: Service) {
        let protocol = service.protocol;
        if self.service.replace(service).protocol == protocol {
            return;
        }
        let mut deferring =
            self.handles.iter().map(|socket| accept::defer_accept(socket, protocol != Protocol::Tcp));
        if let Some(error) = deferring.find_map(Result::err) {
            tracing::warn!(%error, "connections come with their first bytes, or without, as before");
        }
    }
}
