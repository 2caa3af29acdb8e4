//! What a shard's log says: the bytes of one entry above the frame.
//!
//! ```text
//! append    1 'A' stamped_unix_nanos:u64le  entry (wire::frame)
//! flushed   1 'F' to:u64le                  everything up to `to` is in blocks the catalog names
//! seal      1 'S' epoch:u64le               the generation takes nothing more
//! ```
//! The first byte is the format. A format once released decodes for ever.

use bytes::{BufMut, Bytes, BytesMut};
use model::LogIndex;

const FORMAT: u8 = 1;
const APPEND: u8 = b'A';
const FLUSHED: u8 = b'F';
const SEAL: u8 = b'S';

/// One entry of a shard's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardCommand {
    /// Sub-batches of spans.
    Append {
        /// The leader's wall clock when it proposed them. What the duplicate window is measured by.
        stamped_unix_nanos: u64,
        /// A `wire::frame` entry.
        entry: Bytes,
    },
    /// Up to here the catalog names the blocks; the log may forget.
    Flushed {
        /// Inclusive.
        to: LogIndex,
    },
    /// The generation is over: appends behind this entry are refused, its own index is the last that blocks must cover.
    Seal {
        /// Epoch of the shard map that replaced it; for people.
        epoch: u64,
    },
}

/// An entry this version cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Written by a newer version.
    #[error("log entry has format {0}, this version reads {FORMAT}")]
    Format(u8),
    /// Not an entry of this log.
    #[error("log entry is malformed")]
    Malformed,
}

impl ShardCommand {
    /// The bytes that are proposed.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        match self {
            Self::Append {
                stamped_unix_nanos,
                entry,
            } => {
                out.reserve(entry.len() + 9);
                out.put_u8(APPEND);
                out.put_u64_le(*stamped_unix_nanos);
                out.put_slice(entry);
            }
            Self::Flushed { to } => {
                out.put_u8(FLUSHED);
                out.put_u64_le(to.0);
            }
            Self::Seal { epoch } => {
                out.put_u8(SEAL);
                out.put_u64_le(*epoch);
            }
        }
        out.freeze()
    }

    /// Reads an entry; the spans stay where they are.
    pub fn decode(bytes: &Bytes) -> Result<Self, CommandError> {
        let (format, rest) = bytes.split_first().ok_or(CommandError::Malformed)?;
        if *format != FORMAT {
            return Err(CommandError::Format(*format));
        }
        let (kind, rest) = rest.split_first().ok_or(CommandError::Malformed)?;
        let (number, rest) = rest.split_first_chunk().ok_or(CommandError::Malformed)?;
        let number = u64::from_le_bytes(*number);
        match *kind {
            APPEND => Ok(Self::Append {
                stamped_unix_nanos: number,
                entry: bytes.slice_ref(rest),
            }),
            FLUSHED if rest.is_empty() => Ok(Self::Flushed { to: LogIndex(number) }),
            SEAL if rest.is_empty() => Ok(Self::Seal { epoch: number }),
            _ => Err(CommandError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_back() {
        let commands = [
            ShardCommand::Append {
                stamped_unix_nanos: 7,
                entry: Bytes::from_static(b"frame"),
            },
            ShardCommand::Flushed { to: LogIndex(9) },
            ShardCommand::Seal { epoch: 4 },
        ];
        for command in commands {
            assert_eq!(ShardCommand::decode(&command.encode()), Ok(command));
        }
    }

    #[test]
    fn the_bytes_of_format_1_never_change() {
        let append = ShardCommand::Append {
            stamped_unix_nanos: 258,
            entry: Bytes::from_static(b"x"),
        };
        assert_eq!(append.encode(), &[1, b'A', 2, 1, 0, 0, 0, 0, 0, 0, b'x'][..]);
        let flushed = ShardCommand::Flushed { to: LogIndex(3) };
        assert_eq!(flushed.encode(), &[1, b'F', 3, 0, 0, 0, 0, 0, 0, 0][..]);
    }

    #[test]
    fn foreign_bytes_are_errors() {
        for (bytes, error) in [
            (&[][..], CommandError::Malformed),
            (&[2, b'A'], CommandError::Format(2)),
            (&[1, b'A', 1], CommandError::Malformed),
            (&[1, b'?', 0, 0, 0, 0, 0, 0, 0, 0], CommandError::Malformed),
            (&[1, b'F', 0, 0, 0, 0, 0, 0, 0, 0, 0], CommandError::Malformed),
        ] {
            assert_eq!(ShardCommand::decode(&Bytes::copy_from_slice(bytes)), Err(error));
        }
    }
}
