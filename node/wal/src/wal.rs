//! The handle: what the owner of the log calls.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::WalError;
use crate::log::Log;
use crate::metrics::WalMetrics;
use crate::options::{Drive, WalOptions};
use crate::record::{Completion, EntryRecord, GroupKey, GroupState, PurgeMark, Space};
use crate::recovery::{Recovery, open_dir};
use crate::scrub::{Scrub, ScrubStep};
use crate::space::{Level, Limits, Pin, Usage};
use crate::vfs::Vfs;

/// A handle to the log; clones are handles to the same one.
///
/// Dropping the last handle closes the log, except under [`Drive::Manual`], where it is like the death of the process:
/// what was not driven is lost.
///
/// ```
/// use std::{path::Path, sync::{Arc, mpsc}};
/// use vivace_wal::{EntryRecord, GroupKey, SimVfs, Wal, WalOptions};
///
/// let vfs = Arc::new(SimVfs::new(1));
/// let options = WalOptions { segment_bytes: 65_536, quota_bytes: 1 << 20, ..WalOptions::new(7) };
/// let (wal, _) = Wal::open(vfs, Path::new("/wal"), options)?;
/// let (done, durable) = mpsc::channel();
/// let entry = EntryRecord { index: 1, term: 1, payload: "hello".into() };
/// wal.append(GroupKey(1), vec![entry.clone()], Box::new(move |result| done.send(result).expect("we wait")))?;
/// assert_eq!(wal.read(GroupKey(1), 1..2, 1024)?, [entry]); // at once
/// durable.recv().expect("called once")?; // after the sync
/// wal.close();
/// # Ok::<(), vivace_wal::WalError>(())
/// ```
#[derive(Clone)]
pub struct Wal {
    log: Arc<Log>,
    threads: Arc<Threads>,
}

/// Joins the threads when the last handle goes. The threads hold the log, not this.
struct Threads {
    log: Arc<Log>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Wal {
    /// Opens the log in `dir`, or creates it.
    ///
    /// Errors: `Foreign` kinds when the directory is in use or not this node's, with nothing touched; `Corrupt` when
    /// there are segments and none can be read; `Unavailable` when the file system fails. Damage that leaves the rest
    /// of the log usable is no error: read the [`Recovery`].
    pub fn open(vfs: Arc<dyn Vfs>, dir: &Path, options: WalOptions) -> Result<(Self, Recovery), WalError> {
        options.validate()?;
        vfs.create_dir(dir)
            .map_err(|error| WalError::io("create", dir, error))?;
        let lock_path = dir.join("LOCK");
        let lock = vfs.lock(&lock_path).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => WalError::Locked { dir: dir.to_owned() },
            _ => WalError::io("lock", &lock_path, error),
        })?;
        let mut opened = open_dir(&*vfs, dir, &options)?;
        let newly_lost = std::mem::take(&mut opened.newly_lost);
        let fresh = opened.recovery.created;
        let recovery = opened.recovery.clone();
        let tidy_vfs = Arc::clone(&vfs);
        let log = Arc::new(Log {
            vfs,
            dir: dir.to_owned(),
            limits: Limits::new(&options),
            options,
            metrics: WalMetrics::default(),
            state: Mutex::new(opened.take_state()),
            work: Condvar::new(),
            room: Condvar::new(),
            pool_work: Condvar::new(),
            stepping: Mutex::new(()),
            lock: Mutex::new(Some(lock)),
        });
        if !fresh {
            log.settle(&newly_lost)?;
        }
        opened.tidy(&*tidy_vfs, dir)?;
        log.gauge(&log.state.lock());
        let threads = Arc::new(Threads {
            log: Arc::clone(&log),
            handles: Mutex::new(Vec::new()),
        });
        let wal = Self { log, threads };
        if wal.log.options.drive == Drive::Threads {
            wal.spawn("wal-writer", Log::run_writer)?;
            wal.spawn("wal-pool", Log::run_pool)?;
        }
        Ok((wal, recovery))
    }

    fn spawn(&self, name: &str, run: fn(&Log)) -> Result<(), WalError> {
        let log = Arc::clone(&self.log);
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || run(&log));
        let handle = spawned.map_err(|error| WalError::io("start a thread for", &self.log.dir, error))?;
        self.threads.handles.lock().push(handle);
        Ok(())
    }

    /// Appends entries, which must follow the group's last one. They can be read when this returns; `done` is called
    /// when they are durable. All of them are accepted or none.
    ///
    /// Waits while the queue is full, at the speed of the disk, so call it where waiting is allowed or ask
    /// [`Wal::admit`] first.
    ///
    /// Errors: `Full` when only the reserve is left; `Rejected` when the entries do not fit; `Corrupt` when the group
    /// lost its promise; `Fatal`.
    pub fn append(&self, group: GroupKey, entries: Vec<EntryRecord>, done: Completion) -> Result<(), WalError> {
        self.log.append(group, entries, Space::Ordinary, done)
    }

    /// As [`Wal::append`], with a choice of the room that may be taken.
    pub fn append_with(
        &self,
        group: GroupKey,
        entries: Vec<EntryRecord>,
        space: Space,
        done: Completion,
    ) -> Result<(), WalError> {
        self.log.append(group, entries, space, done)
    }

    /// Saves the group's vote.
    pub fn save_vote(&self, group: GroupKey, payload: Bytes, done: Completion) -> Result<(), WalError> {
        self.log.save_vote(group, payload, done)
    }

    /// Saves how far the group is committed, best effort: it reaches the disk with whatever is written next.
    pub fn save_committed(&self, group: GroupKey, payload: Bytes) -> Result<(), WalError> {
        self.log.save_committed(group, payload)
    }

    /// Removes the entries after `index`, all of them for `None`.
    pub fn truncate_after(&self, group: GroupKey, index: Option<u64>, done: Completion) -> Result<(), WalError> {
        self.log.truncate_after(group, index, done)
    }

    /// Removes the entries up to and including `index` and remembers the mark. A mark beyond the last entry empties the
    /// group, which then goes on at `index + 1`; one that is not beyond the last mark changes nothing.
    pub fn purge_to(
        &self,
        group: GroupKey,
        index: u64,
        term: u64,
        payload: Bytes,
        done: Completion,
    ) -> Result<(), WalError> {
        self.log.purge_to(group, PurgeMark { index, term, payload }, done)
    }

    /// Forgets the group and all it had, also that it lost its promise.
    pub fn drop_group(&self, group: GroupKey, done: Completion) -> Result<(), WalError> {
        self.log.drop_group(group, done)
    }

    /// Returns entries of `range` (end excluded), in order and without gaps, up to `bytes_max` of payload but at least
    /// one. Empty when there are none; starts later than `range` when the first ones are purged.
    ///
    /// Errors: `Corrupt`, for bytes that are not what was written or for a group that lost its promise.
    pub fn read(&self, group: GroupKey, range: Range<u64>, bytes_max: usize) -> Result<Vec<EntryRecord>, WalError> {
        self.log.read(group, range, bytes_max, false)
    }

    /// As [`Wal::read`], also for a group that lost its promise: each entry is one that was appended, but some may have
    /// been truncated since. For a person who saves what can be saved.
    pub fn salvage(&self, group: GroupKey, range: Range<u64>, bytes_max: usize) -> Result<Vec<EntryRecord>, WalError> {
        self.log.read(group, range, bytes_max, true)
    }

    /// Returns the term of an entry, or of the purge mark if `index` is there.
    pub fn term_at(&self, group: GroupKey, index: u64) -> Option<u64> {
        let state = self.log.state.lock();
        let group = state.groups.get(&group)?;
        let purged = || {
            group
                .purged
                .as_ref()
                .filter(|(mark, _)| mark.index == index)
                .map(|(mark, _)| mark.term)
        };
        group.slot(index).map(|slot| slot.term).or_else(purged)
    }

    /// Returns what is known of the group; all `None` for an unknown one.
    pub fn state(&self, group: GroupKey) -> GroupState {
        self.log
            .state
            .lock()
            .groups
            .get(&group)
            .map(|group| group.state())
            .unwrap_or_default()
    }

    /// Returns the groups that have anything: an entry, a vote, a mark. In order.
    pub fn groups(&self) -> Vec<GroupKey> {
        let state = self.log.state.lock();
        state
            .groups
            .iter()
            .filter(|(_, group)| !group.is_empty())
            .map(|(key, _)| *key)
            .collect()
    }

    /// Returns how full the log is.
    pub fn usage(&self) -> Usage {
        self.log.usage_of(&self.log.state.lock())
    }

    /// Says whether data of this size should be accepted now. To be asked before data is proposed, and by a follower
    /// before it takes a batch; votes and the like need not ask.
    ///
    /// Errors: `Full` (answer 503), `Throttled` (answer 429), `Fatal`.
    pub fn admit(&self, bytes: usize) -> Result<(), WalError> {
        self.admit_beside(bytes, bytes)
    }

    /// The same when `under_way` bytes were let in and may not be in the log yet, `bytes` among them: there must be room
    /// for all of them, because an append that is refused later is the end of its group.
    pub fn admit_beside(&self, bytes: usize, under_way: usize) -> Result<(), WalError> {
        let state = self.log.state.lock();
        if let Some(error) = &state.poisoned {
            return Err(error.clone());
        }
        let admitted = self.log.admit_to(&state, bytes, under_way.max(bytes));
        if matches!(admitted, Err(WalError::Full { .. })) {
            self.log.metrics.refused_full.fetch_add(1, Relaxed);
        }
        admitted
    }

    /// Returns the groups with entries in the oldest quarter of the segments, most bytes first: the ones to flush at
    /// [`Level::FlushAdvised`].
    pub fn pinning_groups(&self) -> Vec<Pin> {
        self.log.pins(&self.log.state.lock())
    }

    /// Returns the level alone.
    pub fn level(&self) -> Level {
        self.usage().level
    }

    /// Reads some more of the sealed segments again, about `bytes_max` and at least one record, and says where bytes are not
    /// what was written. Waits for the disk and for nobody else; nobody waits for it.
    pub fn scrub(&self, scrub: &mut Scrub, bytes_max: usize) -> ScrubStep {
        self.log.scrub(scrub, bytes_max)
    }

    /// Returns the counters.
    pub fn metrics(&self) -> &WalMetrics {
        &self.log.metrics
    }

    /// Writes one batch; says whether there was anything to do. Under [`Drive::Manual`] this is the only way records
    /// reach the disk; under [`Drive::Threads`] it is harmless and pointless.
    pub fn drive(&self) -> bool {
        self.log.step()
    }

    /// Writes what is queued, joins the threads and gives the directory free. Other handles then get `Closed`.
    pub fn close(self) {
        self.threads.shut_down();
        if self.log.options.drive == Drive::Manual {
            while self.log.step() {}
            self.log.finish();
        }
        self.log.lock.lock().take();
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal")
            .field("dir", &self.log.dir)
            .field("options", &self.log.options)
            .finish_non_exhaustive()
    }
}

impl Threads {
    fn shut_down(&self) {
        self.log.state.lock().closing = true;
        self.log.work.notify_all();
        self.log.room.notify_all();
        self.log.pool_work.notify_all();
        for handle in std::mem::take(&mut *self.handles.lock()) {
            // A completion that drops the last handle runs on the writer, which cannot wait for itself.
            if handle.thread().id() != thread::current().id() && handle.join().is_err() {
                tracing::error!("a thread of the log panicked");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Log {
    /// Records what recovery found out, under a mark that covers everything recovered.
    fn settle(&self, newly_lost: &[(GroupKey, crate::format::Position)]) -> Result<(), WalError> {
        if !newly_lost.is_empty() && self.state.lock().pool.ready.is_empty() {
            self.add_spare();
        }
        {
            let mut state = self.state.lock();
            state.marked = crate::format::Position::default();
            for (group, at) in newly_lost {
                self.place_lost(&mut state, *group, *at);
            }
        }
        self.place_mark();
        while self.step() {}
        match &self.state.lock().poisoned {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}
