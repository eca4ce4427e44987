//! Session tickets: sealed with the cluster's keys where the sidecar tells any, so that a session resumes at every proxy; else with keys
//! that this process alone has.
//!
//! ```text
//! ├ name of the key (16) ┼ nonce (24) ┼ sealed: what rustls keeps of a session ┼ tag (16)
//!                                       XChaCha20-Poly1305
//! ```
//!
//! Nonces are random, and long enough for any number of proxies to draw their own.

use std::{
    sync::{Arc, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};
use data_encoding::HEXLOWER_PERMISSIVE;
use feed::ticket::{TicketKey, TicketKeys};
use rustls::{
    Error as TlsError,
    crypto::{CryptoProvider, SecureRandom, ring},
    server::ProducesTickets,
};

use crate::limits::{TICKET_BYTES_MAX, TICKET_STATE_BYTES_MAX};

const NAME_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

const _: () = assert!(TICKET_BYTES_MAX == NAME_BYTES + NONCE_BYTES + TICKET_STATE_BYTES_MAX + TAG_BYTES);

/// Seals and opens tickets.
#[derive(Debug)]
pub(crate) struct Tickets {
    random: &'static dyn SecureRandom,
    own: Arc<dyn ProducesTickets>,
    clusters: RwLock<Option<Told>>,
}

/// What the sidecar has told.
#[derive(Debug)]
struct Told {
    lifetime_s: u32,
    /// The first seals.
    keys: Vec<SealingKey>,
    at: Instant,
}

struct SealingKey {
    name: [u8; NAME_BYTES],
    cipher: XChaCha20Poly1305,
}

/// Keys that are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a ticket key that is none: expected a name of 16 bytes and a key of 32, in hex")]
pub(crate) struct NotATicketKey;

impl Tickets {
    /// With keys of this process.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn new(provider: &CryptoProvider) -> Result<Self, TlsError> {
        let own = ring::Ticketer::new()?;
        Ok(Self { random: provider.secure_random, own, clusters: RwLock::default() })
    }

    /// Goes by these keys of the cluster from now on, or where there are none by its own.
    ///
    /// # Errors
    /// One of them is none; those before go on.
    pub(crate) fn apply(&self, told: &TicketKeys, now: Instant) -> Result<(), NotATicketKey> {
        let keys: Vec<SealingKey> = told.keys.iter().map(SealingKey::parse).collect::<Result<_, _>>()?;
        let has_keys = !keys.is_empty();
        let told = has_keys.then_some(Told { lifetime_s: told.lifetime_s, keys, at: now });
        let had_keys = self.replace(told).is_some();
        match (had_keys, has_keys) {
            (false, true) => tracing::info!("sessions resume at every proxy of the cluster"),
            (true, false) => tracing::info!("the cluster has no keys any more, sessions resume here alone"),
            _ => {}
        }
        Ok(())
    }

    /// Forgets keys that nobody seals with any more: the sidecar has been silent for two of their lifetimes.
    pub(crate) fn forget_old(&self, now: Instant) {
        let is_old = self.told().as_ref().is_some_and(|told| told.is_old(now));
        if is_old {
            self.replace(None);
            tracing::warn!("no ticket keys from the sidecar for long, sessions resume here alone");
        }
    }

    fn told(&self) -> RwLockReadGuard<'_, Option<Told>> {
        self.clusters.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn replace(&self, told: Option<Told>) -> Option<Told> {
        let mut clusters = self.clusters.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::replace(&mut *clusters, told)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.told().as_ref().map_or_else(|| self.own.lifetime(), |told| told.lifetime_s)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let told = self.told();
        let Some(key) = told.as_ref().and_then(|told| told.keys.first()) else {
            return self.own.encrypt(plain);
        };
        if plain.len() > TICKET_STATE_BYTES_MAX {
            return None;
        }
        let mut nonce = [0; NONCE_BYTES];
        self.random.fill(&mut nonce).ok()?;
        key.seal(&nonce, plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        if let Some((name, sealed)) = ticket.split_first_chunk::<NAME_BYTES>()
            && let Some(told) = &*self.told()
            && let Some(key) = told.keys.iter().find(|key| key.name == *name)
        {
            return key.open(sealed);
        }
        // Of before the sidecar told any, or of nobody here.
        self.own.decrypt(ticket)
    }
}

impl Told {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) > 2 * Duration::from_secs(self.lifetime_s.into())
    }
}

impl SealingKey {
    fn parse(told: &TicketKey) -> Result<Self, NotATicketKey> {
        let bytes = |text: &str| HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        let name = bytes(&told.name).and_then(|name| name.try_into().ok()).ok_or(NotATicketKey)?;
        let key: [u8; 32] = bytes(&told.key).and_then(|key| key.try_into().ok()).ok_or(NotATicketKey)?;
        Ok(Self { name, cipher: XChaCha20Poly1305::new(&key.into()) })
    }

    fn seal(&self, nonce: &[u8; NONCE_BYTES], plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        self.cipher.encrypt_in_place(&XNonce::from(*nonce), &self.name, &mut sealed).ok()?;
        Some([&self.name[..], nonce, &sealed].concat())
    }

    /// Opens what follows the name.
    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let mut plain = sealed.to_vec();
        self.cipher.decrypt_in_place(&XNonce::from(*nonce), &self.name, &mut plain).ok()?;
        Some(plain)
    }
}

/// Without the key.
impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealingKey({:02x?})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets() -> Tickets {
        Tickets::new(&ring::default_provider()).unwrap()
    }

    /// Keys whose bytes are all these.
    fn told(bytes: &[u8]) -> TicketKeys {
        let key = |byte: &u8| TicketKey {
            name: format!("{byte:02x}").repeat(NAME_BYTES),
            key: format!("{byte:02X}").repeat(32),
        };
        TicketKeys { lifetime_s: 10, keys: bytes.iter().map(key).collect() }
    }

    fn told_tickets(bytes: &[u8]) -> Tickets {
        let tickets = tickets();
        tickets.apply(&told(bytes), Instant::now()).unwrap();
        tickets
    }

    #[test]
    fn whoever_has_the_key_opens_a_ticket_and_nobody_else() {
        let (sealing, other, stranger) = (told_tickets(&[1, 2]), told_tickets(&[3, 1]), told_tickets(&[2]));
        let ticket = sealing.encrypt(b"a session").unwrap();
        assert!(!ticket.windows(7).any(|part| part == b"session"));
        assert_ne!(ticket, sealing.encrypt(b"a session").unwrap(), "another nonce");
        assert_eq!(other.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(stranger.decrypt(&ticket), None);
        assert_eq!(tickets().decrypt(&ticket), None);
        assert_eq!(sealing.lifetime(), 10);
    }

    #[test]
    fn what_was_sealed_before_any_key_was_told_opens_here_and_here_alone() {
        let tickets = tickets();
        let early = tickets.encrypt(b"x").unwrap();
        tickets.apply(&told(&[1]), Instant::now()).unwrap();
        assert_eq!(tickets.decrypt(&early).as_deref(), Some(&b"x"[..]));
        assert_eq!(told_tickets(&[1]).decrypt(&early), None);
        let sealed = tickets.encrypt(b"y").unwrap();
        tickets.apply(&told(&[]), Instant::now()).unwrap();
        assert_eq!(tickets.decrypt(&sealed), None, "the keys are gone");
    }

    #[test]
    fn keys_are_forgotten_when_nobody_tells_of_them_for_two_lifetimes() {
        let (tickets, now) = (tickets(), Instant::now());
        tickets.apply(&told(&[1]), now).unwrap();
        let ticket = tickets.encrypt(b"x").unwrap();
        tickets.forget_old(now + Duration::from_secs(20));
        assert!(tickets.decrypt(&ticket).is_some());
        tickets.forget_old(now + Duration::from_secs(20) + Duration::from_nanos(1));
        assert!(tickets.decrypt(&ticket).is_none());
        assert!(tickets.encrypt(b"x").is_some(), "with keys of its own");
    }

    #[test]
    fn no_byte_of_a_ticket_can_be_changed_and_none_be_missing() {
        let tickets = told_tickets(&[1, 2]);
        let ticket = tickets.encrypt(b"a session").unwrap();
        for at in 0..ticket.len() {
            for bit in 0..8 {
                let mut changed = ticket.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(tickets.decrypt(&changed), None, "byte {at}");
            }
            assert_eq!(tickets.decrypt(&ticket[..at]), None, "{at} bytes");
        }
        let mut other_name = ticket;
        other_name[..NAME_BYTES].fill(2);
        assert_eq!(tickets.decrypt(&other_name), None);
    }

    #[test]
    fn a_session_of_so_many_bytes_has_a_ticket_and_a_longer_one_has_none() {
        let tickets = told_tickets(&[1]);
        let mut ticket = tickets.encrypt(&[7; TICKET_STATE_BYTES_MAX]).unwrap();
        assert_eq!(ticket.len(), TICKET_BYTES_MAX);
        assert_eq!(tickets.decrypt(&ticket), Some(vec![7; TICKET_STATE_BYTES_MAX]));
        assert_eq!(tickets.encrypt(&[7; TICKET_STATE_BYTES_MAX + 1]), None);
        ticket.push(0);
        assert_eq!(tickets.decrypt(&ticket), None);
    }

    #[test]
    fn keys_that_are_none_change_nothing() {
        let tickets = told_tickets(&[1]);
        let ticket = tickets.encrypt(b"x").unwrap();
        for spoil in [
            |key: &mut TicketKey| key.name.truncate(31),
            |key: &mut TicketKey| key.key.push_str("00"),
            |key: &mut TicketKey| key.key.replace_range(..1, "g"),
        ] {
            let mut keys = told(&[2]);
            spoil(&mut keys.keys[0]);
            assert_eq!(tickets.apply(&keys, Instant::now()), Err(NotATicketKey));
        }
        assert!(tickets.decrypt(&ticket).is_some());
    }

    proptest::proptest! {
        #[test]
        fn hostile_tickets_are_nobodys_and_never_panic(
            named in proptest::bool::ANY,
            mut ticket in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            let tickets = told_tickets(&[1, 2]);
            if named && ticket.len() >= NAME_BYTES {
                ticket[..NAME_BYTES].fill(1);
            }
            proptest::prop_assert_eq!(tickets.decrypt(&ticket), None);
        }
    }
}
