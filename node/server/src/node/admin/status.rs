//! What a node says about itself, the bucket it sees and the ring it knows: JSON with the names the operator expects.
//!
//! What only the leader of the ring can know (who answers, who is behind) is said by the leader alone; other nodes leave it
//! at what a reader must not conclude anything from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::ring::{NodeRecord, NodeState};
use consensus::{GroupStatus, ring::RingView};
use model::NodeId;
use serde_json::{Value, json};
use settings::{LimitSettings, NodeSettings};

use super::Admin;
use crate::node::{FEATURE_LEVEL, behind};
use crate::peer::PeerTransport;

const CONFIRM_WITHIN: Duration = Duration::from_millis(800);
/// A member that says nothing for this long is not there.
pub(super) const SILENT_MAX: Duration = Duration::from_secs(3);
/// Shards that are not well, named at once.
const WORST_MAX: usize = 10;

/// How people and the operator name a disk.
pub(super) fn incarnation(node: NodeId) -> String {
    format!("{:016x}", node.0)
}

/// Copies of shards that a member has, and how many of them are not complete.
#[derive(Debug, Clone, Copy)]
struct Held {
    copies: u32,
    behind: u32,
}

/// The operator computes the same.
fn text_hash(bytes: &[u8]) -> String {
    format!("{:016x}", twox_hash::XxHash3_64::oneshot(bytes))
}

impl Admin {
    /// The whole document.
    pub(super) async fn status(&self) -> Value {
        let view = self.ring.ring_view();
        let group = self.ring.group().status();
        let cluster = view.state.is_founded().then(|| format!("{:032x}", view.state.cluster));
        let storage = if self.reads.is_away() {
            json!({"state": "Unusable", "problem": "Unreachable", "message": "the object store does not answer"})
        } else {
            json!({"state": "Usable"})
        };
        let hashes = self.peers.as_ref().and_then(PeerTransport::tls).map(|tls| tls.hashes());
        json!({
            "version": crate::VERSION,
            "incarnation": incarnation(self.me()),
            "clusterId": cluster,
            "raftId": view.state.nodes.contains_key(&self.me()).then_some(self.me().0),
            "ready": view.state.is_founded(),
            "drain": self.drain_state(&view),
            "formats": FEATURE_LEVEL,
            "storage": storage,
            "view": self.ring_view(&view, &group).await,
            "signals": self.signals(),
            "limits": self.limits_hash(),
            "trust": hashes.as_ref().map(|hashes| &hashes.authorities),
            "certificate": hashes.as_ref().map(|hashes| &hashes.certificate),
        })
    }

    /// By which the operator knows whether the limits it wrote are in effect: of the one way to write them as YAML.
    fn limits_hash(&self) -> String {
        let settings = NodeSettings {
            limits: LimitSettings::clone(&self.common.limits.load()),
            ..NodeSettings::default()
        };
        text_hash(settings.to_yaml().as_bytes())
    }

    fn drain_state(&self, view: &RingView) -> &'static str {
        let me = view.state.nodes.get(&self.me());
        if me.is_some_and(|me| me.state == NodeState::Draining) {
            return "Remove";
        }
        if !self.is_restarting.load(Ordering::Relaxed) && !self.restarts().has(self.me()) {
            return "None";
        }
        let leads = self.shards.all().iter().any(|unit| unit.group.is_leader());
        if leads || self.ring.group().is_leader() {
            "Restart"
        } else {
            "RestartReady"
        }
    }

    async fn ring_view(&self, view: &RingView, group: &GroupStatus) -> Value {
        let is_leader = group.leadership.is_leader;
        let confirmed = async { is_leader && self.ring.group().read_index().await.is_ok() };
        let has_quorum = tokio::time::timeout(CONFIRM_WITHIN, confirmed).await.unwrap_or(false);
        let reachable: BTreeSet<NodeId> = view
            .state
            .nodes
            .keys()
            .copied()
            .filter(|node| self.hears_of(*node))
            .collect();
        let map = &view.state.map;
        let mut copies: BTreeMap<NodeId, u32> = BTreeMap::new();
        for member in map.live_generations().flat_map(|(_, members)| members) {
            *copies.entry(*member).or_default() += 1;
        }
        let others = reachable.iter().copied().filter(|node| is_leader && *node != self.me());
        let behind = behind::known_anywhere(&self.shards, self.me(), self.peers.as_ref(), others).await;
        let members: Vec<Value> = view
            .state
            .nodes
            .values()
            .map(|node| {
                let held = Held {
                    copies: copies.get(&node.id).copied().unwrap_or_default(),
                    behind: behind.get(&node.id).copied().unwrap_or_default(),
                };
                self.member(node, group, reachable.contains(&node.id), held)
            })
            .collect();
        json!({
            "term": group.leadership.term,
            "commitIndex": group.committed.0,
            "lastIndex": group.last.0,
            "leader": group.leadership.leader.map(|leader| leader.0),
            "hasQuorum": has_quorum,
            "format": view.state.feature_level,
            "members": members,
            "shards": shards(view, |node| reachable.contains(&node)),
        })
    }

    fn member(&self, node: &NodeRecord, group: &GroupStatus, is_reachable: bool, held: Held) -> Value {
        let matched = group.matched.get(&node.id).copied().unwrap_or_default();
        let is_voter = group.voters.contains(&node.id);
        let is_known = is_voter || group.learners.contains(&node.id);
        let lag = match node.id == self.me() {
            true => group.last.0 - group.applied.0.min(group.last.0),
            false => group.last.0 - matched.0.min(group.last.0),
        };
        let state = match node.state {
            NodeState::Active if is_known => "Active",
            NodeState::Active => "Joining",
            NodeState::Draining => "Leaving",
            NodeState::Lost => "Lost",
        };
        let Held { copies, behind } = held;
        let is_me = node.id == self.me();
        // What no generation needs any more is no loss.
        let wal_bytes = if is_me && copies > 0 { self.wal.usage().used } else { 0 };
        let uploads: usize = match is_me {
            true => self
                .shards
                .live()
                .iter()
                .map(|shard| shard.head().spooled_blocks())
                .sum(),
            false => 0,
        };
        json!({
            "raftId": node.id.0,
            "incarnation": incarnation(node.id),
            "pod": &*node.pod,
            "zone": (!node.zone.is_empty()).then_some(&*node.zone),
            "role": if is_voter { "Voter" } else { "Learner" },
            "state": state,
            "reachable": is_reachable,
            "lag": lag,
            "shards": copies,
            "shardsBehind": behind,
            "walBytes": wal_bytes,
            "uploads": uploads,
        })
    }

    /// Whether the member answers, as the ring's leader knows it.
    pub(super) fn hears_of(&self, node: NodeId) -> bool {
        if node == self.me() {
            return true;
        }
        let status = self.ring.group().status();
        status.silent.get(&node).is_some_and(|silent| *silent < SILENT_MAX)
    }
}

fn shards(view: &RingView, is_well: impl Fn(NodeId) -> bool) -> Value {
    let map = &view.state.map;
    let (mut healthy, mut under, mut unavailable) = (0, 0, 0);
    let mut worst = Vec::new();
    for record in map.shards.values() {
        let want = record.members.len();
        let live = record.members.iter().filter(|node| is_well(**node)).count();
        if live == want {
            healthy += 1;
            continue;
        }
        match live * 2 > want {
            true => under += 1,
            false => unavailable += 1,
        }
        let owners = record.members.iter().map(|node| match view.state.nodes.get(node) {
            Some(node) => node.pod.to_string(),
            None => incarnation(*node),
        });
        let shard = json!({"id": record.id.0, "live": live, "want": want, "owners": owners.collect::<Vec<_>>()});
        worst.push((live * 2 > want, live, shard));
    }
    worst.sort_by_key(|(has_majority, live, _)| (*has_majority, *live));
    let worst: Vec<Value> = worst.into_iter().take(WORST_MAX).map(|(_, _, shard)| shard).collect();
    json!({
        "epoch": map.epoch,
        "total": map.shards.len(),
        "healthy": healthy,
        "underReplicated": under,
        "unavailable": unavailable,
        "moving": map.sealed.len(),
        "worst": worst,
    })
}
