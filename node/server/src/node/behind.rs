//! Which copies of shards are not complete: each leader knows it of the copies of what it leads, so all are asked.
//!
//! Not here: what is concluded from it (the operator, people).

use std::collections::BTreeMap;
use std::time::Duration;

use model::NodeId;

use super::shards::Shards;
use crate::peer::PeerTransport;
use crate::peer::question::{Question, Reply};

/// Entries a copy may lack and still count as complete: what is under way.
const BEHIND_ENTRIES: u64 = 16;
const ASK_WITHIN: Duration = Duration::from_millis(500);

/// Copies that are not complete, by node: of generations led here, and of ours that nobody leads.
pub(super) fn known_here(shards: &Shards, me: NodeId) -> BTreeMap<NodeId, u32> {
    let mut behind = BTreeMap::new();
    for unit in shards.all() {
        let status = unit.group.status();
        if !status.leadership.is_leader {
            if status.leadership.leader.is_none() {
                *behind.entry(me).or_default() += 1;
            }
            continue;
        }
        let lacks = |node: &NodeId| {
            let matched = status.matched.get(node).map_or(0, |matched| matched.0);
            *node != me && matched + BEHIND_ENTRIES < status.last.0
        };
        for node in status.voters.iter().copied().filter(lacks) {
            *behind.entry(node).or_default() += 1;
        }
    }
    behind
}

/// The same of all nodes that answer.
pub(super) async fn known_anywhere(
    shards: &Shards,
    me: NodeId,
    peers: Option<&PeerTransport>,
    others: impl Iterator<Item = NodeId>,
) -> BTreeMap<NodeId, u32> {
    let mut behind = known_here(shards, me);
    let Some(peers) = peers else { return behind };
    let asking = others.map(|node| peers.ask(node, Question::Behind.encode(), ASK_WITHIN));
    for answer in futures::future::join_all(asking).await.into_iter().flatten() {
        if let Ok(Reply::Behind(theirs)) = Reply::decode(answer) {
            for (node, count) in theirs {
                *behind.entry(node).or_default() += count;
            }
        }
    }
    behind
}
