//! A file system in memory that forgets what it was not told to keep, for tests and simulation.
//!
//! As strict as the worst real one: bytes are lost without [`VfsFile::sync_data`], names without [`Vfs::sync_dir`], and
//! after a failed sync the pages look clean, so that a second sync "succeeds" without writing them. Every choice comes
//! from the seed: the same calls give the same bytes.
//!
//! Handles and locks from before a [`SimVfs::crash`] are dead: the process that held them is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::vfs::{Vfs, VfsFile, VfsLock};

/// What a disk writes in one piece.
const SECTOR_BYTES: u64 = 512;

/// What survives when the power goes, or the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Only what was synced.
    DropUnsynced,
    /// What was synced, any of the other sectors, and a prefix of the other changes of names.
    Torn,
    /// Everything: the process died, the kernel did not.
    KeepAll,
}

/// The simulated file system; clones share it.
#[derive(Debug, Clone)]
pub struct SimVfs {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Clone)]
struct Inner {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since their directory was synced, in order.
    unsynced_names: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    /// Number of crashes; handles of an older one are dead.
    epoch: u64,
    random: u64,
    fail_sync_in: u64,
    fail_write_in: u64,
    capacity: Option<u64>,
    operations: u64,
    crash_in: Option<(u64, Crash)>,
    /// Crashed by itself; nothing works until somebody starts the process again.
    dead: bool,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    data: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Debug)]
struct SimFile {
    inner: Arc<Mutex<Inner>>,
    inode: u64,
    epoch: u64,
}

#[derive(Debug)]
struct SimLock {
    inner: Arc<Mutex<Inner>>,
    path: PathBuf,
    epoch: u64,
}

impl SimVfs {
    /// Returns an empty file system without a limit of size.
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            locks: BTreeSet::new(),
            epoch: 0,
            random: seed,
            fail_sync_in: 0,
            fail_write_in: 0,
            capacity: None,
            operations: 0,
            crash_in: None,
            dead: false,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Ends the process that uses the file system, and perhaps the power.
    pub fn crash(&self, how: Crash) {
        self.inner.lock().crash(how);
    }

    /// Crashes by itself in the `nth` write or sync from now on; 1 is the next. A write is then part of what may be
    /// torn. Nothing works until [`SimVfs::restart`].
    pub fn crash_in(&self, nth: u64, how: Crash) {
        self.inner.lock().crash_in = Some((nth, how));
    }

    /// Says whether the crash asked for with [`SimVfs::crash_in`] has happened.
    pub fn is_dead(&self) -> bool {
        self.inner.lock().dead
    }

    /// Lets a new process use what the crash left.
    pub fn restart(&self) {
        self.inner.lock().dead = false;
    }

    /// Returns what would be left after a crash now, as a file system of its own; this one goes on.
    pub fn crashed_copy(&self, seed: u64, how: Crash) -> Self {
        let mut inner = self.inner.lock().clone();
        inner.random = seed;
        inner.fail_sync_in = 0;
        inner.fail_write_in = 0;
        inner.crash_in = None;
        inner.crash(how);
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Makes the `nth` sync of a file from now on fail, once; 1 is the next.
    pub fn fail_sync(&self, nth: u64) {
        self.inner.lock().fail_sync_in = nth;
    }

    /// Makes the `nth` write from now on fail, once and half way; 1 is the next.
    pub fn fail_write(&self, nth: u64) {
        self.inner.lock().fail_write_in = nth;
    }

    /// Limits the sum of all file sizes; writes beyond fail with `StorageFull` after what fits.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.inner.lock().capacity = bytes;
    }

    /// Returns the sum of all file sizes.
    pub fn used_bytes(&self) -> u64 {
        self.inner.lock().used_bytes()
    }

    /// Returns how many writes and syncs there were, failed ones included.
    pub fn operations(&self) -> u64 {
        self.inner.lock().operations
    }

    /// Returns all files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        self.inner.lock().names.keys().cloned().collect()
    }

    /// Returns the bytes of a file; `None` if there is none.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.inner.lock();
        Some(inner.inodes.get(inner.names.get(path)?)?.data.clone())
    }

    /// Puts a file there, durable, replacing what was.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut inner = self.inner.lock();
        let number = inner.next_inode;
        inner.next_inode += 1;
        inner.inodes.insert(
            number,
            Inode {
                data: bytes.clone(),
                durable: bytes,
                dirty: BTreeSet::new(),
            },
        );
        inner.names.insert(path.to_owned(), number);
        inner.durable_names.insert(path.to_owned(), number);
    }

    /// Flips one bit of a file, on the disk and in memory; nothing happens beyond its end.
    pub fn flip_bit(&self, path: &Path, bit: u64) {
        let mut inner = self.inner.lock();
        let Some(inode) = inner.inode_of(path) else { return };
        for bytes in [&mut inode.data, &mut inode.durable] {
            if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Cuts a file, on the disk and in memory.
    pub fn cut(&self, path: &Path, len: u64) {
        let mut inner = self.inner.lock();
        let Some(inode) = inner.inode_of(path) else { return };
        inode.data.truncate(len as usize);
        inode.durable.truncate(len as usize);
    }
}

impl Inner {
    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead {
            Err(io::Error::other("the machine is down"))
        } else {
            Ok(())
        }
    }

    /// Counts a write or sync; an error when the machine went down in it.
    fn count(&mut self) -> io::Result<()> {
        self.operations += 1;
        if let Some((nth, how)) = &mut self.crash_in {
            *nth = nth.saturating_sub(1);
            if *nth == 0 {
                let how = *how;
                self.crash_in = None;
                self.crash(how);
                self.dead = true;
            }
        }
        self.alive()
    }

    fn used_bytes(&self) -> u64 {
        self.names
            .values()
            .filter_map(|number| self.inodes.get(number))
            .map(|inode| inode.data.len() as u64)
            .sum()
    }

    fn inode_of(&mut self, path: &Path) -> Option<&mut Inode> {
        let number = self.names.get(path)?;
        self.inodes.get_mut(number)
    }

    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link(path, inode) => {
                self.durable_names.insert(path.clone(), *inode);
            }
            NameChange::Unlink(path) => {
                self.durable_names.remove(path);
            }
            NameChange::Rename(from, to) => {
                if let Some(inode) = self.durable_names.remove(from) {
                    self.durable_names.insert(to.clone(), inode);
                }
            }
        }
    }

    fn crash(&mut self, how: Crash) {
        self.epoch += 1;
        self.locks.clear();
        let changes = std::mem::take(&mut self.unsynced_names);
        let kept = match how {
            Crash::DropUnsynced => 0,
            Crash::Torn => (self.random() % (changes.len() as u64 + 1)) as usize,
            Crash::KeepAll => changes.len(),
        };
        for change in &changes[..kept] {
            self.apply(change);
        }
        self.names = self.durable_names.clone();
        let alive: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|number, _| alive.contains(number));
        if how == Crash::KeepAll {
            // The page cache lives on, and so does what it has not written yet.
            return;
        }
        for number in alive {
            // How likely a sector is to survive is drawn for each file: all, none, and some are all worth seeing.
            let chance = self.random() % 5;
            let sectors = self
                .inodes
                .get(&number)
                .map(|inode| inode.dirty.clone())
                .unwrap_or_default();
            let survivors: Vec<u64> = sectors
                .into_iter()
                .filter(|_| how == Crash::Torn && self.random() % 4 < chance)
                .collect();
            if let Some(inode) = self.inodes.get_mut(&number) {
                inode.persist(survivors);
                inode.dirty.clear();
                inode.data = inode.durable.clone();
            }
        }
    }
}

impl Inode {
    /// Copies sectors from memory to the disk.
    fn persist(&mut self, sectors: impl IntoIterator<Item = u64>) {
        for sector in sectors {
            let from = (sector * SECTOR_BYTES) as usize;
            let to = (from + SECTOR_BYTES as usize).min(self.data.len());
            if self.durable.len() < to {
                self.durable.resize(to, 0);
            }
            self.durable[from..to].copy_from_slice(&self.data[from..to]);
        }
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        if self.data.len() < to {
            self.data.resize(to, 0);
        }
        self.data[from..to].copy_from_slice(bytes);
        self.dirty
            .extend(offset / SECTOR_BYTES..(to as u64).div_ceil(SECTOR_BYTES));
    }
}

impl Vfs for SimVfs {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn VfsLock>> {
        let mut inner = self.inner.lock();
        inner.alive()?;
        if !inner.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock {
            inner: Arc::clone(&self.inner),
            path: path.to_owned(),
            epoch: inner.epoch,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let inner = self.inner.lock();
        inner.alive()?;
        let inode = *inner.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile {
            inner: Arc::clone(&self.inner),
            inode,
            epoch: inner.epoch,
        }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let mut inner = self.inner.lock();
        inner.alive()?;
        if inner.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = inner.next_inode;
        inner.next_inode += 1;
        inner.inodes.insert(inode, Inode::default());
        inner.names.insert(path.to_owned(), inode);
        inner.unsynced_names.push(NameChange::Link(path.to_owned(), inode));
        Ok(Arc::new(SimFile {
            inner: Arc::clone(&self.inner),
            inode,
            epoch: inner.epoch,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.alive()?;
        let inode = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.insert(to.to_owned(), inode);
        inner
            .unsynced_names
            .push(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.alive()?;
        inner.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        inner.unsynced_names.push(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self
            .inner
            .lock()
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .cloned()
            .collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.alive()?;
        let (synced, rest) = std::mem::take(&mut inner.unsynced_names)
            .into_iter()
            .partition(|change| {
                let (NameChange::Link(path, _) | NameChange::Unlink(path) | NameChange::Rename(path, _)) = change;
                path.parent() == Some(dir)
            });
        inner.unsynced_names = rest;
        let synced: Vec<NameChange> = synced;
        for change in &synced {
            inner.apply(change);
        }
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let inner = self.inner.lock();
        inner.alive()?;
        Ok(inner
            .capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(inner.used_bytes())))
    }
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.inner.lock();
        inner.alive()?;
        if inner.epoch != self.epoch {
            return Err(io::Error::other("the process of this handle is dead"));
        }
        act(&mut inner)
    }
}

impl VfsFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|inner| Ok(inner.inodes.get(&self.inode).map_or(0, |inode| inode.data.len() as u64)))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|inner| {
            let Some(inode) = inner.inodes.get(&self.inode) else {
                return Ok(0);
            };
            let rest = inode.data.get(offset as usize..).unwrap_or_default();
            let filled = rest.len().min(buffer.len());
            buffer[..filled].copy_from_slice(&rest[..filled]);
            Ok(filled)
        })
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.with(|inner| {
            let total: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
            let mut allowed = total;
            let mut outcome = Ok(());
            if inner.fail_write_in > 0 {
                inner.fail_write_in -= 1;
                if inner.fail_write_in == 0 {
                    allowed = total / 2;
                    outcome = Err(io::Error::other("injected write error"));
                }
            }
            let len = inner.inodes.get(&self.inode).map_or(0, |inode| inode.data.len() as u64);
            if let Some(capacity) = inner.capacity {
                let free = capacity.saturating_sub(inner.used_bytes());
                let room = (len + free).saturating_sub(offset);
                if room < allowed {
                    allowed = room;
                    outcome = Err(io::ErrorKind::StorageFull.into());
                }
            }
            let Some(inode) = inner.inodes.get_mut(&self.inode) else {
                return outcome;
            };
            let mut at = offset;
            for slice in slices {
                let piece = (slice.len() as u64).min(offset + allowed - at);
                inode.write(&slice[..piece as usize], at);
                at += piece;
            }
            inner.count()?;
            outcome
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|inner| {
            inner.count()?;
            let fails = inner.fail_sync_in == 1;
            inner.fail_sync_in = inner.fail_sync_in.saturating_sub(1);
            let Some(inode) = inner.inodes.get_mut(&self.inode) else {
                return Ok(());
            };
            let dirty = std::mem::take(&mut inode.dirty);
            if fails {
                return Err(io::Error::other("injected sync error"));
            }
            inode.persist(dirty);
            Ok(())
        })
    }
}

impl VfsLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut inner = self.inner.lock();
        if inner.epoch == self.epoch {
            inner.locks.remove(&self.path);
        }
    }
}
