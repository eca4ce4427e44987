//! Where a node finds its first contact: what it was told, and what Docker wrote into resolv.conf.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use simple_dns::{CLASS, Name as DnsName, Packet, PacketFlag, QCLASS, QTYPE, Question, TYPE, rdata::RData};
use tokio::{net::UdpSocket, time::timeout};

use crate::config::{GOSSIP_PORT, Seed};

/// Docker's own server on user-defined networks. It knows containers by name and asks the `--dns` address for the rest.
const DOCKER_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// The name under which the first contact is usually started.
const DNSSERVER: &str = "dnsserver";

/// Longest wait for one DNS answer. Docker's server forwards to a dnsserver that may not be up yet.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Pause between looks at the sources while they name nobody, and later. resolv.conf may change while a container runs.
const LOOK_PERIOD_ALONE: Duration = Duration::from_millis(250);
const LOOK_PERIOD: Duration = Duration::from_secs(10);

/// How often resolv.conf is read meanwhile, only to see whether it is another text.
const READ_PERIOD: Duration = Duration::from_secs(1);

/// Where to look for seeds.
#[derive(Debug, Clone)]
pub struct Sources {
    /// What the command line says.
    pub join: Vec<Seed>,
    /// The resolv.conf whose nameservers are seeds as well.
    pub resolv_conf: Option<PathBuf>,
    /// The zone to ask on user-defined networks.
    pub zone: String,
}

/// What one source says.
#[derive(Debug)]
struct Found {
    source: String,
    seeds: Vec<SocketAddr>,
}

/// What the sources have said so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    by_source: BTreeMap<String, Named>,
}

/// What is known of a source that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    /// It has not answered yet.
    Asked,
    /// It names nobody.
    Nobody,
    Seeds(BTreeSet<SocketAddr>),
}

impl Known {
    /// All seeds.
    pub(crate) fn addrs(&self) -> BTreeSet<SocketAddr> {
        let named = self.by_source.values();
        let seeds =
            named.filter_map(|named| if let Named::Seeds(seeds) = named { Some(seeds) } else { None });
        seeds.flatten().copied().collect()
    }

    fn named_count(&self) -> usize {
        self.by_source.values().filter(|named| matches!(named, Named::Seeds(_))).count()
    }

    /// The sources that have named nobody, and why that may be.
    pub(crate) fn silent(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.by_source.iter().filter_map(|(source, named)| match named {
            Named::Asked => Some((source.as_str(), "no answer from the resolver")),
            Named::Nobody => Some((source.as_str(), "cannot be resolved")),
            Named::Seeds(_) => None,
        })
    }

    /// Takes what a source says; true if it is something else than before. One that names nobody is a resolver that does not
    /// answer: what it said before may still be right.
    fn apply(&mut self, found: Found) -> bool {
        let before = self.by_source.get(&found.source);
        let named = match before {
            Some(Named::Seeds(_)) if found.seeds.is_empty() => return false,
            _ if found.seeds.is_empty() => Named::Nobody,
            _ => Named::Seeds(found.seeds.into_iter().collect()),
        };
        let is_news = before != Some(&named);
        self.by_source.insert(found.source, named);
        is_news
    }
}

type Looks<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Found> + 'a>>>;

impl Sources {
    /// Looks for ever and tells what is known whenever that is something else than before.
    pub(crate) async fn watch(self, mut tell: impl FnMut(&Known)) {
        let mut known = self.given();
        let mut said = 0;
        tell(&known);
        loop {
            let text = self.read_resolv_conf();
            let mut looks = self.looks(text.as_deref());
            loop {
                // A name may have other addresses at every look. What each source says first is said: so the node came in.
                let named = known.named_count();
                if named > said {
                    tracing::info!(seeds = ?known.addrs(), "seeds");
                    said = named;
                }
                let Some(found) = looks.next().await else { break };
                if known.apply(found) {
                    tell(&known);
                }
            }
            drop(looks);
            if known.addrs().is_empty() {
                tokio::time::sleep(LOOK_PERIOD_ALONE).await;
                continue;
            }
            let _ = timeout(LOOK_PERIOD, self.changed_from(&text)).await;
        }
    }

    /// Waits until resolv.conf is another text than this.
    async fn changed_from(&self, text: &Option<String>) {
        while self.read_resolv_conf() == *text {
            tokio::time::sleep(READ_PERIOD).await;
        }
    }

    /// Whether there is nowhere to look.
    pub(crate) fn is_empty(&self) -> bool {
        self.join.is_empty() && self.resolv_conf.is_none()
    }

    /// What is known without a look: addresses, and which names are to be looked up.
    fn given(&self) -> Known {
        let by_source = self.join.iter().map(|seed| match seed {
            Seed::Addr(addr) => (addr.to_string(), Named::Seeds(BTreeSet::from([*addr]))),
            Seed::Name(name, _) => (name.clone(), Named::Asked),
        });
        Known { by_source: by_source.collect() }
    }

    /// A look at every source, all at once: one that is silent keeps nobody from the others.
    fn looks(&self, resolv_conf: Option<&str>) -> Looks<'_> {
        let looks = Looks::new();
        for seed in &self.join {
            if let Seed::Name(name, port) = seed {
                looks.push(Box::pin(async move {
                    let addrs = tokio::net::lookup_host((name.as_str(), *port)).await;
                    let seeds = addrs.map(Iterator::collect).unwrap_or_default();
                    Found { source: name.clone(), seeds }
                }));
            }
        }
        if let (Some(path), Some(text)) = (&self.resolv_conf, resolv_conf) {
            let resolvers = parse_resolv_conf(text);
            let outside = resolvers.iter().filter(|ip| !ip.is_loopback());
            let seeds = outside.map(|ip| SocketAddr::new(*ip, GOSSIP_PORT)).collect();
            let source = format!("nameservers in {}", path.display());
            looks.push(Box::pin(ready(Found { source, seeds })));
            if resolvers.contains(&DOCKER_DNS) {
                looks.push(Box::pin(async {
                    Found { source: format!("{DNSSERVER} in Docker's DNS"), seeds: self.ask_docker().await }
                }));
            }
        }
        looks
    }

    /// One look at every source.
    pub async fn look(&self) -> BTreeSet<SocketAddr> {
        let mut known = self.given();
        let text = self.read_resolv_conf();
        let mut looks = self.looks(text.as_deref());
        while let Some(found) = looks.next().await {
            known.apply(found);
        }
        known.addrs()
    }

    /// The first seed that this is true of.
    pub(crate) async fn find<T>(&self, is_good: impl AsyncFn(SocketAddr) -> Option<T>) -> Option<T> {
        let text = self.read_resolv_conf();
        let mut looks = self.looks(text.as_deref());
        let mut next: Vec<SocketAddr> = self.given().addrs().into_iter().collect();
        loop {
            for seed in next {
                if let Some(good) = is_good(seed).await {
                    return Some(good);
                }
            }
            next = looks.next().await?.seeds;
        }
    }

    fn read_resolv_conf(&self) -> Option<String> {
        std::fs::read_to_string(self.resolv_conf.as_ref()?).ok()
    }

    async fn ask_docker(&self) -> Vec<SocketAddr> {
        let service = format!("_gossip._udp.{}", self.zone.trim_end_matches('.'));
        let by_service = lookup(&service, TYPE::SRV).await;
        if by_service.is_empty() { lookup(DNSSERVER, TYPE::A).await } else { by_service }
    }
}

/// The nameservers of a resolv.conf, and those that Docker mentions in its `# ExtServers: [host(10.0.0.1) 10.0.0.2]` comment.
pub fn parse_resolv_conf(text: &str) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("nameserver") {
            found.extend(rest.split_whitespace().next().and_then(|ip| ip.parse::<IpAddr>().ok()));
        } else if let Some((_, rest)) = line.split_once("ExtServers:").filter(|_| line.starts_with('#')) {
            let words = rest.split(|c: char| c.is_whitespace() || "[](),".contains(c));
            found.extend(words.filter_map(|word| word.parse::<IpAddr>().ok()));
        }
    }
    found
}

async fn lookup(name: &str, kind: TYPE) -> Vec<SocketAddr> {
    let answer = async {
        let id = rand::random();
        let query = encode_query(id, name, kind)?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
        socket.connect((DOCKER_DNS, 53)).await.ok()?;
        socket.send(&query).await.ok()?;
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).await.ok()?;
        parse_answer(id, &bytes[..length])
    };
    timeout(ANSWER_TIMEOUT, answer).await.ok().flatten().unwrap_or_default()
}

fn encode_query(id: u16, name: &str, kind: TYPE) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = DnsName::new(name).ok()?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().ok()
}

/// Addresses from A and AAAA records, with the ports of SRV records that name them.
fn parse_answer(id: u16, bytes: &[u8]) -> Option<Vec<SocketAddr>> {
    let packet = Packet::parse(bytes).ok().filter(|packet| packet.id() == id)?;
    let records = || packet.answers.iter().chain(&packet.additional_records);
    let port_of = |name: &DnsName<'_>| {
        records().find_map(|record| match &record.rdata {
            RData::SRV(srv) if srv.target == *name => Some(srv.port),
            _ => None,
        })
    };
    let addresses = records().filter_map(|record| {
        let ip: IpAddr = match &record.rdata {
            RData::A(a) => Ipv4Addr::from(a.address).into(),
            RData::AAAA(aaaa) => std::net::Ipv6Addr::from(aaaa.address).into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port_of(&record.name).unwrap_or(GOSSIP_PORT)))
    });
    Some(addresses.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::{ResourceRecord, rdata};

    use super::*;

    fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn nameservers_are_found_in_a_default_bridge_file() {
        let text = "# comment\nnameserver 172.17.0.2\nnameserver 8.8.8.8 # x\nsearch lan\noptions ndots:0\n";
        assert_eq!(parse_resolv_conf(text), ips(&["172.17.0.2", "8.8.8.8"]));
    }

    #[test]
    fn external_servers_are_found_in_dockers_comment() {
        let text = "nameserver 127.0.0.11\noptions edns0\n# Based on host file: '/etc/resolv.conf'\n\
                    # ExtServers: [172.18.0.2 host(10.0.0.1)]\n";
        assert_eq!(parse_resolv_conf(text), ips(&["127.0.0.11", "172.18.0.2", "10.0.0.1"]));
    }

    #[test]
    fn service_answers_give_address_and_port_together() {
        let target = DnsName::new("dnsserver.concertina.internal").unwrap();
        let mut packet = Packet::new_reply(7);
        let service = DnsName::new("_gossip._udp.concertina.internal").unwrap();
        let srv = rdata::SRV { priority: 0, weight: 1, port: 7999, target: target.clone() };
        packet.answers.push(ResourceRecord::new(service, CLASS::IN, 0, RData::SRV(srv)));
        let a = rdata::A::from(Ipv4Addr::new(172, 18, 0, 2));
        packet.additional_records.push(ResourceRecord::new(target, CLASS::IN, 0, RData::A(a)));
        let bytes = packet.build_bytes_vec().unwrap();
        assert_eq!(parse_answer(7, &bytes), Some(vec!["172.18.0.2:7999".parse().unwrap()]));
        assert_eq!(parse_answer(8, &bytes), None, "the answer to another question");
    }

    #[tokio::test]
    async fn a_name_to_join_is_looked_up_and_one_that_is_not_found_hides_no_other() {
        let join = ["localhost:7999", "nobody.invalid", "10.0.0.1"].map(|seed| seed.parse().unwrap());
        let seeds = Sources { join: join.into(), resolv_conf: None, zone: String::new() }.look().await;
        let (found, other) = (SocketAddr::from(([127, 0, 0, 1], 7999)), ([10, 0, 0, 1], GOSSIP_PORT).into());
        assert!(seeds.contains(&found) && seeds.contains(&other), "{seeds:?}");
        assert!(seeds.iter().all(|seed| seed.ip().is_loopback() || *seed == other), "{seeds:?}");
    }

    #[tokio::test]
    async fn an_address_is_a_seed_before_any_name_is_looked_up_and_a_name_without_an_address_is_told() {
        let join = ["nobody.invalid", "10.0.0.1"].map(|seed| seed.parse().unwrap());
        let sources = Sources { join: join.into(), resolv_conf: None, zone: String::new() };
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let watching = sources.watch(move |known| tell.send(known.clone()).unwrap());
        let checks = async {
            let address = BTreeSet::from([SocketAddr::from(([10, 0, 0, 1], GOSSIP_PORT))]);
            for why in ["no answer from the resolver", "cannot be resolved"] {
                let known: Known = told.recv().await.unwrap();
                assert_eq!(known.addrs(), address);
                assert_eq!(known.silent().collect::<Vec<_>>(), [("nobody.invalid", why)]);
            }
        };
        tokio::select! {
            _ = watching => {}
            () = checks => {}
        }
    }

    #[test]
    fn what_a_source_named_is_kept_when_it_falls_silent() {
        let mut known = Known::default();
        let found = |seeds: &[&str]| {
            let seeds = seeds.iter().map(|seed| seed.parse().unwrap()).collect();
            Found { source: "dns.example".to_owned(), seeds }
        };
        assert!(known.apply(found(&[])) && !known.apply(found(&[])));
        assert!(known.apply(found(&["10.0.0.1:7946"])) && !known.apply(found(&[])));
        assert_eq!((known.addrs().len(), known.silent().count()), (1, 0));
        assert!(known.apply(found(&["10.0.0.2:7946"])));
        assert_eq!(known.addrs(), BTreeSet::from(["10.0.0.2:7946".parse().unwrap()]));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_resolv_conf_that_changes_gives_other_seeds_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let sources = Sources { join: Vec::new(), resolv_conf: Some(path.clone()), zone: String::new() };
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let watching = sources.watch(move |known| tell.send(known.addrs()).unwrap());
        let checks = async {
            assert!(told.recv().await.unwrap().is_empty());
            let mut before = tokio::time::Instant::now();
            // The last one is written as most tools do it: beside, and moved into place.
            for (n, moved) in [(1, false), (2, false), (3, true)] {
                let written = if moved { dir.path().join("new") } else { path.clone() };
                std::fs::write(&written, format!("nameserver 172.17.0.{n}\n")).unwrap();
                std::fs::rename(&written, &path).unwrap();
                let seeds = told.recv().await.unwrap();
                assert_eq!(seeds, BTreeSet::from([SocketAddr::from(([172, 17, 0, n], GOSSIP_PORT))]));
                assert!(before.elapsed() <= READ_PERIOD, "{:?}", before.elapsed());
                before = tokio::time::Instant::now();
            }
            std::fs::remove_file(&path).unwrap();
            tokio::time::sleep(LOOK_PERIOD * 3).await;
            assert!(told.try_recv().is_err(), "what was found before may still be right");
        };
        tokio::select! {
            _ = watching => {}
            () = checks => {}
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".*") {
            let _ = parse_answer(0, &bytes);
            let _ = parse_resolv_conf(&text);
        }
    }
}
