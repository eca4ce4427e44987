//! What consumers have in flight at draining endpoints, by their receipts.

use std::collections::BTreeMap;

use feed::{
    Endpoint, EndpointId, RoleTable,
    frame::{Applied, InFlight},
};

/// What is in flight at the draining endpoints of a table, by the last receipt for it of each consumer of the role, if there is one.
/// Those are left out whose drain some consumer has not applied yet, and all where there is no consumer.
pub(crate) fn in_flight<'a>(
    table: &RoleTable,
    receipts: impl Iterator<Item = Option<&'a Applied>>,
) -> BTreeMap<EndpointId, u32> {
    let mut draining = table.draining().map(Endpoint::id).peekable();
    if draining.peek().is_none() {
        return BTreeMap::new();
    }
    let receipts: Option<Vec<Receipt<'_>>> = receipts.map(|applied| applied.map(Receipt::new)).collect();
    let Some(receipts) = receipts.filter(|receipts| !receipts.is_empty()) else { return BTreeMap::new() };
    let count = |id| {
        let counts: Option<Vec<u32>> = receipts.iter().map(|receipt| receipt.at(id)).collect();
        Some((id, counts?.into_iter().fold(0, u32::saturating_add)))
    };
    draining.filter_map(count).collect()
}

/// A receipt by instance: half of a large role may drain at once, and each is looked up.
struct Receipt<'a>(BTreeMap<u64, Vec<&'a InFlight>>);

impl<'a> Receipt<'a> {
    fn new(applied: &'a Applied) -> Self {
        let mut by_instance: BTreeMap<u64, Vec<&InFlight>> = BTreeMap::new();
        applied.draining.iter().for_each(|said| by_instance.entry(said.instance).or_default().push(said));
        Self(by_instance)
    }

    fn at(&self, id: EndpointId) -> Option<u32> {
        let said = self.0.get(&id.instance)?.iter().find(|said| said.is_of(id));
        said.map(|said| said.in_flight)
    }
}

#[cfg(test)]
mod tests {
    use feed::{EndpointState, Tags};

    use super::*;

    fn draining(node: &str, addr: &str) -> Endpoint {
        Endpoint {
            node: node.parse().unwrap(),
            instance: 1,
            addr: addr.parse().unwrap(),
            state: EndpointState::Draining,
            weight: 100,
            since: 0.0,
            gossip_port: 0,
            tags: Tags::default(),
            routes: feed::Routes::default(),
            protocol: None,
        }
    }

    fn applied(draining: Vec<InFlight>) -> Applied {
        Applied { role: "app".parse().unwrap(), generation: 1, draining }
    }

    #[test]
    fn an_endpoint_counts_when_every_consumer_has_applied_its_drain_and_twins_count_apart() {
        let twins = [draining("a", "10.0.0.1:80"), draining("b", "10.0.0.2:80")];
        let [one, two] = [twins[0].id(), twins[1].id()];
        let table = RoleTable::new("app".parse().unwrap(), 1, twins.to_vec());
        let both = applied(vec![InFlight::new(one, 0), InFlight::new(two, 3)]);
        let second_only = applied(vec![InFlight::new(two, 4)]);
        let count = |receipts: &[Option<&Applied>]| in_flight(&table, receipts.iter().copied());
        assert_eq!(count(&[Some(&both)]), BTreeMap::from([(one, 0), (two, 3)]));
        assert_eq!(count(&[Some(&both), Some(&second_only)]), BTreeMap::from([(two, 7)]));
        assert_eq!(count(&[Some(&both), None]), BTreeMap::new(), "one has said nothing");
        assert_eq!(count(&[]), BTreeMap::new(), "there is nobody");
        let older = applied(vec![InFlight { instance: 1, addr: None, in_flight: 2 }]);
        assert_eq!(count(&[Some(&older)]), BTreeMap::from([(one, 2), (two, 2)]));
    }
}
