//! What has become of a request, and which were the last that failed: asked of one sidecar, which asks the process beside it, and by a stream
//! each those members that may have passed requests on. Like the load, it is asked of nobody before somebody asks here.

use std::{net::SocketAddr, path::PathBuf};

use feed::{
    Name, control,
    recall::{Account, Which},
};
use tokio::time::Instant;

use super::{
    link::SharedGate,
    survey::{PERIOD_MAX, gather},
};
use crate::wire::packet::{Envelope, Kind};

/// Bytes of all answers together: an answer to a client of the feed is a line, which has its limit. Whose is beyond that is missing.
const BYTES_MAX: usize = feed::frame::LINE_BYTES_MAX / 2;

/// The process beside this sidecar.
pub(crate) struct Beside {
    pub(crate) node: Name,
    pub(crate) feed: PathBuf,
}

impl Beside {
    /// What it keeps of these requests.
    async fn recall(self, which: &Which) -> Account {
        let (mut account, is_silent) = control::recall(&self.feed, Some(&self.node), which).await;
        if is_silent {
            account.missing.insert(self.node, "its role's process did not answer in time".to_owned());
        }
        account
    }

    /// The packet that answers another sidecar.
    pub(crate) async fn answer(self, which: Which, envelope: Envelope) -> Vec<u8> {
        // Names and numbers can all be written.
        envelope.encode(Kind::Recall, &serde_json::to_vec(&self.recall(&which).await).unwrap_or_default())
    }
}

/// Reads which requests another sidecar asks for.
pub(crate) fn parse_which(payload: &[u8]) -> Option<Which> {
    std::str::from_utf8(payload).ok()?.parse().ok()
}

/// What one sidecar needs to ask all.
pub(crate) struct Recall {
    pub(crate) beside: Beside,
    /// The others that are asked.
    pub(crate) others: Vec<(Name, SocketAddr)>,
    pub(crate) gate: SharedGate,
    pub(crate) envelope: Envelope,
}

impl Recall {
    /// Asks everybody, and is back in time with what has come by then.
    pub(crate) async fn take(self, which: Which) -> Account {
        let Self { beside, others, gate, envelope } = self;
        let late = |(node, _): &(Name, SocketAddr)| (node.clone(), "did not answer in time".to_owned());
        let mut told = Account { missing: others.iter().map(late).collect(), ..Account::default() };
        let mut room = BYTES_MAX;
        let question = which.to_string();
        let question = (Kind::Recall, question.as_bytes());
        let deadline = Instant::now() + PERIOD_MAX;
        let gathering = gather(&others, &gate, &envelope, question, deadline, |node, answer| {
            match answer.and_then(|payload| parse(&payload, node, &mut room)) {
                Ok(account) => {
                    told.missing.remove(node);
                    told.add(account);
                }
                Err(why) => drop(told.missing.insert(node.clone(), why)),
            }
        });
        let ((), own) = tokio::join!(gathering, beside.recall(&which));
        told.add(own);
        told
    }
}

/// What a member says is said of itself, whatever it says.
fn parse(payload: &[u8], node: &Name, room: &mut usize) -> Result<Account, String> {
    *room = room.checked_sub(payload.len()).ok_or("said more than there is room for")?;
    let mut account: Account =
        serde_json::from_slice(payload).map_err(|_| "said what is no account of a request")?;
    account.hops.iter_mut().for_each(|hop| hop.node = Some(node.clone()));
    account.keepers.iter_mut().for_each(|keeper| keeper.node = Some(node.clone()));
    account.missing.retain(|missing, _| missing == node);
    Ok(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_says_is_an_account_of_itself_or_nothing_and_all_of_them_have_a_limit() {
        let told = br#"{"hops":[],"keepers":[{"node":"other","program":"proxy","kept":{}}],"missing":{"other":"x"}}"#;
        let node: Name = "proxy1".parse().unwrap();
        let mut room = told.len();
        let account = parse(told, &node, &mut room).unwrap();
        assert_eq!((account.keepers[0].node.as_ref(), account.missing.len()), (Some(&node), 0));
        assert_eq!(room, 0, "at the limit");
        assert!(parse(told, &node, &mut room).unwrap_err().contains("room"));
        for wrong in [&b""[..], b"{", b"[]", b"\xff", br#"{"hops":[{}],"keepers":[]}"#] {
            assert!(parse(wrong, &node, &mut 100).unwrap_err().contains("no account"), "{wrong:?}");
        }
    }

    #[test]
    fn an_id_that_is_asked_for_is_one() {
        assert_eq!(parse_which(b"a-1"), "a-1".parse().ok());
        assert_eq!(parse_which(b"!failed"), Some(Which::Failed));
        for bad in [&b""[..], b"\xff", b"a b", &[b'x'; 65]] {
            assert_eq!(parse_which(bad), None);
        }
    }
}
