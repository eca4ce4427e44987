//! No request is lost while containers come and go.

use super::{Proof, nodes, short_or_long};
use crate::support::hello::{answers, pairs};

#[test]
fn cycles_of_run_and_stop_lose_no_request() {
    let Some(mut proof) = Proof::of("cycles", 1, 1) else { return };
    let cycles = short_or_long(3, 50);
    let pair = ["frontserver2", "appserver2"];
    for _ in 0..cycles {
        proof.scene.run(&pair);
        for node in pair {
            proof.serves(node);
        }
        proof.scene.stop(&pair);
        proof.scene.remove(&pair);
    }
    proof.end(&format!("{cycles} cycles of docker run and docker stop"));
}

#[test]
fn half_of_the_containers_stopped_at_once_lose_no_request() {
    let count = short_or_long(2, 4);
    let Some(proof) = Proof::of("half", count, count) else { return };
    let kept = count / 2;
    let half = nodes(kept + 1..=count, kept + 1..=count);
    let rounds = short_or_long(1, 5);
    for _ in 0..rounds {
        proof.scene.stop(&half);
        let answers = answers(proof.addr, 20);
        assert!(answers.is_subset(&pairs(kept, kept)), "right after docker stop: {answers:?}");
        proof.scene.order("start", &half);
        for node in &half {
            proof.serves(node);
        }
        // The next round stops them as a whole cluster, too.
        proof.scene.sees("proxyserver", "frontserver", count);
        proof.scene.sees("proxyserver", "appserver", count);
    }
    proof.end(&format!("{rounds} times half of {count} fronts and {count} apps stopped at once"));
}
