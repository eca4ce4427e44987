//! How much each role has to do and how it went, for whoever asks for the cluster's load: the same counters that metrics are made of, by
//! endpoint.

use std::sync::{Arc, atomic::Ordering};

use feed::report::{EndpointLoad, RoleLoad};
use program::metrics::Times;

use crate::{
    stats::{Answers, Phase},
    upstream::directory::{Endpoint, Role},
};

/// Most endpoints that are told of, of all roles together: they take less than a quarter of a megabyte by that. What is told of a role
/// itself, mostly its times, adds up to 1.5 kB for each.
const ENDPOINTS_TOLD_MAX: usize = 1000;

/// The loads of all roles, as JSON.
pub(crate) fn report(roles: &[Arc<Role>]) -> String {
    let mut room = ENDPOINTS_TOLD_MAX;
    let all: Vec<RoleLoad> = roles.iter().map(|role| load(role, &mut room)).collect();
    // Names and numbers can all be written.
    serde_json::to_string(&all).unwrap_or_default()
}

fn load(role: &Role, room: &mut usize) -> RoleLoad {
    let listing = role.listing();
    let endpoints: Vec<EndpointLoad> =
        listing.all().take(*room).map(|endpoint| endpoint_load(endpoint)).collect();
    *room -= endpoints.len();
    let untold = (listing.all().count() - endpoints.len()) as u64;
    let answers = role.answers.iter().map(|answers| &**answers);
    let (mut answered, mut errors) = (0, 0);
    for (_, class, count) in Answers::sums(&answers) {
        answered += count;
        errors += if class == "5xx" { count } else { 0 };
    }
    let times_us = Times::counts_us(role.times(Phase::FirstByte)).collect();
    RoleLoad {
        role: role.name.clone(),
        queued: role.waiting(),
        answered,
        errors,
        retries: role.answers.iter().map(|answers| answers.retries()).sum(),
        times_us,
        endpoints,
        untold,
    }
}

fn endpoint_load(endpoint: &Endpoint) -> EndpointLoad {
    let (health, tally) = (&endpoint.health, &endpoint.health.tally);
    EndpointLoad {
        node: endpoint.node.clone(),
        instance: endpoint.id.instance,
        addr: endpoint.id.addr,
        in_flight: health.in_flight.load(Ordering::Relaxed),
        requests: tally.requests.load(Ordering::Relaxed),
        failures: tally.failures.load(Ordering::Relaxed),
        timed: tally.timed.load(Ordering::Relaxed),
        timed_us: tally.timed_us.load(Ordering::Relaxed),
        ejected: health.is_doubtful(),
        ejections: health.pauses().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{http1::verb::Verb, upstream::directory::Directory};

    fn read(directory: &Directory) -> RoleLoad {
        let mut all: Vec<RoleLoad> = serde_json::from_str(&report(&directory.roles())).unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn what_was_given_to_an_endpoint_and_what_came_of_it_is_told() {
        let directory = Directory::sample("app", 2);
        let role = &directory.roles()[0];
        let health = role.listing().endpoints[1].health.clone();
        for _ in 0..3 {
            health.begin(u32::MAX).unwrap();
        }
        health.in_flight.fetch_sub(1, Ordering::Relaxed);
        health.tally.note_failure();
        health.tally.note_time(1000);
        role.latencies[0].note(Phase::FirstByte, Duration::from_millis(1));
        role.latencies[1].note(Phase::FirstByte, Duration::from_micros(900));
        role.latencies[1].note(Phase::Whole, Duration::from_secs(1));
        role.answers[0].note(Verb::Get, 200);
        role.answers[0].note_retry();
        role.answers[1].note_retry();
        role.answers[1].note(Verb::Get, 503);
        let load = read(&directory);
        assert_eq!((load.queued, load.answered, load.errors, load.untold), (0, 2, 1, 0));
        assert_eq!(load.times_us.into_iter().collect::<Vec<_>>(), [(1000, 2)]);
        assert_eq!(load.retries, 2);
        let told = &load.endpoints[1];
        assert_eq!((told.node.as_str(), told.instance, told.in_flight), ("n2", 2, 2));
        assert_eq!((told.requests, told.failures, told.timed, told.timed_us), (3, 1, 1, 1000));
        assert!(!told.ejected && load.endpoints[0].requests == 0);
        health.eject_now(0);
        let told = &read(&directory).endpoints[1];
        assert!(told.ejected && told.ejections == 1);
    }

    #[test]
    fn endpoints_that_are_too_many_are_counted_and_not_told() {
        let most = u16::try_from(ENDPOINTS_TOLD_MAX).unwrap();
        for (count, untold) in [(most, 0), (most + 1, 1)] {
            let directory = Directory::sample("app", count);
            let load = read(&directory);
            assert_eq!((load.endpoints.len(), load.untold), (ENDPOINTS_TOLD_MAX, untold));
            assert!(report(&directory.roles()).len() < 256 * 1024);
        }
    }
}
