//! Who is heard at all, by address. No replacement for keys: source addresses of datagrams can be forged.

use std::net::IpAddr;

pub use program::network::Network;

/// The lists of `--allow` and `--deny`.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Empty: everybody.
    pub allow: Vec<Network>,
    /// Wins against `allow`.
    pub deny: Vec<Network>,
}

impl Access {
    /// Whether what comes from this address is heard.
    pub fn permits(&self, ip: IpAddr) -> bool {
        let is_in = |list: &[Network]| list.iter().any(|network| network.contains(ip));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(allow: &str, deny: &str) -> Access {
        let list = |text: &str| text.split_terminator(',').map(|net| net.parse().unwrap()).collect();
        Access { allow: list(allow), deny: list(deny) }
    }

    #[track_caller]
    fn assert_permits(access: &Access, permitted: &[&str], denied: &[&str]) {
        for ip in permitted {
            assert!(access.permits(ip.parse().unwrap()), "{ip} is permitted");
        }
        for ip in denied {
            assert!(!access.permits(ip.parse().unwrap()), "{ip} is denied");
        }
    }

    #[test]
    fn without_lists_everybody_is_heard() {
        assert_permits(&access("", ""), &["10.0.0.1", "::1", "255.255.255.255"], &[]);
    }

    #[test]
    fn a_network_ends_where_it_ends() {
        let v4 = access("10.1.2.64/26", "");
        assert_permits(&v4, &["10.1.2.64", "10.1.2.127"], &["10.1.2.63", "10.1.2.128", "::1"]);
        let v6 = access("fd00:0:0:1::/64", "");
        let last = "fd00::1:ffff:ffff:ffff:ffff";
        assert_permits(&v6, &["fd00:0:0:1::", last], &["fd00::", "fd00:0:0:2::", "10.1.2.64"]);
        assert_permits(&access("0.0.0.0/0", ""), &["0.0.0.0", "255.255.255.255"], &["::", "::1"]);
        assert_permits(&access("10.0.0.7", ""), &["10.0.0.7"], &["10.0.0.6", "10.0.0.8"]);
    }

    #[test]
    fn deny_wins_and_an_allow_list_denies_the_rest() {
        let both = access("10.0.0.0/8,fd00::/8", "10.9.0.0/16");
        assert_permits(
            &both,
            &["10.8.255.255", "10.10.0.0", "fd00::1"],
            &["10.9.0.0", "10.9.255.255", "11.0.0.0"],
        );
        assert_permits(&access("", "10.9.0.0/16"), &["10.8.0.1", "::1"], &["10.9.0.1"]);
        assert_permits(&access("10.9.0.1", "10.0.0.0/8"), &[], &["10.9.0.1"]);
    }

    #[test]
    fn a_mapped_address_is_its_address_of_ipv4() {
        let v4 = access("10.0.0.0/8", "10.9.0.0/16");
        assert_permits(&v4, &["::ffff:10.0.0.1"], &["::ffff:10.9.0.1", "::ffff:11.0.0.1", "::10.0.0.1"]);
        let mapped = access("::ffff:10.0.0.0/104", "::ffff:10.9.0.1");
        assert_permits(&mapped, &["10.255.0.1", "::ffff:10.0.0.1"], &["11.0.0.0", "10.9.0.1"]);
        assert_permits(&access("", "::/0"), &["10.0.0.1", "::ffff:10.0.0.1"], &["::1"]);
    }

    #[test]
    fn what_is_no_network_is_refused_with_an_example() {
        for bad in ["", "10.0.0.0/33", "10.0.0", "::/129", "example.org", "10.0.0.0/8 "] {
            let error = bad.parse::<Network>().unwrap_err();
            assert!(error.contains("10.0.0.0/8 or fd00::/8"), "{error}");
        }
    }
}
