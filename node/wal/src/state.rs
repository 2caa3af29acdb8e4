//! Everything the log knows in memory, under one lock.
//!
//! A record gets its place here, when it is accepted, not when it is written: so the index is right at once, a call
//! that finds no spare segment is refused before anything happened, and the writer only copies bytes.
//!
//! What always holds: records are queued in the order of their places; `durable <= tail`; the live bytes of a segment
//! shrink only when the record that made them dead is durable, so a segment without live bytes is free for good.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::ThreadId;

use bytes::Bytes;

use crate::format::{Kind, Position, RecordHeader, SEGMENT_HEADER_BYTES, record_size};
use crate::group::{Group, Releases};
use crate::pool::{Pool, Spare};
use crate::record::{Completion, GroupKey};
use crate::vfs::VfsFile;

/// A segment that holds records.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) path: PathBuf,
    pub(crate) capacity: u32,
    /// Where its records end; for the active segment, where the next one goes.
    pub(crate) end: u32,
    /// Bytes of records that are still needed.
    pub(crate) live: u64,
    /// Its header is on disk.
    pub(crate) opened: bool,
}

/// A record before it has a place.
#[derive(Debug)]
pub(crate) struct NewRecord {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) group: GroupKey,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) payload: Bytes,
    pub(crate) payload_crc: u32,
}

/// One thing for the writer to do, in order.
pub(crate) struct Pending {
    /// `None` for a call that changes nothing but whose completion has its turn.
    pub(crate) record: Option<PendingRecord>,
    /// What becomes free when this is durable.
    pub(crate) releases: Releases,
    pub(crate) done: Option<Completion>,
}

pub(crate) struct PendingRecord {
    pub(crate) header: RecordHeader,
    pub(crate) offset: u32,
    pub(crate) payload: Bytes,
}

impl Pending {
    /// Returns what the record counts for in the bounds of queue and batch.
    pub(crate) fn bytes(&self) -> usize {
        self.record.as_ref().map_or(0, |record| record.header.size() as usize)
    }
}

/// Entries whose payload is in memory, oldest first, so that the cache can forget them in that order.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    nodes: VecDeque<RecentNode>,
    bytes: usize,
}

#[derive(Debug)]
struct RecentNode {
    group: GroupKey,
    index: u64,
    at: Position,
    len: u32,
}

impl RecentNode {
    fn cost(&self) -> usize {
        record_size(self.len as usize) as usize
    }
}

pub(crate) struct State {
    pub(crate) groups: BTreeMap<GroupKey, Group>,
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) tail: Position,
    pub(crate) durable: Position,
    pub(crate) queue: VecDeque<Pending>,
    /// Bytes queued or being written.
    pub(crate) queue_bytes: usize,
    pub(crate) recent: Recent,
    pub(crate) pool: Pool,
    pub(crate) poisoned: Option<crate::WalError>,
    pub(crate) closing: bool,
    /// Something in the queue is waited for.
    pub(crate) wake: bool,
    /// The oldest segment, while its remnants are on their way to the tail.
    pub(crate) moving: Option<u64>,
    pub(crate) writer: Option<ThreadId>,
    /// The tail just after the last mark.
    pub(crate) marked: Position,
}

impl State {
    pub(crate) fn active_capacity(&self) -> u32 {
        self.segments
            .get(&self.tail.segment)
            .map_or(0, |segment| segment.capacity)
    }

    /// Returns how many segments must be opened to place records of these sizes.
    pub(crate) fn rotations(&self, sizes: &[u64], new_capacity: u32) -> usize {
        let mut room = u64::from(self.active_capacity().saturating_sub(self.tail.offset));
        let mut rotations = 0;
        for size in sizes {
            if *size > room {
                rotations += 1;
                room = u64::from(new_capacity - SEGMENT_HEADER_BYTES);
            }
            room = room.saturating_sub(*size);
        }
        rotations
    }

    /// Gives the record its place at the tail and queues it; `None`, with nothing changed, if there is no room.
    pub(crate) fn place(
        &mut self,
        record: NewRecord,
        releases: Releases,
        done: Option<Completion>,
    ) -> Option<Position> {
        let size = record_size(record.payload.len());
        if u64::from(self.tail.offset) + size > u64::from(self.active_capacity()) {
            let spare = self.pool.ready.pop_front()?;
            self.rotate(spare);
        }
        let at = self.tail;
        let group_seq = match record.kind {
            Kind::Mark => 0,
            _ => {
                let group = self.groups.entry(record.group).or_default();
                let seq = group.next_seq;
                group.next_seq = seq.wrapping_add(1);
                seq
            }
        };
        let header = RecordHeader {
            kind: record.kind,
            flags: record.flags,
            segment: at.segment,
            group: record.group.0,
            index: record.index,
            term: record.term,
            mark: Position::default(),
            len: record.payload.len() as u32,
            group_seq,
            payload_crc: record.payload_crc,
        };
        self.tail.offset += size as u32;
        if let Some(segment) = self.segments.get_mut(&at.segment) {
            segment.end = self.tail.offset;
            if record.kind == Kind::Entry || record.kind.is_state() {
                segment.live += size;
            }
        }
        self.queue_bytes += size as usize;
        self.queue.push_back(Pending {
            record: Some(PendingRecord {
                header,
                offset: at.offset,
                payload: record.payload,
            }),
            releases,
            done,
        });
        Some(at)
    }

    /// Queues a completion that has nothing to write.
    pub(crate) fn place_barrier(&mut self, done: Completion) {
        self.queue.push_back(Pending {
            record: None,
            releases: Releases::default(),
            done: Some(done),
        });
    }

    fn rotate(&mut self, spare: Spare) {
        let sequence = self.tail.segment + 1;
        let segment = Segment {
            file: spare.file,
            path: spare.path,
            capacity: spare.capacity,
            end: SEGMENT_HEADER_BYTES,
            live: 0,
            opened: false,
        };
        self.segments.insert(sequence, segment);
        self.tail = Position {
            segment: sequence,
            offset: SEGMENT_HEADER_BYTES,
        };
    }

    /// Remembers that the payload of this entry is in memory.
    pub(crate) fn remember(&mut self, group: GroupKey, index: u64, at: Position, len: u32) {
        let node = RecentNode { group, index, at, len };
        self.recent.bytes += node.cost();
        self.recent.nodes.push_back(node);
    }

    /// Forgets durable payloads, oldest first, until the cache is within its bound.
    pub(crate) fn evict(&mut self, bytes_max: usize) {
        while self.recent.bytes > bytes_max
            && self.recent.nodes.front().is_some_and(|node| node.at < self.durable)
            && let Some(node) = self.recent.nodes.pop_front()
        {
            self.recent.bytes -= node.cost();
            if let Some(slot) = self
                .groups
                .get_mut(&node.group)
                .and_then(|group| group.slot_mut(node.index))
                && slot.at == node.at
            {
                slot.payload = None;
            }
        }
    }

    pub(crate) fn release(&mut self, releases: &Releases) {
        for (sequence, bytes) in releases.iter() {
            if let Some(segment) = self.segments.get_mut(&sequence) {
                debug_assert!(segment.live >= bytes, "segment {sequence} frees more than it holds");
                segment.live = segment.live.saturating_sub(bytes);
            }
        }
    }

    /// Hands the oldest segments back to the pool for as long as nothing in them is needed.
    pub(crate) fn retire(&mut self) {
        while let Some(entry) = self.segments.first_entry() {
            let sequence = *entry.key();
            if entry.get().live > 0 || sequence >= self.durable.segment {
                break;
            }
            let segment = entry.remove();
            self.pool.ready.push_back(Spare {
                file: segment.file,
                path: segment.path,
                capacity: segment.capacity,
                sequence,
            });
        }
    }
}
