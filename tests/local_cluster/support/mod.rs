//! What the tests have in common: programs that end with the test, a cluster, and small clients.

pub(crate) mod cluster;
pub(crate) mod dns;
pub(crate) mod halves;
pub(crate) mod http;
#[path = "../../support/length.rs"]
pub(crate) mod length;
pub(crate) mod load;
pub(crate) mod network;
pub(crate) mod place;
pub(crate) mod program;
pub(crate) mod prometheus;
#[path = "../../support/skip.rs"]
pub(crate) mod skip;
pub(crate) mod stop;
pub(crate) mod tmux;
pub(crate) mod turns;
pub(crate) mod undisturbed;
pub(crate) mod wait;
#[path = "../../support/wrk.rs"]
pub(crate) mod wrk;
