//! Services that claim routes, at a proxy whose listener names no role.

use rustix::process::Signal;

use crate::support::{http, network::Network, program::Running, wait::until};

const SERVICE: &str = env!("CARGO_BIN_EXE_concertina");

/// A service of this node that claims these routes.
fn serve(network: &Network, node: &str, routes: &[&str]) -> Running {
    let mut flags = network.join(node);
    flags.extend(routes.iter().flat_map(|route| ["--route".to_owned(), (*route).to_owned()]));
    let service = network.service(node).to_string();
    network.wrap(node, &flags, &[SERVICE, "app", "--listen", &service, "--node", node])
}

/// Asks for a host and path until this answers.
fn hear(network: &Network, host: &str, path: &str, status: u16, words: &str) {
    until(&format!("{status} {words:?} of {host}{path}"), || {
        let response = http::get_of(network.service("proxyserver"), host, path).ok()?;
        (response.status == status && response.body.contains(words)).then_some(())
    });
}

#[test]
fn a_service_has_its_route_as_long_as_one_of_its_nodes_lives() {
    let network = Network::claim();
    let _dnsserver = network.start("dnsserver");
    let listen = format!("http://{}", network.service("proxyserver"));
    let _proxyserver =
        network.wrap("proxyserver", &network.join("proxyserver"), &[SERVICE, "proxy", "--listen", &listen]);
    hear(&network, "shop.example", "/hello/you", 404, "nothing is served at this host and path");

    let mut app = serve(&network, "appserver1", &["shop.example/hello", "*.example"]);
    hear(&network, "shop.example", "/hello/you", 200, "I'm appserver1");
    hear(&network, "SHOP.example:80", "/hello/you?x", 200, "I'm appserver1");
    hear(&network, "shop.example", "/hellos", 404, "");
    let mut billing = serve(&network, "billing1", &["shop.example/hello", "shop.example"]);
    hear(&network, "shop.example", "/hellos", 404, "");
    until("both claims are known", || {
        let told = network.ask("dnsserver", "routes").stdout;
        let has =
            |line: &str| told.lines().any(|l| l.split_whitespace().collect::<Vec<_>>().join(" ") == line);
        (has("shop.example/hello appserver 1 ready")
            && has("shop.example/hello billing shadowed by appserver")
            && has("shop.example billing 1 ready")
            && has("*.example appserver 1 ready"))
        .then_some(())
    });
    hear(&network, "shop.example", "/hello/you", 200, "I'm appserver1");
    hear(&network, "shop.example", "/a/../hello/you", 400, "");
    until("the proxy says why a request goes where it goes", || {
        let url = "http://shop.example/hello/you";
        let told = network.ask("proxyserver", &format!("explain request {url} --json")).stdout;
        let told: serde_json::Value = serde_json::from_str(&told).ok()?;
        let routes: Vec<_> =
            told["routes"].as_array()?.iter().map(|found| (&found["route"], &found["roles"][0])).collect();
        let expected = serde_json::json!([
            ["shop.example/hello", "appserver"],
            ["shop.example/hello", "billing"],
            ["shop.example", "billing"],
            ["*.example", "appserver"],
        ]);
        let choice = &told["choice"];
        (serde_json::json!(routes) == expected
            && told["role"] == "appserver"
            && choice["endpoints"][0]["node"] == "appserver1"
            && choice["generation"].as_u64()? > 0
            && choice["chosen"] == 0)
            .then_some(())
    });
    let told = network.ask("proxyserver", "explain request http://nobody/").stdout;
    assert!(told.contains("answer    404 no-route, by the proxy itself"), "{told}");
    let members = network.ask("proxyserver", "members --role billing").stdout;
    assert!(members.contains(" routes=shop.example/hello,shop.example"), "{members}");

    app.signal(Signal::TERM);
    assert_eq!(app.ended().code(), Some(0), "{}", app.said());
    hear(&network, "shop.example", "/hello/you", 200, "I'm billing1");
    hear(&network, "other.example", "/hello/you", 404, "nothing is served");
    billing.signal(Signal::TERM);
    assert_eq!(billing.ended().code(), Some(0), "{}", billing.said());
    hear(&network, "shop.example", "/hello/you", 404, "nothing is served");
}

#[test]
fn routes_that_are_none_are_refused_with_what_would_be_right() {
    let network = Network::claim();
    for (routes, why) in [
        ("shop:80", "a host is without its port; expected HOST, HOST/PATH or /PATH"),
        ("/1,/2,/3,/4,/5,/6,/7,/8,/9", "--route: 9 routes, over 8"),
    ] {
        let mut command = network.sidecar("billing1", &[], &[]);
        command.env("CONCERTINA_ROUTES", routes);
        let mut ended = network.run("billing1", command);
        assert_ne!(ended.ended().code(), Some(0));
        assert!(ended.said().contains(why), "{}", ended.said());
    }
}
