//! Reading sealed segments again before anybody needs them, so that bytes that rotted are found while their spans are
//! still in memory or on other nodes.
//!
//! Owns [`Scrub`], a place in the log that the owner moves on by [`crate::Wal::scrub`], at its own pace and in its own
//! thread. Changes nothing: what damage means for groups is for [`crate::recovery`] to say when the log is opened, and for
//! reads when they meet it.
//!
//! What always holds:
//! - Every record of a segment is checked, header and payload, also those that nobody needs any more: recovery has to walk
//!   over them.
//! - Only sealed segments are read. What is not durable yet may be torn, and is none of our business.
//! - A segment may be freed, and written for its next life, while it is read. So bytes count as damaged only if they read
//!   badly twice and the segment still is what it was afterwards.
//! - The disk is read, not its cache: pages are given up first.

use std::io;
use std::sync::Arc;

use crate::format::{HeaderBlock, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, crc};
use crate::log::Log;
use crate::scan::Scanner;
use crate::vfs::VfsFile;

/// Where the next step goes on. The default is before the oldest segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrub {
    segment: u64,
    /// 0: its header comes first.
    offset: u32,
}

/// What one step found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// Bytes that were read.
    pub bytes: u64,
    /// Places whose bytes are not what was written, or cannot be read.
    pub damage: Vec<DamagedPlace>,
    /// All sealed segments were looked at; the next step begins with the oldest again.
    pub is_over: bool,
}

/// Where bytes are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DamagedPlace {
    pub segment: u64,
    pub offset: u32,
}

/// A sealed segment under the scrub's eyes.
struct Sealed {
    sequence: u64,
    file: Arc<dyn VfsFile>,
    end: u32,
}

impl Log {
    /// See [`crate::Wal::scrub`].
    pub(crate) fn scrub(&self, scrub: &mut Scrub, bytes_max: usize) -> ScrubStep {
        let mut step = ScrubStep::default();
        while step.bytes < bytes_max as u64 {
            let Some(sealed) = self.sealed_from(scrub.segment) else {
                *scrub = Scrub::default();
                step.is_over = true;
                break;
            };
            if sealed.sequence != scrub.segment {
                *scrub = Scrub {
                    segment: sealed.sequence,
                    offset: 0,
                };
            }
            let at = scrub.offset;
            if at >= sealed.end {
                scrub.segment += 1;
                scrub.offset = 0;
                continue;
            }
            let (mut next, mut is_good) = self.check(&sealed, at, &mut step.bytes);
            if !is_good {
                // A read that failed in passing is not to be answered from memory again.
                sealed.file.forget_cached();
                (next, is_good) = self.check(&sealed, at, &mut step.bytes);
            }
            if !is_good && self.sealed_from(sealed.sequence).map(|now| now.sequence) == Some(sealed.sequence) {
                step.damage.push(DamagedPlace {
                    segment: sealed.sequence,
                    offset: at,
                });
            }
            scrub.offset = next;
        }
        self.metrics
            .scrubbed_bytes
            .fetch_add(step.bytes, std::sync::atomic::Ordering::Relaxed);
        step
    }

    /// The oldest segment from `sequence` on to which nothing is written any more.
    fn sealed_from(&self, sequence: u64) -> Option<Sealed> {
        let state = self.state.lock();
        let (&sequence, segment) = state.segments.range(sequence..state.durable.segment).next()?;
        Some(Sealed {
            sequence,
            file: Arc::clone(&segment.file),
            end: segment.end,
        })
    }

    /// Checks what starts at `at`, the header block or a record; returns where the next record is, and whether all is well.
    fn check(&self, sealed: &Sealed, at: u32, read: &mut u64) -> (u32, bool) {
        let checked = if at == 0 {
            sealed.file.forget_cached();
            self.check_header(sealed)
        } else {
            self.check_record(sealed, at)
        };
        match checked {
            Ok(Some(next)) => {
                *read += u64::from(next - at);
                (next, true)
            }
            // A record that cannot be read, or told where it ends: go on at the next one that can.
            Ok(None) | Err(_) => {
                let scanner = Scanner {
                    file: &*sealed.file,
                    sequence: sealed.sequence,
                    incarnation: self.options.incarnation,
                    until: sealed.end,
                };
                let next = match at {
                    0 => SEGMENT_HEADER_BYTES,
                    _ => scanner.next_after(at).unwrap_or(sealed.end),
                };
                *read += u64::from(next - at);
                (next, false)
            }
        }
    }

    fn check_header(&self, sealed: &Sealed) -> io::Result<Option<u32>> {
        let mut block = vec![0; SEGMENT_HEADER_BYTES as usize];
        let filled = sealed.file.read_at(&mut block, 0)?;
        block.truncate(filled);
        let is_ours = |header: &SegmentHeader| {
            (header.sequence, header.incarnation) == (sealed.sequence, self.options.incarnation)
        };
        // One bad copy of the two is damage: the second would be the end of the segment.
        let copies = SegmentHeader::copies(&block);
        let is_good = matches!(SegmentHeader::decode(&block), HeaderBlock::Ours(header) if is_ours(&header))
            && copies.iter().all(|copy| copy.as_ref().is_some_and(is_ours));
        Ok(is_good.then_some(SEGMENT_HEADER_BYTES))
    }

    fn check_record(&self, sealed: &Sealed, at: u32) -> io::Result<Option<u32>> {
        let mut head = [0; RECORD_HEADER_BYTES];
        if sealed.file.read_at(&mut head, u64::from(at))? < head.len() {
            return Ok(None);
        }
        let Some(header) = RecordHeader::decode(&head, self.options.incarnation) else {
            return Ok(None);
        };
        let end = u64::from(at) + header.size();
        if header.segment != sealed.sequence || end > u64::from(sealed.end) {
            return Ok(None);
        }
        let mut payload = vec![0; header.len as usize];
        let filled = sealed
            .file
            .read_at(&mut payload, u64::from(at) + RECORD_HEADER_BYTES as u64)?;
        let is_good = filled == payload.len() && crc(&payload) == header.payload_crc;
        Ok(is_good.then_some(end as u32))
    }
}
