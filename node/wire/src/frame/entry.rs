//! What one log entry carries: the headers of several sub-batches, and their bodies compressed together.

use std::io::{Read, Write};

use bytes::Bytes;

use super::header::Reader;
use super::{Contents, ENTRY_BODY_BYTES_MAX, ENTRY_TAG, FORMAT, SubBatch, SubBatchHeader};
use crate::error::{Error, FrameReason};

/// zstd level 1: a third of the CPU of the default for a tenth more bytes, on spans.
const LEVEL: i32 = 1;

/// Shortest header: a tenant of one byte.
const HEADER_BYTES_MIN: usize = 1 + 1 + 16 + 4 + 8 + 8 + 4;

/// Collects sub-batches for one entry.
#[derive(Debug, Default)]
pub struct EntryBuilder {
    sub_batches: Vec<SubBatch>,
    body_bytes: usize,
}

impl EntryBuilder {
    /// Whether `sub_batch` still fits. An empty builder takes any sub-batch that `ingest` made.
    pub fn fits(&self, sub_batch: &SubBatch) -> bool {
        self.body_bytes + sub_batch.body().len() <= ENTRY_BODY_BYTES_MAX
    }

    /// Adds a sub-batch; gives it back when it does not fit.
    pub fn push(&mut self, sub_batch: SubBatch) -> Result<(), SubBatch> {
        if !self.fits(&sub_batch) {
            return Err(sub_batch);
        }
        self.body_bytes += sub_batch.body().len();
        self.sub_batches.push(sub_batch);
        Ok(())
    }

    /// Uncompressed bytes so far.
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// Sub-batches so far.
    pub fn len(&self) -> usize {
        self.sub_batches.len()
    }

    /// Whether nothing has been added.
    pub fn is_empty(&self) -> bool {
        self.sub_batches.is_empty()
    }

    /// Compresses and frames what was collected: about 1 ns per byte of CPU, so it belongs on the CPU pool.
    pub fn finish(&self) -> Bytes {
        let mut frame = Vec::with_capacity(self.body_bytes / 4 + 64 * self.len() + 64);
        frame.extend_from_slice(&[ENTRY_TAG, FORMAT]);
        frame.extend_from_slice(&(self.sub_batches.len() as u32).to_le_bytes());
        for sub_batch in &self.sub_batches {
            sub_batch.header().write(&mut frame);
        }
        compress(frame, &self.sub_batches, self.body_bytes as u64)
            .expect("zstd writes to memory and was promised the exact size")
            .into()
    }
}

fn compress(frame: Vec<u8>, sub_batches: &[SubBatch], body_bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(frame, LEVEL)?;
    encoder.set_pledged_src_size(Some(body_bytes))?;
    encoder.include_contentsize(true)?;
    // The log has its own checksum; this one also covers the way through memory and network.
    encoder.include_checksum(true)?;
    for sub_batch in sub_batches {
        encoder.write_all(sub_batch.body())?;
    }
    encoder.finish()
}

/// An entry whose headers have been read and whose bodies are still compressed.
#[derive(Debug, Clone)]
pub struct Entry {
    headers: Vec<SubBatchHeader>,
    payload: Bytes,
}

impl Entry {
    /// Reads the headers. Nothing is decompressed.
    pub fn decode(frame: &Bytes) -> Result<Self, Error> {
        let mut reader = Reader::new(frame);
        reader.tag(ENTRY_TAG)?;
        let count = u32::from_le_bytes(reader.array()?) as usize;
        if count.saturating_mul(HEADER_BYTES_MIN) > reader.rest().len() {
            return Err(FrameReason::Count.into());
        }
        let mut headers = Vec::with_capacity(count);
        let mut body_bytes = 0;
        for _ in 0..count {
            let header = SubBatchHeader::read(&mut reader)?;
            body_bytes += u64::from(header.body_bytes);
            headers.push(header);
        }
        if body_bytes > ENTRY_BODY_BYTES_MAX as u64 {
            return Err(FrameReason::Count.into());
        }
        Ok(Self {
            headers,
            payload: frame.slice(frame.len() - reader.rest().len()..),
        })
    }

    /// The headers, in the order the sub-batches were added.
    pub fn headers(&self) -> &[SubBatchHeader] {
        &self.headers
    }

    /// Compressed bytes of the bodies.
    pub fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Decompresses the bodies.
    pub fn open(&self) -> Result<EntryBody<'_>, Error> {
        let length: usize = self.headers.iter().map(|header| header.body_bytes as usize).sum();
        let mut bodies = Vec::with_capacity(length);
        let stream = zstd::stream::read::Decoder::with_buffer(&self.payload[..]);
        let mut stream = stream.map_err(|_| FrameReason::Payload)?;
        // No window larger than the largest body: the frame, which may be damaged, says how much to allocate.
        stream
            .window_log_max(ENTRY_BODY_BYTES_MAX.ilog2())
            .map_err(|_| FrameReason::Payload)?;
        let mut bounded = stream.take(length as u64 + 1);
        bounded.read_to_end(&mut bodies).map_err(|_| FrameReason::Payload)?;
        if bodies.len() != length {
            return Err(FrameReason::Payload.into());
        }
        Ok(EntryBody {
            headers: &self.headers,
            bodies,
        })
    }
}

/// An entry's bodies, decompressed.
#[derive(Debug)]
pub struct EntryBody<'e> {
    headers: &'e [SubBatchHeader],
    bodies: Vec<u8>,
}

impl EntryBody<'_> {
    /// Each sub-batch with its header, in the order they were added.
    pub fn sub_batches(&self) -> impl Iterator<Item = Result<(&SubBatchHeader, Contents<'_>), Error>> {
        let mut rest = &self.bodies[..];
        self.headers.iter().map(move |header| {
            let (body, after) = rest
                .split_at_checked(header.body_bytes as usize)
                .ok_or(FrameReason::Truncated)?;
            rest = after;
            Ok((header, Contents::open(body, header.span_count)?))
        })
    }
}
