//! Changes of the keys, cluster-wide: asked of one sidecar, which asks every member by a stream of its own.
//!
//! Not by gossip: whoever asks must know who has a new key before anybody seals with it. So `use` and `remove` look first
//! and change nothing anywhere unless everybody can follow.

use std::{net::SocketAddr, path::Path, time::Duration};

use feed::{
    Name,
    keys::{KeysAt, KeysOrder},
};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    node::{
        key_file,
        link::{Link, SharedGate},
        stream::StreamError,
    },
    wire::{
        keyring::{Fingerprint, KEY_BYTES, Key, Keyring},
        packet::{Envelope, Kind, PacketError},
    },
};

/// How long a member may take: it has to write a file.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a key still opens after the last member has stopped sealing with it: what was sealed before may lie unread in the socket
/// of a member that has no time, and to drop it would count as an attack.
const UNDER_WAY_PERIOD: Duration = Duration::from_secs(1);
/// Members that are asked at a time.
const ASKED_COUNT_MAX: usize = 64;

/// A [`KeysOrder`] that was understood.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    List,
    Install([u8; KEY_BYTES]),
    Use(Fingerprint),
    Remove(Fingerprint),
}

/// What a member says to an order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    keys: Vec<Fingerprint>,
    refused: Option<String>,
    unsaved: Option<String>,
}

impl Order {
    /// Understands what was asked.
    ///
    /// # Errors
    /// What is wrong with it, and what would be accepted.
    pub(crate) fn parse(asked: &KeysOrder) -> Result<Self, String> {
        let fingerprint = |text: &str| match (text.parse::<Fingerprint>(), text.parse::<Key>()) {
            (Ok(fingerprint), _) => Ok(fingerprint),
            (_, Ok(key)) => Ok(key.fingerprint()),
            (_, Err(error)) => Err(format!("{error}; or a fingerprint of 16 hex digits")),
        };
        Ok(match asked {
            KeysOrder::List {} => Self::List,
            KeysOrder::Install { key } => {
                Self::Install(key.parse::<Key>().map_err(|error| error.to_string())?.to_bytes())
            }
            KeysOrder::Use { key } => Self::Use(fingerprint(key)?),
            KeysOrder::Remove { key } => Self::Remove(fingerprint(key)?),
        })
    }

    /// Why a member with these keys could not follow.
    fn objection(self, keys: &[Fingerprint]) -> Option<String> {
        match self {
            Self::Use(key) if !keys.contains(&key) => {
                Some(format!("does not have key {key}: install it first"))
            }
            Self::Remove(key) if keys.first() == Some(&key) => {
                Some(format!("seals with key {key}: use another one first"))
            }
            _ => None,
        }
    }

    fn apply(self, ring: &mut Keyring) -> Result<(), String> {
        match self {
            Self::List => Ok(()),
            Self::Install(bytes) => ring.install(Key::new(bytes)),
            Self::Use(key) => ring.make_primary(key),
            Self::Remove(key) => ring.remove(key),
        }
        .map_err(|error| error.to_string())
    }
}

/// Carries out an order here, and writes the file if that changed anything.
pub(crate) fn carry_out(order: Order, ring: Option<&mut Keyring>, file: Option<&Path>) -> Answer {
    let Some(ring) = ring else {
        let refused = Some("has no keys: every sidecar must be started with --key-file".to_owned());
        return Answer { refused, ..Answer::default() };
    };
    let before = ring.clone();
    let refused = order.apply(ring).err();
    let mut unsaved = None;
    if *ring != before {
        tracing::info!(keys = ?ring.keys(), "the keys changed; the first one seals");
        // On the loop's own thread: orders are rare, and the file is a few lines.
        let saved = file.map(|file| (file, key_file::save(file, ring)));
        unsaved = saved.and_then(|(file, saved)| saved.err().map(|e| format!("{}: {e}", file.display())));
    }
    Answer { keys: ring.keys().iter().map(Key::fingerprint).collect(), refused, unsaved }
}

/// The packet that asks for an order.
fn encode(envelope: &Envelope, message: &impl Serialize) -> Vec<u8> {
    let payload = postcard::to_allocvec(message).expect("orders have no field that postcard cannot write");
    envelope.encode(Kind::Keys, &payload)
}

fn parse<T: for<'a> Deserialize<'a>>(payload: &[u8]) -> Result<T, PacketError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        _ => Err(PacketError::Malformed),
    }
}

/// Carries out an order that came by stream; the packet to answer with.
///
/// # Errors
/// It is no order.
pub(crate) fn handle(
    payload: &[u8],
    gate: &SharedGate,
    envelope: &Envelope,
    file: Option<&Path>,
) -> Result<Vec<u8>, PacketError> {
    let order = parse(payload)?;
    Ok(encode(envelope, &carry_out(order, gate.borrow_mut().ring_mut(), file)))
}

/// What one sidecar needs to ask all.
pub(crate) struct Round {
    pub(crate) own: SocketAddr,
    pub(crate) members: Vec<(Name, SocketAddr)>,
    pub(crate) gate: SharedGate,
    pub(crate) envelope: Envelope,
    pub(crate) file: Option<std::path::PathBuf>,
}

impl Round {
    /// Has every member carry out the order.
    pub(crate) async fn spread(self, order: Order) -> Vec<KeysAt> {
        if matches!(order, Order::Use(_) | Order::Remove(_)) {
            let looked = self.ask_all(Order::List).await;
            let objections: Vec<Option<String>> = looked
                .iter()
                .map(|answer| answer.refused.clone().or_else(|| order.objection(&answer.keys)))
                .collect();
            if objections.iter().any(Option::is_some) {
                let answers = looked.into_iter().zip(objections);
                return self.report(answers.map(|(answer, why)| (answer, false, why)));
            }
            if matches!(order, Order::Remove(_)) {
                // Nobody seals with it since they said so.
                tokio::time::sleep(UNDER_WAY_PERIOD).await;
            }
        }
        let answers = self.ask_all(order).await.into_iter();
        self.report(answers.map(|mut answer| {
            let why = answer.refused.take();
            (answer, why.is_none(), why)
        }))
    }

    fn report(&self, answers: impl Iterator<Item = (Answer, bool, Option<String>)>) -> Vec<KeysAt> {
        let answers = self.members.iter().zip(answers);
        { answers }
            .map(|((node, _), (answer, applied, why))| KeysAt {
                node: node.clone(),
                applied,
                why,
                unsaved: answer.unsaved,
                keys: answer.keys.iter().map(Fingerprint::to_string).collect(),
            })
            .collect()
    }

    /// The members' answers, in the members' order.
    async fn ask_all(&self, order: Order) -> Vec<Answer> {
        let asked = self.members.iter().map(|(_, addr)| self.ask(*addr, order));
        stream::iter(asked).buffered(ASKED_COUNT_MAX).collect().await
    }

    async fn ask(&self, member: SocketAddr, order: Order) -> Answer {
        if member == self.own {
            return carry_out(order, self.gate.borrow_mut().ring_mut(), self.file.as_deref());
        }
        let exchange = async {
            let mut link = Link::dialled(TcpStream::connect(member).await?, member, &self.gate).await?;
            link.send(encode(&self.envelope, &order)).await?;
            let packet = link.receive().await?;
            match self.envelope.parse(&packet)? {
                (Kind::Keys, payload) => Ok(parse(payload)?),
                (kind, _) => Err(StreamError::Packet(PacketError::Kind(kind as u8))),
            }
        };
        let refused = match timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => format!("did not answer: {error}"),
            Err(_) => format!("did not answer within {ANSWER_TIMEOUT:?}"),
        };
        Answer { refused: Some(refused), ..Answer::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::keyring::tests::key;

    #[test]
    fn an_order_names_a_key_by_itself_or_by_its_fingerprint_and_installs_only_keys() {
        let (text, fingerprint) = (key(1).encode(), key(1).fingerprint());
        for name in [text.clone(), fingerprint.to_string()] {
            assert!(Order::parse(&KeysOrder::Use { key: name.clone() }) == Ok(Order::Use(fingerprint)));
            assert!(Order::parse(&KeysOrder::Remove { key: name }) == Ok(Order::Remove(fingerprint)));
        }
        assert!(Order::parse(&KeysOrder::Install { key: text }) == Ok(Order::Install([1; KEY_BYTES])));
        let said = |order| Order::parse(&order).err().unwrap();
        let install = said(KeysOrder::Install { key: fingerprint.to_string() });
        assert!(install.contains("expected 32 bytes"), "{install}");
        let used = said(KeysOrder::Use { key: "x".into() });
        assert!(used.contains("expected 32 bytes") && used.contains("16 hex digits"), "{used}");
    }

    #[test]
    fn who_cannot_follow_objects() {
        let (a, b) = (key(1).fingerprint(), key(2).fingerprint());
        assert!(Order::Use(b).objection(&[a]).unwrap().contains("install it first"));
        assert_eq!(Order::Use(b).objection(&[a, b]), None);
        assert!(Order::Remove(a).objection(&[a, b]).unwrap().contains("use another one first"));
        assert_eq!(Order::Remove(b).objection(&[a, b]), None);
        assert_eq!(Order::Remove(b).objection(&[a]), None, "gone already");
    }

    #[test]
    fn a_node_without_keys_refuses_and_a_file_that_cannot_be_written_is_named() {
        let refused = carry_out(Order::Install([2; KEY_BYTES]), None, None).refused.unwrap();
        assert!(refused.contains("--key-file"), "{refused}");
        let mut ring = Keyring::new(key(1));
        let file = Path::new("/nonexistent/keys");
        let answer = carry_out(Order::Install([2; KEY_BYTES]), Some(&mut ring), Some(file));
        assert_eq!((answer.keys.len(), answer.refused), (2, None), "it is installed all the same");
        assert!(answer.unsaved.unwrap().starts_with("/nonexistent/keys: "));
        let again = carry_out(Order::Install([2; KEY_BYTES]), Some(&mut ring), Some(file));
        assert_eq!(again.unsaved, None, "nothing changed, nothing is to be written");
    }

    #[test]
    fn no_bytes_make_the_parser_panic() {
        for length in 0..200 {
            for byte in [0, 1, 3, 0x7f, 0x80, 0xff] {
                let _ = parse::<Order>(&vec![byte; length]);
                let _ = parse::<Answer>(&vec![byte; length]);
            }
        }
    }
}
