//! Reading entries back: from memory if they are there, else from the segment, checked every time.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use crate::WalError;
use crate::format::{Position, RECORD_HEADER_BYTES, RecordHeader, crc};
use crate::log::Log;
use crate::record::{EntryRecord, GroupKey};
use crate::state::State;
use crate::vfs::VfsFile;

/// Where a payload can be had without the lock.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) at: Position,
    pub(crate) len: u32,
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) payload: Option<Bytes>,
}

impl Place {
    /// Returns the payload, if what is there is this record and intact.
    pub(crate) fn load(&self, incarnation: u64, group: GroupKey, index: u64) -> Option<Bytes> {
        if let Some(payload) = &self.payload {
            return Some(payload.clone());
        }
        let mut record = vec![0; RECORD_HEADER_BYTES + self.len as usize];
        let filled = self.file.read_at(&mut record, u64::from(self.at.offset)).ok()?;
        if filled < record.len() {
            return None;
        }
        let header = RecordHeader::decode(&record, incarnation)?;
        let expected = (self.at.segment, group.0, index, self.len);
        if (header.segment, header.group, header.index, header.len) != expected {
            return None;
        }
        let payload = Bytes::from(record).slice(RECORD_HEADER_BYTES..);
        (crc(&payload) == header.payload_crc).then_some(payload)
    }
}

impl Log {
    /// Reads entries of `range`, see [`crate::Wal::read`].
    pub(crate) fn read(
        &self,
        group: GroupKey,
        range: Range<u64>,
        bytes_max: usize,
        even_if_lost: bool,
    ) -> Result<Vec<EntryRecord>, WalError> {
        // Entries may be purged or moved while they are read without the lock. Then what was read so far is the answer;
        // if that is nothing, the places are looked up again.
        loop {
            let mut entries: Vec<EntryRecord> = Vec::new();
            let wanted = {
                let state = self.state.lock();
                if let Some((at, _)) = state.groups.get(&group).and_then(|index| index.lost.as_ref())
                    && !even_if_lost
                {
                    return Err(WalError::LostPromise {
                        group,
                        segment: at.segment,
                        offset: at.offset,
                    });
                }
                places(&state, group, range.clone(), bytes_max)
            };
            let mut stale = false;
            for (index, term, place) in wanted {
                match place.load(self.options.incarnation, group, index) {
                    Some(payload) => entries.push(EntryRecord { index, term, payload }),
                    None if self.still_at(group, index, place.at) => {
                        self.metrics.corrupt_reads.fetch_add(1, Relaxed);
                        let Position { segment, offset } = place.at;
                        return Err(WalError::Corrupt {
                            group,
                            index,
                            segment,
                            offset,
                        });
                    }
                    None => {
                        stale = true;
                        break;
                    }
                }
            }
            if !stale || !entries.is_empty() {
                return Ok(entries);
            }
        }
    }

    fn still_at(&self, group: GroupKey, index: u64, at: Position) -> bool {
        let state = self.state.lock();
        state
            .groups
            .get(&group)
            .and_then(|entries| entries.slot(index))
            .is_some_and(|slot| slot.at == at)
    }
}

/// Lists the entries of `range` that exist, up to `bytes_max`, at least one.
fn places(state: &State, group: GroupKey, range: Range<u64>, bytes_max: usize) -> Vec<(u64, u64, Place)> {
    let Some(index) = state.groups.get(&group) else {
        return Vec::new();
    };
    let mut places = Vec::new();
    let mut bytes = 0;
    let mut next = range.start.max(index.first);
    while next < range.end
        && let Some(slot) = index.slot(next)
        && let Some(segment) = state.segments.get(&slot.at.segment)
    {
        bytes += slot.len as usize;
        if bytes > bytes_max && !places.is_empty() {
            break;
        }
        let file = Arc::clone(&segment.file);
        places.push((
            next,
            slot.term,
            Place {
                at: slot.at,
                len: slot.len,
                file,
                payload: slot.payload.clone(),
            },
        ));
        next += 1;
    }
    places
}
