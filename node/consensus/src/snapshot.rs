//! The snapshot file of one group: its newest one, replaced as a whole.
//!
//! A snapshot is small (a watermark and dedup headers, or the ring's state of at most 20 MB), so it is written in one go
//! beside the log: to a temporary name, synced, renamed, directory synced. Only then may the log below it be purged.
//!
//! What always holds:
//! - The file that bears the group's name is whole. Power lost at any line leaves the old one or the new one.
//! - It never goes backwards: a snapshot at or below the current one is not written. A slow builder that finishes after
//!   a newer snapshot was installed from the leader therefore changes nothing.
//! - A snapshot from the leader is on disk before openraft hears of it: for openraft a snapshot that cannot be installed
//!   is the end of the group, while one that is refused at the door comes again when there is room.
//!
//! Not here: what is in a snapshot (the machine), when one is taken ([`crate::Group::snapshot_and_purge`]).

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use wal::Vfs;

use crate::codec::{decode_snapshot, encode_snapshot};
use crate::error::ConsensusError;
use crate::payload::GroupId;
use crate::raft::{SnapshotMeta, index_of};

/// Largest snapshot that is read back: ten times what the ring may grow to.
const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;

/// The newest snapshot of one group, on disk.
pub(crate) struct SnapshotFile {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    group: GroupId,
    /// What the file describes; `None` until the first one. Held while writing, so writers take turns.
    current: Mutex<Option<SnapshotMeta>>,
    /// What the file of a received snapshot describes that is not installed yet.
    received: Mutex<Option<SnapshotMeta>>,
}

impl SnapshotFile {
    /// Finds the group's snapshot in `dir`, checks it, and removes what an interrupted write left.
    pub(crate) fn open(vfs: Arc<dyn Vfs>, dir: &Path, group: GroupId) -> Result<Self, ConsensusError> {
        let file = Self {
            vfs,
            dir: dir.to_path_buf(),
            group,
            current: Mutex::new(None),
            received: Mutex::new(None),
        };
        let existing = file
            .vfs
            .list(dir)
            .map_err(|source| file.failed(dir.to_path_buf(), source))?;
        for left in [file.temporary(), file.received_path()] {
            if existing.contains(&left) {
                file.vfs.remove(&left).map_err(|source| file.failed(left, source))?;
            }
        }
        if existing.contains(&file.path()) {
            let (meta, _) = file.load().map_err(|source| file.failed(file.path(), source))?;
            *file.current.lock() = Some(meta);
        }
        Ok(file)
    }

    fn path(&self) -> PathBuf {
        file_path(&self.dir, self.group)
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join(format!("{}.snapshot.tmp", self.group))
    }

    fn received_path(&self) -> PathBuf {
        self.dir.join(format!("{}.snapshot.received", self.group))
    }

    fn failed(&self, path: PathBuf, source: io::Error) -> ConsensusError {
        ConsensusError::Snapshot { path, source }
    }

    /// What the newest snapshot describes.
    pub(crate) fn current(&self) -> Option<SnapshotMeta> {
        self.current.lock().clone()
    }

    /// Writes a snapshot unless a newer one is there; returns what is current afterwards.
    pub(crate) fn store(&self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<SnapshotMeta> {
        let mut current = self.current.lock();
        if let Some(there) = current.as_ref()
            && index_of(there.last_log_id.as_ref()) >= index_of(meta.last_log_id.as_ref())
        {
            return Ok(there.clone());
        }
        let temporary = self.temporary();
        self.write(&temporary, meta, state)?;
        self.replace(&temporary)?;
        *current = Some(meta.clone());
        Ok(meta.clone())
    }

    /// Writes a snapshot that came from the leader beside the current one, for [`Self::install`]. One at a time.
    pub(crate) fn receive(&self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
        let mut received = self.received.lock();
        *received = None;
        self.write(&self.received_path(), meta, state)?;
        *received = Some(meta.clone());
        Ok(())
    }

    /// Forgets what was received and not installed.
    pub(crate) fn forget_received(&self) {
        if self.received.lock().take().is_some() {
            // What cannot be removed is written over by the next one.
            let _ = self.vfs.remove(&self.received_path());
        }
    }

    /// Like [`Self::store`], and takes no room if it was received.
    pub(crate) fn install(&self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
        let mut received = self.received.lock();
        if received.as_ref() != Some(meta) {
            drop(received);
            return self.store(meta, state).map(drop);
        }
        let mut current = self.current.lock();
        if index_of(current.as_ref().and_then(|there| there.last_log_id.as_ref()))
            >= index_of(meta.last_log_id.as_ref())
        {
            return Ok(());
        }
        self.replace(&self.received_path())?;
        *received = None;
        *current = Some(meta.clone());
        Ok(())
    }

    /// Leaves a whole, synced file or none.
    fn write(&self, path: &Path, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
        if self.vfs.list(&self.dir)?.iter().any(|there| there == path) {
            self.vfs.remove(path)?;
        }
        let bytes = encode_snapshot(self.group, meta, state);
        let write = || {
            let file = self.vfs.create(path)?;
            file.write_vectored_at(&[IoSlice::new(&bytes)], 0)?;
            file.sync_data()
        };
        let written = write();
        if written.is_err() {
            // A full disk needs the room; what cannot be removed goes with the next attempt or the next start.
            let _ = self.vfs.remove(path);
        }
        written
    }

    fn replace(&self, by: &Path) -> io::Result<()> {
        self.vfs.rename(by, &self.path())?;
        self.vfs.sync_dir(&self.dir)
    }

    /// Reads the newest snapshot back; `None` if there is none yet.
    pub(crate) fn read(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let current = self.current.lock();
        if current.is_none() {
            return Ok(None);
        }
        self.load().map(Some)
    }

    /// Removes the snapshot of a group that is gone, if there is one.
    pub(crate) fn remove(vfs: &dyn Vfs, dir: &Path, group: GroupId) -> Result<(), ConsensusError> {
        let path = file_path(dir, group);
        let removed = || -> io::Result<()> {
            if vfs.list(dir)?.contains(&path) {
                vfs.remove(&path)?;
                vfs.sync_dir(dir)?;
            }
            Ok(())
        };
        removed().map_err(|source| ConsensusError::Snapshot {
            path: path.clone(),
            source,
        })
    }

    fn load(&self) -> io::Result<(SnapshotMeta, Bytes)> {
        let file = self.vfs.open(&self.path())?;
        let length = file.len()?;
        if length > SNAPSHOT_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "snapshot is larger than any we write",
            ));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        if file.read_at(&mut bytes, 0)? != bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        decode_snapshot(self.group, &Bytes::from(bytes)).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

fn file_path(dir: &Path, group: GroupId) -> PathBuf {
    dir.join(format!("{group}.snapshot"))
}

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotFile")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
