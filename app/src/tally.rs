//! What a service counts, and how it is told: answers by class, what is under way, and how long answers took.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use hyper::{
    Response,
    body::{Body, Frame, SizeHint},
};
use program::metrics::{Counter, Exposition, Family, Times};

/// Classes of a status that is final.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

static ANSWERS: Family = Family::counter(
    "concertina_service_responses",
    &["service", "class"],
    "Answers of the front or the app, by the class of their status.",
);
static IN_FLIGHT: Family = Family::gauge(
    "concertina_service_in_flight",
    &["service"],
    "Requests under way at the front or the app.",
);
static TIMES: Family = Family::histogram(
    "concertina_service_request_duration_seconds",
    &["service"],
    "From the head of a request until all of its answer was taken to be sent.",
);

/// The counters of a service, which has one thread.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    answers: [Counter; CLASSES.len()],
    in_flight: Cell<u64>,
    times: Times,
}

impl Tally {
    /// A request has come.
    pub(crate) fn begin(self: &Rc<Self>) -> UnderWay {
        self.in_flight.set(self.in_flight.get() + 1);
        UnderWay { tally: self.clone(), came: Instant::now(), class: None }
    }

    /// What was counted, as OpenMetrics; `service` is its name.
    pub(crate) fn document(&self, service: &str) -> String {
        let mut document = Exposition::default();
        let mut told = document.family(&ANSWERS);
        for (counter, class) in self.answers.iter().zip(CLASSES).filter(|(counter, _)| counter.read() > 0) {
            told.add(&[service, class], counter.read());
        }
        document.family(&IN_FLIGHT).add(&[service], self.in_flight.get());
        document.family(&TIMES).add_times(&[service], &[&self.times]);
        document.finish()
    }
}

/// A request until its answer is taken, or nobody is there to take it.
#[derive(Debug)]
pub(crate) struct UnderWay {
    tally: Rc<Tally>,
    came: Instant,
    /// Of its answer, once there is one.
    class: Option<usize>,
}

impl UnderWay {
    /// It is over when the body of this answer is.
    pub(crate) fn answer<B>(mut self, response: Response<B>) -> Response<Counted<B>> {
        let class = usize::from(response.status().as_u16() / 100);
        self.class = Some(class.saturating_sub(2).min(CLASSES.len() - 1));
        response.map(|body| Counted { body, _under_way: self })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.tally.in_flight.set(self.tally.in_flight.get().saturating_sub(1));
        if let Some(class) = self.class {
            self.tally.answers[class].add(1);
            self.tally.times.note(self.came.elapsed());
        }
    }
}

/// The body of an answer that is counted.
#[derive(Debug)]
pub(crate) struct Counted<B> {
    body: B,
    _under_way: UnderWay,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_under_way_until_its_answer_is_dropped_and_one_without_an_answer_counts_as_none() {
        let tally = Rc::new(Tally::default());
        let has = |line: &str| tally.document("app").lines().any(|other| other == line);
        let (one, other) = (tally.begin(), tally.begin());
        let answer = one.answer(Response::new(()));
        assert!(has("concertina_service_in_flight{service=\"app\"} 2"));
        drop((answer, other));
        assert!(has("concertina_service_in_flight{service=\"app\"} 0"));
        assert!(has("concertina_service_responses_total{service=\"app\",class=\"2xx\"} 1"));
        assert!(has("concertina_service_request_duration_seconds_count{service=\"app\"} 1"));
        drop(tally.begin().answer(Response::builder().status(599).body(()).unwrap()));
        assert!(has("concertina_service_responses_total{service=\"app\",class=\"5xx\"} 1"));
    }
}
