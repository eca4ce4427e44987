//! A worker without threads and listeners, for the fuzz targets: the same sessions, driven by whoever holds the event loop.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use feed::Name;
use tokio::{net::TcpStream, task::spawn_local};

use crate::{
    certificates::Store,
    config::{FixedTable, Given, HalfClosed, Plan},
    http2,
    listen::target::Target,
    session::{client::Session, http::Http},
    upstream::{self, directory::Directory},
    worker::{Counted, Room, Settings, Worker},
};

pub use crate::http2::fuzzing::{Read, Written, read_request, read_response, write_request, write_response};

/// A worker in front of one endpoint. Everything of it lives in the event loop that it was made in.
pub struct Bench(Rc<Worker>);

impl Bench {
    /// Starts it.
    ///
    /// # Panics
    /// Outside a local event loop.
    pub fn start(upstream: SocketAddr, half_closed: HalfClosed) -> Self {
        let role: Name = "role".parse().expect("a name");
        let directory = Directory::new(std::slice::from_ref(&role), 1, |_| false);
        upstream::follow::publish_fixed(&directory, &[FixedTable { role, addrs: vec![upstream.into()] }]);
        let given = Given { half_closed: Some(half_closed), ..Given::default() };
        let settings = Settings::of(
            &Plan::new(given).expect("a plan"),
            &directory,
            Arc::new(Store::open(&Default::default()).expect("nothing to read")),
            Arc::default(),
        );
        let room = Room { clients_max: 1, pipes_max: 1, flows_max: 1 };
        // The same choices for the same bytes.
        let worker = Worker::new(settings, room, 0, &directory, Arc::default(), None, 1);
        worker.start_tasks(0, &directory);
        Self(worker)
    }

    /// Serves a client.
    pub fn serve(&self, client: TcpStream) {
        let peer = client.peer_addr().ok();
        let counted = Counted::new(self.0.clone());
        spawn_local(Http::new(Session::new((client.into(), peer), counted, Target::only(0, "role".into()))));
    }

    /// Serves a client of HTTP/2.
    pub fn serve_http2(&self, client: TcpStream) {
        let peer = client.peer_addr().ok();
        let counted = Counted::new(self.0.clone());
        let client = http2::Client { stream: client.into(), peer, target: Target::only(0, "role".into()) };
        spawn_local(http2::serve(counted, client));
    }

    /// Clients that are served, and of HTTP/2 their streams, too.
    pub fn clients_count(&self) -> usize {
        self.0.clients.get()
    }
}
