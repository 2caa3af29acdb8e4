//! What is proposed to a group, and where it came to stand.
//!
//! A [`Payload`] is bytes that travel and are stored, plus an optional hint that does neither: the object the bytes were
//! made from. A leader that proposes an entry gets the same object back when the entry is applied a few milliseconds
//! later, so that it need not decompress and decode what it has just encoded. A hint is never the only copy of anything:
//! after a restart, on a follower, or when the cache of recent entries was full, an entry arrives without it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use model::{Generation, LogIndex, ShardId};

/// Names one Raft group of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupId {
    /// Membership, shard map, block catalog, leases. One per cluster.
    Ring,
    /// The log of one shard for one generation.
    Shard(ShardId, Generation),
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring => f.write_str("ring"),
            Self::Shard(shard, generation) => write!(f, "shard-{shard}-{generation}"),
        }
    }
}

/// Where an entry stands in the log of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    /// Its position, counted from 1.
    pub index: LogIndex,
    /// The term of the leader that proposed it.
    pub term: u64,
}

/// The bytes of one entry, with an optional object that stays in memory.
#[derive(Clone)]
pub struct Payload {
    data: Bytes,
    hint: Option<Arc<dyn Any + Send + Sync>>,
    control: bool,
}

impl Payload {
    /// A payload of bytes alone.
    pub fn new(data: impl Into<Bytes>) -> Self {
        Self {
            data: data.into(),
            hint: None,
            control: false,
        }
    }

    /// A payload that carries the object it was encoded from.
    pub fn with_hint<T: Any + Send + Sync>(data: impl Into<Bytes>, hint: Arc<T>) -> Self {
        Self {
            data: data.into(),
            hint: Some(hint),
            control: false,
        }
    }

    /// A small payload without which the node cannot make room: a seal, a flush record. It may use the space that the
    /// log keeps free for such records, on every member.
    pub fn control(data: impl Into<Bytes>) -> Self {
        Self {
            data: data.into(),
            hint: None,
            control: true,
        }
    }

    /// The bytes that are stored and replicated.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The object handed to [`Payload::with_hint`], if it is still at hand and of this type.
    pub fn hint<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.hint.clone()?.downcast().ok()
    }

    /// The same hint over bytes that are equal but live elsewhere, so that one buffer serves log and cache.
    pub(crate) fn rehomed(&self, data: Bytes) -> Self {
        debug_assert_eq!(self.data, data, "rehoming must not change the bytes");
        Self {
            data,
            hint: self.hint.clone(),
            control: self.control,
        }
    }

    pub(crate) fn is_control(&self) -> bool {
        self.control
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("bytes", &self.data.len())
            .field("hint", &self.hint.is_some())
            .finish()
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.data.len())
    }
}
