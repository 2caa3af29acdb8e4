//! What one log entry carries: the headers of several sub-batches, and their bodies compressed together.

use std::cell::RefCell;
use std::io::Read;

use bytes::Bytes;
use zstd::bulk::Compressor;

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
        let mut frame = Vec::with_capacity(self.body_bytes / 6 + 64 * self.len() + 64);
        frame.extend_from_slice(&[ENTRY_TAG, FORMAT]);
        frame.extend_from_slice(&(self.sub_batches.len() as u32).to_le_bytes());
        for sub_batch in &self.sub_batches {
            sub_batch.header().write(&mut frame);
        }
        compress(&self.sub_batches, &mut frame).expect("zstd was given room for the worst case");
        frame.into()
    }
}

/// What compressing needs besides its input, kept from entry to entry: clearing half a megabyte of tables and asking the
/// kernel for fresh pages costs as much as compressing does.
struct Scratch {
    compressor: Compressor<'static>,
    bodies: Vec<u8>,
    payload: Vec<u8>,
}

/// Beyond this, a scratch buffer is given back after use.
const SCRATCH_BYTES_MAX: usize = 4 << 20;

thread_local! {
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.include_contentsize(true)?;
        // The log has its own checksum; this one also covers the way through memory and network.
        compressor.include_checksum(true)?;
        Ok(Self {
            compressor,
            bodies: Vec::new(),
            payload: Vec::new(),
        })
    }

    /// Appends the bodies to `frame`, compressed in one piece: zstd then finds its matches in place.
    fn compress(&mut self, sub_batches: &[SubBatch], frame: &mut Vec<u8>) -> std::io::Result<()> {
        let bodies = match sub_batches {
            [only] => only.body(),
            several => {
                self.bodies.clear();
                several
                    .iter()
                    .for_each(|part| self.bodies.extend_from_slice(part.body()));
                &self.bodies
            }
        };
        let bound = zstd::zstd_safe::compress_bound(bodies.len());
        if self.payload.len() < bound {
            self.payload.resize(bound, 0);
        }
        let written = self.compressor.compress_to_buffer(bodies, &mut self.payload[..])?;
        frame.extend_from_slice(self.payload.get(..written).unwrap_or_default());
        for buffer in [&mut self.bodies, &mut self.payload] {
            if buffer.capacity() > SCRATCH_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
        Ok(())
    }
}

fn compress(sub_batches: &[SubBatch], frame: &mut Vec<u8>) -> std::io::Result<()> {
    SCRATCH.with_borrow_mut(|slot| {
        let scratch = match slot {
            Some(scratch) => scratch,
            None => slot.insert(Scratch::new()?),
        };
        scratch.compress(sub_batches, frame)
    })
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
