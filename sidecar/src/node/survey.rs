//! How much everybody has to do: asked of one sidecar, which asks the others by a stream each, and only those that can know something.
//!
//! Nobody asks by himself: while no one looks, nothing is sent and nothing is counted up.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use feed::{
    Name,
    control::{self, Answer, FRONT, PROXY, Question},
    report::{Loads, NodeLoad, RoleLoad},
};
use futures_util::{StreamExt, stream};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    node::{
        link::{Link, SharedGate, unix_ms},
        stream::StreamError,
    },
    wire::packet::{Envelope, Kind, PacketError},
};

/// How long all of them may take.
pub(super) const PERIOD_MAX: Duration = Duration::from_secs(1);
/// Members that are asked at a time.
const ASKED_COUNT_MAX: usize = 64;
/// Bytes of one answer as it comes, with envelope and seal: a thousand endpoints and the times of a hundred roles take less than
/// half of it. All that are asked at a time have room for no more than 64 MiB by that.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all answers together. Whose answer is beyond that is missing.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a node can say of itself.
pub(crate) struct Own {
    pub(crate) node: Name,
    /// Whom its drain waits for.
    pub(crate) held_up_by: Option<Vec<Name>>,
    /// Of its sidecar: beside it, the role's process is asked.
    pub(crate) feed: PathBuf,
}

impl Own {
    /// Asks the role's process, if it can be asked.
    pub(crate) async fn load(self) -> NodeLoad {
        let (proxy, front) = tokio::join!(ask_role(&self.feed, PROXY), ask_role(&self.feed, FRONT));
        let silent = proxy.is_none() || front.is_none();
        let roles = [proxy, front].into_iter().flatten().flatten().collect();
        NodeLoad { node: self.node, held_up_by: self.held_up_by, roles, silent }
    }

    /// The packet that answers another sidecar.
    pub(crate) async fn answer(self, envelope: Envelope) -> Vec<u8> {
        // Names and numbers can all be written.
        envelope.encode(Kind::Load, &serde_json::to_vec(&self.load().await).unwrap_or_default())
    }
}

/// What the consumer of this program has to do whose feed is there: nothing where there is none that can be asked, or that says anything
/// else. None if it is there and does not answer: it may be frozen.
async fn ask_role(feed: &Path, program: &str) -> Option<Vec<RoleLoad>> {
    match control::ask(feed, program, Question::Load).await {
        Ok(Answer::Done(told)) => Some(serde_json::from_str(&told).unwrap_or_default()),
        // A Unix socket takes no more connections: they wait for somebody to accept them.
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => None,
        Ok(Answer::Refused(_)) | Err(_) => Some(Vec::new()),
    }
}

/// What one sidecar needs to ask all.
pub(crate) struct Survey {
    pub(crate) own: Own,
    /// The others that are asked.
    pub(crate) others: Vec<(Name, SocketAddr)>,
    pub(crate) gate: SharedGate,
    pub(crate) envelope: Envelope,
}

impl Survey {
    /// Asks everybody, and is back in time with what has come by then.
    pub(crate) async fn take(self) -> Loads {
        self.take_within(PERIOD_MAX).await
    }

    async fn take_within(self, period_max: Duration) -> Loads {
        let deadline = Instant::now() + period_max;
        let Self { own, others, gate, envelope } = self;
        let mut loads = Loads::default();
        // Until something came of one.
        loads
            .missing
            .extend(others.iter().map(|(node, _)| (node.clone(), "did not answer in time".to_owned())));
        let mut room = BYTES_MAX;
        let gathering = gather(&others, &gate, &envelope, (Kind::Load, &[]), deadline, |node, answer| {
            match answer.and_then(|payload| parse(&payload, &mut room)) {
                Ok(load) => {
                    loads.missing.remove(node);
                    loads.nodes.push(NodeLoad { node: node.clone(), ..load });
                }
                Err(why) => drop(loads.missing.insert(node.clone(), why)),
            }
        });
        let ((), own) = tokio::join!(gathering, own.load());
        loads.at_ms = unix_ms();
        loads.nodes.push(own);
        for silent in loads.nodes.iter().filter(|load| load.silent) {
            loads.missing.insert(silent.node.clone(), "its role's process did not answer in time".to_owned());
        }
        loads.nodes.sort_by(|a, b| a.node.cmp(&b.node));
        loads
    }
}

fn parse(payload: &[u8], room: &mut usize) -> Result<NodeLoad, String> {
    *room = room.checked_sub(payload.len()).ok_or("said more than there is room for")?;
    serde_json::from_slice(payload).map_err(|_| "said what is no load".to_owned())
}

/// Asks these members, and is back by the deadline; `hear` is told what each has answered by then, or why it did not.
pub(super) async fn gather(
    members: &[(Name, SocketAddr)],
    gate: &SharedGate,
    envelope: &Envelope,
    question: (Kind, &[u8]),
    deadline: Instant,
    mut hear: impl FnMut(&Name, Result<Vec<u8>, String>),
) {
    let asking = members.iter().map(async |(node, addr)| (node, ask(*addr, gate, envelope, question).await));
    let mut answers = stream::iter(asking).buffer_unordered(ASKED_COUNT_MAX);
    while let Ok(Some((node, answer))) = timeout_at(deadline, answers.next()).await {
        hear(node, answer.map_err(|error| format!("did not answer: {error}")));
    }
}

pub(super) async fn ask(
    member: SocketAddr,
    gate: &SharedGate,
    envelope: &Envelope,
    (kind, payload): (Kind, &[u8]),
) -> Result<Vec<u8>, StreamError> {
    let mut link = Link::dialled(TcpStream::connect(member).await?, member, gate).await?;
    link.send(envelope.encode(kind, payload)).await?;
    let packet = link.receive_within(ANSWER_BYTES_MAX).await?;
    match envelope.parse(&packet)? {
        (answer, payload) if answer == kind => Ok(payload.to_vec()),
        (other, _) => Err(StreamError::Packet(PacketError::Kind(other as u8))),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

    use tokio::net::TcpListener;

    use super::*;
    use crate::wire::{
        access::Access,
        gate::Gate,
        keyring::{Key, Keyring},
    };

    #[test]
    fn what_a_member_says_is_a_load_or_nothing_and_all_of_them_have_a_limit() {
        let told = br#"{"node":"proxy1","held_up_by":["p2"]}"#;
        let mut room = told.len();
        assert_eq!(parse(told, &mut room).unwrap().held_up_by.unwrap().len(), 1);
        assert_eq!(room, 0, "at the limit");
        assert!(parse(told, &mut room).unwrap_err().contains("room"));
        for wrong in [&b""[..], b"{", b"[]", b"\xff", br#"{"node":"-"}"#, br#"{"node":"a","roles":[{}]}"#] {
            assert!(parse(wrong, &mut 100).is_err(), "{wrong:?}");
        }
    }

    fn gate(addr: SocketAddr) -> SharedGate {
        Rc::new(RefCell::new(Gate::new("default", addr, Access::default(), None, [0; 16])))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_may_have_a_mebibyte_and_a_longer_one_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (asker, answerer): (Name, Name) = ("app1".parse().unwrap(), "proxy1".parse().unwrap());
        let envelope = Envelope::new("default");
        for (packet_bytes, missing) in [
            (ANSWER_BYTES_MAX, BTreeMap::new()),
            (ANSWER_BYTES_MAX + 1, BTreeMap::from([(answerer.clone(), "did not answer: too long".into())])),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let mut packet = envelope.encode(Kind::Load, br#"{"node":"proxy1"}"#);
            packet.resize(packet_bytes, b' ');
            let answering = async {
                let (stream, from) = listener.accept().await.unwrap();
                let mut link = Link::accepted(stream, from.ip(), &gate(addr)).await.unwrap();
                link.receive().await.unwrap();
                // Who is told too much hangs up in the middle of it.
                let _ = link.send(packet).await;
            };
            let survey = Survey {
                own: Own { node: asker.clone(), held_up_by: None, feed: dir.path().join("feed.sock") },
                others: vec![(answerer.clone(), addr)],
                gate: gate("127.0.0.1:1".parse().unwrap()),
                envelope,
            };
            let (loads, ()) = tokio::join!(survey.take_within(Duration::from_secs(60)), answering);
            assert_eq!(loads.nodes.len() + missing.len(), 2, "{loads:?}");
            assert_eq!(loads.missing, missing);
        }
    }

    /// A second is enough for them in a release build; what this machine needs is printed.
    #[tokio::test(flavor = "current_thread")]
    async fn a_thousand_members_with_keys_are_asked_by_one_survey() {
        const MEMBERS_COUNT: usize = 1000;
        let (dir, envelope) = (tempfile::tempdir().unwrap(), Envelope::new("default"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let sealed = |addr, number| {
            let keys = Keyring::new(Key::new([5; 32]));
            Rc::new(RefCell::new(Gate::new("default", addr, Access::default(), Some(keys), [number; 16])))
        };
        let role = r#"{"role":"app","queued":0,"answered":9,"errors":0,"times_us":{"500":9},"endpoints":[]}"#;
        let load = format!(r#"{{"node":"any","roles":[{role},{role},{role}]}}"#);
        let answerer = sealed(addr, 2);
        let answering = async {
            let answer = async |stream: TcpStream, from: SocketAddr| {
                let mut link = Link::accepted(stream, from.ip(), &answerer).await.unwrap();
                link.receive().await.unwrap();
                link.send(envelope.encode(Kind::Load, load.as_bytes())).await.unwrap();
            };
            let come = stream::unfold((), async |()| Some((listener.accept().await.unwrap(), ())));
            come.take(MEMBERS_COUNT).for_each_concurrent(None, |(stream, from)| answer(stream, from)).await;
        };
        let survey = Survey {
            own: Own { node: "app1".parse().unwrap(), held_up_by: None, feed: dir.path().join("feed.sock") },
            others: (0..MEMBERS_COUNT)
                .map(|number| (format!("proxy{number}").parse().unwrap(), addr))
                .collect(),
            gate: sealed("127.0.0.1:1".parse().unwrap(), 1),
            envelope,
        };
        let started = Instant::now();
        let (loads, ()) = tokio::join!(survey.take_within(Duration::from_secs(60)), answering);
        println!("{MEMBERS_COUNT} members asked in {:.0?}", started.elapsed());
        assert_eq!((loads.missing, loads.nodes.len()), (BTreeMap::new(), MEMBERS_COUNT + 1));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn whose_process_is_there_and_does_not_answer_is_missing_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let feed = dir.path().join("feed.sock");
        // As frozen processes do: the kernel takes connections for them.
        let _frozen = [PROXY, FRONT]
            .map(|program| std::os::unix::net::UnixListener::bind(control::path(&feed, program)).unwrap());
        let own = Own { node: "proxy1".parse().unwrap(), held_up_by: None, feed };
        let gate = gate("127.0.0.1:1".parse().unwrap());
        let survey = Survey { own, others: Vec::new(), gate, envelope: Envelope::new("default") };
        let started = Instant::now();
        let loads = survey.take().await;
        assert!(started.elapsed() < PERIOD_MAX, "{:?}", started.elapsed());
        let missing =
            BTreeMap::from([("proxy1".parse().unwrap(), "its role's process did not answer in time".into())]);
        assert_eq!(loads.missing, missing);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn of_a_role_that_cannot_be_asked_nothing_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let node: Name = "app1".parse().unwrap();
        let own = Own { node: node.clone(), held_up_by: None, feed: dir.path().join("feed.sock") };
        assert_eq!(own.load().await, NodeLoad { node, held_up_by: None, roles: Vec::new(), silent: false });
    }
}
