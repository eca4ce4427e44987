//! What is asked about a cluster's keys, and how each member answers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Name;

/// What all members shall do with their keys.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeysOrder {
    /// Say which there are.
    List {},
    /// Open with this key, too: its 32 bytes as base64 or hex.
    Install {
        /// The key.
        key: String,
    },
    /// Seal with this key.
    Use {
        /// The key, or its fingerprint.
        key: String,
    },
    /// Forget this key.
    Remove {
        /// The key, or its fingerprint.
        key: String,
    },
}

/// Without the keys, which are nobody's business who reads a log.
impl fmt::Debug for KeysOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List {} => "List",
            Self::Install { .. } => "Install",
            Self::Use { .. } => "Use",
            Self::Remove { .. } => "Remove",
        })
    }
}

/// What came of it at one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysAt {
    /// The member.
    pub node: Name,
    /// Whether it has carried out the order.
    pub applied: bool,
    /// Why not, where it is this member's doing.
    pub why: Option<String>,
    /// Why its key file does not know the change, so that a restart would undo it.
    pub unsaved: Option<String>,
    /// The fingerprints of its keys; it seals with the first. Empty: it did not answer.
    pub keys: Vec<String>,
}
