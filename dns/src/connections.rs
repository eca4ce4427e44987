//! Who has a TCP connection, and whose is closed when there are too many. No I/O.
//!
//! RFC 7766 section 6.2.3: a server under load closes idle connections; their clients dial again when they have a
//! question. One that is busy with an answer keeps its place.

use std::{collections::BTreeMap, net::IpAddr};

/// Connections in all. With what the forwarder may hold this stays below the usual limit of 1024 descriptors.
pub(crate) const CONNECTIONS_MAX: usize = 256;

/// Connections of one source. A client needs one (RFC 7766 section 6.2.2); behind an address translation there are
/// several clients.
pub(crate) const CONNECTIONS_PER_SOURCE_MAX: usize = 32;

/// The connections, each with what closes it.
#[derive(Debug)]
pub(crate) struct Connections<T> {
    by_id: BTreeMap<u64, Connection<T>>,
    /// Counts what happens: ids, and the order in which connections fell idle.
    clock: u64,
}

#[derive(Debug)]
struct Connection<T> {
    source: IpAddr,
    /// None while an answer is being made.
    idle_since: Option<u64>,
    close: T,
}

impl<T> Default for Connections<T> {
    fn default() -> Self {
        Self { by_id: BTreeMap::new(), clock: 0 }
    }
}

impl<T> Connections<T> {
    /// Makes room for a connection of this source. Gives what closes the one that had it, if there is none left.
    ///
    /// # Errors
    /// All are busy.
    pub(crate) fn make_room(&mut self, source: IpAddr) -> Result<Option<T>, AllBusy> {
        let of_source = self.by_id.values().filter(|connection| connection.source == source).count();
        if of_source >= CONNECTIONS_PER_SOURCE_MAX {
            self.take_idlest(Some(source)).map(Some).ok_or(AllBusy)
        } else if self.by_id.len() >= CONNECTIONS_MAX {
            self.take_idlest(None).map(Some).ok_or(AllBusy)
        } else {
            Ok(None)
        }
    }

    /// A connection of this source, idle until it says something. Gives its id.
    pub(crate) fn insert(&mut self, source: IpAddr, close: T) -> u64 {
        self.clock += 1;
        self.by_id.insert(self.clock, Connection { source, idle_since: Some(self.clock), close });
        self.clock
    }

    /// The connection has a request under way, or has none any more.
    pub(crate) fn set_busy(&mut self, id: u64, busy: bool) {
        self.clock += 1;
        if let Some(connection) = self.by_id.get_mut(&id) {
            connection.idle_since = (!busy).then_some(self.clock);
        }
    }

    /// The connection has ended.
    pub(crate) fn remove(&mut self, id: u64) {
        self.by_id.remove(&id);
    }

    /// Gives up the connection that has been idle longest, of this source or of all.
    pub(crate) fn take_idlest(&mut self, source: Option<IpAddr>) -> Option<T> {
        let of_source = self.by_id.iter().filter(|(_, c)| source.is_none_or(|source| c.source == source));
        let idle = of_source.filter_map(|(id, connection)| Some((connection.idle_since?, *id)));
        let (_, id) = idle.min()?;
        self.by_id.remove(&id).map(|connection| connection.close)
    }
}

/// There is no place, and nobody who could give up one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("all connections are busy")]
pub(crate) struct AllBusy;

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: usize) -> IpAddr {
        IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()])
    }

    /// Connections that give their number to be closed.
    fn full(count: usize, source_of: impl Fn(usize) -> IpAddr) -> (Connections<usize>, Vec<u64>) {
        let mut connections = Connections::default();
        let ids = (0..count).map(|number| {
            assert_eq!(connections.make_room(source_of(number)), Ok(None), "{number}");
            connections.insert(source_of(number), number)
        });
        let ids = ids.collect();
        (connections, ids)
    }

    #[test]
    fn a_source_over_its_limit_loses_its_idlest_connection() {
        let (mut connections, ids) = full(CONNECTIONS_PER_SOURCE_MAX, |_| source(1));
        assert_eq!(connections.make_room(source(2)), Ok(None));
        connections.set_busy(ids[0], true);
        assert_eq!(connections.make_room(source(1)), Ok(Some(1)));
        let replacing = connections.insert(source(1), 100);
        connections.set_busy(ids[0], false);
        assert_eq!(connections.make_room(source(1)), Ok(Some(2)));
        connections.remove(replacing);
        assert_eq!(connections.make_room(source(1)), Ok(None));
    }

    #[test]
    fn over_the_limit_of_all_the_idlest_of_all_is_closed() {
        let (mut connections, ids) = full(CONNECTIONS_MAX, |number| source(number % 9));
        assert_eq!(connections.make_room(source(9)), Ok(Some(0)));
        connections.insert(source(9), 1000);
        for id in &ids[1..] {
            connections.set_busy(*id, true);
        }
        assert_eq!(connections.make_room(source(9)), Ok(Some(1000)));
        let busy = connections.insert(source(9), 1001);
        connections.set_busy(busy, true);
        assert_eq!(connections.make_room(source(9)), Err(AllBusy));
    }
}
