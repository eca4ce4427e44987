//! The keys by which the same request goes to the same upstream, and how they and the names of nodes are hashed.
//!
//! All proxies agree, of whatever version, so the hash is spelled out here. It is not secret: whoever can choose keys can choose
//! an upstream anyway, by trying. Whose key it is, is said in [`slots`](super::slots). What is scored here is who has it where a
//! few looks there find nobody: rendezvous hashing (highest random weight) among all who can.

use std::net::{IpAddr, SocketAddr};

/// FNV-1a, 64 bits.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The key of a client, whatever its port, and whichever way its address is written.
pub(crate) fn client_key(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => hash(&ip.octets()),
        IpAddr::V6(ip) => hash(&ip.octets()),
    }
}

/// The key of a flow of datagrams: its client with the port, so that flows behind one address are spread.
pub(crate) fn flow_key(client: SocketAddr) -> u64 {
    let port = client.port().to_be_bytes();
    match client.ip().to_canonical() {
        IpAddr::V4(ip) => hash(&[&ip.octets()[..], &port].concat()),
        IpAddr::V6(ip) => hash(&[&ip.octets()[..], &port].concat()),
    }
}

/// The key of a request: the first field of this name in a head that was found well-formed.
pub(crate) fn field_key(head: &[u8], name: &str) -> Option<u64> {
    field(head, name).map(hash)
}

/// The value of the first field of this name.
pub(crate) fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut fields =
        head.split(|byte| *byte == b'\n').skip(1).take_while(|line| !line.trim_ascii().is_empty());
    fields.find_map(|field| {
        let (found, value) = field.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?.trim_ascii();
        found.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
    })
}

/// How much an endpoint is a key's: of a score drawn so, the highest of several belongs to each with a probability proportional
/// to its weight.
pub(super) fn score(key: u64, node: u64, weight: u16) -> f64 {
    let drawn = mix(key ^ mix(node)) >> 32;
    // In the open interval from 0 to 1: neither a logarithm of 0 nor a division by one.
    let uniform = (f64::from(u32::try_from(drawn).unwrap_or(u32::MAX)) + 0.5) / 4_294_967_296.0;
    f64::from(weight) / -uniform.ln()
}

/// The finisher of MurmurHash3: every bit of the input moves every bit of the output, which FNV alone does not do for its last bytes.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS_COUNT: u32 = 10_000;

    fn node(number: usize) -> u64 {
        hash(format!("appserver{number}").as_bytes())
    }

    /// Who has the key, of nodes with these weights.
    fn owner(key: u64, nodes: &[(u64, u16)]) -> u64 {
        let scores = nodes.iter().map(|(node, weight)| (score(key, *node, *weight), *node));
        scores.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap().1
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..KEYS_COUNT).map(|key| hash(&key.to_be_bytes()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn when_one_goes_its_keys_alone_move(
            weights in proptest::collection::vec(1..=200_u16, 2..12),
            gone in any::<proptest::sample::Index>(),
        ) {
            let before: Vec<_> = weights.iter().enumerate().map(|(i, weight)| (node(i), *weight)).collect();
            let mut after = before.clone();
            let gone = after.remove(gone.index(before.len())).0;
            for key in keys() {
                let owner_before = owner(key, &before);
                prop_assert!(owner_before == gone || owner_before == owner(key, &after));
            }
        }

        #[test]
        fn no_head_makes_it_panic(head: Vec<u8>, name in "[a-z-]{1,20}") {
            let _ = field_key(&head, &name);
        }
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let nodes: Vec<_> = [100, 100, 100, 300].into_iter().enumerate().map(|(i, w)| (node(i), w)).collect();
        let counts = nodes.iter().map(|(node, _)| keys().filter(|key| owner(*key, &nodes) == *node).count());
        let counts: Vec<_> = counts.collect();
        assert!(counts[..3].iter().all(|count| (1530..1800).contains(count)), "{counts:?}");
        assert!((4800..5200).contains(&counts[3]), "{counts:?}");
    }

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(mix(1), 0xb456_bcfc_34c2_cb2c);
    }

    #[test]
    fn a_field_is_found_by_its_name_alone() {
        let head = b"GET /x-user: z HTTP/1.1\r\nX-Users: 1\r\nNot-X-User: 2\r\nx-uSER: \t a b \r\nX-User: 3\r\n\r\nX-Late: 4";
        assert_eq!(field_key(head, "X-User"), Some(hash(b"a b")));
        assert_eq!(field_key(head, "X-Use"), None);
        assert_eq!(field_key(b"GET / HTTP/1.1\r\nX-User:\r\n\r\n", "x-user"), Some(hash(b"")));
    }

    #[test]
    fn a_client_is_the_same_in_both_families() {
        let of = |ip: &str| client_key(ip.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        let flow_of = |addr: &str| flow_key(addr.parse().unwrap());
        assert_eq!(flow_of("192.0.2.1:53"), flow_of("[::ffff:192.0.2.1]:53"));
        assert_ne!(flow_of("192.0.2.1:53"), flow_of("192.0.2.1:54"));
        assert_eq!(flow_of("192.0.2.1:258"), hash(&[192, 0, 2, 1, 1, 2]), "it never changes");
    }
}
