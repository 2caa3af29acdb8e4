//! The nodes of the cluster.

use std::sync::Arc;

use model::NodeId;

/// Most nodes in one ring; beyond, cells are the answer.
pub const NODES_MAX: usize = 1_000;
/// Longest pod name, zone or address: a DNS name and a port.
pub(crate) const NAME_BYTES_MAX: usize = 320;

/// What a node is there for at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Takes part; may be given shards.
    Active,
    /// Keeps what it has, gets nothing new: it is about to leave or to restart.
    Draining,
    /// Gone for good, with its disk. Its shards must open new generations elsewhere.
    Lost,
}

/// One incarnation of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Random, made when the disk was first used.
    pub id: NodeId,
    /// The pod that has the disk now; a name for people.
    pub pod: Arc<str>,
    /// Where it is; members of a shard are spread over zones.
    pub zone: Arc<str>,
    /// Where peers reach it, `host:port`.
    pub address: Arc<str>,
    /// What it is there for.
    pub state: NodeState,
    /// The newest feature level its program understands.
    pub feature_level: u32,
    /// Ring time of its first record. Set by the ring.
    pub joined_unix_nanos: u64,
}

impl NodeRecord {
    pub(crate) fn is_plausible(&self) -> bool {
        let names = [&self.pod, &self.zone, &self.address];
        self.id.0 != 0 && !self.address.is_empty() && names.iter().all(|name| name.len() <= NAME_BYTES_MAX)
    }
}
