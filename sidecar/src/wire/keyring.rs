//! The keys of a cluster: one seals what a node sends, all of them open what it receives.
//!
//! Several at a time are what makes rotation possible: every member learns a new key before anybody seals with it. What is
//! *not* here: the layout of sealed packets ([`crate::wire::seal`]) and the file that keys come from ([`crate::node::key_file`]).

use std::{fmt, str::FromStr};

use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use rand::{TryRng, rngs::SysRng};
use serde::{Deserialize, Serialize};

/// Length of a key: that of XChaCha20-Poly1305.
pub const KEY_BYTES: usize = 32;
/// Most keys at a time. A rotation needs two; the rest is room for one that was interrupted.
pub const KEYS_COUNT_MAX: usize = 8;
/// Length of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Length of the proof that nothing was changed.
pub const TAG_BYTES: usize = 16;
/// Length of the part of a fingerprint that a packet carries, so that its key is found without trying each.
pub const HINT_BYTES: usize = 4;

const FINGERPRINT_BYTES: usize = 8;
/// What a fingerprint is computed under. Senders count their nonces up from zero and never come here.
const FINGERPRINT_NONCE: [u8; NONCE_BYTES] = [0xff; NONCE_BYTES];

/// A key that the whole cluster shares. It is shown as its fingerprint.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    bytes: [u8; KEY_BYTES],
    fingerprint: Fingerprint,
}

/// What a key is called where people and packets name it. Nothing of the key can be learned from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fingerprint([u8; FINGERPRINT_BYTES]);

/// Why a text is no key. The text itself is a secret, perhaps with a slip in it, and is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a key: expected 32 bytes as base64 (44 characters) or hex (64), found {characters} characters")]
pub struct NotAKey {
    characters: usize,
}

/// Why a text is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a fingerprint: expected 16 hex digits, as `concertina keys list` shows them")]
pub struct NotAFingerprint(String);

/// Why a change of the keys is refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// There would be more than [`KEYS_COUNT_MAX`].
    #[error("{KEYS_COUNT_MAX} keys are the most: remove one first")]
    Full,
    /// The key is not in the ring.
    #[error("key {0} is not installed: install it first")]
    Unknown(Fingerprint),
    /// The key seals what is sent.
    #[error("key {0} is in use: use another one first")]
    InUse(Fingerprint),
}

impl Key {
    /// The key of these bytes.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        // A MAC under the key of no text at all: a one-way function of the key, for which no other code is needed.
        let mut tag = Vec::new();
        seal_with(&bytes, &FINGERPRINT_NONCE, b"concertina key fingerprint", &mut tag);
        let mut fingerprint = [0; FINGERPRINT_BYTES];
        fingerprint.copy_from_slice(&tag[..FINGERPRINT_BYTES]);
        Self { bytes, fingerprint: Fingerprint(fingerprint) }
    }

    /// A new key, of the operating system's randomness.
    ///
    /// # Errors
    /// The system has none to give.
    pub fn generate() -> std::io::Result<Self> {
        let mut bytes = [0; KEY_BYTES];
        SysRng.try_fill_bytes(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self::new(bytes))
    }

    /// What the key is called.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The key itself, for those who pass it on.
    pub(crate) fn to_bytes(&self) -> [u8; KEY_BYTES] {
        self.bytes
    }

    /// The key as a line of a key file.
    pub fn encode(&self) -> String {
        BASE64.encode(&self.bytes)
    }

    /// Replaces the text in `buffer` by its sealed form, [`TAG_BYTES`] longer. A nonce may be used once in the life of a key.
    pub fn seal(&self, nonce: &[u8; NONCE_BYTES], associated: &[u8], buffer: &mut Vec<u8>) {
        debug_assert_ne!(*nonce, FINGERPRINT_NONCE, "the nonce of fingerprints");
        seal_with(&self.bytes, nonce, associated, buffer);
    }

    /// Replaces a sealed form by its text; false, and an unspecified text, if this is not what was sealed with this key,
    /// nonce and associated data.
    #[must_use]
    pub fn open(&self, nonce: &[u8; NONCE_BYTES], associated: &[u8], buffer: &mut Vec<u8>) -> bool {
        let cipher = XChaCha20Poly1305::new(&self.bytes.into());
        cipher.decrypt_in_place(&XNonce::from(*nonce), associated, buffer).is_ok()
    }
}

fn seal_with(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], associated: &[u8], buffer: &mut Vec<u8>) {
    let cipher = XChaCha20Poly1305::new(&(*key).into());
    let sealed = cipher.encrypt_in_place(&XNonce::from(*nonce), associated, buffer);
    sealed.expect("only texts over 256 GB cannot be sealed, and packets have limits");
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.fingerprint)
    }
}

impl FromStr for Key {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let encoding = if text.len() == 2 * KEY_BYTES { HEXLOWER_PERMISSIVE } else { BASE64 };
        let bytes = encoding.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self::new).ok_or_else(|| NotAKey { characters: text.chars().count() })
    }
}

impl Fingerprint {
    /// The part that packets carry.
    pub fn hint(&self) -> [u8; HINT_BYTES] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| NotAFingerprint(text.chars().take(80).collect()))
    }
}

/// The keys of one node, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    /// The first seals.
    keys: Vec<Key>,
}

impl Keyring {
    /// A ring with one key.
    pub fn new(primary: Key) -> Self {
        Self { keys: vec![primary] }
    }

    /// The key that seals.
    pub fn primary(&self) -> &Key {
        &self.keys[0]
    }

    /// All of them, the one that seals first.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Whether the key is there.
    pub fn holds(&self, fingerprint: Fingerprint) -> bool {
        self.position(fingerprint).is_some()
    }

    /// Adds a key that opens, if it is not there yet.
    ///
    /// # Errors
    /// [`KeyringError::Full`].
    pub fn install(&mut self, key: Key) -> Result<(), KeyringError> {
        if self.holds(key.fingerprint) {
            return Ok(());
        }
        if self.keys.len() == KEYS_COUNT_MAX {
            return Err(KeyringError::Full);
        }
        self.keys.push(key);
        Ok(())
    }

    /// Makes a key that is there the one that seals.
    ///
    /// # Errors
    /// [`KeyringError::Unknown`].
    pub fn make_primary(&mut self, fingerprint: Fingerprint) -> Result<(), KeyringError> {
        let at = self.position(fingerprint).ok_or(KeyringError::Unknown(fingerprint))?;
        self.keys[..=at].rotate_right(1);
        Ok(())
    }

    /// Removes a key, if it is there.
    ///
    /// # Errors
    /// [`KeyringError::InUse`].
    pub fn remove(&mut self, fingerprint: Fingerprint) -> Result<(), KeyringError> {
        match self.position(fingerprint) {
            Some(0) => Err(KeyringError::InUse(fingerprint)),
            Some(at) => {
                self.keys.remove(at);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The keys that a packet with this hint may be sealed with: one, unless two fingerprints begin alike.
    pub fn hinted(&self, hint: [u8; HINT_BYTES]) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| key.fingerprint.hint() == hint)
    }

    fn position(&self, fingerprint: Fingerprint) -> Option<usize> {
        self.keys.iter().position(|key| key.fingerprint == fingerprint)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn key(byte: u8) -> Key {
        Key::new([byte; KEY_BYTES])
    }

    #[test]
    fn a_key_reads_as_base64_and_as_hex_and_writes_as_base64() {
        let key = key(7);
        assert_eq!(key.encode().parse(), Ok(key.clone()));
        assert_eq!("07".repeat(KEY_BYTES).parse(), Ok(key.clone()));
        assert_eq!("Ab".repeat(KEY_BYTES).parse(), Ok(Key::new([0xab; KEY_BYTES])), "either case");
        let hex = "07".repeat(KEY_BYTES);
        for bad in ["", "x", &hex[1..], &format!("{hex}0"), &hex.replacen('0', "g", 1), &key.encode()[1..]] {
            let error = bad.parse::<Key>().unwrap_err().to_string();
            assert!(error.contains("base64 (44 characters) or hex (64)"), "{error}");
            assert!(
                bad.is_empty() || bad == "x" || !error.contains(bad),
                "a secret is not repeated: {error}"
            );
        }
    }

    #[test]
    fn generated_keys_differ_and_are_shown_as_fingerprints_only() {
        let (a, b) = (Key::generate().unwrap(), Key::generate().unwrap());
        assert_ne!(a, b);
        assert_ne!(a.fingerprint(), b.fingerprint());
        assert_eq!(format!("{a:?}"), format!("Key({})", a.fingerprint()));
        assert_eq!(a.fingerprint().to_string().parse(), Ok(a.fingerprint()));
        assert!("1234".parse::<Fingerprint>().unwrap_err().to_string().contains("16 hex digits"));
    }

    /// draft-irtf-cfrg-xchacha-03, A.3.1.
    #[test]
    fn sealing_is_the_published_algorithm() {
        let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
        let key = "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f".parse::<Key>().unwrap();
        let nonce = hex("404142434445464748494a4b4c4d4e4f5051525354555657").try_into().unwrap();
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let mut buffer = text.to_vec();
        key.seal(&nonce, &hex("50515253c0c1c2c3c4c5c6c7"), &mut buffer);
        assert_eq!(buffer[..16], hex("bd6d179d3e83d43b9576579493c0e939"));
        assert_eq!(buffer[text.len()..], hex("c0875924c1c7987947deafd8780acf49"));
        assert!(key.open(&nonce, &hex("50515253c0c1c2c3c4c5c6c7"), &mut buffer));
        assert_eq!(buffer, text);
    }

    #[test]
    fn a_ring_takes_eight_keys_and_not_nine() {
        let mut ring = Keyring::new(key(0));
        for n in 1..8 {
            ring.install(key(n)).unwrap();
        }
        assert_eq!(ring.keys().len(), KEYS_COUNT_MAX);
        assert_eq!(ring.install(key(8)), Err(KeyringError::Full));
        ring.install(key(7)).expect("it is there already");
    }

    #[test]
    fn a_key_is_installed_then_used_and_only_then_can_the_old_one_go() {
        let (old, new) = (key(1), key(2));
        let mut ring = Keyring::new(old.clone());
        assert_eq!(ring.make_primary(new.fingerprint()), Err(KeyringError::Unknown(new.fingerprint())));
        ring.install(new.clone()).unwrap();
        assert_eq!(ring.primary(), &old, "a new key only opens");
        assert_eq!(ring.remove(old.fingerprint()), Err(KeyringError::InUse(old.fingerprint())));
        ring.make_primary(new.fingerprint()).unwrap();
        assert_eq!(ring.keys(), [new.clone(), old.clone()]);
        ring.remove(old.fingerprint()).unwrap();
        ring.remove(old.fingerprint()).expect("it is gone already");
        assert_eq!(ring.keys(), [new]);
    }
}
