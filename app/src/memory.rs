//! What the front keeps of requests that were: those that went wrong, and the sample that all hops keep.
//!
//! No clock: time comes as an argument.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use feed::{
    Name,
    control::FRONT,
    recall::{Attempt, Cause, Hop, Kept, Recalled, RequestId, Which, is_sampled},
};
use hyper::{Request, StatusCode};

/// Requests that are kept of each cause: less than a megabyte of both.
const COUNT_MAX: usize = 256;

/// Apps that are kept of a request: more are asked only where all of them refuse.
const ATTEMPTS_COUNT_MAX: usize = 4;

/// Characters of a host that are kept.
const HOST_CHARS_MAX: usize = 64;

/// The last of them.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    failed: RefCell<VecDeque<(RequestId, Hop)>>,
    sampled: RefCell<VecDeque<(RequestId, Hop)>>,
}

/// A request with an id, while apps are asked for it.
#[derive(Debug)]
pub(crate) struct Noted {
    id: RequestId,
    hop: Hop,
}

impl Noted {
    /// Of a request that has an id.
    pub(crate) fn of<B>(request: &Request<B>, role: &Name, began: Duration) -> Option<Self> {
        let mut ids = request.headers().get_all("x-request-id").iter();
        let id = ids.next().filter(|_| ids.next().is_none())?.to_str().ok()?.parse().ok()?;
        let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let hop = Hop {
            node: None,
            program: FRONT.to_owned(),
            id: None,
            at_us: us(began),
            cause: Cause::Sampled,
            client: None,
            method: request.method().to_string(),
            host: host.chars().take(HOST_CHARS_MAX).collect(),
            // Nothing is asked of apps but for one path.
            path: request.uri().path().to_owned(),
            is_cut: host.chars().nth(HOST_CHARS_MAX).is_some(),
            route: None,
            behind: None,
            role: Some(role.clone()),
            attempts: Vec::new(),
            attempts_untold: 0,
            queue_us: None,
            connect_us: None,
            first_byte_us: None,
            whole_us: 0,
            status: None,
            end: "done".to_owned(),
            draining: Vec::new(),
            draining_untold: 0,
        };
        Some(Self { id, hop })
    }

    /// An app is about to be asked. Of many the first ones are kept, and the last.
    pub(crate) fn begin_attempt(&mut self, attempt: Attempt) {
        if self.hop.attempts.len() == ATTEMPTS_COUNT_MAX {
            self.hop.attempts.pop();
            self.hop.attempts_untold += 1;
        }
        self.hop.attempts.push(attempt);
    }

    /// It has failed, after this time in all.
    pub(crate) fn note_failure(&mut self, why: &str, after: Duration) {
        self.hop.cause = Cause::Failed;
        if let Some(last) = self.hop.attempts.last_mut() {
            (last.failure, last.failed_us) = (Some(why.to_owned()), Some(us(after)));
        }
    }
}

impl Memory {
    /// The answer has begun; or the client is told that there is none, and why.
    pub(crate) fn keep(
        &self,
        noted: Noted,
        status: StatusCode,
        after: Duration,
        draining: &[Name],
        refused: Option<&str>,
    ) {
        let Noted { id, mut hop } = noted;
        if status.is_server_error() {
            hop.cause = Cause::Failed;
        }
        let places = match hop.cause {
            Cause::Failed => &self.failed,
            _ if is_sampled(id.as_str().as_bytes()) => &self.sampled,
            _ => return,
        };
        (hop.status, hop.whole_us) = (Some(status.as_u16()), us(after));
        hop.first_byte_us = refused.is_none().then_some(hop.whole_us);
        hop.end = refused.unwrap_or("done").to_owned();
        hop.draining = draining.to_vec();
        let mut places = places.borrow_mut();
        if places.len() == COUNT_MAX {
            places.pop_front();
        }
        places.push_back((id, hop));
    }

    /// What is kept of these requests, the oldest first.
    pub(crate) fn recall(&self, which: &Which) -> Recalled {
        let (mut hops, mut kept) = (Vec::new(), BTreeMap::new());
        for (cause, places) in [(Cause::Failed, &self.failed), (Cause::Sampled, &self.sampled)] {
            let places = places.borrow();
            let found = places.iter().filter(|(id, _)| which.is(id.as_str(), cause));
            hops.extend(found.map(|(id, hop)| Hop { id: Some(id.clone()), ..hop.clone() }));
            let oldest = places.front().filter(|_| places.len() == COUNT_MAX);
            let since_us = oldest.map(|(_, hop)| hop.at_us);
            kept.insert(cause, Kept { count: places.len() as u64, room: COUNT_MAX as u64, since_us });
        }
        let mut told = Recalled { kept, ..Recalled::default() };
        told.add(Recalled { hops, ..Recalled::default() }, which.hops_count_max());
        told
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use feed::recall::{FAILED_COUNT_MAX, HOPS_COUNT_MAX};

    use super::*;

    fn noted(ids: &[&str], at: u64) -> Option<Noted> {
        let mut request = Request::builder().uri("/hello").header("host", "h".repeat(HOST_CHARS_MAX));
        for id in ids {
            request = request.header("x-request-id", *id);
        }
        Noted::of(&request.body(()).unwrap(), &"app".parse().unwrap(), Duration::from_micros(at))
    }

    #[test]
    fn of_as_many_as_there_is_room_for_all_are_kept_and_one_more_takes_the_place_of_the_oldest() {
        let memory = Memory::default();
        let fail = |at| {
            let failed = noted(&["mine"], at).unwrap();
            memory.keep(failed, StatusCode::BAD_GATEWAY, Duration::ZERO, &[], Some("no app answered"));
        };
        let id = "mine".parse().unwrap();
        let kept = || memory.recall(&id).kept[&Cause::Failed];
        (1..COUNT_MAX as u64).for_each(fail);
        assert_eq!((kept().count, kept().since_us), (COUNT_MAX as u64 - 1, None));
        fail(COUNT_MAX as u64);
        assert_eq!((kept().count, kept().since_us), (COUNT_MAX as u64, Some(1)));
        fail(COUNT_MAX as u64 + 1);
        assert_eq!((kept().count, kept().since_us), (COUNT_MAX as u64, Some(2)));
        assert_eq!(memory.recall(&id).hops.len(), HOPS_COUNT_MAX, "and no more are told at a time");
        let failed = memory.recall(&Which::Failed).hops;
        assert_eq!((failed.len(), failed[0].id.as_ref()), (FAILED_COUNT_MAX, Some(&"mine".parse().unwrap())));
        assert_eq!(failed.last().unwrap().at_us, COUNT_MAX as u64 + 1, "the newest of those that failed");
    }

    #[test]
    fn of_many_attempts_the_first_are_kept_and_the_last_and_the_others_counted() {
        let attempt = |instance| Attempt {
            node: "app1".parse().unwrap(),
            addr: "127.0.0.1:1".to_owned(),
            instance,
            by: "load".to_owned(),
            generation: None,
            among: None,
            drawn: Vec::new(),
            is_reused: false,
            failure: None,
            failed_us: None,
        };
        let mut request = noted(&["a"], 1).unwrap();
        let kept = |request: &Noted| request.hop.attempts.iter().map(|of| of.instance).collect::<Vec<_>>();
        (1..=4).for_each(|number| request.begin_attempt(attempt(number)));
        assert_eq!((kept(&request), request.hop.attempts_untold), (vec![1, 2, 3, 4], 0));
        (5..=9).for_each(|number| request.begin_attempt(attempt(number)));
        assert_eq!((kept(&request), request.hop.attempts_untold), (vec![1, 2, 3, 9], 5));
    }

    #[test]
    fn what_went_well_is_kept_if_it_is_of_the_sample_and_what_has_no_id_is_not() {
        let memory = Memory::default();
        let mut of_sample = (0..).map(|i| format!("{i:016}")).filter(|id| is_sampled(id.as_bytes()));
        let mut others = (0..).map(|i| format!("{i:016}")).filter(|id| !is_sampled(id.as_bytes()));
        for (id, count) in [(of_sample.next().unwrap(), 1), (others.next().unwrap(), 0)] {
            memory.keep(noted(&[&id], 1).unwrap(), StatusCode::OK, Duration::ZERO, &[], None);
            assert_eq!(memory.recall(&id.parse().unwrap()).hops.len(), count);
        }
        assert!(noted(&[], 1).is_none() && noted(&["a", "a"], 1).is_none() && noted(&["a b"], 1).is_none());
        let hop = noted(&["a"], 1).unwrap().hop;
        assert!(!hop.is_cut && hop.host.len() == HOST_CHARS_MAX);
    }
}
