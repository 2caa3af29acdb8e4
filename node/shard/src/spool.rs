//! The spool: blocks built but not yet uploaded, as files beside the log.
//!
//! Every cut passes through here. A block is built straight into a file, so that building holds no second copy of it in
//! memory, and live memory is free as soon as the file stands, however long the object store is away.
//!
//! The spool is a cache of the log and not a store: files are not synced, the directory is emptied at every start, and the
//! log keeps a range until the catalog names the uploaded block.

use std::fs;
use std::hash::Hasher as _;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::{BlockStats, BlockSummary, BlockWriter, Schema};
use model::{BlockId, TenantId, TraceId};
use parking_lot::Mutex;
use twox_hash::XxHash3_64;

use crate::catalog::{LogRange, ObjectId};
use crate::error::{Error, Result};
use crate::head::Cut;
use crate::private;

/// Bytes gathered before they are written to the file.
const BUFFER_BYTES: usize = 1 << 20;

/// One built block, on local disk. The file goes with the last reader.
#[derive(Debug)]
pub struct SpooledBlock {
    range: LogRange,
    object: Mutex<ObjectId>,
    path: PathBuf,
    summary: BlockSummary,
    checksum: u64,
    /// Per section: its trace ids, sorted, so that later blocks and live tables can be checked for pieces of them.
    traces: Vec<Arc<[TraceId]>>,
}

impl SpooledBlock {
    /// The part of the log it holds.
    pub fn range(&self) -> LogRange {
        self.range
    }

    /// Under which id it will be uploaded.
    pub fn object(&self) -> ObjectId {
        *self.object.lock()
    }

    /// Has it uploaded under another id: the catalog takes no name that is half a day old.
    pub(crate) fn rename(&self, object: ObjectId) {
        *self.object.lock() = object;
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where everything is in the file.
    pub fn summary(&self) -> &BlockSummary {
        &self.summary
    }

    /// xxh3-64 of the file.
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// Position of the tenant's section.
    pub fn section_of(&self, tenant: &TenantId) -> Option<usize> {
        self.summary
            .sections
            .iter()
            .position(|section| section.tenant == *tenant)
    }

    /// Whether it has spans of the tenant.
    pub fn holds(&self, tenant: &TenantId) -> bool {
        self.section_of(tenant).is_some()
    }

    /// The trace ids of a section, sorted.
    pub fn traces(&self, section: usize) -> &[TraceId] {
        self.traces.get(section).map_or(&[], |traces| &traces[..])
    }

    /// Whether a trace of the tenant is in it.
    pub fn holds_trace(&self, tenant: &TenantId, trace: &TraceId) -> bool {
        self.section_of(tenant)
            .is_some_and(|section| self.traces(section).binary_search(trace).is_ok())
    }
}

impl Drop for SpooledBlock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a spooled block; it is removed at the next start");
        }
    }
}

/// Empties the spool: whatever is in it, the log has too.
pub fn clear(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    private::folder(dir)
}

/// Builds the block of a cut that holds spans. CPU-bound, about 2 µs per span; blocks the thread.
pub fn build(dir: &Path, group: crate::catalog::GroupKey, cut: &Cut, object: BlockId) -> Result<SpooledBlock> {
    let range = LogRange {
        group,
        from: cut.from,
        to: cut.to,
    };
    let path = dir.join(format!("{group}-{}-{}-{object}.parquet", cut.from, cut.to));
    build_file(&path, cut)
        .map(|(summary, checksum, traces)| SpooledBlock {
            range,
            object: Mutex::new(ObjectId(object)),
            path: path.clone(),
            summary,
            checksum,
            traces,
        })
        .inspect_err(|_| {
            // Half a block is of no use to anybody; the cut is built again.
            let _ = fs::remove_file(&path);
        })
}

type Built = (BlockSummary, u64, Vec<Arc<[TraceId]>>);

fn build_file(path: &Path, cut: &Cut) -> Result<Built> {
    let spool = |source| Error::Spool {
        path: path.to_owned(),
        source,
    };
    let file = private::new_file(path).map_err(spool)?;
    let mut stats = BlockStats::default();
    for (_, chunks) in &cut.tenants {
        for chunk in chunks {
            stats.add_table(&chunk.table());
        }
    }
    let sink = Hashed {
        inner: BufWriter::with_capacity(BUFFER_BYTES, file),
        hash: XxHash3_64::new(),
    };
    let mut writer = BlockWriter::new(sink, Schema::choose(&stats))?;
    let mut traces = Vec::with_capacity(cut.tenants.len());
    for (tenant, chunks) in &cut.tenants {
        let guards: Vec<_> = chunks.iter().map(|chunk| chunk.table()).collect();
        let tables: Vec<_> = guards.iter().map(|guard| &**guard).collect();
        writer.section(tenant, &tables)?;
        let mut ids: Vec<TraceId> = tables.iter().flat_map(|table| table.traces().iter().copied()).collect();
        ids.sort_unstable();
        ids.dedup();
        traces.push(Arc::from(ids));
    }
    let (mut sink, summary) = writer.finish()?;
    sink.inner.flush().map_err(spool)?;
    Ok((summary, sink.hash.finish(), traces))
}

/// Hashes what passes through.
pub(crate) struct Hashed<W> {
    pub(crate) inner: W,
    pub(crate) hash: XxHash3_64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.write(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
