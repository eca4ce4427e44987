//! The feed's tables, put into the directory.

use std::sync::Arc;

use feed::{Name, RoleTable, follow::Consumer};

use super::directory::Directory;

/// The proxy as a consumer of the feed.
pub(crate) struct Follower(pub(crate) Arc<Directory>);

impl Consumer for Follower {
    async fn apply_table(&mut self, table: &RoleTable) {
        if let Some(role) = self.0.role(table.role().as_str()) {
            role.apply_table(table).await;
        }
    }

    fn in_flight(&self, role: &Name, instance: u64) -> u32 {
        self.0.role(role.as_str()).map_or(0, |role| role.in_flight(instance))
    }
}
