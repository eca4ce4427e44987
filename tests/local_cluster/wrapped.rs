//! Programs that know nothing of this project, wrapped by a sidecar: as a role of their own, and as handlers.

use std::{fs, os::unix::fs::PermissionsExt};

use rustix::process::Signal;

use crate::support::{network::Network, wait::until};

/// Something that serves HTTP and follows no feed.
const SERVICE: &str = env!("CARGO_BIN_EXE_concertina");

#[test]
fn a_wrapped_command_is_served_through_the_proxy_and_goes_when_it_is_stopped() {
    let network = Network::claim();
    let _dnsserver = network.start("dnsserver");
    let listen = format!("http://{}=billing", network.service("proxyserver"));
    let proxy = [SERVICE, "proxy", "--listen", &listen];
    let _proxyserver = network.wrap("proxyserver", &network.join("proxyserver"), &proxy);
    network.hear("/hello/you", 503, "no billing is ready\n");

    let flags =
        [network.join("billing1"), ["--check", "http:/hello/check"].map(str::to_owned).into()].concat();
    let service = network.service("billing1").to_string();
    let mut billing = network.wrap("billing1", &flags, &[SERVICE, "app", "--listen", &service]);
    network.hear("/hello/you", 200, "Hello you, I'm billing1 !\n");
    billing.signal(Signal::TERM);
    assert_eq!(billing.ended().code(), Some(0), "{}", billing.said());
    network.hear("/hello/you", 503, "no billing is ready\n");

    // A check that fails keeps a program out that runs.
    let flags = [network.join("billing1"), ["--check", "http:/health"].map(str::to_owned).into()].concat();
    let _billing = network.wrap("billing1", &flags, &[SERVICE, "app", "--listen", &service]);
    until("everybody knows why billing1 is not ready", || {
        let members = network.ask("proxyserver", "members --role billing").stdout;
        (members.contains(" checking ") && members.contains(" check: HTTP 404")).then_some(())
    });
    let explained = network.ask("dnsserver", "explain billing1").stdout;
    assert!(explained.contains("\n  its check fails: HTTP 404\n"), "{explained}");
    network.hear("/hello/you", 503, "no billing is ready\n");
}

#[test]
fn handlers_run_on_events_and_answer_queries_without_a_shell() {
    let network = Network::claim();
    let heard = network.place.join("heard");
    let script = network.place.join("on-deploy");
    let text = "#!/bin/sh\nprintf '%s %s %s %s\\n' \"$CONCERTINA_EVENT\" \"$CONCERTINA_EVENT_ORIGIN\" \"$1\" \"$(cat)\"";
    fs::write(&script, format!("{text} >> {}\n", heard.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let handlers = [
        "--handler".to_owned(),
        format!("event:deploy={} $HOME", script.display()),
        "--handler".to_owned(),
        "query:echo=/bin/cat".to_owned(),
        "--handler".to_owned(),
        "query:later=/nonexistent".to_owned(),
    ];
    let mut dnsserver = network.start_with("dnsserver", &handlers);
    dnsserver.hear("the program of a handler is not there name=later program=/nonexistent");
    assert!(!dnsserver.said().contains("name=echo"), "{}", dnsserver.said());
    let _appserver1 = network.start("appserver1");
    until("appserver1 is ready", || {
        network.ask("dnsserver", "members").stdout.contains("appserver1").then_some(())
    });
    until("appserver1 knows its cluster", || {
        (network.ask("appserver1", "event deploy v2").code == Some(0)).then_some(())
    });
    let said =
        until("the handler has run", || fs::read_to_string(&heard).ok().filter(|said| said.ends_with('\n')));
    assert_eq!(said, "deploy appserver1 $HOME v2\n");

    let answer = network.ask("appserver1", "query echo $(id) --to dnsserver");
    assert!(answer.stdout.contains(" ms  $(id)\n1 of 1 answered\n"), "{answer:?}");
    let partly = network.ask("appserver1", "query echo x --timeout 5s");
    assert!(partly.stdout.contains("error: nothing here answers echo\n"), "{partly:?}");
    assert!(partly.stdout.ends_with("\n1 of 2 answered\n") && partly.code == Some(1), "{partly:?}");

    let answer = network.ask("appserver1", "query echo one\n\u{1b}[31mforged --to dnsserver");
    assert!(answer.stdout.contains(" ms  one\\n\\u{1b}[31mforged"), "{answer:?}");
    assert_eq!(answer.stdout.lines().count(), 2);
}
