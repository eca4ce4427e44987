//! The feed's end: what the sidecar tells goes into the zone.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use feed::{EndpointId, Name, RoleTable, follow::Consumer, frame::SidecarHello};

use crate::zone::Zone;

/// The zone, which the feed changes while questions are answered from it.
#[derive(Debug, Clone)]
pub struct SharedZone(Arc<RwLock<Zone>>);

impl SharedZone {
    /// Shares a zone.
    pub fn new(zone: Zone) -> Self {
        Self(Arc::new(RwLock::new(zone)))
    }

    /// For an answer. No change happens while one is made, so it is of one moment.
    pub fn read(&self) -> RwLockReadGuard<'_, Zone> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a change.
    pub fn write(&self) -> RwLockWriteGuard<'_, Zone> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Consumer for SharedZone {
    fn handle_hello(&mut self, hello: &SidecarHello) {
        self.write().server = Some(hello.node.clone());
    }

    fn handle_synced(&mut self) {
        self.write().complete = true;
    }

    async fn apply_table(&mut self, table: &RoleTable) {
        self.write().apply_table(table);
    }

    /// An answer is complete as soon as it is sent.
    fn in_flight(&self, _: &Name) -> HashMap<EndpointId, u32> {
        HashMap::new()
    }
}
