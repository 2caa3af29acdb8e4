//! The bytes in which spans travel from gateway to leader and lie in the log: sub-batches and entries.
//!
//! ```text
//! sub-batch   'S' 1 header body                 spans of one tenant, one shard, one request
//! entry       'E' 1 count header… zstd(body…)   what one log entry carries: several sub-batches
//! header      tenant, batch hash, span count, min and max start, bytes of the body
//! body        resources, scopes, spans sorted by trace id as (resource, scope, raw OTLP span)
//! ```
//! Headers read without decompressing: followers and a new leader's duplicate check need no more.
//!
//! What always holds: the byte after the tag is the format; a format once released decodes for ever
//! (`testdata/v1`). Decoding borrows, never panics, and allocates a small multiple of its input; decompressing allocates
//! what the headers promise, at most [`ENTRY_BODY_BYTES_MAX`].

use bytes::Bytes;
use model::TenantId;
use twox_hash::{XxHash3_64, XxHash3_128};

use crate::error::{Error, FrameReason};

mod body;
mod entry;
mod header;

pub use body::{Blob, Contents, FrameSpan, Spans};
pub(crate) use body::{BodyWriter, SharedTable};
pub use entry::{Entry, EntryBody, EntryBuilder};
pub use header::SubBatchHeader;

/// A single span, resource or scope is never larger than this, whatever the tenant's limits say, so that every part of a
/// request fits an entry: one window of [`PART_BYTES`], one span, one resource and one scope that reach into it.
pub const SPAN_BYTES_CEILING: usize = 4 << 20;

/// A request is cut into parts at every so many bytes of its body, so that entries stay small. Where a span falls depends
/// on the body alone: a retry makes the same parts with the same hashes.
pub const PART_BYTES: usize = 4 << 20;

/// Decompressed bytes in one entry.
pub const ENTRY_BODY_BYTES_MAX: usize = 32 << 20;

const _: () = assert!(PART_BYTES + 3 * SPAN_BYTES_CEILING + (1 << 20) <= ENTRY_BODY_BYTES_MAX);

/// Recognises a batch that is sent again. Equal for equal (tenant, decompressed body, part).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchHash(pub u128);

impl BatchHash {
    /// The hash of a whole request: xxh3-128 of the decompressed body, seeded by the tenant.
    pub fn of_request(tenant: &TenantId, body: &[u8]) -> Self {
        let seed = XxHash3_64::oneshot(tenant.as_str().as_bytes());
        Self(XxHash3_128::oneshot_with_seed(seed, body))
    }

    /// The hash of the request without some of its spans; `rows` is a hash of which. What is left out for the state of the
    /// store may be taken by a retry, which is then another batch.
    pub(crate) fn without(self, rows: u64) -> Self {
        Self(XxHash3_128::oneshot_with_seed(rows, &self.0.to_le_bytes()))
    }

    /// The hash of one part of the request; part 0 has the request's own.
    pub fn of_part(self, part: u32) -> Self {
        if part == 0 {
            return self;
        }
        Self(XxHash3_128::oneshot_with_seed(u64::from(part), &self.0.to_le_bytes()))
    }
}

const SUB_BATCH_TAG: u8 = b'S';
const ENTRY_TAG: u8 = b'E';
const FORMAT: u8 = 1;

/// A sub-batch as it travels to the leader. The header has been read, the body has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubBatch {
    header: SubBatchHeader,
    frame: Bytes,
    body_start: usize,
}

impl SubBatch {
    /// Reads the header of a frame and checks that the body is as long as it says.
    pub fn decode(frame: Bytes) -> Result<Self, Error> {
        let mut reader = header::Reader::new(&frame);
        reader.tag(SUB_BATCH_TAG)?;
        let header = SubBatchHeader::read(&mut reader)?;
        let body_start = frame.len() - reader.rest().len();
        if reader.rest().len() != header.body_bytes as usize {
            return Err(FrameReason::Count.into());
        }
        Ok(Self {
            header,
            frame,
            body_start,
        })
    }

    /// Frames a body that was written by [`BodyWriter`].
    pub(crate) fn from_body(header: SubBatchHeader, body: &[u8]) -> Self {
        let mut frame = Vec::with_capacity(header.encoded_len() + 2 + body.len());
        frame.extend_from_slice(&[SUB_BATCH_TAG, FORMAT]);
        header.write(&mut frame);
        let body_start = frame.len();
        frame.extend_from_slice(body);
        Self {
            header,
            frame: frame.into(),
            body_start,
        }
    }

    /// What the sub-batch is.
    pub fn header(&self) -> &SubBatchHeader {
        &self.header
    }

    /// The whole frame, as it is sent.
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// The body, unread.
    pub fn body(&self) -> &[u8] {
        &self.frame[self.body_start..]
    }

    /// Opens the body for reading.
    pub fn contents(&self) -> Result<Contents<'_>, Error> {
        Contents::open(self.body(), self.header.span_count)
    }
}

#[cfg(test)]
mod tests;
