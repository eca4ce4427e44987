//! A worker without threads and listeners, for the fuzz targets: the same sessions, driven by whoever holds the event loop.

use std::{net::SocketAddr, rc::Rc, sync::Arc, task::Waker};

use feed::Name;
use tokio::{net::TcpStream, task::spawn_local};

use crate::{
    accept::Counted,
    config::{FixedTable, HalfClosed, Timeouts},
    run::publish_fixed,
    session::{exchange::Session, http::Http},
    upstream::directory::Directory,
    worker::{Settings, Worker},
};

/// A worker in front of one endpoint. Everything of it lives in the event loop that it was made in.
pub struct Bench(Rc<Worker>);

impl Bench {
    /// Starts it.
    ///
    /// # Panics
    /// Outside a local event loop.
    pub fn start(upstream: SocketAddr, half_closed: HalfClosed) -> Self {
        let role: Name = "role".parse().expect("a name");
        let directory = Directory::new(std::slice::from_ref(&role), 1);
        publish_fixed(&directory, &[FixedTable { role, addrs: vec![upstream] }]);
        let settings = Settings { timeouts: Timeouts::default(), half_closed, clients_max: 1 };
        // The same choices for the same bytes.
        let worker = Worker::new(settings, &directory, Arc::default(), 1);
        worker.start_tasks(0, &directory);
        Self(worker)
    }

    /// Serves a client.
    pub fn serve(&self, client: TcpStream) {
        let worker = self.0.clone();
        let deadline = worker.deadlines.register(Waker::noop());
        let counted = Counted::new(worker.clone());
        let role_name = Rc::from("role");
        spawn_local(Http::new(Session { client, deadline, worker, role: 0, role_name, _counted: counted }));
    }
}
