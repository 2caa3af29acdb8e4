//! What can go wrong in a group, worded by what the caller does next.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use model::{LogIndex, NodeId};
use wal::WalError;

use crate::codec::CodecError;
use crate::payload::GroupId;

/// An error of somebody else's type.
pub type Source = Box<dyn Error + Send + Sync + 'static>;

/// What to do about a [`ConsensusError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Fix the request; it would fail again.
    Rejected,
    /// Slow down; nothing was accepted.
    Throttled,
    /// Ask the named leader; nothing was accepted.
    NotLeader,
    /// Try again later; [`ConsensusError::may_have_taken_effect`] says whether the request may be done already.
    Unavailable,
    /// Repair from a peer: bytes that were durable cannot be trusted any more.
    Corrupt,
    /// Stop: this group is closed here, another owner took over.
    Fenced,
    /// A bug, or a disk that failed; the group has stopped.
    Internal,
}

/// Why a group refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// More bytes than one entry may have.
    #[error("entry of {bytes} bytes exceeds the maximum of {bytes_max}")]
    EntryTooLarge { bytes: usize, bytes_max: usize },
    /// The group has as many bytes waiting to be committed as it may.
    #[error("group {group} has {in_flight_bytes} of {bytes_max} bytes in flight")]
    GroupThrottled {
        group: GroupId,
        in_flight_bytes: usize,
        bytes_max: usize,
    },
    /// All groups of the node together have.
    #[error("node has {in_flight_bytes} of {bytes_max} bytes in flight")]
    NodeThrottled { in_flight_bytes: usize, bytes_max: usize },
    /// The log has no room or its queue is full.
    #[error("the log takes no more entries now")]
    LogThrottled { source: WalError },
    /// Another member leads, or nobody that we know of (`None`).
    #[error("group {group} is led by {leader:?}")]
    NotLeader { group: GroupId, leader: Option<NodeId> },
    /// The leader changed while the entry was under way: it may be committed or void.
    #[error("group {group} lost its leader while the entry was under way")]
    OutcomeUnknown { group: GroupId, leader: Option<NodeId> },
    /// A majority could not be asked.
    #[error("group {group} has no majority")]
    NoQuorum { group: GroupId },
    /// Something that was awaited did not come in time.
    #[error("group {group}: {awaited} did not happen within {within:?}")]
    TimedOut {
        group: GroupId,
        awaited: &'static str,
        within: Duration,
    },
    /// This node has no such group open.
    #[error("group {group} is not open here")]
    NotOpen { group: GroupId },
    /// It is open already.
    #[error("group {group} is open already")]
    AlreadyOpen { group: GroupId },
    /// The group was shut down.
    #[error("group {group} is closed")]
    Closed { group: GroupId },
    /// The shard number or generation does not fit the log's group key.
    #[error("group {group} has a number out of range")]
    GroupOutOfRange { group: GroupId },
    /// The change of members was refused.
    #[error("change of members of group {group} was refused")]
    Members { group: GroupId, source: Source },
    /// A leader would take its own vote.
    #[error("the leader of group {group} hands over before it loses its vote")]
    OwnVote { group: GroupId },
    /// Entries that were asked for are in blocks by now.
    #[error("group {group} has purged entries up to {purged}")]
    Purged { group: GroupId, purged: LogIndex },
    /// Timings that contradict each other.
    #[error("bad timing")]
    Timing { source: Source },
    /// A snapshot file could not be read or written.
    #[error("snapshot {path}")]
    Snapshot { path: PathBuf, source: io::Error },
    /// Entries left the log for a snapshot that is not there any more.
    #[error("group {group} was purged up to {purged}, its snapshot reaches only {snapshot}")]
    SnapshotMissing {
        group: GroupId,
        purged: LogIndex,
        snapshot: LogIndex,
    },
    /// Stored bytes are not what we wrote.
    #[error("group {group}: stored bytes do not decode")]
    Codec { group: GroupId, source: CodecError },
    /// The group's log was damaged: it may have promised a vote or an entry that is gone. It must not take part.
    #[error("group {group} lost its promise: its part of the log is damaged")]
    LostPromise { group: GroupId },
    /// The log failed, and the group stopped.
    #[error("log of group {group} failed")]
    Log { group: GroupId, source: WalError },
    /// The group stopped by itself: its storage failed, or its machine did not understand a committed entry.
    #[error("group {group} has stopped")]
    Stopped { group: GroupId, source: Source },
}

impl ConsensusError {
    /// Whether a proposal that got this answer may be committed all the same, so that a second try must be recognised.
    pub fn may_have_taken_effect(&self) -> bool {
        matches!(
            self,
            Self::OutcomeUnknown { .. }
                | Self::TimedOut { .. }
                | Self::Closed { .. }
                | Self::Stopped { .. }
                | Self::Log { .. }
        )
    }

    /// What to do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::EntryTooLarge { .. }
            | Self::Members { .. }
            | Self::OwnVote { .. }
            | Self::Timing { .. }
            | Self::GroupOutOfRange { .. }
            | Self::Purged { .. }
            | Self::AlreadyOpen { .. } => Kind::Rejected,
            Self::GroupThrottled { .. } | Self::NodeThrottled { .. } | Self::LogThrottled { .. } => Kind::Throttled,
            Self::NotLeader { .. } => Kind::NotLeader,
            Self::OutcomeUnknown { .. } | Self::NoQuorum { .. } | Self::TimedOut { .. } | Self::NotOpen { .. } => {
                Kind::Unavailable
            }
            Self::Closed { .. } => Kind::Fenced,
            Self::Codec { .. } | Self::LostPromise { .. } | Self::SnapshotMissing { .. } => Kind::Corrupt,
            Self::Log { source, .. } => match source.kind() {
                wal::ErrorKind::Corrupt => Kind::Corrupt,
                // Also a full log: it was full for openraft, which then stops. `propose` refuses long before.
                _ => Kind::Internal,
            },
            Self::Snapshot { source, .. } if source.kind() == io::ErrorKind::InvalidData => Kind::Corrupt,
            Self::Snapshot { .. } | Self::Stopped { .. } => Kind::Internal,
        }
    }
}
