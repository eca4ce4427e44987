//! The cluster in one line. Pure.

use std::collections::BTreeMap;

use feed::frame::MemberState;

use super::picture::Picture;

/// Members without a load that are named.
const NAMED_MAX: usize = 3;

/// Which cluster it is, who says so, and how its nodes are.
pub(super) fn cluster(picture: &Picture) -> String {
    let mut states: BTreeMap<_, usize> = BTreeMap::new();
    for node in &picture.nodes {
        let state = node.member.state;
        *states.entry((state != MemberState::Ready, state)).or_default() += 1;
    }
    let states: Vec<String> =
        states.iter().map(|((_, state), count)| format!("{count} {}", state.as_str())).collect();
    let cluster = crate::say::escaped(&picture.cluster);
    format!("{cluster} · seen by {} · {} nodes: {}", picture.node, picture.nodes.len(), states.join(", "))
}

/// Who has not told its load.
pub(super) fn missing(picture: &Picture) -> Option<String> {
    let named: Vec<&str> = picture.missing.keys().take(NAMED_MAX).map(feed::Name::as_str).collect();
    let more = picture.missing.len() - named.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    (!named.is_empty()).then(|| format!("without the load of {}{more}", named.join(", ")))
}
