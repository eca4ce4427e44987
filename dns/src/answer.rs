//! The answer to one question: zone, question, room and randomness in, records out. No I/O.
//!
//! The records carry the name as it was asked, so that whoever compares it with the question finds it, and so
//! that the answer compresses.

use feed::{Endpoint, EndpointState};
use hickory_proto::{
    op::{LowerQuery, ResponseCode},
    rr::{
        LowerName, Name as DomainName, RData, Record, RecordType,
        rdata::{HINFO, NS, PTR, SOA, SRV, TXT},
    },
    serialize::binary::BinEncodable,
};
use rand::{Rng, seq::SliceRandom};

use crate::{
    roster::Node,
    zone::{Found, Zone},
};

/// What a record takes beside its name and its data: type, class, TTL and length (RFC 1035 section 4.1.3).
const RECORD_FIXED_BYTES: usize = 10;

/// A name that is a pointer to where it was written before (RFC 1035 section 4.1.4).
const POINTER_BYTES: usize = 2;

/// The smallest record that there are many of: an A record of a name written before. It bounds how many are
/// worth drawing for the room that there is.
const RECORD_BYTES_MIN: usize = POINTER_BYTES + RECORD_FIXED_BYTES + 4;

/// So many names of a message are counted as compressed; the encoder stops to compress a little later.
const COMPRESSED_NAMES_MAX: usize = 100;

/// Timers for secondary servers, in seconds. There are none: the zone is not transferred.
const SOA_REFRESH: i32 = 60;
const SOA_RETRY: i32 = 10;
const SOA_EXPIRE: i32 = 3600;

/// The sections of a response.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// The response code.
    pub code: ResponseCode,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// The SOA of a negative answer (RFC 2308 section 3).
    pub authorities: Vec<Record>,
    /// What will be asked for next.
    pub additionals: Vec<Record>,
    /// Answers were left out for want of room.
    pub truncated: bool,
}

impl Answer {
    /// An answer without records.
    pub fn empty(code: ResponseCode) -> Self {
        let [answers, authorities, additionals] = [const { Vec::new() }; 3];
        Self { code, answers, authorities, additionals, truncated: false }
    }
}

/// Answers from the zone, with at most `bytes_max` of records and in random order: which endpoints a client takes,
/// and which are left out when there are too many, is up to chance. None: the name is somebody else's.
pub fn answer(zone: &Zone, query: &LowerQuery, bytes_max: usize, rng: &mut impl Rng) -> Option<Answer> {
    let record_type = query.query_type();
    let mut targets = Vec::new();
    let data: Vec<RData> = match (zone.find(query.name(), record_type), record_type) {
        (Found::Foreign, _) => return None,
        (Found::Missing, _) => return Some(missing(zone, query.name())),
        (Found::Empty, _) => Vec::new(),
        // RFC 8482 section 4.2: something true that is small.
        (_, RecordType::ANY) => vec![RData::HINFO(HINFO::new("RFC8482".into(), String::new()))],
        (Found::Host { ips, .. }, RecordType::A | RecordType::AAAA) => {
            let of_type = ips.iter().filter(|ip| ip.is_ipv4() == (record_type == RecordType::A));
            draw(of_type, bytes_max, rng).into_iter().map(|ip| RData::from(*ip)).collect()
        }
        (Found::Host { node: Some(node), .. }, RecordType::TXT) => vec![RData::TXT(txt(node))],
        (Found::Service(endpoints), RecordType::SRV) => {
            // Port 0: the role's process listens nowhere.
            targets = draw(endpoints.iter().filter(|e| e.addr.port() != 0), bytes_max, rng);
            targets.iter().map(|e| srv(zone, e, e.weight, e.addr.port())).collect()
        }
        (Found::Gossip, RecordType::SRV) => {
            targets = draw(zone.gossips(), bytes_max, rng);
            targets.iter().map(|e| srv(zone, e, 0, e.gossip_port)).collect()
        }
        (Found::Reverse(node), RecordType::PTR) => {
            vec![RData::PTR(PTR(zone.host_name(&node.endpoint.node)))]
        }
        (Found::Origin, RecordType::SOA) => vec![RData::SOA(soa(zone))],
        (Found::Origin, RecordType::NS) => vec![RData::NS(NS(server_name(zone)))],
        _ => Vec::new(),
    };
    if data.is_empty() {
        return Some(negative(zone, query.name(), ResponseCode::NoError));
    }
    let owner = query.original().name();
    let record = |data| Record::from_rdata(owner.clone(), zone.settings.ttl, data);
    Some(fill(zone, data.into_iter().map(record), &targets, bytes_max))
}

/// The answer where nobody else is to be asked: the name does not exist. Never a refusal: musl takes that for no
/// answer and waits for another until its timeout. RFC 8020: where there are names below, it does exist.
pub fn nonexistent(zone: &Zone, name: &LowerName) -> Answer {
    let code = if zone.has_names_below(name) { ResponseCode::NoError } else { ResponseCode::NXDomain };
    negative(zone, name, code)
}

/// Before the sidecar has told everything the client shall ask again.
fn missing(zone: &Zone, name: &LowerName) -> Answer {
    match zone.complete {
        true => negative(zone, name, ResponseCode::NXDomain),
        false => Answer::empty(ResponseCode::ServFail),
    }
}

/// RFC 2308 section 2: the SOA says for how long the answer may be remembered. Outside the zone it is the root's,
/// for a bare name is right below that.
fn negative(zone: &Zone, name: &LowerName, code: ResponseCode) -> Answer {
    let origin = &zone.settings.origin;
    let owner = if origin.contains(name) { origin.name().clone() } else { DomainName::root() };
    let record = Record::from_rdata(owner, zone.settings.ttl, RData::SOA(soa(zone)));
    Answer { authorities: vec![record], ..Answer::empty(code) }
}

/// As many as can fit, one more so that it shows when not all do, in random order.
fn draw<T>(from: impl Iterator<Item = T>, bytes_max: usize, rng: &mut impl Rng) -> Vec<T> {
    let mut all: Vec<T> = from.collect();
    let drawn = all.partial_shuffle(rng, bytes_max / RECORD_BYTES_MIN + 1).0.len();
    all.split_off(all.len() - drawn)
}

/// Takes answers while there is room, then the addresses of what they point to. Additional records that do not
/// fit are simply missing (RFC 2181 section 9).
fn fill(
    zone: &Zone,
    mut records: impl Iterator<Item = Record>,
    targets: &[&Endpoint],
    bytes_max: usize,
) -> Answer {
    let mut room = bytes_max;
    let mut answer = Answer::empty(ResponseCode::NoError);
    for record in records.by_ref() {
        let compressed = (1..COMPRESSED_NAMES_MAX).contains(&answer.answers.len());
        let name = if compressed { POINTER_BYTES } else { name_bytes_max(&record.name) };
        match room.checked_sub(name + data_bytes_max(&record.data)) {
            Some(rest) => room = rest,
            None => {
                answer.truncated = true;
                return answer;
            }
        }
        answer.answers.push(record);
    }
    for target in targets {
        let name = zone.host_name(&target.node);
        let record = Record::from_rdata(name, zone.settings.ttl, target.addr.ip().to_canonical().into());
        match room.checked_sub(name_bytes_max(&record.name) + data_bytes_max(&record.data)) {
            Some(rest) => room = rest,
            None => break,
        }
        answer.additionals.push(record);
    }
    answer
}

fn name_bytes_max(name: &DomainName) -> usize {
    name.len() + 1
}

fn data_bytes_max(data: &RData) -> usize {
    RECORD_FIXED_BYTES
        + match data {
            RData::A(_) => 4,
            RData::AAAA(_) => 16,
            RData::SRV(srv) => 6 + name_bytes_max(&srv.target),
            // There is only one of any other type. What cannot be encoded is the encoder's to refuse.
            other => other.to_bytes().map_or(0, |bytes| bytes.len()),
        }
}

fn srv(zone: &Zone, endpoint: &Endpoint, weight: u16, port: u16) -> RData {
    RData::SRV(SRV::new(0, weight, port, zone.host_name(&endpoint.node)))
}

fn txt(node: &Node) -> TXT {
    let state = match node.endpoint.state {
        EndpointState::Ready => "ready",
        EndpointState::Draining => "draining",
        EndpointState::Suspect => "suspect",
    };
    let own = [
        format!("role={}", node.role),
        format!("state={state}"),
        format!("instance={}", node.endpoint.instance),
    ];
    // RFC 6763 section 6.4: of strings with one key the first counts, so a tag cannot pass for what is above.
    let tags = node.endpoint.tags.iter().map(|(key, value)| format!("{key}={value}"));
    TXT::new(own.into_iter().chain(tags).collect())
}

fn soa(zone: &Zone) -> SOA {
    let contact = zone.settings.origin.below(&["hostmaster"]);
    let ttl = zone.settings.ttl;
    SOA::new(server_name(zone), contact, zone.serial, SOA_REFRESH, SOA_RETRY, SOA_EXPIRE, ttl)
}

fn server_name(zone: &Zone) -> DomainName {
    match &zone.server {
        Some(node) => zone.host_name(node),
        None => zone.settings.origin.name().clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use feed::Tags;
    use hickory_proto::op::Query;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::zone::tests::{draining, endpoint, zone};

    const PLENTY: usize = 1 << 16;

    fn ask_within(zone: &Zone, name: &str, record_type: RecordType, bytes_max: usize) -> Option<Answer> {
        let query = Query::query(DomainName::from_ascii(name).unwrap(), record_type);
        answer(zone, &LowerQuery::query(query), bytes_max, &mut StdRng::seed_from_u64(1))
    }

    fn ask(zone: &Zone, name: &str, record_type: RecordType) -> Answer {
        ask_within(zone, name, record_type, PLENTY).expect("the name is ours")
    }

    fn small_zone() -> Zone {
        zone(&[
            ("app", &[endpoint("app1", 41, "10.0.0.1:80"), endpoint("app2", 42, "[2001:db8::2]:81")]),
            ("idle", &[]),
            ("leaving", &[draining("app3", 1, "10.0.0.3:80")]),
        ])
    }

    fn data(records: &[Record]) -> BTreeSet<String> {
        records.iter().map(|record| record.data.to_string()).collect()
    }

    fn large_zone() -> Zone {
        let endpoints: Vec<Endpoint> = (0..500)
            .map(|i| endpoint(&format!("n{i}"), 1, &format!("10.0.{}.{}:80", i / 250, i % 250)))
            .collect();
        zone(&[("big", &endpoints)])
    }

    #[test]
    fn a_role_is_answered_by_family() {
        let zone = small_zone();
        assert_eq!(data(&ask(&zone, "app.", RecordType::A).answers), ["10.0.0.1".to_owned()].into());
        assert_eq!(data(&ask(&zone, "app.", RecordType::AAAA).answers), ["2001:db8::2".to_owned()].into());
    }

    #[test]
    fn records_carry_the_name_as_it_was_asked() {
        let answer = ask(&small_zone(), "APP.concertina.INTERNAL.", RecordType::A);
        assert_eq!(answer.answers[0].name.to_ascii(), "APP.concertina.INTERNAL.");
    }

    #[test]
    fn a_name_without_the_type_has_no_data_but_a_soa() {
        let zone = small_zone();
        for (name, record_type, owner) in [
            ("app1.", RecordType::AAAA, "."),
            ("app1.concertina.internal.", RecordType::AAAA, "concertina.internal."),
            ("idle.", RecordType::A, "."),
            ("_idle._tcp.concertina.internal.", RecordType::SRV, "concertina.internal."),
            ("leaving.", RecordType::A, "."),
            ("node.concertina.internal.", RecordType::ANY, "concertina.internal."),
            ("app.", RecordType::HTTPS, "."),
        ] {
            let answer = ask(&zone, name, record_type);
            assert_eq!((answer.code, answer.answers.len()), (ResponseCode::NoError, 0), "{name}");
            assert_eq!(answer.authorities[0].name.to_ascii(), owner);
            let RData::SOA(soa) = &answer.authorities[0].data else { panic!("a SOA") };
            assert_eq!((soa.minimum, answer.authorities[0].ttl), (0, 0));
        }
    }

    #[test]
    fn what_is_unknown_or_leaving_does_not_exist() {
        for name in ["nobody.", "app3.", "nobody.concertina.internal.", "_nobody._tcp."] {
            let answer = ask(&small_zone(), name, RecordType::A);
            assert_eq!((answer.code, answer.authorities.len()), (ResponseCode::NXDomain, 1), "{name}");
        }
        assert_eq!(ask_within(&small_zone(), "example.com.", RecordType::A, PLENTY), None);
    }

    #[test]
    fn nothing_is_said_not_to_exist_before_everything_was_told() {
        let mut partial = zone(&[("app", &[endpoint("app1", 1, "10.0.0.1:80")])]);
        partial.complete = false;
        assert_eq!(ask(&partial, "app.", RecordType::A).answers.len(), 1);
        for name in
            ["web.", "web.concertina.internal.", "_web._tcp.", "web.service.", "2.0.0.10.in-addr.arpa."]
        {
            assert_eq!(ask(&partial, name, RecordType::A).code, ResponseCode::ServFail, "{name}");
        }
        assert_eq!(ask_within(&partial, "example.com.", RecordType::A, PLENTY), None);
    }

    #[test]
    fn names_above_ours_exist_where_nobody_else_is_asked() {
        let zone = small_zone();
        for (name, expected) in [
            (".", ResponseCode::NoError),
            ("arpa.", ResponseCode::NoError),
            ("in-addr.arpa.", ResponseCode::NoError),
            ("1.in-addr.arpa.", ResponseCode::NXDomain),
            ("com.", ResponseCode::NXDomain),
        ] {
            let answer = nonexistent(&zone, &crate::zone::tests::lower(name));
            assert_eq!((answer.code, answer.authorities.len()), (expected, 1), "{name}");
        }
    }

    #[test]
    fn srv_gives_port_weight_and_target_and_the_addresses_of_the_targets() {
        let answer = ask(&small_zone(), "_app._tcp.", RecordType::SRV);
        let expected = ["0 100 80 app1.concertina.internal.", "0 100 81 app2.concertina.internal."];
        assert_eq!(data(&answer.answers), expected.map(str::to_owned).into());
        assert_eq!(data(&answer.additionals), ["10.0.0.1", "2001:db8::2"].map(str::to_owned).into());
    }

    #[test]
    fn a_process_that_listens_nowhere_has_no_srv() {
        let zone = zone(&[("job", &[endpoint("job1", 1, "10.0.0.1:0")])]);
        assert!(ask(&zone, "_job._tcp.", RecordType::SRV).answers.is_empty());
        assert_eq!(ask(&zone, "job.", RecordType::A).answers.len(), 1);
    }

    #[test]
    fn gossip_srv_names_every_gossip_port() {
        let silent = Endpoint { gossip_port: 0, ..endpoint("b", 1, "10.0.0.2:80") };
        let zone = zone(&[("app", &[endpoint("a", 1, "10.0.0.1:80"), silent])]);
        let answer = ask(&zone, "_gossip._udp.concertina.internal.", RecordType::SRV);
        assert_eq!(data(&answer.answers), ["0 0 7946 a.concertina.internal.".to_owned()].into());
    }

    #[test]
    fn txt_and_ptr_describe_the_node() {
        let zone = small_zone();
        let RData::TXT(txt) = &ask(&zone, "app2.", RecordType::TXT).answers[0].data else { panic!("a TXT") };
        let strings: Vec<_> = txt.txt_data.iter().map(|text| String::from_utf8_lossy(text)).collect();
        assert_eq!(strings, ["role=app", "state=ready", "instance=42"]);
        let mut tagged = endpoint("app3", 43, "10.0.0.3:80");
        tagged.tags = Tags::new(["zone=a b".parse().unwrap(), "role=admin".parse().unwrap()]).unwrap();
        let tagged = crate::zone::tests::zone(&[("app", &[tagged])]);
        let RData::TXT(txt) = &ask(&tagged, "app3.", RecordType::TXT).answers[0].data else {
            panic!("a TXT")
        };
        let strings: Vec<_> = txt.txt_data.iter().map(|text| String::from_utf8_lossy(text)).collect();
        assert_eq!(strings, ["role=app", "state=ready", "instance=43", "role=admin", "zone=a b"]);
        let reverse = ask(&zone, "1.0.0.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(data(&reverse.answers), ["app1.concertina.internal.".to_owned()].into());
    }

    #[test]
    fn the_zone_has_a_soa_and_a_name_server() {
        let zone = small_zone();
        let ns = ask(&zone, "concertina.internal.", RecordType::NS);
        assert_eq!(data(&ns.answers), ["dnsserver.concertina.internal.".to_owned()].into());
        let RData::SOA(soa) = &ask(&zone, "concertina.internal.", RecordType::SOA).answers[0].data else {
            panic!("a SOA")
        };
        assert_eq!(soa.serial, 3, "one for each table");
    }

    #[test]
    fn any_is_answered_minimally() {
        let answer = ask(&small_zone(), "app.", RecordType::ANY);
        assert_eq!((answer.answers.len(), answer.answers[0].record_type()), (1, RecordType::HINFO));
    }

    #[test]
    fn every_endpoint_comes_first_at_times() {
        let zone = large_zone();
        let query = LowerQuery::query(Query::query(DomainName::from_ascii("big.").unwrap(), RecordType::A));
        let mut rng = StdRng::seed_from_u64(1);
        let firsts: BTreeSet<String> = (0..10_000)
            .filter_map(|_| answer(&zone, &query, RECORD_BYTES_MIN * 2, &mut rng))
            .map(|answer| answer.answers[0].data.to_string())
            .collect();
        assert_eq!(firsts.len(), 500);
    }

    #[test]
    fn answers_that_do_not_fit_are_left_out_and_it_is_said() {
        let zone = large_zone();
        let first = name_bytes_max(&DomainName::from_ascii("big.").unwrap()) + RECORD_FIXED_BYTES + 4;
        let answer = ask_within(&zone, "big.", RecordType::A, first + 9 * RECORD_BYTES_MIN).unwrap();
        assert_eq!((answer.answers.len(), answer.truncated), (10, true));
        let all = ask(&zone, "big.", RecordType::A);
        assert_eq!((all.answers.len(), all.truncated), (500, false));
    }

    #[test]
    fn additionals_that_do_not_fit_are_left_out_silently() {
        let zone = zone(&[("app", &[endpoint("a", 1, "10.0.0.1:80")])]);
        let answer = ask_within(&zone, "_app._tcp.", RecordType::SRV, 60).unwrap();
        assert_eq!((answer.answers.len(), answer.additionals.len(), answer.truncated), (1, 0, false));
    }
}
