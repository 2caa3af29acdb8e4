//! What callers hand in and get back.

use std::fmt;

use bytes::Bytes;

use crate::WalError;

/// Names one Raft group of this node. The log gives the number no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey(pub u64);

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// One Raft entry: where it belongs and what the log neither knows nor needs to know.
///
/// `payload` is kept as it is while the entry is in the queue or the cache. A small slice of a large buffer keeps the
/// whole buffer alive: hand in bytes of the size they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRecord {
    pub index: u64,
    pub term: u64,
    pub payload: Bytes,
}

/// Up to where a group no longer needs its entries, and what the caller wants to remember about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeMark {
    pub index: u64,
    pub term: u64,
    pub payload: Bytes,
}

/// What the log knows of one group, including what is accepted but not yet durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupState {
    /// `None` until the group voted.
    pub vote: Option<Bytes>,
    /// `None` until saved; may be older than what was saved last, since it is best effort.
    pub committed: Option<Bytes>,
    /// `None` until the first purge.
    pub purged: Option<PurgeMark>,
    /// Index of the first entry; `None` when there is none.
    pub first: Option<u64>,
    /// Index and term of the last entry; `None` when there is none.
    pub last: Option<(u64, u64)>,
    /// The group must neither vote nor acknowledge, see [`crate::LostPromise`].
    pub lost_promise: bool,
}

/// Which room an entry may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Data: refused before it touches the reserve.
    Ordinary,
    /// Small records without which Raft cannot go on or space cannot be freed (membership, seals, flush records).
    Reserved,
}

/// Called once, on the writer thread, in the order of the calls: `Ok` after the sync, an error when the log is
/// poisoned. Dropped uncalled when the call that took it returned an error. It must not block.
pub type Completion = Box<dyn FnOnce(Result<(), WalError>) + Send>;
