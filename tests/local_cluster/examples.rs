//! The examples do what they say.

use std::{path::Path, process::Command};

use crate::support::{
    cluster::Cluster,
    program::{Running, concertina, run},
    skip,
    wait::until,
};

#[test]
fn the_feed_is_followed_by_a_few_lines_of_python() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip::test("python3");
    }
    let cluster = Cluster::up(&[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/follow.py");
    let mut follow = Command::new("python3");
    follow.arg(script).arg(cluster.place.join("proxyserver/feed.sock")).arg("appserver");
    let follow = Running::start(follow, cluster.place.join("follow.log"));
    let told = |what: &str, words: &[&str], not: &str| {
        until(what, || {
            let said = follow.said();
            let last = said.lines().last().unwrap_or_default();
            (words.iter().all(|word| last.contains(word)) && !last.contains(not)).then_some(())
        });
    };
    told("one app", &["appserver1=127.", ":8080=ready"], "appserver2");
    cluster.order("node start appserver2");
    told("two apps", &["appserver1=127.", "appserver2=127."], "draining");
    // It reports the zero that the drain waits for.
    cluster.order("node stop appserver2");
    told("one app again", &["appserver1=127."], "appserver2");
    assert!(follow.said().contains("=draining"), "{}", follow.said());
}

#[test]
fn the_proxys_file_is_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/proxy.toml");
    let check = ["proxy", "--check", "--config", path.to_str().unwrap()];
    let checked = run(concertina(check));
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    for told in
        ["listen tcp://0.0.0.0:5432=postgres", "route blog.example.com to blog (95) and blog-next (5)"]
    {
        assert!(checked.stdout.contains(told), "{}", checked.stdout);
    }
}
