//! Who answers at the admin port. Everything that needs the membership is asked of the driver's loop.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use ::admin::{Answer, Asked, asked::Format};
use ::program::metrics::{merge, to_prometheus};
use feed::{
    FromSidecar, ToSidecar,
    ask::ask,
    control::{self, PROXY, Question, Scraper},
    frame::FeedError,
    recall::{RequestId, Which},
};
use tokio::{
    sync::{Mutex, Semaphore, mpsc, oneshot},
    task::spawn_local,
    time::{Instant, timeout},
};

use crate::node::{
    glance::{Drain, json, targets},
    link::unix_ms,
    procfs,
    publish::{Publisher, Request},
    seats::{Seat, Standing},
};

/// How long what was told of the cluster's load is told again: ten that look at it together cost little more than one.
const FRESH_PERIOD: Duration = Duration::from_millis(300);

/// Most questions for requests at a time: each goes to every proxy and front of the cluster.
const RECALLS_COUNT_MAX: usize = 4;

/// How long the sidecar may take to explain, for it has to look, or to have time for one more question.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Who answers.
pub(super) struct Desk {
    publisher: Publisher,
    requests: mpsc::UnboundedSender<Request>,
    /// Of this sidecar: beside it, the role's process is asked.
    feed: PathBuf,
    scraper: Scraper,
    /// What was told of the cluster's load, and when. Locked while the cluster is asked.
    loads: Arc<Mutex<Option<(Instant, Answer)>>>,
    /// Room for one more question for requests.
    recalls: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(publisher: Publisher, requests: mpsc::UnboundedSender<Request>, feed: PathBuf) -> Self {
        let recalls = Arc::new(Semaphore::new(RECALLS_COUNT_MAX));
        let scraper = Scraper::new(feed.clone());
        Self { publisher, requests, feed, scraper, loads: Arc::default(), recalls }
    }

    pub(super) async fn answer(&self, asked: Asked, seat: &Seat<IpAddr>) -> Answer {
        seat.note(Standing::Spoke);
        let answer = match asked {
            Asked::Sd { role } => {
                Some(Answer::json(200, targets(&self.publisher.members(), role.as_deref())))
            }
            Asked::Reload => Some(self.reload().await),
            Asked::Drain => {
                seat.note(Standing::Proven);
                self.ask(Request::Drain).await.map(|drained| {
                    let status = if drained.held_up_by.is_empty() { 200 } else { 504 };
                    Answer::json(status, json(&Drain::Drained(drained)))
                })
            }
            Asked::Metrics(format) => self.metrics(format).await,
            Asked::Health => {
                self.ask(Request::Glance).await.map(|glance| Answer::text(200, glance.health_line()))
            }
            Asked::Ready => self.ask(Request::Glance).await.map(|glance| {
                let is_ready = glance.health.state == feed::frame::MemberState::Ready;
                Answer::text(if is_ready { 200 } else { 503 }, glance.health_line())
            }),
            Asked::State => self.ask(Request::Glance).await.map(|glance| Answer::json(200, glance.state())),
            Asked::Load => self.load().await,
            Asked::Explain { node } => Some(self.explain(&node).await),
            Asked::Request { id } => match id.parse::<RequestId>() {
                Ok(id) => self.recall(Which::Of(id)).await,
                Err(why) => Some(Answer::text(400, why.to_string())),
            },
            Asked::Failed => self.recall(Which::Failed).await,
            Asked::Page(page) => Some(Answer::page(page)),
            Asked::Drained => {
                self.ask(Request::Glance).await.map(|glance| Answer::json(200, json(&glance.drain)))
            }
        };
        answer.unwrap_or_else(|| Answer::text(503, "the sidecar is ending"))
    }

    /// Asks the driver's loop; none if that ends first.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        ask_driver(&self.requests, request).await
    }

    /// What is counted here, and what the processes beside it have counted, if they can be asked.
    async fn metrics(&self, format: Format) -> Option<Answer> {
        let glance = self.ask(Request::Glance).await?;
        let own = glance.metrics(procfs::uptime().unwrap_or_default(), Duration::from_millis(unix_ms()));
        let others = self.scraper.metrics().await;
        let all: Vec<&str> = std::iter::once(&own).chain(&others).map(String::as_str).collect();
        let document = merge(&all);
        let body = match format {
            Format::OpenMetrics => document,
            Format::Prometheus => to_prometheus(&document),
        };
        Some(Answer { status: 200, content_type: format.content_type(), body: body.into() })
    }

    /// How much the cluster has to do. Those that ask at nearly one time are told the same: the cluster is asked once.
    async fn load(&self) -> Option<Answer> {
        let mut known = self.loads.clone().lock_owned().await;
        if let Some((at, told)) = &*known
            && at.elapsed() < FRESH_PERIOD
        {
            return Some(told.clone());
        }
        let requests = self.requests.clone();
        // Whoever asks and goes at once would leave a survey behind each time, and nothing told: so it goes on without him, and holds
        // the lock until it is over.
        let asking = spawn_local(async move {
            let told = Answer::json(200, json(&ask_driver(&requests, Request::Load).await?));
            *known = Some((Instant::now(), told.clone()));
            Some(told)
        });
        asking.await.ok()?
    }

    /// What this node knows of a member, and why: asked where people ask it.
    async fn explain(&self, node: &str) -> Answer {
        let Ok(name) = node.parse() else { return Answer::text(400, "expected the name of a node") };
        let asking = async { ask(&self.feed, ToSidecar::Explain { name }).await?.next().await };
        match timeout(EXPLAIN_TIMEOUT, asking).await {
            Ok(Ok(FromSidecar::Explained(explanation))) => Answer::json(200, json(&explanation)),
            Ok(Err(FeedError::Refused(why))) => Answer::text(404, why),
            Ok(_) | Err(_) => Answer::text(503, "the sidecar has not answered"),
        }
    }

    /// What all proxies and fronts keep of these requests.
    async fn recall(&self, which: Which) -> Option<Answer> {
        let Ok(room) = timeout(EXPLAIN_TIMEOUT, self.recalls.clone().acquire_owned()).await else {
            return Some(Answer::text(503, "others ask for requests now: ask again in a second"));
        };
        let requests = self.requests.clone();
        // As with the load, it goes on without who asked, and keeps its room until it is over.
        let asking = spawn_local(async move {
            let _room = room.ok()?;
            ask_driver(&requests, |reply| Request::Recall(which, reply)).await
        });
        Some(Answer::json(200, json(&asking.await.ok()??)))
    }

    async fn reload(&self) -> Answer {
        match control::ask(&self.feed, PROXY, Question::Reload).await {
            Ok(control::Answer::Done(difference)) => Answer::text(200, difference.trim_end()),
            Ok(control::Answer::Refused(why)) => Answer::text(422, why.trim_end()),
            Err(error) => Answer::text(502, format!("no proxy answers beside this sidecar: {error}")),
        }
    }
}

async fn ask_driver<T>(
    requests: &mpsc::UnboundedSender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    requests.send(request(reply)).ok()?;
    answer.await.ok()
}

#[cfg(test)]
mod tests {
    use feed::{recall::Account, report::Loads};
    use futures_util::FutureExt;
    use tokio::{task::LocalSet, time::advance};

    use super::*;
    use crate::cluster::labels::Labels;

    async fn told_once(desk: &Desk, requests: &mut mpsc::UnboundedReceiver<Request>) -> Answer {
        let surveying = async {
            let Some(Request::Load(reply)) = requests.recv().await else { panic!("asks for something else") };
            reply.send(Loads::default()).unwrap();
        };
        let (first, second, ()) = tokio::join!(desk.load(), desk.load(), surveying);
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.body.as_ptr(), second.body.as_ptr(), "it is there once");
        assert!(requests.try_recv().is_err(), "the cluster is asked once");
        first
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn those_that_ask_for_the_load_and_go_at_once_cause_one_survey() {
        let asking = async {
            let (outbox, mut requests) = mpsc::unbounded_channel();
            let (node, cluster, labels) = ("app1".parse().unwrap(), "default".into(), Labels::default());
            let publisher = Publisher::new(node, cluster, labels, outbox.clone());
            let feed = "/none/feed.sock".into();
            let desk = Desk::new(publisher, outbox, feed);
            for _ in 0..3 {
                assert_eq!(desk.load().now_or_never(), None, "who asks goes");
                tokio::task::yield_now().await;
            }
            let told = told_once(&desk, &mut requests).await;
            advance(FRESH_PERIOD - Duration::from_millis(1)).await;
            assert_eq!(desk.load().await, Some(told), "it is told again");
            assert!(requests.try_recv().is_err());
            advance(Duration::from_millis(1)).await;
            told_once(&desk, &mut requests).await;
        };
        LocalSet::new().run_until(asking).await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn so_many_questions_for_requests_are_asked_at_a_time_and_one_more_is_told_to_come_again() {
        let asking = async {
            let (outbox, mut requests) = mpsc::unbounded_channel();
            let (node, cluster, labels) = ("app1".parse().unwrap(), "default".into(), Labels::default());
            let publisher = Publisher::new(node, cluster, labels, outbox.clone());
            let desk = Desk::new(publisher, outbox, "/none/feed.sock".into());
            for _ in 0..RECALLS_COUNT_MAX {
                assert_eq!(desk.recall(Which::Failed).now_or_never(), None, "who asks goes");
                tokio::task::yield_now().await;
            }
            assert_eq!(desk.recall(Which::Failed).await.unwrap().status, 503);
            let next = requests.recv().await;
            let Some(Request::Recall(Which::Failed, reply)) = next else { panic!("asks for something else") };
            reply.send(Account::default()).unwrap();
            let answering = async {
                for _ in 1..RECALLS_COUNT_MAX {
                    requests.recv().await;
                }
                let Some(Request::Recall(_, reply)) = requests.recv().await else { panic!("asks no more") };
                reply.send(Account::default()).unwrap();
            };
            let (answer, ()) = tokio::join!(desk.recall(Which::Failed), answering);
            assert_eq!(answer.unwrap().status, 200);
        };
        LocalSet::new().run_until(asking).await;
    }
}
