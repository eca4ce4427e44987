//! Members of the cluster, as sidecars tell of them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{EndpointProtocol, Name, Routes, Tags};

/// A member of the cluster as one sidecar sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: Name,
    /// Its role.
    pub role: Name,
    /// Its gossip address.
    pub addr: SocketAddr,
    /// The port of its role's process, 0 for none.
    pub port: u16,
    /// Where its sidecar is asked by HTTP at its gossip address, 0 for nowhere.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub admin_port: u16,
    /// Its state.
    pub state: MemberState,
    /// When it started, in milliseconds since the Unix epoch.
    pub instance: u64,
    /// What its operator says of it.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Which requests it claims for its role.
    #[serde(default, skip_serializing_if = "Routes::is_empty")]
    pub routes: Routes,
    /// What its role's process says that it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<EndpointProtocol>,
    /// Why its role's process does not pass its check, as its sidecar last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}

/// The life of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Does not know the cluster yet, or its role's process has just started.
    Joining,
    /// It looks for the cluster, and has found nobody for seconds.
    Alone,
    /// In the cluster; its role's process has not passed its check yet.
    Checking,
    /// In the cluster; its role's process passed its check and no longer does.
    Unhealthy,
    /// Serves.
    Ready,
    /// Takes nothing new and will leave.
    Draining,
    /// Said goodbye.
    Left,
    /// Vanished.
    Failed,
}

impl MemberState {
    /// The word that the protocol, the log and the command line use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Alone => "alone",
            Self::Checking => "checking",
            Self::Unhealthy => "unhealthy",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Left => "left",
            Self::Failed => "failed",
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(port: &u16) -> bool {
    *port == 0
}
