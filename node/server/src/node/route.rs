//! From the node that received a sub-batch to the one that leads its shard.
//!
//! Owns [`Router`]. Any node is a gateway; one hop, never two: who is asked and does not lead says who does. A sub-batch is
//! sent again after a change of leader or of generation, since the log recognises it.
//!
//! What always holds: success means committed; what a leader stores for others is in a byte budget of its own; nothing is
//! tried for longer than [`STORE_WITHIN`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::ring::ShardRecord;
use model::{NodeId, ShardId};
use parking_lot::Mutex;
use shard::catalog::GroupKey;
use tokio::sync::Semaphore;
use wire::frame::SubBatch;

use super::lane::Unstored;
use super::ring::RingPort;
use super::shards::Shards;
use crate::peer::PeerTransport;
use crate::peer::question::{Question, Reply};
use crate::refusal::{Kind, Refusal};

/// Long enough for an election, shorter than the ten seconds after which exporters give up.
const STORE_WITHIN: Duration = Duration::from_secs(9);
/// One try at another node: its commit may take an election too.
const ASK_WITHIN: Duration = Duration::from_secs(5);
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(300);
/// Leaders remembered; a shard has one or two generations at a time.
const LEADERS_MAX: usize = 16_384;

/// See the module's documentation.
pub(super) struct Router {
    ring: Arc<RingPort>,
    shards: Arc<Shards>,
    peers: Option<PeerTransport>,
    leaders: Mutex<HashMap<GroupKey, NodeId>>,
    heads_max: usize,
    /// Bytes stored for other nodes and not committed yet.
    foreign: Arc<Semaphore>,
    foreign_max: usize,
}

impl Router {
    pub(super) fn new(
        ring: Arc<RingPort>,
        shards: Arc<Shards>,
        peers: Option<PeerTransport>,
        heads_max: usize,
        foreign_max: usize,
    ) -> Self {
        let foreign_max = foreign_max.min(Semaphore::MAX_PERMITS);
        Self {
            ring,
            shards,
            peers,
            leaders: Mutex::default(),
            heads_max,
            foreign: Arc::new(Semaphore::new(foreign_max)),
            foreign_max,
        }
    }

    /// Comes back when the sub-batch is committed.
    ///
    /// Cancel: it may be committed all the same.
    pub(super) async fn store(&self, shard: ShardId, sub_batch: SubBatch) -> Result<(), Refusal> {
        let storing = async {
            let mut pause = PAUSE_FIRST;
            let mut tries = 0_usize;
            loop {
                let view = self.ring.ring_view();
                let Some(record) = view.state.map.shards.get(&shard) else {
                    return Err(Refusal::new(Kind::Internal, "a span of a shard that does not exist"));
                };
                let epoch = view.state.map.epoch;
                let key = record.key();
                let target = self.target(record, tries);
                let outcome = if target == self.ring.node() {
                    self.store_here(key, sub_batch.clone()).await
                } else {
                    self.store_there(target, key, &sub_batch).await
                };
                match outcome {
                    Ok(()) => {
                        self.remember(key, Some(target));
                        return Ok(());
                    }
                    Err(Unstored::Refused(refusal)) => return Err(refusal),
                    // The hint of who does not know himself would only lead back.
                    Err(Unstored::NotLeader(leader)) => self.remember(key, leader.filter(|leader| *leader != target)),
                    Err(Unstored::Sealed) => {
                        let mut views = self.ring.views();
                        let newer = views.wait_for(|view| view.state.map.epoch > epoch);
                        // Also when it is not newer: then the one who said so will be again.
                        let _ = tokio::time::timeout(PAUSE_MAX, newer).await;
                    }
                }
                tries += 1;
                // Straight to whoever was named, but not for ever.
                if tries > 2 || !self.leaders.lock().contains_key(&key) {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        };
        let late = |_| Refusal::new(Kind::Unavailable, format!("shard {shard} has no leader that answers"));
        tokio::time::timeout(STORE_WITHIN, storing).await.map_err(late)?
    }

    /// Who is asked: the leader if it is known, else the preferred one, else one after the other.
    pub(super) fn target(&self, record: &ShardRecord, tries: usize) -> NodeId {
        let key = record.key();
        if let Some(unit) = self.shards.get(key)
            && let Some(leader) = unit.group.leader()
        {
            return leader;
        }
        if let Some(leader) = self.leaders.lock().get(&key) {
            return *leader;
        }
        if tries == 0 {
            return record.preferred;
        }
        let at = tries % record.members.len().max(1);
        record.members.iter().nth(at).copied().unwrap_or(record.preferred)
    }

    fn remember(&self, key: GroupKey, leader: Option<NodeId>) {
        let mut leaders = self.leaders.lock();
        match leader {
            Some(leader) => {
                if leaders.len() >= LEADERS_MAX {
                    leaders.clear();
                }
                leaders.insert(key, leader);
            }
            None => {
                leaders.remove(&key);
            }
        }
    }

    async fn store_here(&self, key: GroupKey, sub_batch: SubBatch) -> Result<(), Unstored> {
        match self.shards.get(key) {
            Some(unit) => unit.lane.submit(sub_batch).await,
            // It is being opened.
            None => Err(Unstored::NotLeader(None)),
        }
    }

    async fn store_there(&self, node: NodeId, key: GroupKey, sub_batch: &SubBatch) -> Result<(), Unstored> {
        let Some(peers) = &self.peers else {
            return Err(Unstored::NotLeader(None));
        };
        let question = Question::Store {
            group: key,
            frame: sub_batch.frame().clone(),
        };
        let Ok(bytes) = peers.ask(node, question.encode(), ASK_WITHIN).await else {
            return Err(Unstored::NotLeader(None));
        };
        match Reply::decode(bytes) {
            Ok(Reply::Done) => Ok(()),
            Ok(Reply::NotLeader { leader, address }) => {
                if let (Some(leader), Some(address)) = (leader, address) {
                    peers.book().hear(leader, &address);
                }
                Err(Unstored::NotLeader(leader))
            }
            Ok(Reply::Sealed { .. }) => Err(Unstored::Sealed),
            Ok(Reply::Refused(refusal)) => Err(Unstored::Refused(refusal)),
            Ok(Reply::At(_) | Reply::Trace(_) | Reply::Tail { .. } | Reply::Behind(_)) | Err(_) => {
                Err(Unstored::NotLeader(None))
            }
        }
    }

    /// Stores what another node received.
    pub(super) async fn store_for(&self, key: GroupKey, frame: Bytes) -> Result<(), Unstored> {
        let refused = |refusal| Err(Unstored::Refused(refusal));
        if self.shards.heap_bytes() >= self.heads_max {
            let message = "live spans fill their memory; blocks are being written";
            return refused(Refusal::new(Kind::Throttled, message));
        }
        let cost = u32::try_from(frame.len().clamp(1, self.foreign_max)).unwrap_or(u32::MAX);
        let Ok(_permit) = Arc::clone(&self.foreign).try_acquire_many_owned(cost) else {
            let message = "the leader of the shard has as much under way as it may";
            return refused(Refusal::new(Kind::Throttled, message));
        };
        let sub_batch = match SubBatch::decode(frame) {
            Ok(sub_batch) => sub_batch,
            Err(error) => return refused(Refusal::new(Kind::Rejected, error.to_string())),
        };
        // What cannot be read would stop the group on every member.
        let is_whole = sub_batch
            .contents()
            .is_ok_and(|contents| contents.spans().all(|span| span.is_ok()));
        if !is_whole {
            return refused(Refusal::new(Kind::Rejected, "the sub-batch is malformed"));
        }
        match self.shards.get(key) {
            Some(unit) => match unit.group.leader() {
                Some(leader) if leader != self.ring.node() => Err(Unstored::NotLeader(Some(leader))),
                _ => unit.lane.submit(sub_batch).await,
            },
            None => {
                let view = self.ring.ring_view();
                let current = view.state.map.shards.get(&key.shard);
                match current {
                    Some(record) if record.generation > key.generation => Err(Unstored::Sealed),
                    _ => Err(Unstored::NotLeader(None)),
                }
            }
        }
    }
}
