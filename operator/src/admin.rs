//! What the operator asks of nodes and tells them.
//!
//! Owns the vocabulary ([`NodeStatus`], [`RingView`], [`Command`]) and the narrow trait [`NodeAdmin`], of which there are
//! three: [`http`] for nodes with an admin API, [`standalone`] for a node that is a whole cluster, and the simulated nodes
//! of the tests. Always holds: a command names what it expects to find (a raft id, never only a pod), so that one that
//! comes late finds nothing to do harm to; a node refuses what would lose data. Not here: when which command is given (the
//! plan).

pub mod http;
pub mod standalone;
pub mod trust;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use settings::LimitSettings;

/// Id of a node in the ring. A new disk is a new id; an id never comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RaftId(pub u64);

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a node says about itself, the bucket it sees and the ring it knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Version of the program.
    pub version: String,
    /// Identity of the disk, made when the node first saw it empty.
    pub incarnation: String,
    /// The cluster this disk belongs to; absent on an empty disk.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// Its id in the ring; absent on an empty disk.
    #[serde(default)]
    pub raft_id: Option<RaftId>,
    /// Whether it takes spans and questions.
    #[serde(default)]
    pub ready: bool,
    /// Whether it is handing over.
    #[serde(default)]
    pub drain: Drain,
    /// Highest level of formats it knows.
    #[serde(default)]
    pub formats: u32,
    /// Whether it can use the bucket.
    #[serde(default)]
    pub storage: StorageView,
    /// The ring as it knows it; absent on an empty disk.
    #[serde(default)]
    pub view: Option<RingView>,
    /// Its load.
    #[serde(default)]
    pub signals: Option<Signals>,
    /// Hash of the limits in effect, see [`limits_hash`].
    #[serde(default)]
    pub limits: Option<String>,
    /// Hash of the certificates it believes, see [`trust_hash`].
    #[serde(default)]
    pub trust: Option<String>,
    /// Hash of the certificate it shows, see [`trust_hash`].
    #[serde(default)]
    pub certificate: Option<String>,
}

impl NodeStatus {
    /// Whether this is the member of that id, or was before it left: a disk is called by its node's id.
    pub fn is(&self, member: RaftId) -> bool {
        self.raft_id == Some(member) || self.incarnation == format!("{:016x}", member.0)
    }
}

/// Whether a node is handing over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Drain {
    #[default]
    None,
    /// Leadership goes elsewhere; the node comes back.
    Restart,
    /// A restart would disturb nobody now.
    RestartReady,
    /// Everything goes elsewhere; the node does not come back.
    Remove,
}

/// Whether a node can use the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state")]
pub enum StorageView {
    /// It has not looked yet.
    #[default]
    Unknown,
    Usable {
        /// Bytes under the prefix, where that is known.
        #[serde(default, rename = "usedBytes")]
        used_bytes: Option<u64>,
    },
    /// It cannot be used, and why.
    Unusable { problem: StorageProblem, message: String },
}

/// Why a bucket cannot be used; the name is the condition's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageProblem {
    AccessDenied,
    BucketNotFound,
    Unreachable,
}

/// The ring as one node knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RingView {
    pub term: u64,
    /// Last index agreed on, as far as this node knows.
    pub commit_index: u64,
    /// Last index in this node's own log.
    pub last_index: u64,
    #[serde(default)]
    pub leader: Option<RaftId>,
    /// Whether the leader has heard of a majority lately. Only the leader's own view says true.
    #[serde(default)]
    pub has_quorum: bool,
    /// Level of formats that is switched on.
    #[serde(default)]
    pub format: u32,
    pub members: Vec<Member>,
    #[serde(default)]
    pub shards: Shards,
    /// Bytes in the bucket by tenant; at most the tenants that the node counts.
    #[serde(default)]
    pub tenants: BTreeMap<String, TenantUse>,
}

/// What a tenant uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TenantUse {
    pub ingest_bytes_per_second: u64,
    pub stored_bytes: u64,
}

/// One member of the ring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub raft_id: RaftId,
    pub incarnation: String,
    /// Its pod.
    pub pod: String,
    #[serde(default)]
    pub zone: Option<String>,
    pub role: Role,
    pub state: MemberState,
    /// Whether the leader hears of it.
    #[serde(default)]
    pub reachable: bool,
    /// Entries it is behind the leader.
    #[serde(default)]
    pub lag: u64,
    /// Shards it holds a copy of.
    #[serde(default)]
    pub shards: u32,
    /// Shards whose copy here is not complete.
    #[serde(default)]
    pub shards_behind: u32,
    /// Bytes of log that are not in the bucket yet.
    #[serde(default)]
    pub wal_bytes: u64,
    /// Blocks that are not uploaded yet.
    #[serde(default)]
    pub uploads: u32,
}

/// Whether a member votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    Learner,
    Voter,
}

/// Where a member stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// Catches up; holds no shards yet.
    Joining,
    Active,
    /// Hands over everything.
    Leaving,
    /// Given up with its disk; it goes when nothing names it any more.
    Lost,
}

/// Entries a member may be behind and still count as caught up.
pub const LAG_MAX: u64 = 100;

impl Member {
    /// Whether it could take over from a voter this moment.
    pub fn is_caught_up(&self) -> bool {
        self.reachable && self.state == MemberState::Active && self.lag < LAG_MAX
    }

    /// Whether nothing is left on it that anybody needs.
    pub fn is_drained(&self) -> bool {
        self.state == MemberState::Leaving && self.shards == 0 && self.wal_bytes == 0 && self.uploads == 0
    }
}

/// Shards and their copies, summed up.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Shards {
    /// Counts changes of the shard map.
    pub epoch: u64,
    pub total: u32,
    pub healthy: u32,
    pub under_replicated: u32,
    pub unavailable: u32,
    pub moving: u32,
    /// The worst off, at most ten.
    pub worst: Vec<Shard>,
}

/// One shard that is not well.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Shard {
    pub id: u32,
    pub live: u32,
    pub want: u32,
    pub owners: Vec<String>,
}

/// A node's load, as the autoscaler reads it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Signals {
    /// How old these numbers are.
    pub age_seconds: u64,
    pub ingest_bytes_per_second: u64,
    /// Spans per second that were refused because the node is full, not because a tenant is over its limit.
    pub rejected_spans_per_second: u64,
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    /// Per cent of the log's quota.
    pub wal_percent: u64,
    pub query_queue: u64,
}

/// What a node is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    /// Take a member out for good; to the leader. Without `lost` it must be drained; with it its shards are made anew elsewhere,
    /// and it goes when nothing names it.
    Remove { member: RaftId, lost: bool },
    /// Hand over, to come back or for good.
    Drain { member: RaftId, mode: DrainMode },
    /// Stop handing over.
    Undrain { member: RaftId },
    /// Switch on a level of formats; to the leader.
    Finalize { format: u32 },
    /// Put limits and retention of tenants in effect.
    SetLimits { limits: Box<LimitSettings> },
}

/// How a node hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainMode {
    Restart,
    Remove,
}

/// Why a node did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No answer; what was asked may have happened.
    #[error("{pod} does not answer: {source}")]
    Unreachable {
        pod: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It will not do it, and says why.
    #[error("{pod} refuses: {message}")]
    Refused { pod: String, message: String },
    /// It does not know how.
    #[error("{pod} cannot do this: it is a single node without an admin API")]
    Standalone { pod: String },
}

/// Longest time to wait for one answer.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// A node's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    pub pod: String,
    /// Name in its certificate.
    pub host: String,
    pub ip: String,
}

/// Nodes, as seen from the operator.
pub trait NodeAdmin: Send + Sync {
    /// What the node says about itself.
    fn status(&self, node: &NodeAddress) -> impl Future<Output = Result<NodeStatus, AdminError>> + Send;

    /// Tells the node something. Every command may be repeated: one that has been done does nothing the second time.
    fn tell(&self, node: &NodeAddress, command: &Command) -> impl Future<Output = Result<(), AdminError>> + Send;
}

/// Hash by which a node says which limits it has: of their YAML, which is written in one way only.
pub fn limits_hash(limits: &LimitSettings) -> String {
    let settings = settings::NodeSettings {
        limits: limits.clone(),
        ..settings::NodeSettings::default()
    };
    hash(settings.to_yaml().as_bytes())
}

/// Hash by which a node says which certificates it believes or shows: of the PEM file as it is.
pub fn trust_hash(pem: &str) -> String {
    hash(pem.as_bytes())
}

fn hash(bytes: &[u8]) -> String {
    format!("{:016x}", twox_hash::XxHash3_64::oneshot(bytes))
}

/// A node that says how loaded it is and nothing else.
#[cfg(test)]
pub(crate) fn standalone_like(signals: Signals) -> NodeStatus {
    NodeStatus {
        version: String::new(),
        incarnation: String::new(),
        cluster_id: None,
        raft_id: None,
        ready: true,
        drain: Drain::None,
        formats: 0,
        storage: StorageView::Unknown,
        view: None,
        signals: Some(signals),
        limits: None,
        trust: None,
        certificate: None,
    }
}
