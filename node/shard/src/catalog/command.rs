//! What can be asked of the catalog, and how it answers.

use model::{BlockId, LogIndex, TenantId};

use super::{BlockRecord, GroupKey, ObjectId, ObjectRecord, TraceIndexRecord};

/// A change of the catalog. Encoded with [`Command::encode`].
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// A flush: entries (from, to] of a generation are in these blocks, all in one object.
    ///
    /// No object and no blocks when the entries hold no span that is to be kept; the watermark still moves.
    AddBlock {
        /// Whose log.
        group: GroupKey,
        /// Must be the watermark.
        from: LogIndex,
        /// The new watermark.
        to: LogIndex,
        /// What was uploaded.
        object: Option<ObjectRecord>,
        /// One per tenant.
        records: Vec<BlockRecord>,
    },
    /// A compaction: the new blocks hold what the old ones held.
    Replace {
        /// All must be there, of one tenant.
        old: Vec<BlockId>,
        /// What was uploaded.
        objects: Vec<ObjectRecord>,
        /// Of the same tenant.
        records: Vec<BlockRecord>,
    },
    /// Blocks that are no longer wanted. Those that are gone already are passed over.
    Delete {
        /// Which.
        ids: Vec<BlockId>,
        /// Why; for the log.
        reason: DeleteReason,
    },
    /// A new merged trace-id index, and old ones that it makes superfluous. Either may be left out.
    PutTraceIndex {
        /// Whose.
        tenant: TenantId,
        /// All must be there, of this tenant.
        old: Vec<ObjectId>,
        /// What was uploaded.
        new: Option<TraceIndexRecord>,
    },
    /// The object is about to be uploaded: from here on until it is named it is this cluster's to delete.
    Announce {
        /// Which; not named yet.
        object: ObjectId,
    },
    /// Announced objects that nobody can name any more and that are not in the bucket. Others are passed over.
    Withdraw {
        /// Which.
        objects: Vec<ObjectId>,
    },
    /// The object is deleted from the bucket.
    ForgetObject {
        /// Which; must be pending.
        object: ObjectId,
    },
}

/// Why blocks are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteReason {
    /// Older than the tenant wants to keep.
    Retention,
    /// The tenant is gone.
    TenantRemoved,
    /// Somebody asked for it.
    Operator,
}

/// What a command did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Blocks that became visible.
    pub added: usize,
    /// Blocks that are gone.
    pub removed: usize,
    /// Objects forgotten.
    pub forgotten: usize,
}

/// Why a command was refused. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not open, or retired.
    #[error("generation {group} is not covered by the catalog")]
    UnknownGroup { group: GroupKey },
    /// Somebody else flushed, or this is a second try of a flush that was taken: look at the watermark.
    #[error("generation {group} is covered up to {watermark}, the flush starts at {from}")]
    NotContiguous {
        group: GroupKey,
        watermark: LogIndex,
        from: LogIndex,
    },
    /// Covers nothing.
    #[error("empty range ({from}, {to}]")]
    EmptyRange { from: LogIndex, to: LogIndex },
    /// It still has entries outside blocks.
    #[error("generation {group} is covered up to {watermark}, its last entry is {last}")]
    NotCovered {
        group: GroupKey,
        watermark: LogIndex,
        last: LogIndex,
    },
    /// The upload took so long that the object may have been collected.
    #[error("object {} was named {age_nanos} ns ago", object.0)]
    NameTooOld { object: ObjectId, age_nanos: u64 },
    /// A block to be replaced is gone: another compaction or retention was faster.
    #[error("block {id} is not there")]
    NoSuchBlock { id: BlockId },
    /// A replacement of nothing.
    #[error("nothing to replace")]
    NothingToReplace,
    /// A replacement that would move spans between tenants.
    #[error("blocks of several tenants in one replacement")]
    MixedTenants,
    /// A block id that is in use, or used twice.
    #[error("block id is in use")]
    DuplicateBlock,
    /// An object id that is in use, or used twice.
    #[error("object {} is known already", object.0)]
    DuplicateObject { object: ObjectId },
    /// A block in an object that the command does not bring.
    #[error("object {} is not part of the command", object.0)]
    UnknownObject { object: ObjectId },
    /// An object that no block is in.
    #[error("object {} has no blocks", object.0)]
    UnusedObject { object: ObjectId },
    /// Numbers that contradict each other.
    #[error("the record of block {id} contradicts itself")]
    Implausible { id: BlockId },
    /// A trace-id index to be replaced is gone: somebody else was faster.
    #[error("trace index {} is not there", object.0)]
    NoSuchIndex { object: ObjectId },
    /// A trace-id index of a tenant that has no blocks.
    #[error("tenant {tenant} has no blocks to index")]
    NothingToIndex { tenant: TenantId },
    /// A trace-id index whose numbers contradict each other or its command.
    #[error("the record of trace index {} contradicts itself", object.0)]
    ImplausibleIndex { object: ObjectId },
    /// No room for more trace-id indexes of a tenant.
    #[error("tenant {tenant} would have more than {indexes_max} trace indexes")]
    TooManyIndexes { tenant: TenantId, indexes_max: usize },
    /// Not waiting for its deletion.
    #[error("object {} is not to be deleted", object.0)]
    NotPending { object: ObjectId },
    /// A query may still read it.
    #[error("object {} must be kept until {not_before_unix_nanos}", object.0)]
    TooEarly {
        object: ObjectId,
        not_before_unix_nanos: u64,
    },
    /// No room for more blocks.
    #[error("catalog would hold {blocks} of {blocks_max} blocks")]
    Full { blocks: usize, blocks_max: usize },
}
