//! A worker without threads and listeners, for the fuzz targets: the same sessions, driven by whoever holds the event loop.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use feed::Name;
use tokio::{net::TcpStream, task::spawn_local};

use crate::{
    accept::Counted,
    config::{FixedTable, HalfClosed, Timeouts, UpstreamRules},
    run::publish_fixed,
    session::http::{Http, Session},
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
        let settings = Settings {
            timeouts: Timeouts::default(),
            half_closed,
            clients_max: 1,
            rules: UpstreamRules::default(),
            body_bytes_max: u64::MAX,
            forwarding: None,
            via: None,
        };
        // The same choices for the same bytes.
        let worker = Worker::new(settings, 0, &directory, Arc::default(), None, 1);
        worker.start_tasks(0, &directory);
        Self(worker)
    }

    /// Serves a client.
    pub fn serve(&self, client: TcpStream) {
        let peer = client.peer_addr().unwrap_or(SocketAddr::from(([0; 4], 0)));
        let counted = Counted::new(self.0.clone());
        spawn_local(Http::new(Session::new((client.into(), peer), counted, (0, "role".into()))));
    }
}
