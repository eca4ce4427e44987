//! What became of a request, by its id: asked of any node, and told by every hop.

use feed::recall::{Account, Cause, Hop, is_sampled};
use rustix::process::Signal;

use crate::{
    admin::get,
    support::{cluster::Cluster, http::Connection, network::Network, place::Place, turns::Turn, wait::until},
};

/// Asks the proxy by this id; the status.
fn ask(network: &Network, id: &str) -> u16 {
    let mut connection = Connection::open(network.service("proxyserver")).unwrap();
    connection.get_with("/hello", &format!("X-Request-ID: {id}\r\n")).unwrap().status
}

/// What a node tells of a request that two hops have kept, once all have answered.
fn recall(network: &Network, node: &str, id: &str) -> Account {
    until(&format!("two hops of {id} at {node}"), || {
        let told = network.ask(node, &format!("explain request {id} --json")).stdout;
        let account: Account = serde_json::from_str(&told).ok()?;
        (account.hops.len() == 2 && account.missing.is_empty()).then_some(account)
    })
}

#[test]
fn a_request_is_told_from_hop_to_hop_by_any_node_whether_it_went_well_or_failed() {
    let network = Network::claim();
    let _dnsserver = network.start("dnsserver");
    let listen = format!("http://{}=frontserver", network.service("proxyserver"));
    let proxy = [env!("CARGO_BIN_EXE_concertina"), "proxy", "--listen", &listen, "--request-id", "keep"];
    let _proxyserver = network.wrap("proxyserver", &network.join("proxyserver"), &proxy);
    let _frontserver = network.start("frontserver1");
    let mut appserver = network.start("appserver1");
    network.hear("/hello", 200, "Hello frontserver1, I'm appserver1 !\n");

    let sampled = (0..).map(|i| format!("sampled-{i:08}")).find(|id| is_sampled(id.as_bytes())).unwrap();
    assert_eq!(ask(&network, &sampled), 200);
    for node in ["appserver1", "dnsserver", "proxyserver", "frontserver1"] {
        let account = recall(&network, node, &sampled);
        let [proxy, front] = &account.hops[..] else { unreachable!() };
        assert_eq!((proxy.node.as_ref().unwrap().as_str(), proxy.program.as_str()), ("proxyserver", "proxy"));
        assert_eq!(
            (front.node.as_ref().unwrap().as_str(), front.program.as_str()),
            ("frontserver1", "front")
        );
        assert_eq!((proxy.cause, front.cause, front.status), (Cause::Sampled, Cause::Sampled, Some(200)));
        assert_eq!(proxy.attempts[0].node.as_str(), "frontserver1");
        assert_eq!(front.attempts[0].node.as_str(), "appserver1");
        assert!(
            proxy.attempts[0].generation > Some(0) && front.attempts[0].generation > Some(0),
            "{account:?}"
        );
    }

    appserver.signal(Signal::TERM);
    assert_eq!(appserver.ended().code(), Some(0), "{}", appserver.said());
    network.hear("/hello", 503, "no appserver is ready\n");
    assert_eq!(ask(&network, "failed-1"), 503);
    let account = recall(&network, "frontserver1", "failed-1");
    let ends: Vec<_> = account.hops.iter().map(|hop| (hop.cause, hop.status, hop.end.as_str())).collect();
    let failed = |end| (Cause::Failed, Some(503), end);
    assert_eq!(ends, [failed("done"), failed("no appserver is ready")]);

    let (status, told) = get(network.service("dnsserver"), "/explain?request=failed-1");
    let told: Account = serde_json::from_str(&told).unwrap();
    assert_eq!((status, told.hops), (200, account.hops));
    let (status, told) = get(network.service("frontserver1"), "/explain?request=a%20b");
    assert_eq!((status, told.contains("expected an id")), (400, true), "{told}");
    let (status, told) = get(network.service("dnsserver"), "/explain?failed");
    let told: Account = serde_json::from_str(&told).unwrap();
    assert!(status == 200 && told.hops.iter().all(|hop| hop.cause == Cause::Failed), "{told:?}");
    for node in ["proxyserver", "frontserver1"] {
        let is_it = |hop: &Hop| hop.node == node.parse().ok() && hop.id == "failed-1".parse().ok();
        assert!(told.hops.iter().any(is_it), "{node}: {told:?}");
    }

    let says = |question: &str, words: &[&str]| {
        until(&format!("{words:?} of {question}"), || {
            let told = network.ask("dnsserver", question);
            let all = format!("{}\n{}", told.stdout, told.stderr);
            words.iter().all(|word| all.contains(word)).then_some(())
        });
    };
    let hops = [
        "proxyserver (proxy), ",
        "\n  attempt   frontserver1 ",
        "\nfrontserver1 (front), ",
        "\n  attempt   appserver1 ",
    ];
    says(&format!("explain request {sampled}"), &hops);
    let kept = [
        "nothing is kept of a request of this id",
        "proxyserver (proxy) keeps the last ",
        "frontserver1 (front) keeps the last 256 that failed",
    ];
    says("explain request nobody-asked", &kept);
}

/// What is told in a local cluster of a request that two hops have kept.
fn recall_in(cluster: &Cluster, id: &str) -> Account {
    until(&format!("two hops of {id}"), || {
        let account: Account =
            serde_json::from_str(&cluster.run(&format!("explain request {id} --json")).stdout).ok()?;
        (account.hops.len() == 2).then_some(account)
    })
}

#[test]
fn a_request_of_a_local_cluster_is_explained_by_the_id_in_its_answer() {
    let cluster = Cluster::up(&[]);
    let sampled = (0..).map(|i| format!("sampled-{i:08}")).find(|id| is_sampled(id.as_bytes())).unwrap();
    let mut connection = Connection::open(cluster.addr).unwrap();
    let answered = connection.get_with("/hello", &format!("X-Request-ID: {sampled}\r\n")).unwrap();
    assert_eq!((answered.status, answered.field("x-request-id")), (200, Some(sampled.as_str())));
    assert_eq!(recall_in(&cluster, &sampled).hops[0].attempts[0].node.as_str(), "frontserver1");

    cluster.order("node stop appserver1");
    let failed = cluster.hello();
    assert_eq!(failed.status, 503, "{failed:?}");
    let account = recall_in(&cluster, failed.field("x-request-id").unwrap());
    assert_eq!(account.hops[1].end, "no appserver is ready", "{account:?}");
}

#[test]
fn a_local_cluster_gives_no_ids_where_its_file_wants_none() {
    let place = Place::new();
    let file = place.join("cluster.toml");
    let app = env!("CARGO_BIN_EXE_concertina");
    let services =
        format!("[service.web]\ncommand = ['{app}', 'app', '--listen', '$HOST:$PORT']\nroutes = ['/']\n");
    std::fs::write(&file, format!("[proxy]\nrequest-id = 'off'\n{services}")).unwrap();
    let cluster = Cluster::up_at(Turn::one(), place, &["--file", file.to_str().unwrap()]);
    let answered = Connection::open(cluster.addr).unwrap().get("/hello/me").unwrap();
    assert_eq!((answered.status, answered.field("x-request-id")), (200, None), "{answered:?}");
}
