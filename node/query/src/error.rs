//! What can go wrong with a question, worded by what the asker does next.
//!
//! Texts of [`Error::Parse`] are shown to people verbatim by every client, so they name the place and what was expected there.

use thiserror::Error as ThisError;

use crate::limits;

/// What the reader of an [`Error`] does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fix the query: asking again the same way will fail the same way.
    Rejected,
    /// Ask for less: a shorter window, a narrower filter. What was found so far may be used and marked partial.
    TooExpensive,
    /// Nobody waits for the answer any more, or its deadline has passed. What was found so far may be marked partial.
    Cancelled,
    /// The data could not be read; retry elsewhere or mark the answer partial.
    Unavailable,
    /// The stored bytes contradict themselves; repair from another copy.
    Corrupt,
}

/// A refused or failed question.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The text is not TraceQL. `line` and `col` count from 1, columns in characters.
    #[error("parse error at line {line}, col {col}: {message}")]
    Parse {
        /// Line of the offending token, from 1.
        line: u32,
        /// Column of the offending token in characters, from 1.
        col: u32,
        /// What is wrong there, and what was expected.
        message: String,
    },
    /// The text is TraceQL, but it means nothing: types clash, a function got the wrong thing.
    #[error("{message}")]
    Invalid {
        /// What is wrong, quoting the part it is wrong with.
        message: String,
    },
    /// A request parameter that goes with the query is out of bounds.
    #[error("{parameter}: {message}")]
    Parameter {
        /// The parameter's name as the caller knows it.
        parameter: &'static str,
        /// What it should have been.
        message: String,
    },
    /// A budget ran out.
    #[error("query exceeds {name}: {limit} {what}")]
    Exhausted {
        /// What ran out, as a plural noun.
        what: &'static str,
        /// The limit that was reached.
        limit: u64,
        /// What settings call the limit.
        name: &'static str,
    },
    /// The cancel flag was raised or the deadline passed.
    #[error("query was cancelled")]
    Cancelled,
    /// A chunk could not be read.
    #[error("reading {what}")]
    Source {
        /// What was being read.
        what: String,
        /// Whether the bytes are there but wrong (`true`) or could not be had (`false`).
        corrupt: bool,
        /// The storage side's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A chunk's columns contradict each other (lengths, order).
    #[error("chunk is inconsistent: {what}")]
    Inconsistent {
        /// Which promise of [`crate::source::Chunk`] does not hold.
        what: &'static str,
    },
}

impl Error {
    /// What to do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Parse { .. } | Error::Invalid { .. } | Error::Parameter { .. } => Kind::Rejected,
            Error::Exhausted { .. } => Kind::TooExpensive,
            Error::Cancelled => Kind::Cancelled,
            Error::Source { corrupt: false, .. } => Kind::Unavailable,
            Error::Source { corrupt: true, .. } | Error::Inconsistent { .. } => Kind::Corrupt,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::Invalid {
            message: message.into(),
        }
    }
}

/// Cuts what quotes too much.
pub(crate) fn shortened(mut message: String) -> String {
    if let Some((at, _)) = message.char_indices().nth(limits::REFUSAL_CHARS_MAX) {
        message.truncate(at);
        message.push('…');
    }
    message
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
