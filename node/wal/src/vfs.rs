//! The few file operations the log needs, so that a test can take the power away between any two of them.
//!
//! Two implementations: [`crate::RealVfs`] and [`crate::SimVfs`]. What always holds for a caller: bytes are durable
//! only after [`VfsFile::sync_data`], names only after [`Vfs::sync_dir`].

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file system.
pub trait Vfs: Debug + Send + Sync {
    /// Creates `dir` and its parents, durably; fine if it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the lock file at `path`, and the folder it is in, for as long as the returned guard lives.
    ///
    /// Errors: `WouldBlock` when someone else holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn VfsLock>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>>;
    /// Creates a file that must not exist yet.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>>;
    /// Renames within one directory, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns the files of `dir` (not its directories), sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Returns how many bytes could still be written below `dir`; an estimate.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file; it stays usable when renamed.
pub trait VfsFile: Debug + Send + Sync {
    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Says whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buffer` from `offset` and returns how much there was: less than asked only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `slices`, one after the other, from `offset`.
    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes everything written so far durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Gives up what is durable and only cached, so that the next read asks the disk; best effort.
    fn forget_cached(&self) {}
}

/// Holds a lock file until dropped.
pub trait VfsLock: Debug + Send + Sync {}
