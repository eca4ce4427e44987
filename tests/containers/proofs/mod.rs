//! Proofs that nothing is lost: `wrk` asks without pause from before something happens to the containers until after it,
//! and not one request may fail. In seconds by default; with `CONCERTINA_LONG=1` for minutes.

mod faults;
mod restarts;
mod scaling;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::support::{
    hello::{hello, is_from},
    length::short_or_long,
    scene::Scene,
    skip,
    wait::until,
    wrk::Wrk,
};

/// How long a client waits for an answer. A front waits 10 s for an app.
const PATIENCE: Duration = Duration::from_secs(20);

/// For how long the load goes on where nothing has to be waited for.
const MOMENT: Duration = Duration::from_secs(1);

/// Fewer were no load: it is thousands a second.
const REQUESTS_MIN: u64 = 1000;

/// A scene under load. The order of the fields is the order in which they go away.
struct Proof {
    wrk: Wrk,
    addr: SocketAddr,
    scene: Scene,
}

impl Proof {
    /// A proxy before so many fronts and apps. None: there is no engine, or no `wrk`.
    fn of(title: &str, fronts: usize, apps: usize) -> Option<Self> {
        Self::of_patient(title, fronts, apps, PATIENCE)
    }

    /// The same with clients that wait so long for an answer.
    fn of_patient(title: &str, fronts: usize, apps: usize, patience: Duration) -> Option<Self> {
        let mut scene = scene(title)?;
        scene.run(&["dnsserver"]);
        scene.run(&[nodes(1..=fronts, 1..=apps), vec!["proxyserver".to_owned()]].concat());
        Self::under_load(scene, "proxyserver", fronts, apps, patience)
    }

    /// Starts the load when all these fronts and apps are in use, as this node knows.
    fn under_load(scene: Scene, asked: &str, fronts: usize, apps: usize, patience: Duration) -> Option<Self> {
        scene.sees(asked, "frontserver", fronts);
        scene.sees(asked, "appserver", apps);
        let addr = scene.published();
        until("the first request is served", || hello(addr).is_ok().then_some(()));
        let wrk = Wrk::start(Wrk::command(addr, patience))?;
        Some(Self { wrk, addr, scene })
    }

    /// Waits until there is an answer of this node. All before it must be answers, too.
    fn serves(&self, node: &str) {
        until(&format!("{node} serves"), || {
            let answer = hello(self.addr).unwrap_or_else(|why| panic!("failed while {node} joins: {why}"));
            is_from(&answer, node).then_some(())
        });
    }

    /// For so long there is an answer to one request after the other, beside those of `wrk`.
    fn goes_on(&self, time: Duration) {
        let since = Instant::now();
        while since.elapsed() < time {
            hello(self.addr).unwrap_or_else(|why| panic!("failed after {:?}: {why}", since.elapsed()));
        }
    }

    /// More clients, who know nothing of what was before.
    fn newcomers(&self) -> Wrk {
        Wrk::start(Wrk::command(self.addr, PATIENCE)).unwrap()
    }

    /// Ends the load, of which nothing may have failed, and then the scene.
    fn end(self, while_this: &str) {
        let Self { wrk, scene, .. } = self;
        wrk.assert_lossless(&format!("containers, {while_this}"), REQUESTS_MIN);
        drop(scene);
    }
}

/// A scene with a network of its own, for a proof.
fn scene(title: &str) -> Option<Scene> {
    if !Wrk::is_there() {
        skip::test("wrk");
        return None;
    }
    Scene::new(title, true)
}

/// The names of fronts and of apps with these numbers.
fn nodes(fronts: impl Iterator<Item = usize>, apps: impl Iterator<Item = usize>) -> Vec<String> {
    let fronts = fronts.map(|number| format!("frontserver{number}"));
    fronts.chain(apps.map(|number| format!("appserver{number}"))).collect()
}
