//! Clients that make a connection for each request.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use super::hello::hello;

/// Requests without pause from several threads, until told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    pub(crate) fn start(addr: SocketAddr) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |_| {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match hello(addr) {
                        Ok(_) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.push(error),
                    }
                }
                failures
            })
        };
        let threads = (0..8).map(client).collect();
        Self { stop, served, threads }
    }

    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> = self.threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        let served = self.served.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {served} failed, such as {:?}", failures.len(), failures[0]);
        assert!(served > 100, "only {served} requests were made");
    }
}
