//! What the node behind the doors shows on `/metrics`: read from its rooms when somebody asks, never kept twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use shard::blocks::Blocks;
use shard::column_cache::ColumnCache;
use shard::decoded_cache::DecodedCache;
use shard::disk_cache::DiskCache;
use shard::housekeeping::HousekeepingMetrics;
use shard::port::CatalogPort;
use shard::reads::WatchedReader;
use wal::Wal;

use super::scrub::DamagedLog;
use super::shards::Shards;

/// See the module's documentation.
pub(super) struct Gauges {
    pub(super) shards: Arc<Shards>,
    pub(super) catalog: Arc<dyn CatalogPort>,
    pub(super) blocks: Arc<Blocks>,
    pub(super) reads: Arc<WatchedReader>,
    pub(super) columns: Arc<ColumnCache>,
    pub(super) decoded: Arc<DecodedCache>,
    /// None where the store is on this node's disk.
    pub(super) on_disk: Option<Arc<DiskCache>>,
    pub(super) wal: Wal,
    pub(super) damaged_log: Arc<DamagedLog>,
    pub(super) housekeeping: Arc<HousekeepingMetrics>,
}

impl std::fmt::Debug for Gauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gauges").finish_non_exhaustive()
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let live = self.shards.live();
        let heads = || live.iter().map(|shard| shard.head());
        let sum = |values: &mut dyn Iterator<Item = usize>| values.sum::<usize>() as u64;
        let view = self.catalog.view();
        let usage = self.wal.usage();
        let gauges = [
            (
                "live_spans",
                "Spans in memory, not in a block yet",
                sum(&mut heads().map(|head| head.spans())),
            ),
            (
                "live_bytes",
                "Heap bytes of live spans",
                sum(&mut heads().map(|head| head.heap_bytes())),
            ),
            (
                "spooled_blocks",
                "Blocks built and waiting for their upload",
                sum(&mut heads().map(|head| head.spooled_blocks())),
            ),
            ("blocks", "Blocks the catalog names", view.block_count() as u64),
            (
                "trace_indexes",
                "Merged trace-id indexes the catalog names",
                view.trace_index_count() as u64,
            ),
            (
                "object_store_away",
                "1 while the object store does not answer and reads fail at once",
                self.reads.is_away().into(),
            ),
            (
                "tenants_with_blocks",
                "Tenants that have blocks",
                view.tenants().count() as u64,
            ),
            (
                "objects_to_delete",
                "Objects that wait for their deletion",
                view.pending().count() as u64,
            ),
            ("catalog_revision", "Changes of the block catalog", view.revision()),
            (
                "block_cache_bytes",
                "Indexes and filters of blocks in memory",
                self.blocks.cached_bytes(),
            ),
            (
                "column_cache_bytes",
                "Columns of blocks in memory",
                self.columns.kept_bytes(),
            ),
            (
                "decoded_cache_bytes",
                "Decoded columns of blocks in memory",
                self.decoded.kept_bytes(),
            ),
            (
                "read_cache_bytes",
                "Parts of blocks on this node's disk",
                self.on_disk.as_ref().map_or(0, |cache| cache.kept_bytes()),
            ),
            ("wal_used_bytes", "Bytes of the log that are in use", usage.used),
            ("wal_quota_bytes", "Bytes the log may use", usage.quota),
            (
                "wal_disk_full",
                "1 while the disk has no room for another log segment",
                usage.disk_full.into(),
            ),
            (
                "wal_damaged_places",
                "Places of the log whose bytes on disk are not what was written, by the last pass over it",
                self.damaged_log.places() as u64,
            ),
        ];
        for (name, help, value) in gauges {
            gauge(&mut encoder, name, help, value)?;
        }
        let house = &self.housekeeping;
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let states = [
            (
                "compaction_outstanding_blocks",
                "Blocks that merges should take now",
                load(&house.outstanding_blocks),
            ),
            (
                "retention_blocks_left",
                "Blocks past their time left to the next run",
                load(&house.expired_blocks_left),
            ),
            (
                "retention_held",
                "1 while a brake keeps anything from being deleted by age",
                load(&house.is_held),
            ),
            (
                "foreign_objects",
                "Objects below our prefix that are not ours",
                load(&house.foreign_objects),
            ),
            (
                "unknown_objects",
                "Objects of ours that the catalog has never heard of; while there are any, nothing is deleted from the store",
                load(&house.unknown_objects),
            ),
            (
                "lost_objects",
                "Objects that the catalog names and that are not in the store",
                load(&house.lost_objects),
            ),
        ];
        for (name, help, value) in states {
            gauge(&mut encoder, name, help, value)?;
        }
        let counters = [
            (
                "compaction_merges",
                "Merges whose result the catalog took",
                load(&house.merges_done),
            ),
            (
                "compaction_merges_lost",
                "Merges that came too late",
                load(&house.merges_lost),
            ),
            (
                "compaction_merges_failed",
                "Merges that failed and are tried again",
                load(&house.merges_failed),
            ),
            (
                "compaction_blocks_in",
                "Blocks that merges replaced",
                load(&house.merged_blocks_in),
            ),
            (
                "compaction_blocks_out",
                "Blocks that merges made",
                load(&house.merged_blocks_out),
            ),
            (
                "compaction_bytes_in",
                "Bytes that merges read",
                load(&house.merged_bytes_in),
            ),
            (
                "compaction_bytes_out",
                "Bytes that merges wrote",
                load(&house.merged_bytes_out),
            ),
            (
                "retention_blocks",
                "Blocks that left the catalog because of their age",
                load(&house.blocks_expired),
            ),
            (
                "retention_runs_held",
                "Runs that a brake kept from deleting",
                load(&house.runs_held),
            ),
            (
                "objects_deleted",
                "Objects without blocks deleted from the store",
                load(&house.objects_deleted),
            ),
            (
                "orphans_deleted",
                "Objects nobody named deleted from the store",
                load(&house.orphans_deleted),
            ),
            (
                "catalog_folds",
                "Times the catalog was written into the object store",
                load(&house.catalogs_folded),
            ),
            (
                "housekeeping_runs_failed",
                "Runs of retention, collection, indexing or folding that stopped at an error",
                load(&house.runs_failed),
            ),
            (
                "trace_indexes_written",
                "Merged trace-id indexes made",
                load(&house.trace_indexes_written),
            ),
            (
                "blocks_unlistable",
                "Times a flush took a damaged block for one that may hold any trace",
                self.blocks.unlistable(),
            ),
            (
                "column_cache_hits",
                "Ranges of blocks that were in memory",
                self.columns.tally().hits(),
            ),
            (
                "column_cache_misses",
                "Ranges of blocks that were not",
                self.columns.tally().misses(),
            ),
            (
                "decoded_cache_hits",
                "Columns of row groups that were decoded before",
                self.decoded.hits(),
            ),
            (
                "decoded_cache_misses",
                "Columns of row groups that had to be decoded",
                self.decoded.misses(),
            ),
            (
                "read_cache_hits",
                "Ranges of blocks that were on this node's disk",
                self.on_disk.as_ref().map_or(0, |cache| cache.tally().hits()),
            ),
            (
                "read_cache_misses",
                "Ranges of blocks that had to be fetched from the store",
                self.on_disk.as_ref().map_or(0, |cache| cache.tally().misses()),
            ),
            (
                "store_reads",
                "Ranges of blocks and indexes read from the object store, a request each",
                self.reads.ranges(),
            ),
            ("store_read_bytes", "Bytes of them", self.reads.bytes()),
            (
                "block_reads_again",
                "Reads of blocks made again because bytes did not match their checksums",
                self.reads.looked_again(),
            ),
            (
                "block_reads_damaged",
                "Reads of blocks whose bytes did not match their checksums twice",
                self.reads.damaged_count(),
            ),
            (
                "block_reads_refused",
                "Reads of blocks that failed at once because the object store does not answer",
                self.reads.refused(),
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}
