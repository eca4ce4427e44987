//! Frames in, tables out: what a consumer believes, given what its sidecar says. No I/O.
//!
//! The rule that keeps a consumer serving: a sidecar that has just (re)started does not know the cluster yet, so
//! until it says `synced` its tables may add endpoints and change them, but not take any away.

use std::collections::BTreeMap;

use crate::{
    Name, RoleTable,
    frame::{FeedError, FromSidecar, SidecarHello, VERSION},
    ticket::TicketKeys,
};

/// Follows one sidecar through any number of connections.
#[derive(Debug, Default)]
pub struct Subscriber {
    /// What the consumer acts on.
    tables: BTreeMap<Name, RoleTable>,
    /// What the current connection has said so far.
    heard: BTreeMap<Name, RoleTable>,
    greeted: bool,
    synced: bool,
}

/// What a frame changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The sidecar introduced itself.
    Greeted(SidecarHello),
    /// These tables are different now.
    Tables(Vec<RoleTable>),
    /// These are the keys of session tickets from now on.
    Tickets(TicketKeys),
}

impl Subscriber {
    /// A connection was made anew; the tables stay.
    pub fn handle_connected(&mut self) {
        self.heard.clear();
        self.greeted = false;
        self.synced = false;
    }

    /// Takes the next frame of the connection and tells what it changed.
    ///
    /// # Errors
    /// A frame out of place or another protocol version: the connection is to be given up.
    pub fn handle_frame(&mut self, frame: FromSidecar) -> Result<Change, FeedError> {
        match frame {
            FromSidecar::Hello(hello) if hello.version != VERSION => {
                Err(FeedError::Version { theirs: hello.version })
            }
            FromSidecar::Hello(_) if self.greeted => Err(FeedError::OutOfPlace("a second hello")),
            FromSidecar::Hello(hello) => {
                self.greeted = true;
                Ok(Change::Greeted(hello))
            }
            FromSidecar::Refused { why } => Err(FeedError::Refused(why)),
            _ if !self.greeted => Err(FeedError::OutOfPlace("a frame before the hello")),
            FromSidecar::Table(table) => Ok(Change::Tables(self.apply_table(table))),
            FromSidecar::Synced { .. } => Ok(Change::Tables(self.apply_synced())),
            FromSidecar::Tickets(keys) => Ok(Change::Tickets(keys)),
            _ => Err(FeedError::OutOfPlace("an answer to a question that was not asked")),
        }
    }

    /// The tables as they are now.
    pub fn tables(&self) -> &BTreeMap<Name, RoleTable> {
        &self.tables
    }

    fn apply_table(&mut self, table: RoleTable) -> Vec<RoleTable> {
        let role = table.role().clone();
        self.heard.insert(role.clone(), table.clone());
        let effective = match self.tables.get(&role) {
            Some(known) if !self.synced => union(known, &table),
            _ => table,
        };
        self.replace(effective).into_iter().collect()
    }

    fn apply_synced(&mut self) -> Vec<RoleTable> {
        self.synced = true;
        let forgotten: Vec<Name> =
            self.tables.keys().filter(|role| !self.heard.contains_key(*role)).cloned().collect();
        let emptied = forgotten.into_iter().map(|role| RoleTable::new(role, 0, Vec::new()));
        let complete: Vec<RoleTable> = self.heard.values().cloned().chain(emptied).collect();
        complete.into_iter().filter_map(|table| self.replace(table)).collect()
    }

    /// Puts the table in place; gives it back when it says anything new.
    fn replace(&mut self, table: RoleTable) -> Option<RoleTable> {
        let known = self.tables.insert(table.role().clone(), table.clone());
        (known.as_ref() != Some(&table)).then_some(table)
    }
}

/// The endpoints of both tables; where both know one, as the newer table has it.
fn union(known: &RoleTable, newer: &RoleTable) -> RoleTable {
    let endpoints = newer.endpoints().iter().chain(known.endpoints()).cloned().collect();
    // The sort is stable and the first of equals stays, so the newer table's word counts.
    RoleTable::new(newer.role().clone(), newer.generation(), endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::endpoint;

    fn hello() -> FromSidecar {
        FromSidecar::Hello(SidecarHello {
            version: VERSION,
            node: "n".parse().unwrap(),
            cluster: "default".into(),
        })
    }

    fn table(generation: u64, nodes: &[&str]) -> RoleTable {
        RoleTable::new("app".parse().unwrap(), generation, nodes.iter().map(|n| endpoint(n, 1)).collect())
    }

    fn nodes(subscriber: &Subscriber) -> Vec<String> {
        let tables = subscriber.tables();
        tables.get("app").into_iter().flat_map(|t| t.endpoints()).map(|e| e.node.to_string()).collect()
    }

    fn synced_with(names: &[&str]) -> Subscriber {
        let mut subscriber = Subscriber::default();
        subscriber.handle_connected();
        for frame in [hello(), FromSidecar::Table(table(1, names)), FromSidecar::Synced { epoch: 1 }] {
            subscriber.handle_frame(frame).unwrap();
        }
        subscriber
    }

    #[test]
    fn a_synced_table_replaces_the_one_before() {
        let mut subscriber = synced_with(&["a", "b"]);
        subscriber.handle_frame(FromSidecar::Table(table(2, &["b"]))).unwrap();
        assert_eq!(nodes(&subscriber), ["b"]);
    }

    #[test]
    fn a_table_before_synced_adds_but_does_not_remove() {
        let mut subscriber = synced_with(&["a", "b"]);
        subscriber.handle_connected();
        subscriber.handle_frame(hello()).unwrap();
        subscriber.handle_frame(FromSidecar::Table(table(1, &["c"]))).unwrap();
        assert_eq!(nodes(&subscriber), ["a", "b", "c"]);
        subscriber.handle_frame(FromSidecar::Synced { epoch: 1 }).unwrap();
        assert_eq!(nodes(&subscriber), ["c"]);
    }

    #[test]
    fn a_role_that_synced_does_not_mention_is_empty_afterwards() {
        let mut subscriber = synced_with(&["a"]);
        subscriber.handle_connected();
        subscriber.handle_frame(hello()).unwrap();
        assert_eq!(nodes(&subscriber), ["a"]);
        subscriber.handle_frame(FromSidecar::Synced { epoch: 1 }).unwrap();
        assert!(nodes(&subscriber).is_empty());
    }

    #[test]
    fn nothing_counts_before_the_hello() {
        let mut subscriber = Subscriber::default();
        subscriber.handle_connected();
        let error = subscriber.handle_frame(FromSidecar::Table(table(1, &["a"]))).unwrap_err();
        assert!(matches!(error, FeedError::OutOfPlace(_)));
        assert!(nodes(&subscriber).is_empty());
    }

    #[test]
    fn another_version_is_refused() {
        let mut subscriber = Subscriber::default();
        let mut other = hello();
        if let FromSidecar::Hello(h) = &mut other {
            h.version = VERSION + 1;
        }
        assert!(
            matches!(subscriber.handle_frame(other), Err(FeedError::Version { theirs }) if theirs == VERSION + 1)
        );
    }

    #[test]
    fn a_table_that_says_nothing_new_changes_nothing() {
        let mut subscriber = synced_with(&["a"]);
        let change = subscriber.handle_frame(FromSidecar::Table(table(1, &["a"]))).unwrap();
        assert_eq!(change, Change::Tables(vec![]));
    }
}
