//! Finding the records of one segment, also behind bytes that are none.
//!
//! Reads headers and the payloads of state records; entry payloads are skipped. Judges nothing: what a hole means is
//! for [`crate::recovery`] to say.

use std::io;

use bytes::Bytes;

use crate::format::{RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, crc};
use crate::vfs::VfsFile;

/// Read ahead between small records, of which one read brings many.
const WINDOW_BYTES: usize = 64 << 10;
/// Read ahead between large records, whose payloads are skipped.
const PEEK_BYTES: usize = 4 << 10;
/// Read ahead while searching for the next record.
const SEARCH_BYTES: usize = 1 << 20;

/// A record with an intact header.
#[derive(Debug, Clone)]
pub(crate) struct Scanned {
    pub(crate) header: RecordHeader,
    pub(crate) offset: u32,
    /// Payload of a state record; `None` if it is bad, and for other kinds.
    pub(crate) payload: Option<Bytes>,
}

impl Scanned {
    pub(crate) fn end(&self) -> u32 {
        self.offset + self.header.size() as u32
    }
}

/// What a segment holds, in order, without overlap.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    Record(Scanned),
    /// No record starts in `from..to`.
    Hole {
        from: u32,
        to: u32,
    },
}

pub(crate) struct Scanner<'a> {
    pub(crate) file: &'a dyn VfsFile,
    pub(crate) sequence: u64,
    pub(crate) incarnation: u64,
    /// Where to stop: records must not reach beyond.
    pub(crate) until: u32,
}

impl Scanner<'_> {
    /// Lists records and holes up to `until`.
    pub(crate) fn scan(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut window = Window::default();
        let mut at = SEGMENT_HEADER_BYTES;
        let mut ahead = WINDOW_BYTES;
        while at < self.until {
            if let Some(header) = self.header_in(window.get(self.file, at, ahead)?, at) {
                ahead = if header.len as usize > WINDOW_BYTES / 4 {
                    PEEK_BYTES
                } else {
                    WINDOW_BYTES
                };
                let payload = if header.kind.is_state() {
                    self.payload(&header, at)?
                } else {
                    None
                };
                let record = Scanned {
                    header,
                    offset: at,
                    payload,
                };
                at = record.end();
                found.push(Found::Record(record));
            } else {
                let next = self.search(at + RECORD_ALIGN as u32)?;
                found.push(Found::Hole { from: at, to: next });
                at = next;
            }
        }
        Ok(found)
    }

    /// Returns where the next record after the one at `at` starts, which may be bad anywhere, or `until`.
    pub(crate) fn next_after(&self, at: u32) -> io::Result<u32> {
        let mut head = [0; RECORD_HEADER_BYTES];
        let filled = self.file.read_at(&mut head, u64::from(at))?;
        match self.header_in(head.get(..filled).unwrap_or_default(), at) {
            // Only its payload is bad.
            Some(header) => Ok(at + header.size() as u32),
            None => self.search(at + RECORD_ALIGN as u32),
        }
    }

    fn header_in(&self, bytes: &[u8], at: u32) -> Option<RecordHeader> {
        let sequence = bytes.get(8..16)?;
        if sequence != self.sequence.to_le_bytes() {
            return None;
        }
        let header = RecordHeader::decode(bytes, self.incarnation)?;
        (u64::from(at) + header.size() <= u64::from(self.until)).then_some(header)
    }

    /// Returns where the next record starts, or `until`.
    fn search(&self, from: u32) -> io::Result<u32> {
        let mut window = Window::default();
        let mut at = from;
        while at < self.until {
            let bytes = window.get(self.file, at, SEARCH_BYTES)?;
            if bytes.len() < RECORD_HEADER_BYTES {
                break;
            }
            let steps = (bytes.len() - RECORD_HEADER_BYTES) / RECORD_ALIGN + 1;
            for step in 0..steps {
                let place = at + (step * RECORD_ALIGN) as u32;
                let Some(rest) = bytes.get(step * RECORD_ALIGN..) else {
                    break;
                };
                if place < self.until && self.header_in(rest, place).is_some() {
                    return Ok(place);
                }
            }
            at += (steps * RECORD_ALIGN) as u32;
        }
        Ok(self.until)
    }

    /// Reads the payload of the record at `at`; `None` if it is not what was written.
    pub(crate) fn payload(&self, header: &RecordHeader, at: u32) -> io::Result<Option<Bytes>> {
        let mut payload = vec![0; header.len as usize];
        let filled = self
            .file
            .read_at(&mut payload, u64::from(at) + RECORD_HEADER_BYTES as u64)?;
        let intact = filled == payload.len() && crc(&payload) == header.payload_crc;
        Ok(intact.then(|| Bytes::from(payload)))
    }
}

/// A piece of the file in memory.
#[derive(Default)]
struct Window {
    start: u32,
    bytes: Vec<u8>,
}

impl Window {
    /// Returns what is in the file from `at` on: at least a record header unless the file ends.
    fn get(&mut self, file: &dyn VfsFile, at: u32, ahead: usize) -> io::Result<&[u8]> {
        let end = u64::from(self.start) + self.bytes.len() as u64;
        let held = at >= self.start && u64::from(at) + RECORD_HEADER_BYTES as u64 <= end;
        if !held {
            self.bytes.resize(ahead, 0);
            let filled = file.read_at(&mut self.bytes, u64::from(at))?;
            self.bytes.truncate(filled);
            self.start = at;
        }
        Ok(self.bytes.get((at - self.start) as usize..).unwrap_or_default())
    }
}
