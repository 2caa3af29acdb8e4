//! What was seen, as plain data: the cluster's objects, its nodes' answers, and what stands in the status from before.
//!
//! Owns [`Observed`] and [`Memory`]. Always holds: absence here means "not seen", never "not there"; only what says so
//! explicitly (a ring with a quorum, a claim that is lost) may be concluded from. Not here: looking (`observe`).

use std::collections::BTreeMap;
use std::time::Duration;

use crds::TracingClusterStatus;
use crds::cluster::status::{GroupStatus, Operation, OperationKind};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::admin::{NodeStatus, RaftId};
use crate::certificates::CertificateState;

/// What is remembered between two runs, and nothing else is: it stands in the status and is written before it is acted
/// upon.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    pub cluster_id: Option<String>,
    /// The ring has been made, and its id seen. The one thing that tells nodes
    /// that have not been made yet from nodes that have not been seen for a while.
    pub bootstrapped: bool,
    pub shards: Option<u32>,
    /// Pods each group shall have. Changes only under an operation.
    pub groups: BTreeMap<String, u32>,
    /// The lock.
    pub operation: Operation,
    /// Ids that are gone for good.
    pub retired: Vec<RaftId>,
    /// Since when a pod has been seen without its volume.
    pub lost_since: BTreeMap<String, Timestamp>,
    /// Value of the restart annotation that pods shall carry.
    pub restarted_at: Option<String>,
    /// Version whose formats are switched on.
    pub finalized_version: Option<String>,
}

/// Ids of retired members that are kept; the oldest go first. An id is a log index and grows, so that an old one that is
/// forgotten here is still never given out again.
const RETIRED_MAX: usize = 500;

impl Memory {
    /// What a status remembers.
    pub fn of(status: &TracingClusterStatus) -> Self {
        let groups = status.groups.iter();
        let lost = status
            .members
            .iter()
            .filter_map(|member| Some((member.pod.clone(), member.lost_since.clone()?.0)));
        Self {
            cluster_id: status.cluster_id.clone(),
            bootstrapped: status.bootstrapped,
            shards: status.shards.and_then(|shards| u32::try_from(shards).ok()),
            groups: groups
                .map(|group| (group.name.clone(), u32::try_from(group.pods).unwrap_or_default()))
                .collect(),
            operation: status.operation.clone().unwrap_or_default(),
            retired: status
                .retired
                .iter()
                .filter_map(|id| id.parse().ok().map(RaftId))
                .collect(),
            lost_since: lost.collect(),
            restarted_at: status.restarted_at.clone(),
            finalized_version: status.finalized_version.clone(),
        }
    }

    /// Writes it into a status. What is lost since when stands with the members, see `status`.
    pub fn write(&self, status: &mut TracingClusterStatus) {
        status.cluster_id.clone_from(&self.cluster_id);
        status.bootstrapped = self.bootstrapped;
        status.shards = self.shards.and_then(|shards| i32::try_from(shards).ok());
        status.groups = self
            .groups
            .iter()
            .map(|(name, pods)| GroupStatus {
                name: name.clone(),
                pods: i32::try_from(*pods).unwrap_or(i32::MAX),
            })
            .collect();
        status.operation = (self.operation.kind != OperationKind::None).then(|| self.operation.clone());
        status.retired = self.retired.iter().map(RaftId::to_string).collect();
        status.restarted_at.clone_from(&self.restarted_at);
        status.finalized_version.clone_from(&self.finalized_version);
    }

    /// Pods of all groups together.
    pub fn pods(&self) -> u32 {
        self.groups.values().sum()
    }

    /// Takes the lock.
    pub(crate) fn begin(&mut self, kind: OperationKind, target: Option<String>, now: Timestamp) {
        self.operation = Operation {
            kind,
            target,
            started_at: Some(Time(now)),
            step_started_at: Some(Time(now)),
            ..Operation::default()
        };
    }

    /// Gives the lock back.
    pub(crate) fn end(&mut self) {
        self.operation = Operation::default();
    }

    pub(crate) fn retire(&mut self, member: RaftId) {
        if !self.retired.contains(&member) {
            self.retired.push(member);
        }
        let surplus = self.retired.len().saturating_sub(RETIRED_MAX);
        self.retired.drain(..surplus);
    }
}

/// Everything that was seen of one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    pub now: Timestamp,
    /// A new id, for a cluster that has none.
    pub fresh_id: String,
    pub memory: Memory,
    /// StatefulSets by name.
    pub sets: BTreeMap<String, ObservedSet>,
    /// Pods by name.
    pub pods: BTreeMap<String, ObservedPod>,
    /// Volume claims by name.
    pub claims: BTreeMap<String, ObservedClaim>,
    /// What nodes answered, by pod. One that did not answer is not in it.
    pub nodes: BTreeMap<String, NodeStatus>,
    /// Whether the storage class of the volumes lets them grow; none where that could not be found out.
    pub expandable: Option<bool>,
    pub certificates: CertificateState,
}

/// A StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedSet {
    pub uid: String,
    pub replicas: u32,
    /// Bytes that its claim template asks for.
    pub template_bytes: Option<u64>,
    pub is_terminating: bool,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPod {
    pub uid: String,
    /// Hash of the template it was made from.
    pub hash: Option<String>,
    /// Restart annotation that it carries.
    pub restarted_at: Option<String>,
    pub is_ready: bool,
    pub ready_since: Option<Timestamp>,
    pub is_terminating: bool,
    /// It cannot be placed because of its volume, or has no volume.
    pub is_volume_lost: bool,
    /// A person marked it with the annotation "retire".
    pub is_retire_wanted: bool,
    pub ip: Option<String>,
    /// What its container said when it last ended badly, or why it cannot start.
    pub last_words: Option<String>,
}

/// A volume claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedClaim {
    pub uid: String,
    pub made_at: Option<Timestamp>,
    pub requested_bytes: u64,
    pub capacity_bytes: Option<u64>,
    /// The volume behind it is gone.
    pub is_lost: bool,
    /// The volume has grown; its file system grows when the pod restarts.
    pub is_resize_pending: bool,
    pub is_terminating: bool,
    /// Id of the node that was on it, when that node was removed.
    pub retired: Option<String>,
    pub retired_at: Option<Timestamp>,
}

impl Observed {
    /// Time since the operation began.
    pub(crate) fn operation_age(&self) -> Duration {
        age(self.now, self.memory.operation.started_at.as_ref())
    }

    /// Time since the operation's present step began.
    pub(crate) fn step_age(&self) -> Duration {
        age(self.now, self.memory.operation.step_started_at.as_ref())
    }
}

/// Time since then; nothing for a time in the future, which a clock that was put back makes.
fn age(now: Timestamp, since: Option<&Time>) -> Duration {
    since.map_or(Duration::ZERO, |since| {
        Duration::try_from(now.duration_since(since.0)).unwrap_or_default()
    })
}

/// A look at a cluster of which nothing was seen.
#[cfg(test)]
pub(crate) fn nothing_seen() -> Observed {
    Observed {
        now: Timestamp::UNIX_EPOCH,
        fresh_id: String::new(),
        memory: Memory::default(),
        sets: BTreeMap::new(),
        pods: BTreeMap::new(),
        claims: BTreeMap::new(),
        nodes: BTreeMap::new(),
        expandable: None,
        certificates: CertificateState::default(),
    }
}
