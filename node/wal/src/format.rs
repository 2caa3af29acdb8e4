//! The bytes on disk, version 1. Everything is little-endian.
//!
//! ```text
//! segment   [header block 4096][record][record]...                    file size = capacity, always
//! header    two copies, at 0 and 2048, so that one bad bit cannot lose a segment:
//!           0 magic 8 | 8 version u32 | 12 crc u32 | 16 incarnation u64 | 24 sequence u64 | 32 oldest u64
//!           40 previous_end u32 | 44 capacity u32 | zeros to 64          crc over the 64 bytes with crc = 0
//! record    [header 64][payload][zeros to a multiple of 8]
//! header    0 header_crc u32 | 4 payload_crc u32 | 8 segment u64 | 16 group u64 | 24 index u64 | 32 term u64
//!           40 mark.segment u64 | 48 mark.offset u32 | 52 len u32 | 56 group_seq u32 | 60 kind u8 | 61 flags u8 | 0 u16
//! ```
//!
//! - `header_crc` is CRC-32C over the incarnation followed by bytes 4..64, so a record copied from another node, or one
//!   forged inside a payload by somebody who does not know the incarnation, is no record here.
//! - `segment` makes what is left of a segment's former life invalid after it was recycled.
//! - `mark` is the position below which everything was durable when the record was written.
//! - `group_seq` counts the records of one group, so that after a hole one can tell which groups lost something.
//! - `sequence` 0 in a segment header means a spare that was never used; `oldest` and `previous_end` say what must
//!   still be there in front of this segment, see [`crate::recovery`].

use std::fmt;

/// Newest version this program reads and the one it writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Room for the segment header; the first record follows.
pub(crate) const SEGMENT_HEADER_BYTES: u32 = 4096;
/// Where the two copies of the segment header are.
pub(crate) const SEGMENT_HEADER_COPIES: [usize; 2] = [0, 2048];
const SEGMENT_HEADER_LEN: usize = 64;
const MAGIC: [u8; 8] = *b"VIVACEWL";
/// Size of a record header.
pub(crate) const RECORD_HEADER_BYTES: usize = 64;
/// Records start at multiples of this.
pub(crate) const RECORD_ALIGN: usize = 8;

/// A place in the log. Orders as the log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

/// What a record says. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// One Raft entry.
    Entry = 1,
    /// The group's vote; the newest counts.
    Vote = 2,
    /// How far the group is committed; best effort.
    Committed = 3,
    /// Entries above `index` are void, all of them with [`FLAG_ALL`].
    TruncateAfter = 4,
    /// Entries up to `index` are no longer needed.
    PurgeTo = 5,
    /// The group is gone with everything before this record.
    GroupDrop = 6,
    /// Something durable of the group was lost; holds until it is dropped.
    LostPromise = 7,
    /// Says nothing, but carries a mark that covers what is before it.
    Mark = 8,
}

impl Kind {
    fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::Committed,
            4 => Self::TruncateAfter,
            5 => Self::PurgeTo,
            6 => Self::GroupDrop,
            7 => Self::LostPromise,
            8 => Self::Mark,
            _ => return None,
        })
    }

    /// Says whether the newest record of this kind must be kept for as long as the group lives.
    pub(crate) fn is_state(self) -> bool {
        matches!(self, Self::Vote | Self::Committed | Self::PurgeTo | Self::LostPromise)
    }
}

/// The record was copied here from an older segment that is being freed; it changes nothing but its place.
pub(crate) const FLAG_MOVED: u8 = 1;
/// [`Kind::TruncateAfter`] leaves no entry.
pub(crate) const FLAG_ALL: u8 = 2;

/// The first 64 bytes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) segment: u64,
    pub(crate) group: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) mark: Position,
    pub(crate) len: u32,
    pub(crate) group_seq: u32,
    pub(crate) payload_crc: u32,
}

impl RecordHeader {
    pub(crate) fn encode(&self, incarnation: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.group.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.index.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.term.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.mark.segment.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.mark.offset.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.len.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.group_seq.to_le_bytes());
        bytes[60] = self.kind as u8;
        bytes[61] = self.flags;
        let crc = record_header_crc(&bytes, incarnation);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Returns the header if `bytes` starts with an intact one of this incarnation.
    pub(crate) fn decode(bytes: &[u8], incarnation: u64) -> Option<Self> {
        let bytes: &[u8; RECORD_HEADER_BYTES] = bytes.first_chunk()?;
        if record_header_crc(bytes, incarnation) != u32_at(bytes, 0) {
            return None;
        }
        Some(Self {
            kind: Kind::from_u8(bytes[60])?,
            flags: bytes[61],
            segment: u64_at(bytes, 8),
            group: u64_at(bytes, 16),
            index: u64_at(bytes, 24),
            term: u64_at(bytes, 32),
            mark: Position {
                segment: u64_at(bytes, 40),
                offset: u32_at(bytes, 48),
            },
            len: u32_at(bytes, 52),
            group_seq: u32_at(bytes, 56),
            payload_crc: u32_at(bytes, 4),
        })
    }

    /// Returns how many bytes the record takes in its segment.
    pub(crate) fn size(&self) -> u64 {
        record_size(self.len as usize)
    }
}

/// Returns how many bytes a record with a payload of `len` takes in its segment.
pub(crate) fn record_size(len: usize) -> u64 {
    ((RECORD_HEADER_BYTES + len).next_multiple_of(RECORD_ALIGN)) as u64
}

/// CRC-32C.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

fn record_header_crc(bytes: &[u8; RECORD_HEADER_BYTES], incarnation: u64) -> u32 {
    let mut covered = [0; 8 + RECORD_HEADER_BYTES - 4];
    covered[..8].copy_from_slice(&incarnation.to_le_bytes());
    covered[8..].copy_from_slice(&bytes[4..]);
    crc(&covered)
}

/// What a segment says about itself and about what is in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) incarnation: u64,
    pub(crate) sequence: u64,
    pub(crate) oldest: u64,
    pub(crate) previous_end: u32,
    pub(crate) capacity: u32,
}

/// What the first 4096 bytes of a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderBlock {
    Ours(SegmentHeader),
    /// Intact, but written by a newer program.
    Newer(u32),
    /// Some of it looks like ours, no copy is intact; or it is all zeros or short.
    Damaged,
    /// Nothing of it is ours.
    Foreign,
}

impl SegmentHeader {
    /// Returns the whole header block, both copies.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut copy = [0; SEGMENT_HEADER_LEN];
        copy[..8].copy_from_slice(&MAGIC);
        copy[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        copy[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        copy[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        copy[32..40].copy_from_slice(&self.oldest.to_le_bytes());
        copy[40..44].copy_from_slice(&self.previous_end.to_le_bytes());
        copy[44..48].copy_from_slice(&self.capacity.to_le_bytes());
        let crc = crc(&copy);
        copy[12..16].copy_from_slice(&crc.to_le_bytes());
        let mut block = vec![0; SEGMENT_HEADER_BYTES as usize];
        for at in SEGMENT_HEADER_COPIES {
            block[at..at + SEGMENT_HEADER_LEN].copy_from_slice(&copy);
        }
        block
    }

    /// Reads a header block. When both copies are intact and differ (the power went while a spare was being taken into
    /// use) the newer one counts: the records of the former life are dead by then.
    pub(crate) fn decode(block: &[u8]) -> HeaderBlock {
        let mut best: Option<Self> = None;
        let mut familiar = block.len() < SEGMENT_HEADER_BYTES as usize || block.iter().all(|byte| *byte == 0);
        for at in SEGMENT_HEADER_COPIES {
            match Self::copy_at(block, at) {
                Copy::Ours(header) if best.is_none_or(|best| best.sequence < header.sequence) => best = Some(header),
                Copy::Ours(_) => {}
                Copy::Newer(version) => return HeaderBlock::Newer(version),
                Copy::Damaged => familiar = true,
                Copy::Foreign => {}
            }
        }
        match best {
            Some(header) => HeaderBlock::Ours(header),
            None if familiar => HeaderBlock::Damaged,
            None => HeaderBlock::Foreign,
        }
    }

    /// Returns what each copy says; `None` for one that is not intact.
    pub(crate) fn copies(block: &[u8]) -> [Option<Self>; 2] {
        SEGMENT_HEADER_COPIES.map(|at| match Self::copy_at(block, at) {
            Copy::Ours(header) => Some(header),
            _ => None,
        })
    }

    fn copy_at(block: &[u8], at: usize) -> Copy {
        let copy = block
            .get(at..)
            .and_then(|rest| rest.first_chunk::<SEGMENT_HEADER_LEN>());
        let Some(copy) = copy.filter(|copy| copy[..8] == MAGIC) else {
            return Copy::Foreign;
        };
        let mut covered = *copy;
        covered[12..16].fill(0);
        if crc(&covered) != u32_at(copy, 12) {
            return Copy::Damaged;
        }
        let version = u32_at(copy, 8);
        if version > FORMAT_VERSION {
            return Copy::Newer(version);
        }
        Copy::Ours(Self {
            incarnation: u64_at(copy, 16),
            sequence: u64_at(copy, 24),
            oldest: u64_at(copy, 32),
            previous_end: u32_at(copy, 40),
            capacity: u32_at(copy, 44),
        })
    }
}

/// What one of the two copies of a segment header turned out to be.
enum Copy {
    Ours(SegmentHeader),
    Newer(u32),
    Damaged,
    Foreign,
}

fn u32_at(bytes: &[u8; 64], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8; 64], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
