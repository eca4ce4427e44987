//! A proxy that reads its file again, by whoever asks for it.

use rustix::process::Signal;

use crate::{
    admin,
    support::{http, network::Network, program::Running, wait::until},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_concertina");

fn listen(network: &Network) -> String {
    format!("listen = ['http://{}']\n", network.service("proxyserver"))
}

/// A node whose proxy goes by a file, with `/` redirected to somewhere.
fn start(network: &Network) -> (Running, std::path::PathBuf) {
    let path = network.place.join("proxy.toml");
    write(network, &path, "/first");
    let command = [PROGRAM, "proxy", "--config", path.to_str().unwrap()];
    (network.wrap("proxyserver", &[], &command), path)
}

fn write(network: &Network, path: &std::path::Path, there: &str) {
    let route = format!("[[route]]\nmatch = '/'\nredirect = {{ path = '{there}' }}\n");
    std::fs::write(path, listen(network) + &route).unwrap();
}

fn await_redirect(network: &Network, there: &str) {
    until(&format!("a redirect to {there}"), || {
        let answer = http::get(network.service("proxyserver"), "/x").ok()?;
        (answer.status == 307 && answer.head.contains(&format!("Location: {there}\r\n"))).then_some(())
    });
}

#[test]
fn a_proxy_reads_its_file_again_when_it_is_asked_or_signalled_and_says_what_changed() {
    let network = Network::claim();
    let (proxyserver, path) = start(&network);
    await_redirect(&network, "/first");
    write(&network, &path, "/second");
    // It serves a moment before it can be asked.
    let reloaded = until("the proxy is asked", || {
        let asked = network.ask("proxyserver", "proxy reload");
        (!asked.stderr.contains("no proxy answers at")).then_some(asked)
    });
    assert_eq!((reloaded.code, reloaded.stdout.as_str()), (Some(0), "~ route /\n"), "{}", reloaded.stderr);
    await_redirect(&network, "/second");
    std::fs::write(&path, listen(&network) + "[[route]]\nmatch = '/'\nrole = 'a'\nrolle = 'b'\n").unwrap();
    let refused = network.ask("proxyserver", "proxy reload");
    assert_eq!(refused.code, Some(1));
    let why = "proxy.toml:5:1: unknown field `rolle`";
    assert!(
        refused.stderr.contains(why) && refused.stderr.contains("did you mean `role`?"),
        "{}",
        refused.stderr
    );
    await_redirect(&network, "/second");
    write(&network, &path, "/third");
    proxyserver.signal(Signal::HUP);
    await_redirect(&network, "/third");
}

#[test]
fn a_post_to_the_admin_port_reads_the_file_again_and_is_answered_with_what_changed_or_why_nothing_did() {
    let network = Network::claim();
    let (_proxyserver, path) = start(&network);
    await_redirect(&network, "/first");
    let reload = || admin::ask(network.service("proxyserver"), "POST", "/reload", "");
    write(&network, &path, "/second");
    // It serves a moment before it can be asked.
    let reloaded = until("the proxy is asked", || Some(reload()).filter(|(status, _)| *status != 502));
    assert_eq!(reloaded, (200, "~ route /\n".to_owned()));
    await_redirect(&network, "/second");
    assert_eq!(reload(), (200, "nothing has changed\n".to_owned()));
    std::fs::write(&path, listen(&network) + "[[route]]\nmatch = '/'\nrole = 'a'\nrolle = 'b'\n").unwrap();
    let (status, why) = reload();
    assert!(status == 422 && why.contains("proxy.toml:5:1: unknown field `rolle`"), "{status}: {why}");
    await_redirect(&network, "/second");
    write(&network, &path, "/third");
    assert_eq!(reload(), (200, "~ route /\n".to_owned()));
    await_redirect(&network, "/third");
}

#[test]
fn a_file_is_checked_without_a_proxy_and_one_that_is_wrong_starts_none() {
    let network = Network::claim();
    let path = network.place.join("proxy.toml");
    std::fs::write(&path, listen(&network) + "[[route]]\nmatch = 'a.example'\nroles = { b = 9, c = 1 }\n")
        .unwrap();
    let check = format!("proxy --config {} --check", path.display());
    let checked = crate::support::program::run(crate::support::program::concertina(check.split(' ')));
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(checked.stdout.contains("route a.example to b (9) and c (1)"), "{}", checked.stdout);
    let together =
        listen(&network) + "[[route]]\nmatch = '/'\nrole = 'a'\n\n[[route]]\nmatch = '/'\nrole = 'b'\n";
    for (text, why) in [
        ("workers = 0\n", "proxy.toml:1:11: 0: expected a number from 1 to 256"),
        (&together, "proxy.toml:7:9: route /: expected each route once"),
    ] {
        std::fs::write(&path, text).unwrap();
        for command in [check.as_str(), check.trim_end_matches(" --check")] {
            let refused =
                crate::support::program::run(crate::support::program::concertina(command.split(' ')));
            assert_eq!(refused.code, Some(1));
            assert!(refused.stderr.contains(why), "{}", refused.stderr);
        }
    }
}

#[test]
fn who_asks_where_no_file_is_read_is_told_so() {
    let network = Network::claim();
    let _dnsserver = network.start("dnsserver");
    until("the dnsserver", || network.ask("dnsserver", "members").stdout.contains("dnsserver").then_some(()));
    let refused = network.ask("dnsserver", "proxy reload");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("no proxy answers at"), "{}", refused.stderr);
}
