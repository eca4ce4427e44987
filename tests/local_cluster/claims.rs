//! Services that say themselves what they speak, and a proxy that is told nothing of it: nginx in several tongues.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::Signal;

use crate::support::{
    http,
    network::Network,
    program::{Running, concertina, run},
    skip,
    stop::Stop,
    wait::until,
};

/// A network with a proxy in front of the role `rpc`, with these flags; none: there is no nginx.
fn claim(flags: &[String]) -> Option<(Network, [Running; 2])> {
    if Command::new("nginx").arg("-v").output().is_err() {
        skip::test("nginx");
        return None;
    }
    let network = Network::claim();
    let dnsserver = network.start("dnsserver");
    let listen = format!("http://{}=rpc", network.service("proxyserver"));
    let mut proxy = vec![env!("CARGO_BIN_EXE_concertina"), "proxy", "--listen", &listen];
    proxy.extend(flags.iter().map(String::as_str));
    let proxyserver = network.wrap("proxyserver", &network.join("proxyserver"), &proxy);
    Some((network, [dnsserver, proxyserver]))
}

/// A node that claims this protocol, around an nginx that listens with these options and answers with this word.
fn serve(network: &Network, node: &str, protocol: &str, listening: &str, word: &str) -> Running {
    let folder = network.place.join(format!("{node}-{word}"));
    fs::create_dir_all(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|name| format!("{name}_temp_path {folder};")).join(" ");
    let listen = format!("listen {} {listening};", network.service(node));
    // All that it is asked on one connection: else it ends each after a thousand requests.
    let configuration = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}} \
         http {{ access_log off; {temporary} server {{ {listen} keepalive_requests 1000000; return 200 {word}; }} }}"
    );
    let path = format!("{folder}/nginx.conf");
    fs::write(&path, configuration).unwrap();
    let flags = [network.join(node), vec![format!("--protocol={protocol}")]].concat();
    network.wrap(node, &flags, &["nginx", "-e", "stderr", "-c", &path])
}

/// Asks until each of these words was the answer to something. Whatever is answered is one of them.
fn hear_all(network: &Network, words: &[&str]) {
    let mut unheard = words.to_vec();
    until("an answer of each", || {
        let response = http::get(network.service("proxyserver"), "/").unwrap();
        assert!(response.status == 200 && words.contains(&&*response.body), "{response:?}");
        unheard.retain(|word| *word != response.body);
        unheard.is_empty().then_some(())
    });
}

#[test]
fn a_service_is_spoken_to_as_it_claims_through_a_replacement_by_one_that_claims_something_else() {
    let Some((network, _servers)) = claim(&[]) else { return };
    let _first = serve(&network, "rpc1", "h2c", "http2", "first");
    let mut second = serve(&network, "rpc2", "h2c", "http2", "second");
    network.hear("/", 200, "first");
    network.hear("/", 200, "second");
    let proxyserver = network.service("proxyserver");
    let stopping = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = Stop(&stopping);
        let asking = scope.spawn(|| {
            let mut count = 0_u64;
            while !stopping.load(Ordering::Relaxed) {
                let response = http::get(proxyserver, "/").unwrap();
                assert_eq!(response.status, 200, "{response:?}");
                count += 1;
            }
            count
        });
        second.signal(Signal::TERM);
        assert_eq!(second.ended().code(), Some(0), "{}", second.said());
        second = serve(&network, "rpc2", "http", "", "third");
        network.hear("/", 200, "third");
        hear_all(&network, &["first", "third"]);
        drop(stop);
        assert!(asking.join().unwrap() > 0);
    });
    let members = network.ask("proxyserver", "members --role rpc").stdout;
    assert!(members.contains(" protocol=h2c") && members.contains(" protocol=http\n"), "{members}");
    let explained = network.ask("proxyserver", "explain rpc1").stdout;
    assert!(explained.contains("  claims to speak h2c\n"), "{explained}");
    let prospect = network.ask("proxyserver", &format!("explain request http://{proxyserver}/")).stdout;
    for (node, protocol) in [("rpc1", "h2c"), ("rpc2", "http")] {
        let line = prospect.lines().find(|line| line.contains(node)).unwrap_or_default();
        assert!(line.ends_with(&format!(", {protocol} as claimed")), "{prospect}");
    }
}

#[test]
fn a_service_that_claims_tls_is_believed_by_what_the_proxy_is_told_to_trust_and_by_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(at("ca"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for (name, file) in [("rpc", "right"), ("other", "wrong")] {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        fs::write(at(file), made.pem()).unwrap();
        fs::write(at(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }
    let sealed = |file: &str| format!("ssl; ssl_certificate {0}; ssl_certificate_key {0}.key", at(file));
    let Some((network, _servers)) = claim(&[format!("--upstream-trust=rpc=ca:{}", at("ca"))]) else { return };
    let mut wrong = serve(&network, "rpc1", "https", &sealed("wrong"), "wrong");
    until("nobody is believed whose name is another", || {
        let response = http::get(network.service("proxyserver"), "/").ok()?;
        assert_ne!(response.status, 200, "{response:?}");
        (response.status == 502).then_some(())
    });
    let _right = serve(&network, "rpc2", "https", &sealed("right"), "right");
    network.hear("/", 200, "right");
    wrong.signal(Signal::TERM);
    assert_eq!(wrong.ended().code(), Some(0), "{}", wrong.said());
    let http2 = sealed("right").replacen("ssl;", "ssl http2;", 1);
    let _streamed = serve(&network, "rpc1", "h2", &http2, "streamed");
    network.hear("/", 200, "streamed");
    hear_all(&network, &["right", "streamed"]);
}

#[test]
fn what_is_no_protocol_is_refused_where_it_was_said() {
    let mut typed = concertina(["sidecar", "--role", "web", "--protocol", "h3"]);
    let mut set = concertina(["sidecar", "--role", "web"]);
    typed.env_remove("CONCERTINA_PROTOCOL");
    set.env("CONCERTINA_PROTOCOL", "h3");
    for (command, is_set) in [(typed, false), (set, true)] {
        let ended = run(command);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let expected = "\"h3\" is not a protocol: expected http, https, h2c or h2";
        assert!(ended.stderr.contains("'--protocol <WHAT>'") && ended.stderr.contains(expected), "{ended:?}");
        assert_eq!(ended.stderr.contains("CONCERTINA_PROTOCOL"), is_set, "{ended:?}");
    }
}
