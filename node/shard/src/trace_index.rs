//! One index of trace ids over many merged blocks of a tenant, made on demand.
//!
//! With it a lookup reads one small page instead of asking the filter of every block. It is only an index: losing it
//! costs time and never an answer, and whoever finds a trace through it still asks the catalog whether the block is there.
//!
//! Nobody names these objects yet. The catalog has no record for them, so a lookup cannot find one by itself, and
//! [`crate::collect`] takes them for orphans after their time. Whoever wants them used writes one again before that, or
//! gives the catalog a record.

use std::sync::Arc;

use block::tindex::{BLOCKS_MAX, ENTRIES_MAX, TraceIndexWriter};
use block::{RangeReader, SectionLocation};
use bytes::Bytes;
use model::{BlockId, TenantId};

pub use block::tindex::{IndexedBlock, Place, TraceIndex};

use crate::blocks::Blocks;
use crate::catalog::{BlockRecord, CatalogView};
use crate::error::Result;
use crate::store::Store;

/// An index in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenIndex {
    /// Its key, relative to the cluster's prefix.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// Which blocks it covers. Those of the tenant that are not here have to be asked one by one.
    pub blocks: Vec<BlockId>,
}

/// The merged blocks that one index holds: the largest first, as each saves one question.
pub fn coverable(view: &CatalogView, tenant: &TenantId) -> Vec<Arc<BlockRecord>> {
    let mut merged: Vec<_> = view.blocks_of(tenant).filter(|record| record.level > 0).collect();
    merged.sort_unstable_by_key(|record| (std::cmp::Reverse(record.traces), record.id));
    let mut room = ENTRIES_MAX as u64;
    let mut covered = Vec::new();
    for record in merged {
        // A trace that was cut stands in several row groups, once in each.
        let entries = record.traces + u64::from(record.row_groups.end - record.row_groups.start);
        if covered.len() < BLOCKS_MAX && entries <= room {
            room -= entries;
            covered.push(Arc::clone(record));
        }
    }
    covered
}

/// Writes an index named `id` of these blocks of one tenant, about 6 bytes per trace. Holds 16 bytes per trace in memory.
pub async fn write(
    store: &Store,
    blocks: &Blocks,
    view: &CatalogView,
    tenant: &TenantId,
    covered: &[Arc<BlockRecord>],
    id: BlockId,
) -> Result<WrittenIndex> {
    let mut writer = TraceIndexWriter::new(tenant);
    for record in covered {
        let open = blocks.open(view, record).await?;
        let location = SectionLocation {
            index: record.index.offset..record.index.offset + record.index.length,
            bloom: record.bloom.offset..record.bloom.offset + record.bloom.length,
        };
        writer.add(open.block(), &location).await?;
    }
    let body = tokio::task::spawn_blocking(move || writer.finish());
    let body = Bytes::from(body.await.expect("writing an index does not panic")?);
    let key = Store::trace_index_key(tenant, id);
    let bytes = body.len() as u64;
    store.upload(&key, body).await?;
    Ok(WrittenIndex {
        key,
        bytes,
        blocks: covered.iter().map(|record| record.id).collect(),
    })
}

/// Opens a written index.
pub async fn open(
    store: &Store,
    reader: Arc<dyn RangeReader>,
    tenant: &TenantId,
    written: &WrittenIndex,
) -> Result<TraceIndex> {
    let path = store.path(&written.key);
    Ok(TraceIndex::open(reader, path.as_ref(), written.bytes, tenant).await?)
}

#[cfg(test)]
mod tests;
