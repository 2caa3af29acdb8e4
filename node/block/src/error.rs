//! What can go wrong with a block, and what the reader of the error does next.
//!
//! Every variant that speaks of bytes names the object and the offset inside it, so that an operator can look at the
//! very place. Nothing here is retried by this crate: [`Kind`] tells the caller whether that would help.

use std::sync::Arc;

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The input can never become a block (or was asked for wrongly): fix the caller.
    Rejected,
    /// The object store did not answer: try again later.
    Unavailable,
    /// The object is gone: refresh the catalog, it was compacted or deleted.
    Missing,
    /// The bytes are not what was written: repair from another copy, never answer from them.
    Corrupt,
    /// Written by a newer version: upgrade this node.
    TooNew,
    /// A broken promise of our own: a bug.
    Internal,
}

/// A failure to write, open or read a block.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Bytes that are not what was written.
    #[error("block {object}: {what} at byte {offset} is corrupt")]
    Corrupt {
        /// The object's path.
        object: Arc<str>,
        /// Where in the object, in bytes.
        offset: u64,
        /// Which part it was.
        what: &'static str,
    },
    /// A format version this code does not know.
    #[error("block {object}: format version {found} is newer than {known}")]
    TooNew {
        /// The object's path.
        object: Arc<str>,
        /// The version found.
        found: u16,
        /// The newest version understood.
        known: u16,
    },
    /// The section belongs to another tenant than the catalog said.
    #[error("block {object}: section at byte {offset} belongs to another tenant")]
    WrongTenant {
        /// The object's path.
        object: Arc<str>,
        /// Where the section's index starts.
        offset: u64,
    },
    /// The object store failed.
    #[error("block {object}: reading bytes {start}..{end}")]
    Store {
        /// The object's path.
        object: Arc<str>,
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
        /// What the store said.
        #[source]
        source: Arc<object_store::Error>,
    },
    /// The Parquet writer refused what we handed it.
    #[error("writing parquet")]
    Parquet(#[source] Arc<parquet::errors::ParquetError>),
    /// The sink refused the bytes.
    #[error("writing the block's bytes")]
    Sink(#[source] Arc<std::io::Error>),
    /// The spans do not fit into the format's bounds.
    #[error("{what} is {found}, above the limit of {limit}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How much there was.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// A column, row group or section was asked for that the block does not have.
    #[error("{what} {number} does not exist in this block")]
    NoSuch {
        /// What was asked for.
        what: &'static str,
        /// Its number.
        number: u64,
    },
    /// The span table refused what this crate decoded for it.
    #[error("rebuilding a span table")]
    Model(#[source] model::proto::Malformed),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What the caller does next.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Corrupt { .. } | Error::WrongTenant { .. } => Kind::Corrupt,
            Error::TooNew { .. } => Kind::TooNew,
            Error::Store { source, .. } => match source.as_ref() {
                object_store::Error::NotFound { .. } => Kind::Missing,
                _ => Kind::Unavailable,
            },
            Error::Sink(_) => Kind::Unavailable,
            Error::Parquet(_) => Kind::Internal,
            Error::Model(_) => Kind::Corrupt,
            Error::TooLarge { .. } | Error::NoSuch { .. } => Kind::Rejected,
        }
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(e: parquet::errors::ParquetError) -> Self {
        Error::Parquet(Arc::new(e))
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::Sink(Arc::new(e))
    }
}
