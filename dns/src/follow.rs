//! The feed's end: keeps the tables of all roles and swaps in a new snapshot of the zone when one changes.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use feed::{Name, RoleTable, follow::Consumer, frame::SidecarHello};

use crate::zone::{Settings, Zone};

/// The snapshot that is answered from, replaced as a whole.
pub type CurrentZone = Arc<ArcSwap<Zone>>;

/// Turns tables into snapshots.
#[derive(Debug)]
pub struct Follower {
    settings: Settings,
    current: CurrentZone,
    server: Option<Name>,
    tables: BTreeMap<Name, RoleTable>,
    serial: u32,
}

impl Follower {
    /// A follower that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        let empty = Zone::new(settings.clone(), None, 0, std::iter::empty());
        Self {
            settings,
            current: Arc::new(ArcSwap::from_pointee(empty)),
            server: None,
            tables: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Where the snapshots appear.
    pub fn current(&self) -> CurrentZone {
        Arc::clone(&self.current)
    }

    fn swap(&mut self) {
        self.serial = self.serial.wrapping_add(1);
        let zone = Zone::new(self.settings.clone(), self.server.clone(), self.serial, self.tables.values());
        self.current.store(Arc::new(zone));
    }
}

impl Consumer for Follower {
    fn handle_hello(&mut self, hello: &SidecarHello) {
        self.server = Some(hello.node.clone());
        self.swap();
    }

    async fn apply_table(&mut self, table: &RoleTable) {
        self.tables.insert(table.role().clone(), table.clone());
        self.swap();
    }

    /// An answer is complete as soon as it is sent.
    fn in_flight(&self, _: &Name, _: u64) -> u32 {
        0
    }
}
