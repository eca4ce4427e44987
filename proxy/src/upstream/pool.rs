//! Idle connections to one upstream, last in first out: the warmest is used next, and the coldest go when fewer are needed.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use tokio::sync::Notify;

use crate::{
    certificates::{Seal, Terms},
    half::Settled,
    http2::connections::Connections,
    limits::POOL_IDLE_COUNT_MAX,
    link::Link,
};

#[derive(Debug)]
struct Idle {
    link: Link,
    since_ms: u64,
}

/// The idle connections of one worker to one upstream, oldest first.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: RefCell<VecDeque<Idle>>,
    /// What is spoken there by streams instead.
    streams: Rc<Connections>,
    /// By what connections are sealed, where they are.
    seal: RefCell<Option<Rc<Seal>>>,
    closed: Cell<bool>,
    news: Arc<News>,
    /// Idle connections wait under it.
    waker: Waker,
}

/// Whether something has come on an idle connection of a pool. One for each pool: with one for all, a thousand connections that are closed
/// one after the other would each have a look at all of them.
#[derive(Debug)]
struct News {
    has_come: AtomicBool,
    sweeper: Arc<Notify>,
}

impl Wake for News {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.has_come.swap(true, Ordering::AcqRel) {
            self.sweeper.notify_one();
        }
    }
}

impl Pool {
    /// An empty one; whoever waits for `sweeper` is to call [`Pool::sweep_news`].
    pub(crate) fn new(sweeper: Arc<Notify>) -> Self {
        let news = Arc::new(News { has_come: AtomicBool::new(false), sweeper });
        let waker = Waker::from(news.clone());
        let (idle, seal) = (RefCell::default(), RefCell::default());
        Self { idle, streams: Rc::default(), seal, closed: Cell::new(false), news, waker }
    }

    /// What connections are sealed with from now on, by these terms: the same for as long as those are.
    pub(crate) fn seal_by(&self, terms: &Arc<Terms>) -> Rc<Seal> {
        let mut seal = self.seal.borrow_mut();
        match &*seal {
            Some(seal) if seal.is_by(terms) => seal.clone(),
            _ => seal.insert(Rc::new(Seal::new(terms.clone()))).clone(),
        }
    }

    /// Takes the most recent connection that is still good, and sealed like this, or plain. The caller's task is woken by it from now on.
    pub(crate) fn take(&self, context: &mut Context<'_>, seal: Option<&Rc<Seal>>) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut link, .. }) = idle.pop_back() {
            if link.is_sealed_by(seal) && link.is_quiet(context) {
                return Some(link);
            }
            link.say_goodbye();
        }
        None
    }

    /// Keeps a connection.
    pub(crate) fn put(&self, settled: Settled, now_ms: u64) {
        let mut link = settled.into_link();
        // Bytes after the response belong to no request: such a connection would answer the next one wrongly.
        if self.closed.get() || !link.is_quiet(&mut Context::from_waker(&self.waker)) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() == POOL_IDLE_COUNT_MAX
            && let Some(mut oldest) = idle.pop_front()
        {
            oldest.link.say_goodbye();
        }
        idle.push_back(Idle { link, since_ms: now_ms });
    }

    /// Closes what the other side has closed or spoken on unasked, and what has been idle since before `oldest_ms`.
    pub(crate) fn sweep(&self, oldest_ms: u64) {
        // Before the look, so that nothing that comes after it is missed.
        self.news.has_come.store(false, Ordering::Release);
        let mut context = Context::from_waker(&self.waker);
        let is_kept = |idle: &mut Idle| {
            let is_kept = idle.since_ms >= oldest_ms && idle.link.is_quiet(&mut context);
            if !is_kept {
                idle.link.say_goodbye();
            }
            is_kept
        };
        self.idle.borrow_mut().retain_mut(is_kept);
        self.streams.sweep(oldest_ms);
    }

    /// The same where something has come since the last look.
    pub(crate) fn sweep_news(&self, oldest_ms: u64) {
        if self.news.has_come.load(Ordering::Acquire) {
            self.sweep(oldest_ms);
        }
    }

    /// Whether it was closed for good.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Connections whose streams are used instead.
    pub(crate) fn streams(&self) -> &Rc<Connections> {
        &self.streams
    }

    /// Closes all, for their descriptors.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().drain(..).for_each(|mut idle| idle.link.say_goodbye());
        self.streams.sweep(u64::MAX);
    }

    /// Closes all, and whatever leases still bring back.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.clear();
        self.streams.close();
    }
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
        let (pool, mut peers) = (Pool::new(Arc::default()), Vec::new());
        for _ in 0..COUNT {
            let (near, far) = pair(&listener).await;
            pool.put(Settled::unused(near.into()), 0);
            peers.push(far);
        }
        let quiet = peers.pop();
        let (near, mut far) = pair(&listener).await;
        drop(peers);
        // The last event: when it is seen, all the others have been.
        far.write_all(b"x").await.unwrap();
        near.readable().await.unwrap();
        assert!(pool.take(&mut context, None).is_some(), "{quiet:?} is alive");
        assert!(pool.take(&mut context, None).is_none(), "all others are dead");
    }

    #[tokio::test]
    async fn news_of_one_pool_are_no_reason_to_look_at_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sweeper = Arc::new(Notify::new());
        let [closed, quiet] = [(); 2].map(|()| Pool::new(sweeper.clone()));
        let ((near, far), (other, _quiet)) = (pair(&listener).await, pair(&listener).await);
        closed.put(Settled::unused(near.into()), 0);
        quiet.put(Settled::unused(other.into()), 0);
        drop(far);
        sweeper.notified().await;
        let has_news = |pool: &Pool| pool.news.has_come.load(Ordering::Acquire);
        assert!(has_news(&closed) && !has_news(&quiet));
        for pool in [&closed, &quiet] {
            pool.sweep_news(0);
        }
        assert_eq!([closed.idle.borrow().len(), quiet.idle.borrow().len()], [0, 1]);
        assert!(!has_news(&closed));
    }
}
