//! What can go wrong in the life of a span after the log, and what the reader of the error does next.

use std::io;
use std::path::PathBuf;

use model::proto::Malformed;

use crate::catalog::Refusal;
use crate::command::CommandError;
use crate::head::StaleCatalog;

/// What the reader does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Fix the request.
    Rejected,
    /// Slow down.
    Throttled,
    /// Retry: something below is away.
    Unavailable,
    /// Repair from another copy: bytes are wrong.
    Corrupt,
    /// Stop: somebody else did it, or owns it now.
    Fenced,
    /// A bug.
    Internal,
}

/// See the variants; each says where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A log entry cannot be read.
    #[error("reading a log entry")]
    Command(#[from] CommandError),
    /// The frame inside a log entry cannot be read.
    #[error("reading the spans of a log entry")]
    Frame(#[from] wire::Error),
    /// A span that passed the door cannot be read.
    #[error("reading a span of a log entry")]
    Span(#[from] Malformed),
    /// A block cannot be built or read.
    #[error("block")]
    Block(#[from] block::Error),
    /// The local disk refuses a spooled block.
    #[error("spool file {path}")]
    Spool {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The object store refuses or is away.
    #[error("object store: {operation} {path}")]
    Store {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        path: String,
        /// Why.
        source: object_store::Error,
    },
    /// What was uploaded is not what is there.
    #[error("object {path} has {found} bytes after its upload, expected {expected}")]
    Verify {
        /// Which object.
        path: String,
        /// What the store says.
        found: u64,
        /// What was sent.
        expected: u64,
    },
    /// The catalog as it is kept in the object store cannot be used.
    #[error("catalog object {path}: {why}")]
    Folded {
        /// Which object.
        path: String,
        /// Why.
        why: String,
    },
    /// The catalog refused a command.
    #[error("catalog")]
    Refused(#[from] Refusal),
    /// The ring cannot be asked now.
    #[error("ring is unavailable: {0}")]
    Ring(String),
    /// The reader must take a newer catalog.
    #[error(transparent)]
    Stale(#[from] StaleCatalog),
    /// A question failed.
    #[error(transparent)]
    Query(#[from] query::Error),
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What to do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Command(_) | Self::Frame(_) | Self::Span(_) | Self::Folded { .. } => Kind::Corrupt,
            Self::Block(error) => match error.kind() {
                block::Kind::Corrupt => Kind::Corrupt,
                block::Kind::Unavailable => Kind::Unavailable,
                _ => Kind::Internal,
            },
            Self::Spool { .. } | Self::Store { .. } | Self::Verify { .. } | Self::Ring(_) | Self::Stale(_) => {
                Kind::Unavailable
            }
            Self::Refused(_) => Kind::Fenced,
            Self::Query(error) => match error.kind() {
                query::Kind::Rejected => Kind::Rejected,
                query::Kind::TooExpensive => Kind::Throttled,
                query::Kind::Cancelled | query::Kind::Unavailable => Kind::Unavailable,
                query::Kind::Corrupt => Kind::Corrupt,
            },
        }
    }

    /// The object that an error of reading blames, if asking again would not help.
    pub(crate) fn damaged_object(&self) -> Option<&str> {
        let Self::Block(error) = self else { return None };
        match error {
            block::Error::Corrupt { object, .. }
            | block::Error::TooNew { object, .. }
            | block::Error::WrongTenant { object, .. } => Some(object),
            block::Error::Store { object, .. } if error.kind() == block::Kind::Missing => Some(object),
            _ => None,
        }
    }
}
