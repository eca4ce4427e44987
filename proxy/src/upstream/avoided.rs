//! Whom a request is not to be sent to again.

use feed::EndpointId;

/// Endpoints that failed a request. Empty, as it is for nearly all, it costs nothing; with many, a look takes the logarithm of them.
/// An exchange keeps its room for the next request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Avoided(Vec<EndpointId>);

impl Avoided {
    /// Nobody.
    pub(crate) const NOBODY: &'static Self = &Self(Vec::new());

    pub(crate) fn insert(&mut self, id: EndpointId) {
        if let Err(position) = self.0.binary_search(&id) {
            self.0.insert(position, id);
        }
    }

    pub(crate) fn contains(&self, id: EndpointId) -> bool {
        !self.0.is_empty() && self.0.binary_search(&id).is_ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all, and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_instance_and_address_to_be_avoided() {
        let id = |instance, port| EndpointId { instance, addr: ([10, 0, 0, 1], port).into() };
        let mut avoided = Avoided::default();
        assert!(avoided.is_empty() && !avoided.contains(id(1, 1)));
        for port in (0..100).rev().chain(0..100) {
            avoided.insert(id(1, port));
        }
        assert!((0..100).all(|port| avoided.contains(id(1, port)) && !avoided.contains(id(2, port))));
        assert_eq!(avoided.0.len(), 100);
        avoided.clear();
        assert!(avoided.is_empty() && !avoided.contains(id(1, 1)));
    }
}
