//! Spare segments: written full of zeros ahead of need, or freed and waiting for their next life.
//!
//! This is the only place where the file system can run out of space: a spare has all its blocks, and records only
//! overwrite them. (Copy-on-write and thin-provisioned file systems break that assumption; there a full disk shows up
//! as a failed write, which poisons the log.) So a full disk is a refused append, never a failed write of a record,
//! and it ends by itself when a later attempt to pre-write succeeds or a live segment is freed.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::log::Log;
use crate::state::State;
use crate::vfs::{Vfs, VfsFile};

/// Zeros written between two syncs while pre-writing: a larger burst of dirty pages would sit in the way of the log's
/// own syncs.
const PREWRITE_BYTES: usize = 4 << 20;

pub(crate) const SEGMENT_SUFFIX: &str = ".wal";
pub(crate) const UNFINISHED_SUFFIX: &str = ".wal.tmp";
pub(crate) const DAMAGED_SUFFIX: &str = ".wal.damaged";

/// A segment file without needed records.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) path: PathBuf,
    pub(crate) capacity: u32,
    /// What its header still says; 0 for a fresh one.
    pub(crate) sequence: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) ready: VecDeque<Spare>,
    /// To be removed.
    pub(crate) surplus: Vec<Spare>,
    /// The last attempt to create a spare failed.
    pub(crate) disk_full: bool,
    /// How many spares somebody waits for.
    pub(crate) demand: usize,
    /// Number for the name of the next file.
    pub(crate) next_file: u64,
}

impl Pool {
    /// Marks the spares above `keep` for removal. Only those below `oldest` may go: recovery after a crash still
    /// expects the others, see [`crate::recovery`].
    pub(crate) fn trim(&mut self, keep: usize, oldest: u64) {
        let mut excess = self.ready.len().saturating_sub(keep);
        let mut kept = VecDeque::with_capacity(self.ready.len());
        for spare in self.ready.drain(..) {
            if excess > 0 && spare.sequence < oldest {
                excess -= 1;
                self.surplus.push(spare);
            } else {
                kept.push_back(spare);
            }
        }
        self.ready = kept;
    }
}

/// Writes a whole segment of zeros under a temporary name, then names it: a file with a segment's name is complete.
pub(crate) fn create_segment(
    vfs: &dyn Vfs,
    dir: &Path,
    file_number: u64,
    incarnation: u64,
    capacity: u32,
) -> io::Result<Spare> {
    if vfs.free_bytes(dir)? < u64::from(capacity) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let path = dir.join(format!("segment-{file_number:08}{SEGMENT_SUFFIX}"));
    let unfinished = dir.join(format!("segment-{file_number:08}{UNFINISHED_SUFFIX}"));
    let written = write_segment(vfs, &unfinished, incarnation, capacity).and_then(|file| {
        vfs.rename(&unfinished, &path)
            .and_then(|()| vfs.sync_dir(dir))
            .map(|()| file)
    });
    match written {
        Ok(file) => Ok(Spare {
            file,
            path,
            capacity,
            sequence: 0,
        }),
        Err(error) => {
            // Give back what was taken; if that fails too, the next open removes it.
            let _ = vfs.remove(&unfinished);
            let _ = vfs.remove(&path);
            Err(error)
        }
    }
}

fn write_segment(vfs: &dyn Vfs, path: &Path, incarnation: u64, capacity: u32) -> io::Result<Arc<dyn VfsFile>> {
    let file = vfs.create(path)?;
    let header = SegmentHeader {
        incarnation,
        sequence: 0,
        oldest: 0,
        previous_end: 0,
        capacity,
    };
    file.write_vectored_at(&[IoSlice::new(&header.encode())], 0)?;
    fill_with_zeros(&*file, u64::from(SEGMENT_HEADER_BYTES), u64::from(capacity))?;
    Ok(file)
}

/// Writes zeros over `from..to` and syncs, a piece at a time.
pub(crate) fn fill_with_zeros(file: &dyn VfsFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; PREWRITE_BYTES.min((to - from.min(to)) as usize)];
    let mut at = from;
    while at < to {
        let piece = zeros.len().min((to - at) as usize);
        file.write_vectored_at(&[IoSlice::new(&zeros[..piece])], at)?;
        file.sync_data()?;
        at += piece as u64;
    }
    Ok(())
}

impl Log {
    /// Says whether a spare should be written now. An empty log gets by without: the pool starts to fill when an eighth
    /// of the first segment is used.
    pub(crate) fn wants_spare(&self, state: &State) -> bool {
        let used = state.tail.offset - SEGMENT_HEADER_BYTES;
        let in_use = state.segments.len() > 1 || used > state.active_capacity() / 8;
        let wanted = state
            .pool
            .demand
            .max(if in_use { self.options.pool_segments as usize } else { 0 });
        let ready = state.pool.ready.len();
        ready < wanted && state.segments.len() + ready < self.options.segments_max()
    }

    /// Writes one spare, without the lock; says whether it worked.
    pub(crate) fn add_spare(&self) -> bool {
        let file_number = {
            let mut state = self.state.lock();
            state.pool.next_file += 1;
            state.pool.next_file
        };
        let created = create_segment(
            &*self.vfs,
            &self.dir,
            file_number,
            self.options.incarnation,
            self.options.segment_bytes,
        );
        let mut state = self.state.lock();
        let worked = match created {
            Ok(spare) => {
                self.metrics.segments_created.fetch_add(1, Relaxed);
                state.pool.ready.push_back(spare);
                true
            }
            Err(error) => {
                self.metrics.segments_refused.fetch_add(1, Relaxed);
                if !state.pool.disk_full {
                    tracing::warn!(%error, dir = %self.dir.display(), "could not pre-write a log segment, will retry");
                }
                false
            }
        };
        state.pool.disk_full = !worked;
        state.pool.demand = 0;
        self.gauge(&state);
        self.room.notify_all();
        worked
    }

    /// Removes the files of surplus spares, best effort: what stays is found again at the next open.
    pub(crate) fn remove_surplus(&self) {
        let surplus = std::mem::take(&mut self.state.lock().pool.surplus);
        for spare in &surplus {
            if let Err(error) = self.vfs.remove(&spare.path) {
                tracing::warn!(%error, path = %spare.path.display(), "could not remove a surplus log segment");
            }
        }
    }

    /// The life of the pool's thread: born in open, dies when the log closes or is poisoned.
    pub(crate) fn run_pool(&self) {
        loop {
            let mut state = self.state.lock();
            if state.closing || state.poisoned.is_some() {
                return;
            }
            if !state.pool.surplus.is_empty() {
                drop(state);
                self.remove_surplus();
            } else if self.wants_spare(&state) {
                drop(state);
                if !self.add_spare() {
                    let mut state = self.state.lock();
                    if !state.closing && state.poisoned.is_none() {
                        self.pool_work.wait_for(&mut state, self.options.pool_retry);
                    }
                }
            } else {
                state.pool.disk_full = false;
                self.pool_work.wait(&mut state);
            }
        }
    }
}
