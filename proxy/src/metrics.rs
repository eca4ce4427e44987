//! The counters of all workers as an OpenMetrics document: sums over what each has written, read when somebody asks.
//!
//! Labels are the names of roles and nodes as the tables have them, and words from closed lists. What a client sends is in none of them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use feed::EndpointState;
use program::metrics::{Exposition, Family};

use crate::{
    certificates::Certificates,
    error::Refusal,
    flood::Flood,
    stats::{Answers, Counter, Handshake, Phase, Retry, Stats},
    upstream::directory::Role,
};

/// Most upstreams that have series of their own; a scrape stays below a megabyte by that. Of the others there are the sums by role.
const UPSTREAMS_TOLD_MAX: usize = 1000;

/// Most roles that have latencies of their own, of those that were asked; a histogram is nineteen lines. Others are told together.
const TIMED_ROLES_TOLD_MAX: usize = 100;

/// How often a plan was changed.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    done: Counter,
    refused: Counter,
}

impl Reloads {
    /// It was tried once more.
    pub(crate) fn note(&self, is_done: bool) {
        if is_done { self.done.add(1) } else { self.refused.add(1) }
    }
}

/// A counter of all workers, and what it is called.
struct Sum {
    family: Family,
    counter: fn(&Stats) -> &Counter,
}

const fn sum(name: &'static str, help: &'static str, counter: fn(&Stats) -> &Counter) -> Sum {
    Sum { family: Family::counter(name, &[], help), counter }
}

static SUMS: [Sum; 14] = [
    sum("concertina_proxy_connections", "Connections of clients that were accepted.", |s| &s.clients),
    sum(
        "concertina_proxy_connections_held",
        "How often accepting had to wait until a client went, by --clients-max or for want of descriptors.",
        |s| &s.clients_held,
    ),
    sum(
        "concertina_proxy_connections_unheard",
        "Connections that ended before their protocol began, for want of a good PROXY header or ClientHello.",
        |s| &s.clients_unheard,
    ),
    sum("concertina_proxy_requests", "Requests of HTTP whose head was understood.", |s| &s.requests),
    sum("concertina_proxy_clients_gone", "Exchanges whose client went away before their end.", |s| {
        &s.clients_gone
    }),
    sum(
        "concertina_proxy_truncated",
        "Exchanges and connections that were reset because what the client had of its answer was not whole.",
        |s| &s.truncated,
    ),
    sum("concertina_proxy_connects", "Connections to upstreams that were begun.", |s| &s.connects),
    sum(
        "concertina_proxy_retries_denied",
        "Failures that became the answer because the budget of retries was spent.",
        |s| &s.retries_denied,
    ),
    sum(
        "concertina_proxy_log_dropped",
        "Lines of the access log that there was no room for, or that could not be written.",
        |s| &s.log_dropped,
    ),
    sum(
        "concertina_proxy_handshakes_evicted",
        "TLS handshakes that ended because too many were under way and they had begun first.",
        |s| &s.handshakes_evicted,
    ),
    sum("concertina_proxy_flows", "Flows of datagrams that began.", |s| &s.flows),
    sum("concertina_proxy_flows_evicted", "Flows that ended for others that needed their place.", |s| {
        &s.flows_evicted
    }),
    sum("concertina_proxy_flows_moved", "Flows that went on at another upstream.", |s| &s.flows_moved),
    sum(
        "concertina_proxy_datagrams_dropped",
        "Datagrams that nobody was there for, or for which there was no room.",
        |s| &s.datagrams_dropped,
    ),
];

static OPEN: Family = Family::gauge(
    "concertina_proxy_clients_open",
    &[],
    "Clients as --clients-max counts them: connections, and streams of HTTP/2.",
);
static ANSWERS: Family = Family::counter(
    "concertina_proxy_responses",
    &["role", "method", "class"],
    "Requests by how they were answered, by an upstream or by the proxy. The role is empty where no route led to any.",
);
static LATENCIES: Family = Family::histogram(
    "concertina_proxy_request_duration_seconds",
    &["role", "phase"],
    "What took requests of HTTP their time: to wait for an upstream (queue) or a connection to it (connect), of those that had to; to the first byte of a response (first_byte) and to the end of the answer (whole), from the first byte of the request.",
);
static REFUSED: Family = Family::counter(
    "concertina_proxy_refused",
    &["reason"],
    "Requests and connections that the proxy has answered, or closed, itself.",
);
static FLOODS: Family = Family::counter(
    "concertina_proxy_h2_floods",
    &["reason"],
    "Connections of HTTP/2, and streams that were given no room, that ended for what their clients went on with.",
);
static RETRIES: Family = Family::counter(
    "concertina_proxy_retries",
    &["why"],
    "Further attempts for requests, by why the one before had failed.",
);
static HANDSHAKES: Family = Family::counter(
    "concertina_proxy_tls_handshakes",
    &["version", "resumed", "result"],
    "TLS handshakes with clients by how they ended. Of those that failed, version and resumed are empty.",
);
static ENDS: Family = Family::gauge(
    "concertina_proxy_certificate_not_after_seconds",
    &["certificate"],
    "The end of each certificate that is served, since the Unix epoch, by its file.",
);
static SPANS: Family = Family::counter(
    "concertina_proxy_spans",
    &["result"],
    "Spans of requests: taken by the collector (sent), dropped because it takes them too slowly (dropped), or not taken at all (failed).",
);
static BYTES: Family = Family::counter(
    "concertina_proxy_bytes",
    &["direction"],
    "Data of bodies and of TCP connections from clients (in) and to them (out), counted as each ends.",
);
static DATAGRAMS: Family = Family::counter(
    "concertina_proxy_datagrams",
    &["direction"],
    "Datagrams from clients (in) and to them (out).",
);
static IN_FLIGHT: Family =
    Family::gauge("concertina_proxy_in_flight", &["role"], "Requests, connections and flows under way.");
static WAITING: Family = Family::gauge(
    "concertina_proxy_waiting",
    &["role"],
    "Requests that wait because all upstreams are at their limit.",
);
static UPSTREAMS: Family =
    Family::gauge("concertina_proxy_upstreams", &["role", "state"], "Upstreams in the newest table.");
static UPSTREAM_IN_FLIGHT: Family = Family::gauge(
    "concertina_proxy_upstream_in_flight",
    &["role", "upstream"],
    "Requests, connections and flows under way at an upstream.",
);
static EJECTIONS: Family = Family::counter(
    "concertina_proxy_upstream_ejections",
    &["role", "upstream"],
    "How often an upstream was spared for a while: it refused a connection, did not accept one in time, or failed in a row.",
);
static EJECTED: Family = Family::gauge(
    "concertina_proxy_upstream_ejected",
    &["role", "upstream"],
    "1 from an ejection until the upstream has served again, else 0.",
);
static UNTOLD: Family = Family::gauge(
    "concertina_proxy_upstreams_untold",
    &[],
    "Upstreams without series of their own, because there are more than a thousand.",
);
static RELOADS: Family =
    Family::counter("concertina_proxy_reloads", &["result"], "How often the file was read again.");
static WORKERS: Family = Family::gauge("concertina_proxy_workers", &[], "Threads that serve clients.");

/// The document: `stats` are those of the workers, and the last of the access log's writer and of whoever posts spans.
pub(crate) fn document(
    mut document: Exposition,
    stats: &[&Stats],
    roles: &[Arc<Role>],
    certificates: &Certificates,
    reloads: &Reloads,
) -> String {
    let total = |counter: fn(&Stats) -> &Counter| -> u64 { stats.iter().map(|s| counter(s).read()).sum() };
    document.one(&WORKERS, stats.len().saturating_sub(1) as u64);
    for Sum { family, counter } in &SUMS {
        document.one(family, total(*counter));
    }
    // In this order: one that goes in between is not there too often.
    let ended = total(|s| &s.counted_ended);
    document.one(&OPEN, total(|s| &s.counted).saturating_sub(ended));
    let mut retries = document.family(&RETRIES);
    for why in Retry::ALL {
        retries.add(&[why.word()], stats.iter().map(|s| s.retried.of(why)).sum());
    }
    let mut refused = document.family(&REFUSED);
    for refusal in Refusal::all() {
        let count: u64 = stats.iter().map(|s| s.refused(refusal)).sum();
        if count > 0 {
            refused.add(&[refusal.word()], count);
        }
    }
    let mut floods = document.family(&FLOODS);
    for flood in Flood::ALL {
        let count: u64 = stats.iter().map(|s| s.flooded(flood)).sum();
        if count > 0 {
            floods.add(&[flood.word()], count);
        }
    }
    let mut handshakes = document.family(&HANDSHAKES);
    for ended in Handshake::ALL {
        let count: u64 = stats.iter().map(|s| s.handshakes.of(ended)).sum();
        if count > 0 {
            handshakes.add(&ended.labels(), count);
        }
    }
    let mut ends = document.family(&ENDS);
    certificates.ends().iter().for_each(|(file, end)| ends.add(&[file.as_str()], *end));
    let mut spans = document.family(&SPANS);
    spans.add(&["sent"], total(|s| &s.spans_sent));
    spans.add(&["dropped"], total(|s| &s.spans_dropped));
    spans.add(&["failed"], total(|s| &s.spans_failed));
    let mut bytes = document.family(&BYTES);
    bytes.add(&["in"], total(|s| &s.bytes_in));
    bytes.add(&["out"], total(|s| &s.bytes_out));
    let mut datagrams = document.family(&DATAGRAMS);
    datagrams.add(&["in"], total(|s| &s.datagrams_in));
    datagrams.add(&["out"], total(|s| &s.datagrams_out));
    let mut told = document.family(&RELOADS);
    told.add(&["done"], reloads.done.read());
    told.add(&["refused"], reloads.refused.read());
    add_answers(&mut document, stats, roles);
    add_latencies(&mut document, stats, roles);
    // What has happened stays so, but the state of a role that nothing leads to any more is nobody's concern.
    let now = Instant::now();
    let told: Vec<Arc<Role>> = roles.iter().filter(|role| role.is_told(now)).cloned().collect();
    add_roles(&mut document, &told);
    add_upstreams(&mut document, &told);
    document.finish()
}

fn add_answers(document: &mut Exposition, stats: &[&Stats], roles: &[Arc<Role>]) {
    let mut told = document.family(&ANSWERS);
    let mut add = |role: &str, workers: &[&Answers]| {
        for (method, class, count) in Answers::sums(&workers.iter().copied()) {
            told.add(&[role, method, class], count);
        }
    };
    let of_none: Vec<&Answers> = stats.iter().map(|stats| &stats.answers).collect();
    add("", &of_none);
    for role in roles {
        let workers: Vec<&Answers> = role.answers.iter().map(|answers| &**answers).collect();
        add(role.name.as_str(), &workers);
    }
}

fn add_latencies(document: &mut Exposition, stats: &[&Stats], roles: &[Arc<Role>]) {
    let mut told = document.family(&LATENCIES);
    let is_timed = |role: &&Arc<Role>| role.times(Phase::Whole).next().is_some();
    let timed: Vec<&Arc<Role>> = roles.iter().filter(is_timed).collect();
    let (own, others) = timed.split_at(timed.len().min(TIMED_ROLES_TOLD_MAX));
    for phase in Phase::ALL {
        let of_none = stats.iter().filter_map(|stats| stats.latencies.of(phase));
        let of_others = others.iter().flat_map(|role| role.times(phase));
        told.add_times(&["", phase.word()], &of_none.chain(of_others).collect::<Vec<_>>());
        for role in own {
            told.add_times(&[role.name.as_str(), phase.word()], &role.times(phase).collect::<Vec<_>>());
        }
    }
}

fn add_roles(document: &mut Exposition, roles: &[Arc<Role>]) {
    let mut in_flight = document.family(&IN_FLIGHT);
    roles.iter().for_each(|role| in_flight.add(&[role.name.as_str()], role.listing().in_flight()));
    let mut waiting = document.family(&WAITING);
    roles.iter().for_each(|role| waiting.add(&[role.name.as_str()], role.waiting().into()));
    let mut upstreams = document.family(&UPSTREAMS);
    for role in roles {
        for state in [EndpointState::Ready, EndpointState::Draining, EndpointState::Suspect] {
            let count = role.listing().endpoints.iter().filter(|endpoint| endpoint.state == state).count();
            upstreams.add(&[role.name.as_str(), word(state)], count as u64);
        }
    }
}

fn word(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Ready => "ready",
        EndpointState::Draining => "draining",
        EndpointState::Suspect => "suspect",
    }
}

fn add_upstreams(document: &mut Exposition, roles: &[Arc<Role>]) {
    let listings: Vec<_> = roles.iter().map(|role| (role.name.as_str(), role.listing())).collect();
    let all =
        || listings.iter().flat_map(|(role, listing)| listing.endpoints.iter().map(move |e| (*role, e)));
    // Two of one name, for a moment: a node that restarts. Tables are sorted by names, and a series is there once.
    let mut told: Vec<_> = all().collect();
    told.dedup_by(|(role, e), (other_role, other)| role == other_role && e.node == other.node);
    told.truncate(UPSTREAMS_TOLD_MAX);
    document.one(&UNTOLD, all().count().saturating_sub(told.len()) as u64);
    let mut in_flight = document.family(&UPSTREAM_IN_FLIGHT);
    for (role, endpoint) in &told {
        let count = endpoint.health.in_flight.load(Ordering::Relaxed);
        in_flight.add(&[role, endpoint.node.as_str()], count.into());
    }
    let mut ejections = document.family(&EJECTIONS);
    told.iter().for_each(|(role, e)| ejections.add(&[role, e.node.as_str()], e.health.pauses().into()));
    let mut ejected = document.family(&EJECTED);
    told.iter().for_each(|(role, e)| ejected.add(&[role, e.node.as_str()], e.health.is_doubtful().into()));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use feed::Name;

    use super::*;
    use crate::{
        http1::{Reject, verb::Verb},
        upstream::directory::{Directory, TOLD_AFTER},
    };

    fn has(text: &str, line: &str) -> bool {
        text.lines().any(|other| other == line)
    }

    #[test]
    fn what_workers_have_counted_is_told_as_one() {
        let (directory, stats) =
            (Directory::sample("app", 1), [Stats::default(), Stats::default(), Stats::default()]);
        let roles = directory.roles();
        stats[0].clients.add(3);
        stats[1].clients.add(4);
        stats[1].counted.add(7);
        stats[0].counted_ended.add(5);
        stats[0].note_refusal(Refusal::Request(Reject::BareLineEnd));
        stats[1].note_refusal(Refusal::Request(Reject::BareLineEnd));
        stats[0].note_flood(Flood::Settings);
        stats[0].retried.note(Retry::Stale);
        stats[1].retried.note(Retry::Stale);
        stats[0].handshakes.note(Handshake::Resumed13);
        stats[1].handshakes.note(Handshake::Alert);
        roles[0].answers[0].note(Verb::Get, 200);
        roles[0].answers[1].note(Verb::Get, 204);
        stats[1].answers.note(Verb::Other, 404);
        roles[0].latencies[0].note(Phase::Whole, Duration::from_millis(1));
        roles[0].latencies[1].note(Phase::Whole, Duration::from_millis(2));
        stats[1].latencies.note(Phase::FirstByte, Duration::from_secs(11));
        let reloads = Reloads::default();
        reloads.note(false);
        let endpoint = &roles[0].listing().endpoints[0];
        endpoint.health.begin(u32::MAX).unwrap();
        endpoint.health.eject_now(0);
        let text =
            document(Exposition::default(), &stats.each_ref(), &roles, &Certificates::default(), &reloads);
        for line in [
            "concertina_proxy_workers 2",
            "concertina_proxy_connections_total 7",
            "concertina_proxy_clients_open 2",
            "concertina_proxy_refused_total{reason=\"bare-lf\"} 2",
            "concertina_proxy_h2_floods_total{reason=\"settings\"} 1",
            "concertina_proxy_retries_total{why=\"stale-connection\"} 2",
            "concertina_proxy_retries_total{why=\"lost\"} 0",
            "concertina_proxy_tls_handshakes_total{version=\"1.3\",resumed=\"yes\",result=\"done\"} 1",
            "concertina_proxy_tls_handshakes_total{version=\"\",resumed=\"\",result=\"alert\"} 1",
            "concertina_proxy_responses_total{role=\"app\",method=\"GET\",class=\"2xx\"} 2",
            "concertina_proxy_responses_total{role=\"\",method=\"other\",class=\"4xx\"} 1",
            "concertina_proxy_request_duration_seconds_bucket{role=\"app\",phase=\"whole\",le=\"0.001\"} 1",
            "concertina_proxy_request_duration_seconds_bucket{role=\"app\",phase=\"whole\",le=\"0.0025\"} 2",
            "concertina_proxy_request_duration_seconds_sum{role=\"app\",phase=\"whole\"} 0.003",
            "concertina_proxy_request_duration_seconds_bucket{role=\"\",phase=\"first_byte\",le=\"10.0\"} 0",
            "concertina_proxy_request_duration_seconds_count{role=\"\",phase=\"first_byte\"} 1",
            "concertina_proxy_reloads_total{result=\"refused\"} 1",
            "concertina_proxy_in_flight{role=\"app\"} 1",
            "concertina_proxy_upstreams{role=\"app\",state=\"ready\"} 1",
            "concertina_proxy_upstream_in_flight{role=\"app\",upstream=\"n1\"} 1",
            "concertina_proxy_upstream_ejections_total{role=\"app\",upstream=\"n1\"} 1",
            "concertina_proxy_upstream_ejected{role=\"app\",upstream=\"n1\"} 1",
        ] {
            assert!(has(&text, line), "{line}: {text}");
        }
    }

    #[test]
    fn the_state_of_a_role_that_nothing_leads_to_any_more_is_not_told_and_what_it_did_is() {
        let directory = Directory::sample("app", 1);
        let role = &directory.roles()[0];
        role.answers[0].note(Verb::Get, 200);
        role.set_named(false, Instant::now().checked_sub(TOLD_AFTER).unwrap());
        let told = || {
            document(
                Exposition::default(),
                &[],
                &directory.roles(),
                &Certificates::default(),
                &Reloads::default(),
            )
        };
        assert!(!told().contains("concertina_proxy_upstreams{role=\"app\""));
        assert!(told().contains("concertina_proxy_responses_total{role=\"app\""));
        role.listing().endpoints[0].health.begin(u32::MAX).unwrap();
        assert!(told().contains("concertina_proxy_upstreams{role=\"app\""), "somebody is still there");
    }

    #[test]
    fn upstreams_that_are_too_many_are_counted_and_not_told() {
        let most = u16::try_from(UPSTREAMS_TOLD_MAX).unwrap();
        for (count, untold) in [(most, 0), (most + 1, 1)] {
            let text = document(
                Exposition::default(),
                &[],
                &Directory::sample("app", count).roles(),
                &Certificates::default(),
                &Reloads::default(),
            );
            assert!(has(&text, &format!("concertina_proxy_upstreams_untold {untold}")), "{count}");
            assert!(has(
                &text,
                &format!("concertina_proxy_upstreams{{role=\"app\",state=\"ready\"}} {count}")
            ));
            assert_eq!(text.matches("concertina_proxy_upstream_ejected{").count(), UPSTREAMS_TOLD_MAX);
            assert!(text.len() < 1024 * 1024, "{} bytes", text.len());
        }
    }

    #[test]
    fn roles_beyond_those_that_are_timed_apart_are_timed_together() {
        let name = |n: usize| format!("r{n:03}").parse::<Name>().unwrap();
        for (count, together) in [(TIMED_ROLES_TOLD_MAX, 0), (TIMED_ROLES_TOLD_MAX + 1, 1)] {
            // One that nobody asks takes no place.
            let names: Vec<Name> = (0..=count).map(name).collect();
            let directory = Directory::new(&names, 1, |_| false);
            for role in &directory.roles()[1..] {
                Phase::ALL.iter().for_each(|phase| role.latencies[0].note(*phase, Duration::ZERO));
            }
            let text = document(
                Exposition::default(),
                &[],
                &directory.roles(),
                &Certificates::default(),
                &Reloads::default(),
            );
            let told =
                |role: &str| text.matches(&format!("_count{{role=\"{role}\",phase=\"whole\"}} 1\n")).count();
            assert_eq!((told(""), told("r000"), told("r001"), told("r100")), (together, 0, 1, 1));
            assert!(text.len() < 1024 * 1024, "{} bytes", text.len());
        }
    }
}
