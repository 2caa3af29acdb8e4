//! The log that all handles share, and the door through which records come in.
//!
//! Locks, in this order: `stepping` (one batch at a time), then `state`. No file is touched under `state`, except in
//! open and in [`Drive::Manual`], where nobody else is there to wait.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::WalError;
use crate::format::{FLAG_ALL, Kind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, crc, record_size};
use crate::group::{Releases, Slot, Small};
use crate::metrics::WalMetrics;
use crate::options::{Drive, WalOptions};
use crate::record::{Completion, EntryRecord, GroupKey, PurgeMark, Space};
use crate::space::Limits;
use crate::state::{NewRecord, State};
use crate::vfs::{Vfs, VfsLock};

pub(crate) struct Log {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) dir: PathBuf,
    pub(crate) options: WalOptions,
    pub(crate) limits: Limits,
    pub(crate) metrics: WalMetrics,
    pub(crate) state: Mutex<State>,
    /// Wakes the writer.
    pub(crate) work: Condvar,
    /// Wakes those who wait for room in the queue or for a spare segment.
    pub(crate) room: Condvar,
    /// Wakes the pool.
    pub(crate) pool_work: Condvar,
    /// Held for the length of one batch.
    pub(crate) stepping: Mutex<()>,
    /// `None` once closed.
    pub(crate) lock: Mutex<Option<Box<dyn VfsLock>>>,
}

impl Log {
    /// Waits until records of these sizes have room in the queue and in segments.
    ///
    /// Waiting for the queue is bounded by the disk: it drains or the log is poisoned. Waiting for a spare is bounded
    /// by one attempt to create it. The writer thread itself (a completion that appends) never waits.
    fn wait_for_room(
        &self,
        state: &mut MutexGuard<'_, State>,
        sizes: &[u64],
        space: Space,
        queue_max: usize,
    ) -> Result<(), WalError> {
        let total = sizes.iter().sum::<u64>() as usize;
        let on_writer = state.writer == Some(thread::current().id());
        loop {
            if let Some(error) = &state.poisoned {
                return Err(error.clone());
            }
            if state.closing {
                return Err(WalError::Closed);
            }
            if state.queue_bytes > 0 && state.queue_bytes + total > queue_max && !on_writer {
                match self.options.drive {
                    Drive::Threads => {
                        state.wake = true;
                        self.work.notify_one();
                        self.room.wait(state);
                        continue;
                    }
                    // A completion that appends holds `stepping`; the queue then grows past its bound by its records.
                    Drive::Manual => {
                        if MutexGuard::unlocked(state, || self.try_step()) {
                            continue;
                        }
                    }
                }
            }
            let opened = state.rotations(sizes, self.options.segment_bytes);
            if opened == 0 {
                return Ok(());
            }
            let needed = opened + self.floor(space);
            if state.pool.ready.len() >= needed {
                return Ok(());
            }
            if state.segments.len() + needed > self.options.segments_max() || on_writer {
                return Err(self.refuse(state));
            }
            match self.options.drive {
                Drive::Threads if state.pool.disk_full => return Err(self.refuse(state)),
                Drive::Threads => {
                    state.pool.demand = state.pool.demand.max(needed);
                    self.pool_work.notify_one();
                    self.room.wait(state);
                }
                Drive::Manual => {
                    if !MutexGuard::unlocked(state, || self.add_spare()) {
                        return Err(self.refuse(state));
                    }
                }
            }
        }
    }

    fn refuse(&self, state: &State) -> WalError {
        self.metrics.refused_full.fetch_add(1, Relaxed);
        self.full(state)
    }

    /// Wakes whoever has something to do after a change.
    fn queued(&self, state: &mut State, urgent: bool) {
        self.gauge(state);
        if urgent {
            state.wake = true;
            self.work.notify_one();
        }
        if self.options.drive == Drive::Threads && self.wants_spare(state) && !state.pool.disk_full {
            self.pool_work.notify_one();
        }
    }

    pub(crate) fn gauge(&self, state: &State) {
        self.metrics.queue_bytes.store(state.queue_bytes as u64, Relaxed);
        self.metrics.segments_live.store(state.segments.len() as u64, Relaxed);
        self.metrics.segments_pool.store(state.pool.ready.len() as u64, Relaxed);
    }

    fn check_size(&self, len: usize) -> Result<u64, WalError> {
        let max = (self.options.segment_bytes - SEGMENT_HEADER_BYTES) as usize - RECORD_HEADER_BYTES;
        if len > max {
            Err(WalError::TooLarge { bytes: len, max })
        } else {
            Ok(record_size(len))
        }
    }

    pub(crate) fn append(
        &self,
        group: GroupKey,
        entries: Vec<EntryRecord>,
        space: Space,
        done: Completion,
    ) -> Result<(), WalError> {
        let sizes = entries
            .iter()
            .map(|entry| self.check_size(entry.payload.len()))
            .collect::<Result<Vec<_>, _>>()?;
        // Checksums are the only work that grows with the bytes: done here, in the callers' threads, without the lock.
        let crcs: Vec<u32> = entries.iter().map(|entry| crc(&entry.payload)).collect();
        let mut state = self.state.lock();
        self.wait_for_room(&mut state, &sizes, space, self.options.queue_bytes_max)?;
        self.check_group(&state, group)?;
        let mut expected = state.groups.get(&group).and_then(|index| index.next_index());
        for entry in &entries {
            if let Some(expected) = expected
                && expected != entry.index
            {
                return Err(WalError::NotContiguous {
                    group,
                    expected,
                    found: entry.index,
                });
            }
            expected = Some(entry.index + 1);
        }
        let count = entries.len();
        if count == 0 {
            state.place_barrier(done);
            self.queued(&mut state, true);
            return Ok(());
        }
        let mut done = Some(done);
        for (at, (entry, payload_crc)) in entries.into_iter().zip(crcs).enumerate() {
            let record = NewRecord {
                kind: Kind::Entry,
                flags: 0,
                group,
                index: entry.index,
                term: entry.term,
                payload: entry.payload.clone(),
                payload_crc,
            };
            let done = if at + 1 == count { done.take() } else { None };
            let Some(position) = state.place(record, Releases::default(), done) else {
                unreachable!("room for {count} entries was made under the same lock");
            };
            let len = entry.payload.len() as u32;
            state.remember(group, entry.index, position, len);
            let slot = Slot {
                at: position,
                len,
                term: entry.term,
                payload: Some(entry.payload),
            };
            state.groups.entry(group).or_default().push(entry.index, slot);
        }
        self.queued(&mut state, true);
        Ok(())
    }

    /// A group that lost its promise takes nothing but its removal.
    fn check_group(&self, state: &State, group: GroupKey) -> Result<(), WalError> {
        match state.groups.get(&group).and_then(|index| index.lost.as_ref()) {
            Some((at, _)) => Err(WalError::LostPromise {
                group,
                segment: at.segment,
                offset: at.offset,
            }),
            None => Ok(()),
        }
    }

    /// Makes room for one small record. It may use the reserve, and twice the queue: it must not wait behind data.
    fn prepare_small(&self, state: &mut MutexGuard<'_, State>, len: usize) -> Result<(), WalError> {
        let size = self.check_size(len)?;
        self.wait_for_room(
            state,
            &[size],
            Space::Reserved,
            self.options.queue_bytes_max.saturating_mul(2),
        )
    }

    fn place_small(
        &self,
        state: &mut State,
        kind: Kind,
        (group, index, term, flags): (GroupKey, u64, u64, u8),
        payload: &Bytes,
        releases: Releases,
        done: Option<Completion>,
    ) -> Result<crate::format::Position, WalError> {
        let payload_crc = crc(payload);
        let record = NewRecord {
            kind,
            flags,
            group,
            index,
            term,
            payload: payload.clone(),
            payload_crc,
        };
        let placed = state.place(record, releases, done);
        placed.ok_or_else(|| self.full(state))
    }

    pub(crate) fn save_vote(&self, group: GroupKey, payload: Bytes, done: Completion) -> Result<(), WalError> {
        let mut state = self.state.lock();
        self.prepare_small(&mut state, payload.len())?;
        self.check_group(&state, group)?;
        let mut releases = Releases::default();
        if let Some(old) = &state.groups.entry(group).or_default().vote {
            releases.add(old.at, old.payload.len());
        }
        let at = self.place_small(&mut state, Kind::Vote, (group, 0, 0, 0), &payload, releases, Some(done))?;
        state.groups.entry(group).or_default().vote = Some(Small { at, payload });
        self.queued(&mut state, true);
        Ok(())
    }

    pub(crate) fn save_committed(&self, group: GroupKey, payload: Bytes) -> Result<(), WalError> {
        let mut state = self.state.lock();
        self.prepare_small(&mut state, payload.len())?;
        self.check_group(&state, group)?;
        let mut releases = Releases::default();
        if let Some(old) = &state.groups.entry(group).or_default().committed {
            releases.add(old.at, old.payload.len());
        }
        let at = self.place_small(&mut state, Kind::Committed, (group, 0, 0, 0), &payload, releases, None)?;
        state.groups.entry(group).or_default().committed = Some(Small { at, payload });
        self.queued(&mut state, false);
        Ok(())
    }

    pub(crate) fn truncate_after(&self, group: GroupKey, index: Option<u64>, done: Completion) -> Result<(), WalError> {
        let mut state = self.state.lock();
        self.prepare_small(&mut state, 0)?;
        self.check_group(&state, group)?;
        let mut releases = Releases::default();
        let removed = state
            .groups
            .get_mut(&group)
            .is_some_and(|slots| slots.truncate_after(index, &mut releases));
        if removed {
            let flags = if index.is_none() { FLAG_ALL } else { 0 };
            let what = (group, index.unwrap_or(0), 0, flags);
            self.place_small(
                &mut state,
                Kind::TruncateAfter,
                what,
                &Bytes::new(),
                releases,
                Some(done),
            )?;
        } else {
            state.place_barrier(done);
        }
        self.queued(&mut state, true);
        Ok(())
    }

    pub(crate) fn purge_to(&self, group: GroupKey, mark: PurgeMark, done: Completion) -> Result<(), WalError> {
        let mut state = self.state.lock();
        self.prepare_small(&mut state, mark.payload.len())?;
        self.check_group(&state, group)?;
        let index = state.groups.entry(group).or_default();
        if index.purged.as_ref().is_some_and(|(old, _)| old.index >= mark.index) {
            state.place_barrier(done);
        } else {
            let mut releases = Releases::default();
            if let Some((old, at)) = &index.purged {
                releases.add(*at, old.payload.len());
            }
            index.purge_to(mark.index, &mut releases);
            let what = (group, mark.index, mark.term, 0);
            let at = self.place_small(&mut state, Kind::PurgeTo, what, &mark.payload, releases, Some(done))?;
            state.groups.entry(group).or_default().purged = Some((mark, at));
        }
        self.queued(&mut state, true);
        Ok(())
    }

    pub(crate) fn drop_group(&self, group: GroupKey, done: Completion) -> Result<(), WalError> {
        let mut state = self.state.lock();
        self.prepare_small(&mut state, 0)?;
        match state.groups.get(&group) {
            None => state.place_barrier(done),
            Some(index) => {
                let mut releases = Releases::default();
                index.release_all(&mut releases);
                let what = (group, 0, 0, 0);
                self.place_small(&mut state, Kind::GroupDrop, what, &Bytes::new(), releases, Some(done))?;
                state.groups.remove(&group);
            }
        }
        self.queued(&mut state, true);
        Ok(())
    }

    /// Remembers that the group lost its promise; does nothing if that is known, or if there is no room to write it
    /// (then it is found again).
    pub(crate) fn place_lost(&self, state: &mut State, group: GroupKey, at: crate::format::Position) {
        if state.groups.get(&group).is_some_and(|index| index.lost.is_some()) {
            return;
        }
        let payload = Bytes::new();
        let what = (group, u64::from(at.offset), at.segment, 0);
        if let Ok(record) = self.place_small(state, Kind::LostPromise, what, &payload, Releases::default(), None) {
            state.groups.entry(group).or_default().lost = Some((at, Small { at: record, payload }));
        }
    }
}
