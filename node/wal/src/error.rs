//! What can go wrong in the log, each with the place where it did.
//!
//! [`WalError::kind`] is what callers act on; the variants are for people and for logs. The error is `Clone` because
//! one failed sync answers every caller of the batch.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::GroupKey;

/// Why the log refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WalError {
    #[error("data directory {dir} is in use by another process")]
    Locked { dir: PathBuf },
    #[error("could not {doing} {path}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: Arc<io::Error>,
    },
    #[error("{path} is not a segment of this log")]
    NotOurs { path: PathBuf },
    #[error("{path} has format version {found}, this program reads up to {supported}")]
    NewerFormat { path: PathBuf, found: u32, supported: u32 },
    #[error("{path} belongs to node incarnation {found:#x}, this node is {expected:#x}")]
    OtherIncarnation { path: PathBuf, found: u64, expected: u64 },
    #[error("no readable segment header in {dir}, although it holds segment files")]
    Unreadable { dir: PathBuf },
    #[error("bad options: {reason}")]
    InvalidOptions { reason: &'static str },

    #[error("log is full: {used} of {quota} bytes used, file system full: {disk_full}")]
    Full { used: u64, quota: u64, disk_full: bool },
    #[error("log queue is full: {queued} of {max} bytes")]
    Throttled { queued: usize, max: usize },
    #[error("record of {bytes} bytes exceeds the maximum of {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("group {group} expects entry {expected}, got {found}")]
    NotContiguous { group: GroupKey, expected: u64, found: u64 },

    #[error("bad record of group {group}, index {index}, in segment {segment} at offset {offset}")]
    Corrupt {
        group: GroupKey,
        index: u64,
        segment: u64,
        offset: u32,
    },
    #[error("group {group} lost its promise: the log is damaged in segment {segment} at offset {offset}")]
    LostPromise { group: GroupKey, segment: u64, offset: u32 },

    #[error("log is poisoned: could not {doing} segment {segment}")]
    Fatal {
        doing: &'static str,
        segment: u64,
        source: Arc<io::Error>,
    },
    #[error("log is closed")]
    Closed,
}

/// What the reader of the error should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Fix the request: it breaks the contract of the log and would fail again.
    Rejected,
    /// Slow down and try again: the queue drains at the speed of the disk.
    Throttled,
    /// Free space (flush and purge) or wait for it; nothing was written.
    Full,
    /// Repair from a peer: bytes that were durable cannot be trusted any more.
    Corrupt,
    /// Stop and ask a person: the directory belongs to someone else, or to a newer program.
    Foreign,
    /// The file system failed while opening; opening again may work.
    Unavailable,
    /// Stop the process: the log takes nothing more until it is opened again.
    Fatal,
}

impl WalError {
    /// Returns what to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidOptions { .. } | Self::TooLarge { .. } | Self::NotContiguous { .. } => ErrorKind::Rejected,
            Self::Throttled { .. } => ErrorKind::Throttled,
            Self::Full { .. } => ErrorKind::Full,
            Self::Corrupt { .. } | Self::LostPromise { .. } | Self::Unreadable { .. } => ErrorKind::Corrupt,
            Self::Locked { .. } | Self::NotOurs { .. } | Self::NewerFormat { .. } | Self::OtherIncarnation { .. } => {
                ErrorKind::Foreign
            }
            Self::Io { .. } => ErrorKind::Unavailable,
            Self::Fatal { .. } | Self::Closed => ErrorKind::Fatal,
        }
    }

    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            doing,
            path: path.into(),
            source: Arc::new(source),
        }
    }
}
