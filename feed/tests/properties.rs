//! Claims about the feed that hold for every input.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use bytes::BytesMut;
use feed::{
    Endpoint, EndpointState, FromSidecar, RoleTable, Tags,
    frame::{ConsumerCodec, SidecarCodec},
};
use proptest::prelude::*;
use tokio_util::codec::{Decoder, Encoder};

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (
        "[a-z_]([a-z0-9_-]{0,61}[a-z0-9_])?",
        any::<u64>(),
        any::<std::net::SocketAddr>(),
        any::<bool>(),
        any::<u16>(),
        0u32..4_000_000_000,
        prop::option::of(("[a-zA-Z0-9._-]{1,32}", "[a-zA-Z0-9 =ü]{0,20}")),
    )
        .prop_map(|(node, instance, addr, ready, weight, since, tag)| Endpoint {
            node: node.parse().unwrap(),
            instance,
            // JSON carries neither flow info nor a numeric scope.
            addr: std::net::SocketAddr::new(addr.ip(), addr.port()),
            state: if ready { EndpointState::Ready } else { EndpointState::Draining },
            weight,
            since: f64::from(since) / 10.0,
            gossip_port: weight,
            tags: Tags::new(tag.map(|(key, value)| format!("{key}={value}").parse().unwrap())).unwrap(),
            routes: feed::Routes::default(),
            protocol: None,
        })
}

fn table() -> impl Strategy<Value = RoleTable> {
    ("[a-z][a-z0-9]{0,20}", any::<u64>(), prop::collection::vec(endpoint(), 0..20)).prop_map(
        |(role, generation, endpoints)| RoleTable::new(role.parse().unwrap(), generation, endpoints),
    )
}

proptest! {
    #[test]
    fn tables_survive_the_wire_in_any_segmentation(tables in prop::collection::vec(table(), 1..5), step in 1usize..50) {
        let mut wire = BytesMut::new();
        for table in &tables {
            SidecarCodec::default().encode(FromSidecar::Table(table.clone()), &mut wire).unwrap();
        }
        let (mut codec, mut buffer, mut seen) = (ConsumerCodec::default(), BytesMut::new(), Vec::new());
        for piece in wire.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = codec.decode(&mut buffer).unwrap() {
                seen.push(frame);
            }
        }
        prop_assert_eq!(seen, tables.into_iter().map(FromSidecar::Table).collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        let mut codec = SidecarCodec::default();
        while let Ok(Some(_)) = codec.decode(&mut buffer) {}
    }
}
