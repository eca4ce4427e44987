//! An origin that keeps every byte that it is sent, and answers each request when it is whole.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::strict;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// More than any request has that was drawn.
const NEWEST_BYTES: usize = 64 * 1024;

/// What has come on one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) bytes: Vec<u8>,
    /// How many of them are whole requests.
    pub(crate) whole_bytes: usize,
    has_ended: bool,
}

impl Record {
    /// A request has begun that may still go on.
    fn is_open(&self) -> bool {
        !self.has_ended && self.whole_bytes < self.bytes.len()
    }
}

#[derive(Default)]
struct Shared {
    records: Mutex<Vec<Record>>,
    changed: Condvar,
}

impl Shared {
    fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Recorder {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Recorder {
    /// Serves until the process ends.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, shared) = (listener.local_addr().unwrap(), Arc::<Shared>::default());
        let kept = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = kept.clone();
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { addr, shared }
    }

    /// Waits until this has come; false if it has not after this.
    pub(crate) fn wait_for(&self, part: &[u8], patience: Duration) -> bool {
        let has = |record: &Record| {
            let newest = &record.bytes[record.bytes.len().saturating_sub(NEWEST_BYTES)..];
            memchr::memmem::find(newest, part).is_some()
        };
        self.wait(patience, |records| !records.iter().any(has))
    }

    /// Waits until no request is open any more; false if one still is after this.
    pub(crate) fn wait_for_ends(&self, patience: Duration) -> bool {
        self.wait(patience, |records| records.iter().any(Record::is_open))
    }

    /// Everything, once all connections have ended.
    pub(crate) fn records(&self, patience: Duration) -> Vec<Record> {
        let have_ended = self.wait(patience, |records| records.iter().any(|record| !record.has_ended));
        assert!(have_ended, "the proxy is gone, and its connections stay");
        self.shared.records().clone()
    }

    fn wait(&self, patience: Duration, waits: impl Fn(&[Record]) -> bool) -> bool {
        let waits = |records: &mut Vec<Record>| waits(records);
        let waited = self.shared.changed.wait_timeout_while(self.shared.records(), patience, waits);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    let number = {
        let mut records = shared.records();
        records.push(Record::default());
        records.len() - 1
    };
    let mut room = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut room) {
        let mut answers = 0;
        {
            let record = &mut shared.records()[number];
            record.bytes.extend_from_slice(&room[..count]);
            // What is none is judged at the end, and not answered.
            while let Ok(Some(request)) = strict::read(&record.bytes[record.whole_bytes..]) {
                record.whole_bytes += request.bytes;
                answers += 1;
            }
        }
        shared.changed.notify_all();
        if stream.write_all(&ANSWER.repeat(answers)).is_err() {
            break;
        }
    }
    shared.records()[number].has_ended = true;
    shared.changed.notify_all();
}
