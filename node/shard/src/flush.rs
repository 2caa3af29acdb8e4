//! From spool to bucket to catalog: the steps of a flush after the block is built.
//!
//! ```text
//! 1 cut, build        owner::Shard::build_cut      a crash leaves nothing
//! 2 Announce          the ring                     a crash leaves an announcement: withdrawn later
//! 3 upload, verify    Flusher::flush_oldest        a crash leaves an object nobody names: collected later
//! 4 AddBlock          the ring                     agreed or not; a lost reply is looked up in the catalog
//! 5 forget            the tail, then the log       only space
//! ```
//! One flush of a shard at a time, oldest first: the catalog takes ranges only in order.

use std::sync::Arc;

use model::LogIndex;
use plants::Plant;

use crate::blocks::Blocks;
use crate::catalog::{BlockRecord, ByteRange, Command, LogRange, ObjectId, ObjectRecord, Refusal};
use crate::error::{Error, Result};
use crate::owner::{CutOutcome, Shard};
use crate::port::CatalogPort;
use crate::spool::SpooledBlock;
use crate::store::Store;

/// Uploads what one shard has built.
#[derive(Clone)]
pub struct Flusher {
    /// The shard.
    pub shard: Arc<Shard>,
    /// Where blocks go.
    pub store: Store,
    /// Who must name them.
    pub catalog: Arc<dyn CatalogPort>,
    /// Blocks that exist, to find traces that are in several.
    pub blocks: Arc<Blocks>,
    /// Makes block ids.
    pub new_block_id: Arc<dyn Fn() -> model::BlockId + Send + Sync>,
}

impl std::fmt::Debug for Flusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flusher")
            .field("group", &self.shard.group())
            .finish_non_exhaustive()
    }
}

impl Flusher {
    /// Cuts what is live and builds its block, off the async runtime. Says whether there was anything. A range without
    /// spans is covered at once, unless blocks before it wait for their upload: then the next cut takes it in.
    pub async fn cut(&self) -> Result<bool> {
        let shard = Arc::clone(&self.shard);
        let outcome = tokio::task::spawn_blocking(move || shard.build_cut());
        match outcome.await.expect("building a block does not panic")? {
            CutOutcome::Nothing => Ok(false),
            CutOutcome::Built(_) => Ok(true),
            CutOutcome::Empty(range) => {
                if self.shard.head().spooled_blocks() == 0 {
                    self.add(range, None, Vec::new()).await?;
                }
                Ok(true)
            }
        }
    }

    /// Up to where the catalog covers the log, if the log does not know yet: it is to be told, and to forget that part.
    pub fn unforgotten(&self) -> Option<LogIndex> {
        let covered = match self.shard.head().oldest_spooled() {
            Some(block) if plants::is(Plant::PurgeBeforeCatalog) => block.range().to,
            _ => self.catalog.view().watermark(self.shard.group())?,
        };
        (covered > self.shard.flushed()).then_some(covered)
    }

    /// Uploads the oldest spooled block and has it named. Returns how far the catalog covers the log now; `None` when
    /// nothing was waiting.
    ///
    /// Errors leave everything as it was, except perhaps for an object nobody names; call again.
    /// Cancel: the same.
    pub async fn flush_oldest(&self) -> Result<Option<LogIndex>> {
        let Some(block) = self.shard.head().oldest_spooled() else {
            return Ok(None);
        };
        let range = block.range();
        if let Some(watermark) = self.catalog.view().watermark(range.group)
            && watermark >= range.to
        {
            // An earlier try got through although its reply did not.
            self.shard.covered_to(watermark);
            return Ok(Some(watermark));
        }
        let id = self.announce(&block).await?;
        let key = Store::flushed_key(range, id);
        let bytes = block.summary().bytes;
        let etag = self.store.upload_file(&key, block.path(), bytes).await?;
        let object = ObjectRecord {
            id,
            path: Arc::from(key),
            bytes,
            // The footer follows the last index section to the end of the object.
            footer: footer_range(&block),
            checksum: block.checksum(),
            etag,
        };
        let records = self.records(&block, id).await?;
        self.add(range, Some(object), records).await?;
        Ok(Some(range.to))
    }

    /// Covers the end of a sealed log that holds no spans any more, up to `last`. Does nothing while a block waits.
    pub async fn cover_rest(&self, last: LogIndex) -> Result<()> {
        let group = self.shard.group();
        let from = self.catalog.view().watermark(group).unwrap_or(last);
        if from >= last || self.shard.head().spooled_blocks() > 0 || self.shard.head().spans() > 0 {
            return Ok(());
        }
        let to = last;
        self.add(LogRange { group, from, to }, None, Vec::new()).await
    }

    /// Says under which name the block is going to be uploaded. One that waited for half a day needs another: the catalog
    /// would not take it under the one it has.
    async fn announce(&self, block: &SpooledBlock) -> Result<ObjectId> {
        let object = block.object();
        match self.catalog.change(Command::Announce { object }).await {
            Err(Error::Refused(Refusal::NameTooOld { .. })) => {}
            announced => return announced.map(|_| object),
        }
        let object = ObjectId((self.new_block_id)());
        self.catalog.change(Command::Announce { object }).await?;
        block.rename(object);
        Ok(object)
    }

    async fn records(&self, block: &SpooledBlock, object: ObjectId) -> Result<Vec<BlockRecord>> {
        let view = self.catalog.view();
        let mut records = Vec::new();
        for (position, section) in block.summary().sections.iter().enumerate() {
            let Some((min_trace, max_trace)) = section.traces else {
                continue;
            };
            let split_traces = self
                .blocks
                .split_traces(&view, &section.tenant, block.traces(position), &section.split_traces)
                .await?;
            records.push(BlockRecord {
                id: (self.new_block_id)(),
                tenant: section.tenant.clone(),
                object,
                row_groups: section.row_groups.clone(),
                bloom: byte_range(&section.bloom),
                index: byte_range(&section.index),
                bytes: section.data.end - section.data.start,
                spans: section.totals.spans,
                traces: section.totals.traces,
                min_unix_nanos: section.totals.min_start,
                max_unix_nanos: section.totals.max_end.max(section.totals.max_start),
                min_trace,
                max_trace,
                level: 0,
                split_traces,
                source: None,
                created_unix_nanos: 0,
            });
        }
        Ok(records)
    }

    async fn add(&self, range: LogRange, object: Option<ObjectRecord>, records: Vec<BlockRecord>) -> Result<()> {
        let command = Command::AddBlock {
            group: range.group,
            from: range.from,
            to: range.to,
            object,
            records,
        };
        let outcome = self.catalog.change(command).await;
        let covered = self.catalog.view().watermark(range.group).unwrap_or_default();
        if covered >= range.to || plants::is(Plant::FlushUnconfirmed) {
            self.shard.covered_to(covered.max(range.to));
            return Ok(());
        }
        // Agreed, but not seen yet: the port promises that its view shows what it agreed on.
        outcome.and_then(|_| Err(Error::Ring("an agreed change is not visible".to_owned())))
    }
}

pub(crate) fn byte_range(range: &std::ops::Range<u64>) -> ByteRange {
    ByteRange {
        offset: range.start,
        length: range.end - range.start,
    }
}

fn footer_range(block: &SpooledBlock) -> ByteRange {
    let summary = block.summary();
    let offset = summary
        .sections
        .iter()
        .map(|section| section.index.end)
        .max()
        .unwrap_or(0);
    ByteRange {
        offset,
        length: summary.bytes - offset,
    }
}
