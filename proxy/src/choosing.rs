//! The choice of an upstream by itself, for benchmarks.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use feed::RoleTable;

use crate::{
    certificates::Origins,
    config::UpstreamRules,
    upstream::{Avoided, Lease, Roster, Wanted, dice::Dice, directory::Directory},
};

/// A worker's view of a role, with so many requests under way.
pub struct Choosing {
    directory: Directory,
    roster: Roster,
    dice: Dice,
    leases: VecDeque<Lease>,
    origins: Origins,
}

impl Choosing {
    /// All endpoints of the table are known and well; with keys if the role is balanced by them.
    pub fn new(table: &RoleTable, is_keyed: bool, under_way: usize) -> Self {
        let directory = Directory::new(&[table.role().clone()], 1, |_| is_keyed);
        let roster = Roster::new(&UpstreamRules::default(), &directory.roles()[0], 0, Arc::default());
        let mut choosing = Self {
            directory,
            roster,
            dice: Dice::new(1),
            leases: VecDeque::new(),
            origins: Origins::default(),
        };
        choosing.apply_table(table);
        let leases = (0..under_way).filter_map(|_| choosing.lease(None)).collect();
        Self { leases, ..choosing }
    }

    /// What a table costs: to all workers together, and to this one.
    pub fn apply_table(&mut self, table: &RoleTable) {
        let role = &self.directory.roles()[0];
        role.publish(table, &self.origins);
        self.roster.apply_listing(&role.subscribe().borrow(), 0);
    }

    /// The oldest request ends and another one begins; where it goes.
    pub fn choose(&mut self, key: Option<u64>) -> Option<SocketAddr> {
        self.leases.pop_front();
        let lease = self.lease(key)?;
        let addr = lease.upstream.endpoint.id.addr;
        self.leases.push_back(lease);
        Some(addr)
    }

    fn lease(&mut self, key: Option<u64>) -> Option<Lease> {
        let wanted = Wanted { avoid: Avoided::NOBODY, key, now_ms: 60_000 };
        self.roster.lease(wanted, &mut self.dice).ok().map(|(lease, _)| lease)
    }
}
