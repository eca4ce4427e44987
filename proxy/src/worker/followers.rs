//! The tasks beside a worker's sessions: they follow the roles and their tables, and look after idle upstream connections.

use std::{ops::Range, rc::Rc, sync::Arc, time::Duration};

use tokio::{sync::watch, task::spawn_local};

use super::Worker;
use crate::upstream::{
    Pool, Roster,
    directory::{Directory, Role, Roles},
};

impl Worker {
    /// Starts the tasks that every worker has: the clock, the pools' sweeper, the roles' followers.
    pub(crate) fn start_tasks(self: &Rc<Self>, id: usize, directory: &Directory) {
        spawn_local(self.clone().keep_time());
        spawn_local(self.clone().sweep_pools());
        let (roles, known) = (directory.subscribe_roles(), self.rosters.borrow().len());
        self.start_following(id, 0..known, &roles.borrow());
        spawn_local(self.clone().follow_roles(id, roles));
    }

    /// Makes rosters for the roles that have none; their positions.
    pub(super) fn add_rosters(&self, id: usize, roles: &[Arc<Role>]) -> Range<usize> {
        let mut rosters = self.rosters.borrow_mut();
        let known = rosters.len();
        let roster = |role: &Arc<Role>| {
            Rc::new(Roster::new(&self.settings.borrow().rules, role, id, self.sweeper.clone()))
        };
        rosters.extend(roles[known..].iter().map(roster));
        known..rosters.len()
    }

    fn start_following(self: &Rc<Self>, id: usize, positions: Range<usize>, roles: &[Arc<Role>]) {
        for position in positions {
            spawn_local(self.clone().follow_role(id, position, roles[position].clone()));
            let queue = self.roster(position).queue().clone();
            spawn_local(async move { queue.take_turns().await });
        }
    }

    async fn follow_roles(self: Rc<Self>, id: usize, mut roles: watch::Receiver<Roles>) {
        loop {
            let all = roles.borrow_and_update().clone();
            let new = self.add_rosters(id, &all);
            self.start_following(id, new, &all);
            if roles.changed().await.is_err() {
                return;
            }
        }
    }

    /// Closes idle upstream connections: at once when the other side closes or speaks, and when nobody needed them for long.
    async fn sweep_pools(self: Rc<Self>) {
        let mut period = tokio::time::interval(Duration::from_secs(1));
        loop {
            let sweep: fn(&Pool, u64) = tokio::select! {
                _ = period.tick() => Pool::sweep,
                () = self.sweeper.notified() => Pool::sweep_news,
            };
            let idle = self.settings.borrow().timeouts.idle / 4;
            let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
            let oldest_ms = self.deadlines.now_ms().saturating_sub(idle_ms);
            for roster in &*self.rosters.borrow() {
                roster.for_each_pool(|pool| sweep(pool, oldest_ms));
            }
        }
    }

    async fn follow_role(self: Rc<Self>, id: usize, position: usize, role: Arc<Role>) {
        // Whatever ends this task, nobody may wait for a worker that does not choose any more.
        let on_end = NoteOnDrop { role: role.clone(), id };
        let mut listings: watch::Receiver<_> = role.subscribe();
        loop {
            let listing = listings.borrow_and_update().clone();
            self.roster(position).apply_listing(&listing, self.deadlines.now_ms());
            if listing.has_stranded() {
                self.deadlines.wake_all();
            }
            role.note_applied(id, listing.version);
            if listings.changed().await.is_err() {
                break;
            }
        }
        drop(on_end);
    }
}

struct NoteOnDrop {
    role: Arc<Role>,
    id: usize,
}

impl Drop for NoteOnDrop {
    fn drop(&mut self) {
        self.role.note_applied(self.id, u64::MAX);
    }
}
