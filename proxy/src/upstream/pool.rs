//! Idle connections to one upstream, last in first out: the warmest is used next, and the coldest go when fewer are needed.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::pin,
    task::Context,
};

use tokio::task::coop::unconstrained;

use crate::{limits::POOL_IDLE_COUNT_MAX, socket::Socket};

#[derive(Debug)]
struct Idle {
    stream: Socket,
    since_ms: u64,
}

/// The idle connections of one worker to one upstream, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<VecDeque<Idle>>,
    closed: Cell<bool>,
}

impl Pool {
    /// Takes the most recent connection that is still good. The caller's task is woken by it from now on.
    pub(crate) fn take(&self, context: &mut Context<'_>) -> Option<Socket> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut stream, .. }) = idle.pop_back() {
            if is_quiet(&mut stream, context) {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection; `sweeper` is the context of the task that calls [`Pool::sweep`].
    pub(crate) fn put(&self, mut stream: Socket, now_ms: u64, sweeper: &mut Context<'_>) {
        // Bytes after the response belong to no request: such a connection would answer the next one wrongly.
        if self.closed.get() || !is_quiet(&mut stream, sweeper) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() == POOL_IDLE_COUNT_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { stream, since_ms: now_ms });
    }

    /// Closes what the other side has closed or spoken on unasked, and what has been idle since before `oldest_ms`.
    pub(crate) fn sweep(&self, oldest_ms: u64, sweeper: &mut Context<'_>) {
        let is_kept = |idle: &mut Idle| idle.since_ms >= oldest_ms && is_quiet(&mut idle.stream, sweeper);
        self.idle.borrow_mut().retain_mut(is_kept);
    }

    /// Whether it was closed for good.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Closes all, and whatever leases still bring back.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
    }
}

/// Neither bytes nor an end have come. No system call: readiness is what the event loop has seen.
pub(crate) fn is_quiet(stream: &mut Socket, context: &mut Context<'_>) -> bool {
    // Outside the task's budget: one that is used up makes every socket look quiet, those of the dead and the poisoned too.
    pin!(unconstrained(poll_fn(|context| stream.poll_recv_ready(context)))).poll(context).is_pending()
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// More than the operations that tokio grants a task at a time.
    const COUNT: usize = 300;

    async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn the_dead_are_told_from_the_quiet_however_many_there_are() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let (pool, mut peers) = (Pool::default(), Vec::new());
        for _ in 0..COUNT {
            let (near, far) = pair(&listener).await;
            pool.put(near.into(), 0, &mut context);
            peers.push(far);
        }
        let quiet = peers.pop();
        let (near, mut far) = pair(&listener).await;
        drop(peers);
        // The last event: when it is seen, all the others have been.
        far.write_all(b"x").await.unwrap();
        near.readable().await.unwrap();
        assert!(pool.take(&mut context).is_some(), "{quiet:?} is alive");
        assert!(pool.take(&mut context).is_none(), "all others are dead");
    }
}
