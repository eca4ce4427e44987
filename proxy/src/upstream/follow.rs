//! The feed's tables and the plan's routes, put into the directory, with the routes that services claim.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    os::unix::ffi::OsStrExt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use feed::{
    Endpoint, EndpointId, EndpointState, Name, RoleTable, Route, follow::Consumer, frame::SidecarHello,
    ticket::TicketKeys,
};

mod matching;

pub(crate) use matching::{Lead, Match};

use super::{
    directory::{Directory, Led},
    hash::hash,
};
use crate::{
    certificates::{Origins, Tickets},
    config::{Address, FixedTable, Plan, RouteRule},
    limits::ROUTED_ROLES_COUNT_MAX,
    route::{Table, Target, Usual},
};

/// What the directory is made of: tables, and a plan that may change.
#[derive(Debug)]
pub(crate) struct Sources {
    directory: Arc<Directory>,
    /// How many proxies there are in the role of this one.
    proxies: Arc<AtomicU32>,
    known: Mutex<Known>,
    /// Held by whoever has the workers take tables: an older one must not come behind a newer, nor routes before their roles.
    applying: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    plan: Arc<Plan>,
    /// By what endpoints are spoken to that claim TLS.
    origins: Arc<Origins>,
    /// The node that this proxy runs beside.
    node: Option<Name>,
    /// The newest of each role that the feed tells of; another plan may name it.
    tables: BTreeMap<Name, RoleTable>,
    /// The routes of each role that claims any.
    claims: BTreeMap<Name, BTreeSet<Route>>,
}

impl Sources {
    /// A directory of so many workers, with the roles that the plan names.
    pub(crate) fn new(plan: Arc<Plan>, origins: Arc<Origins>, workers: usize) -> Arc<Self> {
        let directory = Arc::new(Directory::new(&plan.named_roles(), workers, |role| plan.is_keyed(role)));
        // Before the listeners: the first client must find what is known from the start.
        publish_fixed(&directory, &plan.fixed.upstream);
        let known = Known { plan, origins, node: None, tables: BTreeMap::new(), claims: BTreeMap::new() };
        let (proxies, known, applying) = (Arc::new(AtomicU32::new(1)), Mutex::new(known), Default::default());
        let sources = Self { directory, proxies, known, applying };
        sources.publish_routes();
        Arc::new(sources)
    }

    pub(crate) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// What the node is called that this proxy runs beside, or the machine, where there is none.
    pub(crate) fn node_name(&self) -> String {
        let node = self.known().node.as_ref().map(ToString::to_string);
        node.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The roles of another plan become known to all workers, beside those of the one before. Whatever claims TLS goes by its trust.
    pub(crate) async fn add_roles(&self, plan: &Plan, origins: &Arc<Origins>) {
        for name in plan.named_roles() {
            let role = self.directory.role(name.as_str());
            let role = role.unwrap_or_else(|| self.directory.add(&name, plan.is_keyed(&name)));
            role.set_keyed(plan.is_keyed(&name));
        }
        self.apply_origins(origins).await;
    }

    /// From now on endpoints that claim TLS are spoken to by these: those that are known, and those of tables to come.
    pub(crate) async fn apply_origins(&self, origins: &Arc<Origins>) {
        let _applying = self.applying.lock().await;
        self.known().origins = origins.clone();
        for table in self.tables() {
            // Without one nobody has said anything of a role; an empty one says that nobody is there.
            if let Some(role) = self.directory.role(table.role().as_str()) {
                role.apply_table(&table, origins).await;
            }
        }
    }

    fn tables(&self) -> Vec<RoleTable> {
        self.known().tables.values().cloned().collect()
    }

    /// From now on this plan says who may claim routes, and which there are besides. Its roles must be known.
    pub(crate) async fn apply_plan(&self, plan: Arc<Plan>) {
        let _applying = self.applying.lock().await;
        {
            let mut known = self.known();
            known.plan = plan;
            known.claims.clear();
        }
        for table in self.tables() {
            self.apply_claims(&table);
            self.apply_known(&table).await;
        }
        self.publish_routes();
    }

    /// Takes the claims of a table; true if they are others than before. A claim holds as long as one of the role's nodes makes it, and is
    /// listed.
    fn apply_claims(&self, table: &RoleTable) -> bool {
        let mut known = self.known();
        if !known.plan.is_routing() {
            return false;
        }
        let claimed: BTreeSet<&Route> = table.endpoints().iter().flat_map(|e| e.routes.iter()).collect();
        let (claims, denied): (Vec<&Route>, Vec<&Route>) =
            claimed.into_iter().partition(|route| known.is_allowed(table.role(), route));
        let claims: BTreeSet<Route> = claims.into_iter().cloned().collect();
        let is_new = known.claims.get(table.role()).map_or(!claims.is_empty(), |before| *before != claims);
        if claims.is_empty() {
            known.claims.remove(table.role());
        } else {
            known.claims.insert(table.role().clone(), claims);
        }
        if is_new && !denied.is_empty() {
            tracing::warn!(role = %table.role(), ?denied, "claims that --routes-allow does not allow");
        }
        is_new
    }

    /// Has the workers choose by a table, if anybody is sent to its role.
    async fn apply_known(&self, table: &RoleTable) {
        let mut role = self.directory.role(table.role().as_str());
        if role.is_none() && self.known().claims.contains_key(table.role()) {
            if self.directory.roles().len() >= ROUTED_ROLES_COUNT_MAX {
                tracing::warn!(role = %table.role(), limit = ROUTED_ROLES_COUNT_MAX, "too many roles claim routes");
                return;
            }
            let is_keyed = self.known().plan.is_keyed(table.role());
            role = Some(self.directory.add(table.role(), is_keyed));
        }
        if let Some(role) = role {
            let origins = self.known().origins.clone();
            role.apply_table(table, &origins).await;
        }
    }

    /// The plan's routes go before claims. Of two roles that claim one route, that of the first name has it: all proxies agree on that,
    /// whoever they heard of first.
    fn publish_routes(&self) {
        let known = self.known();
        let planned = known.plan.routes.iter();
        let usual = known.usual(&self.proxies);
        let target = |rule: &RouteRule| Target::new(rule, &usual, |role| self.position(role));
        let planned = planned.filter_map(|rule| Some(Led::entry(&rule.route, target(rule)?)));
        let claimed = known.winners().into_iter();
        let claimed =
            claimed.filter_map(|(route, role)| Some(Led::entry(route, Target::Role(self.position(role)?))));
        let routes: Table<Led> = planned.chain(claimed).collect();
        self.directory.publish_routes(routes);
        let (named, now) = (known.plan.named_roles(), Instant::now());
        for role in self.directory.roles().iter() {
            role.set_named(named.contains(&role.name) || known.claims.contains_key(&role.name), now);
        }
    }

    fn position(&self, role: &Name) -> Option<usize> {
        self.directory.position(role.as_str())
    }
}

impl Known {
    /// What holds for a route that says nothing else.
    fn usual(&self, proxies: &Arc<AtomicU32>) -> Usual {
        let (timeouts, body_bytes_max) = (self.plan.timeouts, self.plan.body_bytes_max);
        Usual { timeouts, body_bytes_max, proxies: proxies.clone() }
    }

    /// How many serve beside this proxy, itself included, if the table is that of its own role.
    fn count_like_this(&self, table: &RoleTable) -> Option<u32> {
        let node = self.node.as_ref()?;
        table.endpoints().iter().find(|endpoint| endpoint.node == *node)?;
        let ready = table.endpoints().iter().filter(|endpoint| endpoint.state == EndpointState::Ready);
        u32::try_from(ready.count().max(1)).ok()
    }

    fn is_allowed(&self, role: &Name, route: &Route) -> bool {
        let allowed = &self.plan.routes_allow;
        allowed.is_empty() || allowed.iter().any(|allow| allow.includes(role, route))
    }

    /// Whose each claimed route is.
    fn winners(&self) -> BTreeMap<&Route, &Name> {
        let mut winners: BTreeMap<&Route, &Name> = BTreeMap::new();
        for (role, routes) in &self.claims {
            for route in routes {
                match winners.get(route) {
                    None => drop(winners.insert(route, role)),
                    Some(winner) => {
                        tracing::warn!(%route, %winner, shadowed = %role, "two roles claim a route");
                    }
                }
            }
        }
        winners
    }
}

/// What follows the feed.
pub(crate) struct Follower {
    pub(crate) sources: Arc<Sources>,
    /// None: no client is served TLS, nor will be.
    pub(crate) tickets: Option<Arc<Tickets>>,
}

impl Consumer for Follower {
    async fn apply_table(&mut self, table: &RoleTable) {
        let sources = &self.sources;
        let _applying = sources.applying.lock().await;
        {
            let mut known = sources.known();
            if known.plan.fixed.upstream.iter().any(|fixed| fixed.role == *table.role()) {
                return;
            }
            known.tables.insert(table.role().clone(), table.clone());
            if let Some(count) = known.count_like_this(table) {
                sources.proxies.store(count, Ordering::Relaxed);
            }
        }
        let has_changed = sources.apply_claims(table);
        sources.apply_known(table).await;
        // Only now: every worker knows whom they lead to.
        if has_changed {
            sources.publish_routes();
        }
    }

    fn handle_hello(&mut self, hello: &SidecarHello) {
        self.sources.known().node = Some(hello.node.clone());
    }

    fn handle_synced(&mut self) {
        self.sources.directory.note_synced();
    }

    fn wants_tickets(&self) -> bool {
        self.tickets.is_some()
    }

    fn apply_tickets(&mut self, keys: &TicketKeys) {
        if let Some(Err(error)) = self.tickets.as_ref().map(|tickets| tickets.apply(keys, Instant::now())) {
            tracing::error!(%error, "the keys of session tickets are not taken, those before go on");
        }
    }

    fn in_flight(&self, role: &Name) -> HashMap<EndpointId, u32> {
        self.sources.directory.role(role.as_str()).map(|role| role.in_flight()).unwrap_or_default()
    }
}

pub(crate) fn publish_fixed(directory: &Directory, tables: &[FixedTable]) {
    for fixed in tables {
        let endpoints = fixed.addrs.iter().enumerate().map(|(i, addr)| fixed_endpoint(i, addr)).collect();
        let place_of = |listed: &Endpoint| {
            let position = usize::try_from(listed.instance - 1).unwrap_or(usize::MAX);
            (fixed.addrs.get(position).cloned().unwrap_or_else(|| listed.addr.into()), None)
        };
        if let Some(role) = directory.role(fixed.role.as_str()) {
            role.publish_at(&RoleTable::new(fixed.role.clone(), 1, endpoints), place_of);
        }
    }
}

/// An endpoint of a fixed table; its position stands for the instance, since it never changes. Its address is its name, so that it
/// has the same keys wherever in the table it stands. Tables know addresses of IP alone: to them, a Unix socket is at none.
pub(crate) fn fixed_endpoint(position: usize, addr: &Address) -> Endpoint {
    let node = match addr {
        Address::Ip(addr) => format!("fixed-{}-{}", addr.ip(), addr.port()).replace(['.', ':'], "-"),
        Address::Unix(path) => format!("fixed-unix-{:016x}", hash(path.as_path().as_os_str().as_bytes())),
    };
    Endpoint {
        node: node.parse().expect("a short name within the grammar"),
        instance: position as u64 + 1,
        addr: addr.ip().unwrap_or_else(|| SocketAddr::from(([0; 4], 0))),
        state: EndpointState::Ready,
        weight: 100,
        since: 0.0,
        gossip_port: 0,
        tags: feed::Tags::default(),
        routes: feed::Routes::default(),
        protocol: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{config::Plan, route::Key, upstream::directory::TOLD_AFTER};

    fn plan(text: &str) -> Arc<Plan> {
        let text = format!("listen = ['http://127.0.0.1:0']\n{text}");
        Arc::new(Plan::new(program::file::parse("a.toml", &text).unwrap()).unwrap())
    }

    /// What follows the feed for no worker, and where it puts it.
    fn follower(text: &str) -> (Follower, Arc<Directory>) {
        let sources = Sources::new(plan(text), Arc::default(), 0);
        (Follower { sources: sources.clone(), tickets: None }, sources.directory.clone())
    }

    fn found(directory: &Directory, host: &str, target: &str) -> Option<String> {
        let key = Key::new(host.as_bytes(), target.as_bytes()).unwrap();
        let Target::Role(role) = directory.subscribe_routes().borrow().find(&key)?.target else {
            return None;
        };
        Some(directory.roles()[role].name.to_string())
    }

    fn table(role: &str, routes: &[&str]) -> RoleTable {
        let endpoint = |routes: &[&str]| Endpoint {
            node: role.parse().unwrap(),
            instance: 1,
            addr: "10.0.0.1:80".parse().unwrap(),
            state: EndpointState::Ready,
            weight: 100,
            since: 0.0,
            gossip_port: 0,
            tags: feed::Tags::default(),
            routes: feed::Routes::new(routes.iter().map(|route| route.parse().unwrap())).unwrap(),
            protocol: None,
        };
        RoleTable::new(role.parse().unwrap(), 1, vec![endpoint(routes)])
    }

    #[tokio::test]
    async fn the_same_role_has_a_route_in_whatever_order_claims_come_and_the_other_has_it_afterwards() {
        for order in [["billing", "accounts"], ["accounts", "billing"]] {
            let (mut follower, directory) = follower("");
            let found = |host: &str| found(&directory, host, "/x");
            for role in order {
                follower.apply_table(&table(role, &["a.example", role])).await;
            }
            assert_eq!(found("a.example").as_deref(), Some("accounts"));
            assert_eq!(found("billing").as_deref(), Some("billing"));
            follower.apply_table(&table("accounts", &[])).await;
            assert_eq!(found("a.example").as_deref(), Some("billing"));
            follower.apply_table(&RoleTable::new("billing".parse().unwrap(), 2, Vec::new())).await;
            assert_eq!((found("a.example"), found("billing")), (None, None));
        }
    }

    #[tokio::test]
    async fn only_allowed_claims_count_where_anything_is_said_of_them() {
        let (mut follower, directory) = follower("routes-allow = ['billing=*.example']");
        for role in ["accounts", "billing"] {
            follower.apply_table(&table(role, &["a.example", "b"])).await;
        }
        let found = |host: &str| found(&directory, host, "/");
        assert_eq!((found("a.example").as_deref(), found("b")), (Some("billing"), None));
        assert_eq!(directory.position("accounts"), None, "nothing is kept of who has no route");
    }

    #[tokio::test]
    async fn so_many_roles_may_claim_routes_and_no_more() {
        let (mut follower, directory) = follower("");
        for i in 0..=ROUTED_ROLES_COUNT_MAX {
            follower.apply_table(&table(&format!("role{i}"), &[&format!("/{i}")])).await;
        }
        assert_eq!(directory.roles().len(), ROUTED_ROLES_COUNT_MAX);
    }

    #[tokio::test]
    async fn the_routes_of_a_plan_go_before_claims_and_another_plan_has_others() {
        let (mut follower, directory) = follower("route = [{ match = 'a.example', role = 'web' }]");
        follower.apply_table(&table("accounts", &["a.example", "a.example/api"])).await;
        let found = |target: &str| found(&directory, "a.example", target);
        assert_eq!(found("/").as_deref(), Some("web"));
        assert_eq!(found("/api").as_deref(), Some("accounts"), "of two routes the more exact one");
        let next = plan("routes-allow = ['web=*']\nroute = [{ match = 'a.example/x', role = 'shop' }]");
        follower.sources.add_roles(&next, &Arc::default()).await;
        follower.sources.apply_plan(next).await;
        assert_eq!((found("/x").as_deref(), found("/"), found("/api")), (Some("shop"), None, None));
        let back = plan("");
        follower.sources.add_roles(&back, &Arc::default()).await;
        follower.sources.apply_plan(back).await;
        assert_eq!(found("/").as_deref(), Some("accounts"));
    }

    #[tokio::test]
    async fn a_role_that_no_plan_and_no_claim_leads_to_is_told_of_for_a_while() {
        let (mut follower, directory) = follower("route = [{ match = 'a.example', role = 'web' }]");
        follower.apply_table(&table("accounts", &["/"])).await;
        let is_told = |name: &str, later| directory.role(name).unwrap().is_told(Instant::now() + later);
        follower.apply_table(&RoleTable::new("accounts".parse().unwrap(), 2, Vec::new())).await;
        assert!(is_told("accounts", Duration::ZERO) && !is_told("accounts", TOLD_AFTER));
        assert!(is_told("web", TOLD_AFTER), "the plan names it");
        follower.apply_table(&table("accounts", &["/"])).await;
        assert!(is_told("accounts", TOLD_AFTER), "it is back");
        follower.sources.apply_plan(plan("")).await;
        assert!(is_told("accounts", TOLD_AFTER) && !is_told("web", TOLD_AFTER));
    }

    /// Whom a request reaches when its service leaves: nobody until it has left, rather than somebody who does not know it. One that
    /// drains has said that nothing is under way there, and may end at any moment.
    #[tokio::test]
    async fn a_claim_holds_as_long_as_its_only_node_drains_and_others_have_its_requests_afterwards() {
        let (mut follower, directory) = follower("route = [{ match = '/', role = 'web' }]");
        let ready = table("accounts", &["/api"]);
        follower.apply_table(&ready).await;
        let draining: Vec<Endpoint> = ready
            .endpoints()
            .iter()
            .map(|e| Endpoint { state: EndpointState::Draining, ..e.clone() })
            .collect();
        follower.apply_table(&RoleTable::new("accounts".parse().unwrap(), 2, draining)).await;
        assert_eq!(found(&directory, "a", "/api/x").as_deref(), Some("accounts"));
        follower.apply_table(&RoleTable::new("accounts".parse().unwrap(), 3, Vec::new())).await;
        assert_eq!(found(&directory, "a", "/api/x").as_deref(), Some("web"));
    }

    /// The table of a role whose endpoint claims TLS.
    fn sealed(role: &str) -> RoleTable {
        let table = table(role, &["/"]);
        let claim = |e: &Endpoint| Endpoint { protocol: Some(feed::EndpointProtocol::Https), ..e.clone() };
        RoleTable::new(table.role().clone(), 1, table.endpoints().iter().map(claim).collect())
    }

    #[tokio::test]
    async fn what_claims_tls_goes_by_another_trust_before_any_worker_goes_by_the_plan_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let trusting = |name: &str| {
            let path = folder.path().join(name);
            let key = rcgen::KeyPair::generate().unwrap();
            let made = rcgen::CertificateParams::new(["a".to_owned()]).unwrap().self_signed(&key).unwrap();
            std::fs::write(&path, made.pem()).unwrap();
            let plan = plan(&format!("upstream-trust = ['web=ca:{}']", path.display()));
            (plan.clone(), Arc::new(Origins::read(&plan.rules, &Origins::default()).unwrap()))
        };
        let [(first, old), (second, new)] = ["old.pem", "new.pem"].map(trusting);
        let sources = Sources::new(first, old.clone(), 0);
        let mut follower = Follower { sources: sources.clone(), tickets: None };
        // Nobody but its claim leads to the role.
        follower.apply_table(&sealed("web")).await;
        let is_by = |origins: &Origins| {
            let listing = sources.directory.role("web").unwrap().listing();
            let claimed = origins.claimed(&"web".parse().unwrap(), feed::EndpointProtocol::Https).unwrap();
            let terms = listing.endpoints[0].claim.as_ref().unwrap().terms.as_ref().unwrap();
            Arc::ptr_eq(terms, &claimed)
        };
        assert!(is_by(&old));
        sources.add_roles(&second, &new).await;
        assert!(is_by(&new) && !is_by(&old));
    }

    #[tokio::test]
    async fn a_table_that_comes_while_a_plan_changes_is_the_last_that_workers_take() {
        let sources = Sources::new(plan(""), Arc::default(), 1);
        let follower = || Follower { sources: sources.clone(), tickets: None };
        let is_over = std::cell::Cell::new(false);
        // The worker, which takes whatever there is.
        let working = async || {
            while !is_over.take() {
                for role in sources.directory.roles().iter() {
                    role.note_applied(0, role.listing().version);
                }
                tokio::task::yield_now().await;
            }
        };
        let telling = async {
            for role in ["a", "b"] {
                follower().apply_table(&table(role, &[&format!("/{role}")])).await;
            }
            is_over.set(true);
        };
        tokio::join!(telling, working());
        let newer = RoleTable::new("b".parse().unwrap(), 2, Vec::new());
        let both = async {
            let mut follower = follower();
            tokio::join!(sources.apply_plan(plan("")), follower.apply_table(&newer));
            is_over.set(true);
        };
        tokio::join!(both, working());
        assert_eq!(sources.directory.role("b").unwrap().listing().endpoints.len(), 0);
        assert_eq!(found(&sources.directory, "x", "/b"), None);
    }

    #[tokio::test]
    async fn a_role_that_another_plan_names_has_the_table_that_came_before() {
        let (mut follower, directory) = follower("");
        follower.apply_table(&table("shop", &[])).await;
        assert!(directory.role("shop").is_none());
        let next = plan("route = [{ match = '/', role = 'shop' }]\nbalance = ['shop=hash:client']");
        follower.sources.add_roles(&next, &Arc::default()).await;
        let listing = directory.role("shop").unwrap().subscribe().borrow().clone();
        assert!(listing.endpoints.len() == 1 && listing.slots.is_some());
    }
}
