//! How one sidecar hands a lineage over to another: a question and an answer, within a stream that the cluster's key seals.
//!
//! ```text
//! asker ── count of epochs, which lineage I have, public half ──▶ other
//!       ◀── public half, lineage sealed under HMAC(X25519 of both, their public halves) ──
//! ```
//!
//! The stream's seal says that the other side is a member. The inner one is for later: both private halves are gone after one use, so who has
//! recorded the stream and gets the cluster's key one day sees public halves alone.

use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};
use ring::{
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
    rand::SystemRandom,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    holding::{Count, Holding},
    lineage::{Lineage, LineageId, SECRET_BYTES, Secret, derive},
};
use crate::wire::{keyring::NONCE_BYTES, packet::PacketError};

const PUBLIC_BYTES: usize = 32;

const SEAL_LABEL: &[u8] = b"concertina lineage handover 1";
/// Each key seals one text.
const NONCE: [u8; NONCE_BYTES] = [0; NONCE_BYTES];

type Public = [u8; PUBLIC_BYTES];

/// What a sidecar asks another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Question {
    count: Count,
    has: Option<LineageId>,
    public: Public,
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The asker's lineage is as good.
    Keep,
    /// None here yet, or no time to hand it over.
    NotNow,
    /// No lineage is of use to both: this is the count here.
    Apart(Count),
    /// This one is better.
    Take { public: Public, sealed: Vec<u8> },
}

/// Why nothing can be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandoverError {
    /// The system has no random numbers.
    #[error("the system has no random numbers")]
    NoRandomness,
    /// A public half that is none, or that would make a secret that everybody knows (RFC 7748 6.1).
    #[error("a public key that is none")]
    NoPublicKey,
    /// Not what was sealed for this question.
    #[error("not sealed for this question")]
    NotSealed,
}

/// The halves of one side, for one use.
struct Pair {
    private: EphemeralPrivateKey,
    public: Public,
}

impl Pair {
    fn generate() -> Result<Self, HandoverError> {
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new());
        let private = private.map_err(|_| HandoverError::NoRandomness)?;
        let public = private.compute_public_key().map_err(|_| HandoverError::NoRandomness)?;
        let public = public.as_ref().try_into().map_err(|_| HandoverError::NoPublicKey)?;
        Ok(Self { private, public })
    }

    /// The key that both sides have.
    fn agree(self, theirs: &Public, [asker, other]: [&Public; 2]) -> Result<Secret, HandoverError> {
        let theirs = UnparsedPublicKey::new(&X25519, theirs);
        let key = agree_ephemeral(self.private, &theirs, |shared| {
            let shared: Option<&[u8; SECRET_BYTES]> = shared.try_into().ok();
            shared.map(|shared| derive(shared, &[SEAL_LABEL, asker, other]))
        });
        key.ok().flatten().ok_or(HandoverError::NoPublicKey)
    }
}

/// One question under way.
pub(crate) struct Asked {
    pair: Pair,
    question: Question,
}

impl Asked {
    /// A question of who counts so, and has this.
    ///
    /// # Errors
    /// [`HandoverError::NoRandomness`].
    pub(crate) fn new(count: Count, has: Option<LineageId>) -> Result<Self, HandoverError> {
        let pair = Pair::generate()?;
        let question = Question { count, has, public: pair.public };
        Ok(Self { pair, question })
    }

    pub(crate) fn question(&self) -> &Question {
        &self.question
    }

    /// Opens what was handed over.
    ///
    /// # Errors
    /// It was not, for this question.
    pub(crate) fn open(self, public: &Public, sealed: Vec<u8>) -> Result<Lineage, HandoverError> {
        let key = self.pair.agree(public, [&self.question.public, public])?;
        let mut bytes = Zeroizing::new(sealed);
        let cipher = XChaCha20Poly1305::new((&*key).into());
        let opened = cipher.decrypt_in_place(&XNonce::from(NONCE), SEAL_LABEL, &mut *bytes);
        opened.ok().and_then(|()| Lineage::parse(&bytes)).ok_or(HandoverError::NotSealed)
    }
}

impl Question {
    /// What there is to say to it; `has_room` is whether a lineage may be handed over, if it comes to that.
    ///
    /// # Errors
    /// The system has no random numbers, or the asker has no public half.
    pub(crate) fn answer(
        &self,
        holding: &mut Holding,
        now_ms: u64,
        has_room: impl FnOnce() -> bool,
    ) -> Result<Answer, HandoverError> {
        let count = holding.count(now_ms);
        if !self.count.is_near(count) {
            return Ok(Answer::Apart(count));
        }
        match holding.standing(now_ms) {
            None => Ok(Answer::NotNow),
            Some(lineage) if self.has.is_some_and(|has| has <= lineage.id()) => Ok(Answer::Keep),
            Some(lineage) if has_room() => self.hand_over(lineage),
            Some(_) => Ok(Answer::NotNow),
        }
    }

    /// Whether the asker has one that should be here.
    pub(crate) fn is_ahead_of(&self, holding: &mut Holding, now_ms: u64) -> bool {
        let id = holding.id(now_ms);
        self.count.is_near(holding.count(now_ms)) && self.has.is_some_and(|has| id.is_none_or(|id| has < id))
    }

    fn hand_over(&self, lineage: &Lineage) -> Result<Answer, HandoverError> {
        let pair = Pair::generate()?;
        let public = pair.public;
        let key = pair.agree(&self.public, [&self.public, &public])?;
        let mut sealed = lineage.encode();
        let cipher = XChaCha20Poly1305::new((&*key).into());
        let done = cipher.encrypt_in_place(&XNonce::from(NONCE), SEAL_LABEL, &mut sealed);
        done.expect("only texts over 256 GB cannot be sealed");
        Ok(Answer::Take { public, sealed })
    }
}

/// The bytes of a question or an answer.
pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(message).expect("neither has a field that postcard cannot write")
}

/// Reads one.
///
/// # Errors
/// [`PacketError::Malformed`].
pub(crate) fn parse<T: for<'a> Deserialize<'a>>(payload: &[u8]) -> Result<T, PacketError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        _ => Err(PacketError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::holding::tests::{HOUR_MS, NOW, holding},
        *,
    };

    fn asked(holding: &mut Holding, now_ms: u64) -> Asked {
        Asked::new(holding.count(now_ms), holding.id(now_ms)).unwrap()
    }

    fn empty() -> Holding {
        Holding::new("8h".parse().unwrap())
    }

    /// As it travels.
    fn answer(asked: &Asked, holding: &mut Holding, now_ms: u64) -> Answer {
        let question: Question = parse(&encode(asked.question())).unwrap();
        parse(&encode(&question.answer(holding, now_ms, || true).unwrap())).unwrap()
    }

    #[test]
    fn a_newcomer_is_handed_what_the_other_has_and_who_has_as_good_a_one_keeps_it() {
        let (mut here, mut newcomer) = (holding(1, NOW), empty());
        let asked_first = asked(&mut newcomer, NOW);
        let Answer::Take { public, sealed } = answer(&asked_first, &mut here, NOW) else {
            panic!("no lineage")
        };
        let given = asked_first.open(&public, sealed).unwrap();
        assert_eq!(Some(&given), here.standing(NOW));
        assert_eq!(newcomer.take(given, NOW), Ok(true));
        assert_eq!(answer(&asked(&mut newcomer, NOW), &mut here, NOW), Answer::Keep);
        let mut younger = holding(2, NOW + 1);
        assert_eq!(answer(&asked(&mut here, NOW), &mut younger, NOW), Answer::Keep);
        assert_eq!(answer(&asked(&mut here, NOW), &mut empty(), NOW), Answer::NotNow);
        let no_room = asked(&mut empty(), NOW).question.answer(&mut here, NOW, || false);
        assert_eq!(no_room, Ok(Answer::NotNow));
    }

    #[test]
    fn who_is_asked_by_somebody_with_a_better_one_knows_that_it_should_ask() {
        let (mut old, mut young) = (holding(1, NOW), holding(2, NOW + 1));
        assert!(asked(&mut old, NOW).question.is_ahead_of(&mut young, NOW));
        assert!(!asked(&mut young, NOW).question.is_ahead_of(&mut old, NOW));
        assert!(!asked(&mut empty(), NOW).question.is_ahead_of(&mut old, NOW));
        assert!(asked(&mut old, NOW).question.is_ahead_of(&mut empty(), NOW));
        let later = NOW + 16 * HOUR_MS;
        assert!(!asked(&mut old, NOW).question.is_ahead_of(&mut young, later), "of no use here");
    }

    #[test]
    fn whose_clock_or_epochs_are_others_is_told_so_and_handed_nothing() {
        let mut here = holding(1, NOW);
        let count = here.count(NOW);
        for (length, at, is_apart) in [
            ("8h", NOW - 8 * HOUR_MS, false),
            ("8h", NOW + 8 * HOUR_MS, false),
            ("8h", NOW - 16 * HOUR_MS, true),
            ("8h", NOW + 16 * HOUR_MS, true),
            ("8h", u64::MAX, true),
            ("7h", NOW, true),
        ] {
            let mut asker = Holding::new(length.parse().unwrap());
            let said = answer(&asked(&mut asker, at), &mut here, NOW);
            assert_eq!(said == Answer::Apart(count), is_apart, "{length} {at}: {said:?}");
        }
    }

    #[test]
    fn who_has_recorded_both_messages_has_public_halves_alone_and_no_answer_opens_for_another_question() {
        let mut here = holding(1, NOW);
        let (first, second) = (asked(&mut empty(), NOW), asked(&mut empty(), NOW));
        let said = answer(&first, &mut here, NOW);
        let recorded = [encode(first.question()), encode(&said)].concat();
        let secrets = here.standing(NOW).unwrap().encode();
        assert!(!secrets[8..].windows(16).any(|part| recorded.windows(16).any(|other| part == other)));
        let Answer::Take { public, sealed } = said else { panic!("no lineage") };
        assert_eq!(second.open(&public, sealed.clone()), Err(HandoverError::NotSealed));
        assert!(first.open(&public, sealed).is_ok());
    }

    #[test]
    fn no_bit_of_an_answer_can_be_changed() {
        let mut here = holding(1, NOW);
        let asked_once = || asked(&mut empty(), NOW);
        let mut bits = 0;
        for at in 0..(PUBLIC_BYTES + 128) {
            let asked = asked_once();
            let Answer::Take { mut public, mut sealed } = answer(&asked, &mut here, NOW) else {
                panic!("none")
            };
            match at.checked_sub(PUBLIC_BYTES) {
                None => public[at] ^= 1,
                Some(at) if at < sealed.len() => sealed[at] ^= 1,
                Some(_) => continue,
            }
            bits += 1;
            assert!(asked.open(&public, sealed).is_err(), "byte {at}");
        }
        assert_eq!(bits, PUBLIC_BYTES + 96 + 16);
    }

    #[test]
    fn a_public_half_that_would_make_a_secret_everybody_knows_is_refused() {
        let mut here = holding(1, NOW);
        let nobody = Question { public: [0; PUBLIC_BYTES], ..asked(&mut empty(), NOW).question };
        assert_eq!(nobody.answer(&mut here, NOW, || true), Err(HandoverError::NoPublicKey));
        let opened = asked(&mut empty(), NOW).open(&[0; PUBLIC_BYTES], vec![0; 112]);
        assert_eq!(opened.err(), Some(HandoverError::NoPublicKey));
    }

    proptest! {
        #[test]
        fn hostile_questions_and_answers_hand_over_nothing_and_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            variant in 0..5u8,
        ) {
            let _ = parse::<Question>(&bytes).map(|question| question.answer(&mut holding(1, NOW), NOW, || true));
            let answer = [&[variant][..], &bytes].concat();
            if let Ok(Answer::Take { public, sealed }) = parse(&answer) {
                prop_assert!(asked(&mut empty(), NOW).open(&public, sealed).is_err());
            }
        }
    }
}
