//! What a node's admin port says at one moment.

use feed::{Name, frame::Member, report::Loads};
use serde::Deserialize;

/// What `/state` says, as far as it is shown.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct State {
    /// The node that is asked.
    pub(super) node: Name,
    pub(super) cluster: String,
    pub(super) members: Vec<Member>,
}

/// One look at the cluster.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) state: State,
    pub(super) loads: Loads,
}

impl Look {
    /// Reads what came from `/state` and `/load`.
    pub(super) fn read(state: &str, loads: &str) -> Result<Self, NoLook> {
        let state = serde_json::from_str(state).map_err(|error| NoLook { path: "/state", error })?;
        let loads = serde_json::from_str(loads).map_err(|error| NoLook { path: "/load", error })?;
        Ok(Self { state, loads })
    }
}

/// What came is no state, or no load.
#[derive(Debug, thiserror::Error)]
#[error("what it says at {path} is not understood: {error}")]
pub(super) struct NoLook {
    path: &'static str,
    error: serde_json::Error,
}
