//! What can be told to the cluster, and when it is not done.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::ring::{Body, LeaseName, NodeRecord, NodeState, RingRefusal};
use consensus::{ConsensusError, Kind};
use model::{Generation, NodeId, ShardId};
use serde::Deserialize;
use settings::LimitSettings;
use shard::catalog::GroupKey;

use super::status::SILENT_MAX;
use super::{Admin, No};
use crate::node::members::{RESTART_NANOS, restart_lease};
use crate::node::ring::RingError;

const TRANSFER_WITHIN: Duration = Duration::from_secs(5);
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(30);

/// A command as it comes over the wire.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum AdminCommand {
    /// Take a member out for good. Without `lost` it must be drained.
    Remove {
        member: u64,
        #[serde(default)]
        lost: bool,
    },
    /// Lead the ring instead.
    TransferLeadership { to: u64 },
    /// Hand over, to come back or for good.
    Drain { member: u64, mode: DrainMode },
    /// Stop handing over.
    Undrain { member: u64 },
    /// Go on alone from this node's log.
    Recover { member: u64, cluster: String },
    /// Switch on a level of formats.
    Finalize { format: u32 },
    /// Put limits and retention of tenants in effect here.
    SetLimits { limits: Box<LimitSettings> },
    /// Give up what a sealed generation still has that is in no block: all nodes that had copies of it are lost.
    Abandon { shard: u32, generation: u64 },
    /// Take a snapshot of the ring and of the shards here, and let go of the log they cover.
    Snapshot,
}

/// How a node hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainMode {
    Restart,
    Remove,
}

impl Admin {
    /// Carries a command out, or says why not.
    pub(super) async fn tell(&self, command: AdminCommand) -> Result<(), No> {
        match command {
            AdminCommand::Remove { member, lost } => self.remove(NodeId(member), lost).await,
            AdminCommand::TransferLeadership { to } => self.transfer(NodeId(to)).await,
            AdminCommand::Drain { member, mode } => self.drain(NodeId(member), mode).await,
            AdminCommand::Undrain { member } => self.undrain(NodeId(member)).await,
            AdminCommand::Recover { .. } => Err(No::refused(
                "going on without a majority forgets what only the others have: bring back a majority of the ring's voters; \
                 if their disks are gone for good, start a new cluster on this bucket",
            )),
            AdminCommand::Finalize { format } => self.change(Body::RaiseFeatureLevel(format)).await,
            AdminCommand::SetLimits { limits } => self.set_limits(*limits),
            AdminCommand::Abandon { shard, generation } => {
                let (shard, generation) = (ShardId(shard), Generation(generation));
                self.abandon(GroupKey { shard, generation }).await
            }
            AdminCommand::Snapshot => self.snapshot().await,
        }
    }

    /// As when the settings file is read again: limits that a file may not have are not taken here either.
    fn set_limits(&self, limits: LimitSettings) -> Result<(), No> {
        let mut settings = (*self.common.settings).clone();
        settings.limits = limits;
        settings
            .validate()
            .map_err(|problems| No::refused(problems.to_string()))?;
        self.common.tenancy.configure(&settings.limits);
        self.common.limits.store(Arc::new(settings.limits));
        Ok(())
    }

    fn record(&self, node: NodeId) -> Result<NodeRecord, No> {
        let view = self.ring.ring_view();
        let record = view.state.nodes.get(&node).cloned();
        record.ok_or_else(|| No::refused(format!("no member has the id {}", node.0)))
    }

    async fn change(&self, body: Body) -> Result<(), No> {
        match self.ring.command(body).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RingRefusal::NodeInUse { .. })) => Err(No::refused(
                "it still has copies of shards: drain it with mode \"remove\" and wait until it has none",
            )),
            Ok(Err(refusal)) => Err(No::refused(refusal.to_string())),
            Err(RingError::Refused(refusal)) => Err(No::refused(refusal.to_string())),
            Err(error) => Err(No::Unknown(error.to_string())),
        }
    }

    async fn remove(&self, node: NodeId, lost: bool) -> Result<(), No> {
        let view = self.ring.ring_view();
        let Some(record) = view.state.nodes.get(&node).cloned() else {
            return Ok(());
        };
        if view.state.nodes.len() == 1 {
            return Err(No::refused(
                "it is the only member: stop it and delete its data directory instead",
            ));
        }
        let copies = view
            .state
            .map
            .live_generations()
            .filter(|(_, members)| members.contains(&node));
        let copies = copies.count();
        if !lost {
            if copies > 0 || record.state == NodeState::Active {
                return Err(No::refused(format!(
                    "it has copies of {copies} shards: drain it with mode \"remove\" first; if its disk is gone for good, say so"
                )));
            }
            return self.change(Body::RemoveNode(node)).await;
        }
        if !self.ring.group().is_leader() {
            return Err(No::Elsewhere(self.ring.group().leader()));
        }
        if node == self.me() {
            return Err(No::refused("it is this node, which is not lost"));
        }
        if self.hears_of(node) {
            return Err(No::refused(format!(
                "it still answers, or did less than {} s ago, and may have spans that nobody else has: drain it with mode \"remove\" instead; if it is gone for good, ask again",
                SILENT_MAX.as_secs()
            )));
        }
        let alone = view
            .state
            .map
            .live_generations()
            .filter(|(_, members)| members.len() == 1 && members.contains(&node))
            .count();
        if alone > 0 {
            tracing::warn!(
                node = node.0,
                shards = alone,
                "shards had no other copy than the lost one"
            );
        }
        if record.state != NodeState::Lost {
            let lost = NodeRecord {
                state: NodeState::Lost,
                ..record
            };
            return self.change(Body::PutNode(lost)).await;
        }
        // Its record goes by itself once nothing names it.
        Ok(())
    }

    async fn transfer(&self, to: NodeId) -> Result<(), No> {
        self.record(to)?;
        let group = self.ring.group();
        let status = group.status();
        if !status.voters.contains(&to) {
            return Err(No::refused("it does not vote in the ring, so it cannot lead"));
        }
        group.transfer_leader(to, TRANSFER_WITHIN).await.map_err(no)
    }

    async fn drain(&self, node: NodeId, mode: DrainMode) -> Result<(), No> {
        let record = self.record(node)?;
        match mode {
            DrainMode::Remove => {
                let view = self.ring.ring_view();
                let others = view.state.nodes.values();
                let stay = others
                    .filter(|other| other.id != node && other.state == NodeState::Active)
                    .count();
                if stay == 0 {
                    return Err(No::refused(
                        "no other active member could take what it has: add a node first",
                    ));
                }
                if record.state != NodeState::Active {
                    return Ok(());
                }
                let state = NodeState::Draining;
                self.change(Body::PutNode(NodeRecord { state, ..record })).await
            }
            DrainMode::Restart => {
                let view = self.ring.ring_view();
                let restarts = self.restarts();
                let other = view
                    .state
                    .nodes
                    .keys()
                    .find(|other| **other != node && restarts.has(**other));
                if let Some(other) = other {
                    return Err(No::refused(format!(
                        "node {other} is being restarted; one at a time, or shards lose their majority"
                    )));
                }
                let lease: LeaseName = restart_lease(node);
                let duration_nanos = RESTART_NANOS;
                let held = Body::AcquireLease {
                    lease,
                    holder: node,
                    duration_nanos,
                };
                self.change(held).await?;
                if node == self.me() {
                    self.is_restarting.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
        }
    }

    async fn undrain(&self, node: NodeId) -> Result<(), No> {
        let record = self.record(node)?;
        let view = self.ring.ring_view();
        if let Some(lease) = view.state.leases.get(&restart_lease(node)) {
            let release = Body::ReleaseLease {
                lease: restart_lease(node),
                holder: lease.holder,
                fence: lease.fence,
            };
            self.change(release).await?;
        }
        if node == self.me() {
            self.is_restarting.store(false, Ordering::Relaxed);
        }
        match record.state {
            NodeState::Active => Ok(()),
            NodeState::Lost => Err(No::refused(
                "it was given up as lost and its shards are elsewhere: start it with an empty data directory",
            )),
            NodeState::Draining => {
                let state = NodeState::Active;
                self.change(Body::PutNode(NodeRecord { state, ..record })).await
            }
        }
    }

    async fn abandon(&self, key: GroupKey) -> Result<(), No> {
        let view = self.ring.ring_view();
        let Some(sealed) = view.state.map.sealed.get(&key) else {
            return match view.state.map.shards.get(&key.shard) {
                Some(record) if record.key() == key => {
                    Err(No::refused("it is in use; what is lost of a shard is first replaced"))
                }
                _ => Ok(()),
            };
        };
        let is_left = |node: &NodeId| {
            let known = view.state.nodes.get(node);
            known.is_some_and(|node| node.state != NodeState::Lost)
        };
        if let Some(left) = sealed.members.iter().find(|node| is_left(node)) {
            return Err(No::refused(format!(
                "node {left} has a copy: start it and wait until its spans are in blocks"
            )));
        }
        self.change(Body::Abandon(key)).await
    }

    async fn snapshot(&self) -> Result<(), No> {
        let group = self.ring.group();
        let applied = group.status().applied;
        group.snapshot_and_purge(applied, SNAPSHOT_WITHIN).await.map_err(no)?;
        for unit in self.shards.all() {
            // Only what blocks cover may leave a shard's log.
            let flushed = unit.shard.flushed();
            unit.group
                .snapshot_and_purge(flushed, SNAPSHOT_WITHIN)
                .await
                .map_err(no)?;
        }
        Ok(())
    }
}

fn no(error: ConsensusError) -> No {
    match error {
        ConsensusError::NotLeader { leader, .. } => No::Elsewhere(leader),
        error if error.kind() == Kind::Rejected => No::refused(error.to_string()),
        error => No::Unknown(error.to_string()),
    }
}
