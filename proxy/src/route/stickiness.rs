//! Cookies that name an upstream.
//!
//! A cookie's value is a hash of the node's name and a signature of it, so that nobody can choose an upstream that was not chosen for it
//! once. A node that restarts has the same; one that drains is chosen no more, and the answer carries another cookie.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::Sticky;

/// Bytes of a signature that are sent: 128 bits.
const SIGNATURE_BYTES: usize = 16;

/// Characters of a value: the hash, a dash, the signature.
const VALUE_CHARS: usize = 16 + 1 + 2 * SIGNATURE_BYTES;

/// Reads and writes the cookies of a route.
#[derive(Debug)]
pub(crate) struct Stickiness {
    cookie: String,
    is_secure: bool,
    key: Hmac<Sha256>,
}

impl Stickiness {
    pub(crate) fn new(sticky: &Sticky) -> Option<Self> {
        let key = Hmac::new_from_slice(sticky.secret.bytes()).ok()?;
        Some(Self { cookie: sticky.cookie.clone(), is_secure: sticky.is_secure, key })
    }

    /// The node that a request's cookies name, by the hash of its name.
    pub(crate) fn read<'a>(&self, mut cookies: impl Iterator<Item = &'a [u8]>) -> Option<u64> {
        cookies.find_map(|line| line.split(|byte| *byte == b';').find_map(|pair| self.read_pair(pair)))
    }

    fn read_pair(&self, pair: &[u8]) -> Option<u64> {
        let value = pair.trim_ascii().strip_prefix(self.cookie.as_bytes())?.strip_prefix(b"=")?;
        let value = std::str::from_utf8(value).ok().filter(|value| value.len() == VALUE_CHARS)?;
        let (node, signature) = value.split_once('-')?;
        let node = u64::from_str_radix(node, 16).ok()?;
        let mut given = [0; SIGNATURE_BYTES];
        for (place, byte) in given.iter_mut().enumerate() {
            *byte = u8::from_str_radix(signature.get(2 * place..2 * place + 2)?, 16).ok()?;
        }
        self.signed(node).verify_truncated_left(&given).ok().map(|()| node)
    }

    /// The value of Set-Cookie that names a node.
    pub(crate) fn set_cookie(&self, node: u64) -> String {
        let signature = self.signed(node).finalize().into_bytes();
        let signature: String =
            signature[..SIGNATURE_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        let secure = if self.is_secure { "; Secure" } else { "" };
        format!("{}={node:016x}-{signature}; Path=/; HttpOnly; SameSite=Lax{secure}", self.cookie)
    }

    fn signed(&self, node: u64) -> Hmac<Sha256> {
        let mut mac = self.key.clone();
        mac.update(&node.to_be_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stickiness(secret: &str) -> Stickiness {
        let text = format!(
            "route = [{{ match = '/', role = 'a', sticky = {{ cookie = 'lb', secret = '{secret}' }} }}]"
        );
        let given: crate::config::Given = program::file::parse("a.toml", &text).unwrap();
        Stickiness::new(given.route.unwrap()[0].sticky.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn a_cookie_names_the_node_that_it_was_made_for_and_no_other_text_does() {
        let sticky = stickiness("0123456789abcdef");
        let set = sticky.set_cookie(0x17);
        let pair = set.split(';').next().unwrap();
        let read = |line: &str| sticky.read([line.as_bytes()].into_iter());
        assert_eq!(read(pair), Some(0x17));
        assert_eq!(read(&format!("a=b; x{pair};{pair} ; lb=1")), Some(0x17));
        assert_eq!(sticky.read([b"a=b".as_slice(), pair.as_bytes()].into_iter()), Some(0x17));
        for position in "lb=".len()..pair.len() {
            let mut forged = pair.to_owned();
            let other = if forged.as_bytes()[position] == b'0' { "1" } else { "0" };
            forged.replace_range(position..=position, other);
            assert_eq!(read(&forged), None, "{forged}");
        }
        for bad in ["", "lb", "lb=", "LB=1", "lb=\u{e4}", &pair[..pair.len() - 1], &format!("{pair}0")] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(stickiness("another secret text").read([pair.as_bytes()].into_iter()), None);
    }
}
