//! What the tests have in common: scenes of containers, small clients, and waiting, which the local cluster's tests do too.

pub(crate) mod cut;
pub(crate) mod hello;
#[path = "../../support/length.rs"]
pub(crate) mod length;
pub(crate) mod load;
pub(crate) mod scene;
pub(crate) mod sealed;
#[path = "../../support/skip.rs"]
pub(crate) mod skip;
#[path = "../../local_cluster/support/wait.rs"]
pub(crate) mod wait;
#[path = "../../support/wrk.rs"]
pub(crate) mod wrk;
