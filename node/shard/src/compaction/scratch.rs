//! The file a merge writes before it is uploaded. It goes with its owner; what a crash leaves goes at the next start.

use std::fs::{self, File};
use std::hash::Hasher as _;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use model::BlockId;
use twox_hash::XxHash3_64;

use crate::error::{Error, Result};
use crate::private;
use crate::spool::Hashed;

/// Bytes gathered before they are written to the file.
const BUFFER_BYTES: usize = 1 << 20;

pub(super) type Sink = Hashed<BufWriter<File>>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct ScratchFile {
    path: PathBuf,
}

impl ScratchFile {
    /// A new file for an object, and where to write it.
    pub(super) fn create(dir: &Path, object: BlockId) -> Result<(Self, Sink)> {
        let scratch = Self {
            path: dir.join(format!("{object}.parquet")),
        };
        let file = private::new_file(&scratch.path).map_err(|source| scratch.error(source))?;
        let sink = Hashed {
            inner: BufWriter::with_capacity(BUFFER_BYTES, file),
            hash: XxHash3_64::new(),
        };
        Ok((scratch, sink))
    }

    /// Writes out what is buffered. Answers the xxh3-64 of all bytes.
    pub(super) fn finish(&self, mut sink: Sink) -> Result<u64> {
        sink.inner.flush().map_err(|source| self.error(source))?;
        Ok(sink.hash.finish())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Spool {
            path: self.path.clone(),
            source,
        }
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a scratch file; it is removed at the next start");
        }
    }
}
