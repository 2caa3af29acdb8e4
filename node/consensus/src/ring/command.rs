//! What can be asked of the ring, and how it answers.

use bytes::Bytes;
use model::{Generation, LogIndex, NodeId, ShardId, TenantId};
use shard::catalog::{self, GroupKey};

use super::{Lease, LeaseName, NodeRecord, ShardRecord};

/// A command as it is proposed: what, when, and on whose authority.
#[derive(Debug, Clone, PartialEq)]
pub struct RingCommand {
    /// The proposer's wall clock, nanoseconds since the Unix epoch.
    pub stamp_unix_nanos: u64,
    /// The lease without which it must do nothing; `None` for commands that need none.
    pub guard: Option<Guard>,
    /// What.
    pub body: Body,
}

/// A lease that must still be held when the command is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Which lease.
    pub lease: LeaseName,
    /// Who proposes.
    pub holder: NodeId,
    /// The fence it was given.
    pub fence: u64,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Nothing but to move the clock.
    Tick,
    /// Founds the cluster. Done again with the same cluster id it does nothing.
    Bootstrap {
        /// Random, made once by the caller.
        cluster: u128,
        /// The first nodes.
        nodes: Vec<NodeRecord>,
        /// The first map, all of generation 1.
        shards: Vec<ShardRecord>,
    },
    /// Adds a node or changes what is known of it.
    PutNode(NodeRecord),
    /// Removes a node that has no part in any live generation.
    RemoveNode(NodeId),
    /// A new shard map: generations opened elsewhere, shards split. What is left out or changed is sealed.
    SetShardMap {
        /// Must be the current epoch.
        epoch: u64,
        /// All shards.
        shards: Vec<ShardRecord>,
    },
    /// A former generation's seal is committed: nothing will come after `last`.
    Seal {
        /// Which generation.
        key: GroupKey,
        /// Its final entry.
        last: LogIndex,
    },
    /// A sealed generation is covered by blocks and may be dropped by its members.
    Retire(GroupKey),
    /// An operator gives up what a sealed generation still holds outside blocks: its disks are gone.
    Abandon(GroupKey),
    /// Sets a tenant's settings, which mean nothing to the ring.
    PutTenant {
        /// Whose.
        tenant: TenantId,
        /// Limits, retention and the like, as `server` encodes them.
        settings: Bytes,
    },
    /// Forgets a tenant's settings.
    RemoveTenant(TenantId),
    /// Takes or renews a lease.
    AcquireLease {
        /// Which.
        lease: LeaseName,
        /// For whom.
        holder: NodeId,
        /// From the ring time of this command on; at most ten minutes.
        duration_nanos: u64,
    },
    /// Gives a lease back.
    ReleaseLease {
        /// Which.
        lease: LeaseName,
        /// Who had it.
        holder: NodeId,
        /// With which fence.
        fence: u64,
    },
    /// Lets newer commands be proposed from now on.
    RaiseFeatureLevel(u32),
    /// An operator corrects the clock.
    ResetClock {
        /// What it should show.
        unix_nanos: u64,
    },
    /// A change of the catalog.
    Catalog(catalog::Command),
    /// A part of a catalog that was put together from the object store. Only before the cluster is founded; done again it does
    /// nothing.
    Restore(catalog::Catalog),
}

/// What a command did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingChange {
    /// It was done.
    Done,
    /// Nothing was left to do.
    AlreadyDone,
    /// The lease is given.
    Leased(Lease),
    /// The catalog changed.
    Catalog(catalog::Change),
}

/// Why a command was refused. Nothing changed but the clock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingRefusal {
    /// Everything but bootstrap needs a founded cluster.
    #[error("the cluster is not founded yet")]
    NotFounded,
    /// A catalog is restored before, never into, a cluster.
    #[error("the cluster is founded already")]
    Founded,
    /// It is another cluster.
    #[error("the cluster is {cluster:032x}")]
    OtherCluster { cluster: u128 },
    /// The guard's lease has passed on.
    #[error("lease {lease} has passed on")]
    Fenced { lease: LeaseName },
    /// Somebody else has the lease, or there are too many.
    #[error("lease {lease} is held by {holder:?}")]
    LeaseHeld { lease: LeaseName, holder: Option<NodeId> },
    /// The map was changed meanwhile.
    #[error("the map is at epoch {epoch}")]
    WrongEpoch { epoch: u64 },
    /// Ranges overlap, leave a gap, or are too many.
    #[error("ranges do not partition the hash space")]
    BadPartition,
    /// No members, too many, unknown ones, or a preferred leader who is none.
    #[error("bad members of shard {shard}")]
    BadMembers { shard: ShardId },
    /// The number is not new.
    #[error("shard {shard} has used generations up to {newest}")]
    GenerationUsed { shard: ShardId, newest: Generation },
    /// Not a former generation.
    #[error("generation {key} is not sealed")]
    NotSealed { key: GroupKey },
    /// It was sealed at another entry.
    #[error("generation {key} is sealed at {last}")]
    SealedElsewhere { key: GroupKey, last: LogIndex },
    /// A record that no node would send, or one node too many.
    #[error("bad record of node {node}")]
    BadNode { node: NodeId },
    /// Unknown node.
    #[error("node {node} is unknown")]
    NoSuchNode { node: NodeId },
    /// It still has, or may have, entries.
    #[error("node {node} is a member of a live generation")]
    NodeInUse { node: NodeId },
    /// Too many tenants, or too large settings.
    #[error("no room for the settings of tenant {tenant}")]
    TenantTooLarge { tenant: TenantId },
    /// Some node does not understand that level.
    #[error("node {node} understands feature level {level}")]
    NodeTooOld { node: NodeId, level: u32 },
    /// The catalog refused.
    #[error("catalog refused")]
    Catalog(#[from] catalog::Refusal),
}
