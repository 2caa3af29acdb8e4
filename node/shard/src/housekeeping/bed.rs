//! What the caretakers are tested on: a catalog, a store in memory, real small blocks, clocks that move when told to.

pub(crate) mod faults;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use block::{BlockStats, BlockWriter, Schema, StoreReader};
use model::proto::{write_bytes, write_fixed64};
use model::{BlockId, Clock, Generation, LogIndex, ManualClock, ShardId, SpanTable, TenantId, TraceId};
use object_store::path::Path;
use settings::{CompactionSettings, RetentionSettings};

use self::faults::{FaultyCatalog, FaultyStore};
use super::HousekeepingMetrics;
use crate::blocks::Blocks;
use crate::catalog::{
    BlockRecord, ByteRange, Catalog, CatalogView, Command, GroupKey, LogRange, ObjectId, ObjectRecord, RingTime,
};
use crate::collect::Collector;
use crate::compaction::{Compactor, CompactorOptions};
use crate::decoded_cache::DecodedCache;
use crate::flush::byte_range;
use crate::manifest::Folder;
use crate::port::{CatalogPort, LocalCatalog};
use crate::retention::{Brakes, Retention};
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::trace::{Places, whole_trace};
use crate::trace_index::Indexer;

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const HOUR: u64 = 3_600 * SECOND;
pub(crate) const DAY: u64 = 24 * HOUR;
/// The beginning of an hour.
pub(crate) const START: u64 = 472_222 * HOUR;

/// One span: trace, span id, start. It lasts a second.
pub(crate) type Span = (u8, u8, u64);

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

pub(crate) fn trace(n: u8) -> TraceId {
    TraceId([n; 16])
}

/// Names made by a test: version 7, by the ring's clock.
pub(crate) struct Names {
    catalog: Arc<FaultyCatalog>,
    count: AtomicU64,
}

impl Names {
    pub(crate) fn next(&self) -> BlockId {
        let random = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        BlockId::from_parts(self.catalog.now().unix_nanos / 1_000_000, u128::from(random))
    }
}

pub(crate) struct Bed {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) inner: Arc<FaultyStore>,
    pub(crate) store: Store,
    pub(crate) catalog: Arc<FaultyCatalog>,
    pub(crate) blocks: Arc<Blocks>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) names: Arc<Names>,
    pub(crate) metrics: Arc<HousekeepingMetrics>,
}

pub(crate) const GROUP: GroupKey = GroupKey {
    shard: ShardId(0),
    generation: Generation(1),
};

impl Bed {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let inner = Arc::new(FaultyStore::default());
        let store = Store::new(inner.clone(), Path::from("our/prefix"));
        let mut catalog = Catalog::new();
        catalog.open_group(GROUP);
        let now = RingTime {
            unix_nanos: START,
            is_trusted: true,
        };
        let catalog = Arc::new(FaultyCatalog::new(LocalCatalog::new(catalog, now)));
        let blocks = open_blocks(&inner, &store, &dir);
        let names = Names {
            catalog: Arc::clone(&catalog),
            count: AtomicU64::new(0),
        };
        Self {
            dir,
            inner,
            store,
            catalog,
            blocks,
            clock: Arc::new(ManualClock::at(START)),
            names: Arc::new(names),
            metrics: Arc::default(),
        }
    }

    /// Another catalog over the same store, at the same time.
    pub(crate) fn with(other: &Self, catalog: Catalog) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Arc::new(FaultyCatalog::new(LocalCatalog::new(catalog, other.catalog.now())));
        let names = Names {
            catalog: Arc::clone(&catalog),
            count: AtomicU64::new(1_000_000),
        };
        Self {
            inner: Arc::clone(&other.inner),
            store: other.store.clone(),
            blocks: open_blocks(&other.inner, &other.store, &dir),
            clock: Arc::new(ManualClock::at(other.now())),
            names: Arc::new(names),
            metrics: Arc::default(),
            catalog,
            dir,
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.catalog.now().unix_nanos
    }

    /// All clocks go on calmly.
    pub(crate) fn advance(&self, nanos: u64) {
        self.clock.advance(Duration::from_nanos(nanos));
        self.catalog.inner.set_now(RingTime {
            unix_nanos: self.now() + nanos,
            is_trusted: self.catalog.now().is_trusted,
        });
    }

    pub(crate) fn view(&self) -> Arc<CatalogView> {
        self.catalog.view()
    }

    /// Builds the block of one flush and uploads it; does not name it.
    pub(crate) async fn upload(&self, tenants: &[(&TenantId, &[Span])]) -> (ObjectRecord, Vec<BlockRecord>) {
        let tables: Vec<SpanTable> = tenants.iter().map(|(_, spans)| table(spans)).collect();
        let mut stats = BlockStats::default();
        tables.iter().for_each(|table| stats.add_table(table));
        let mut writer = BlockWriter::new(Vec::new(), Schema::choose(&stats)).unwrap();
        for ((tenant, _), table) in tenants.iter().zip(&tables) {
            writer.section(tenant, &[table]).unwrap();
        }
        let (bytes, summary) = writer.finish().unwrap();
        let object = ObjectId(self.names.next());
        let from = self.view().watermark(GROUP).unwrap();
        let range = LogRange {
            group: GROUP,
            from,
            to: LogIndex(from.0 + 1),
        };
        let key = Store::flushed_key(range, object);
        self.announce(object).await;
        self.store.upload(&key, bytes.into()).await.unwrap();
        let mut records = Vec::new();
        for (section, table) in summary.sections.iter().zip(&tables) {
            let (min_trace, max_trace) = section.traces.unwrap();
            let view = self.view();
            let split = self
                .blocks
                .split_traces(&view, &section.tenant, table.traces(), &section.split_traces);
            records.push(BlockRecord {
                id: self.names.next(),
                tenant: section.tenant.clone(),
                object,
                row_groups: section.row_groups.clone(),
                bloom: byte_range(&section.bloom),
                index: byte_range(&section.index),
                bytes: section.data.end - section.data.start,
                spans: section.totals.spans,
                traces: section.totals.traces,
                min_unix_nanos: section.totals.min_start,
                max_unix_nanos: section.totals.max_end,
                min_trace,
                max_trace,
                level: 0,
                split_traces: split.await.unwrap(),
                source: None,
                created_unix_nanos: 0,
            });
        }
        let record = ObjectRecord {
            id: object,
            path: Arc::from(key),
            bytes: summary.bytes,
            footer: ByteRange::default(),
            checksum: 0,
            etag: None,
        };
        (record, records)
    }

    /// Says that an object is going to be uploaded.
    pub(crate) async fn announce(&self, object: ObjectId) {
        self.catalog.inner.change(Command::Announce { object }).await.unwrap();
        self.catalog.note();
    }

    /// Names what was uploaded.
    pub(crate) async fn name(&self, uploaded: (ObjectRecord, Vec<BlockRecord>)) -> crate::Result<Vec<BlockId>> {
        let ids = uploaded.1.iter().map(|record| record.id).collect();
        let from = self.view().watermark(GROUP).unwrap();
        let command = Command::AddBlock {
            group: GROUP,
            from,
            to: LogIndex(from.0 + 1),
            object: Some(uploaded.0),
            records: uploaded.1,
        };
        self.catalog.inner.change(command).await?;
        self.catalog.note();
        Ok(ids)
    }

    /// One flush, from spans to catalog.
    pub(crate) async fn flush(&self, tenants: &[(&TenantId, &[Span])]) -> Vec<BlockId> {
        self.name(self.upload(tenants).await).await.unwrap()
    }

    /// The first 32 traces of a tenant as a query would bring it together: its spans as OTLP, sorted.
    pub(crate) async fn traces(&self, tenant: &TenantId) -> BTreeMap<TraceId, Vec<Vec<u8>>> {
        let snapshot = Snapshot::take(&*self.catalog, &[], tenant).await.unwrap();
        let mut found = BTreeMap::new();
        for n in 0..32 {
            let whole = whole_trace(&snapshot, &self.blocks, trace(n), Places::ALL, u64::MAX).await;
            assert_eq!(whole.missing, Vec::<String>::new());
            let rows = 0..whole.spans.trace().len() as u32;
            let mut spans: Vec<Vec<u8>> = rows
                .map(|row| {
                    let mut span = Vec::new();
                    whole.spans.write_span(row, &mut span);
                    span
                })
                .collect();
            spans.sort();
            if !spans.is_empty() {
                found.insert(trace(n), spans);
            }
        }
        found
    }

    /// Keys of all objects, in order.
    pub(crate) fn objects(&self) -> Vec<String> {
        self.inner.keys()
    }

    /// Forgets which blocks were opened, as a restart does.
    pub(crate) fn close_blocks(&mut self) {
        self.blocks = open_blocks(&self.inner, &self.store, &self.dir);
    }

    pub(crate) fn compactor(&self, settings: CompactionSettings, scratch: &str) -> Compactor {
        let names = Arc::clone(&self.names);
        Compactor::new(CompactorOptions {
            settings,
            scratch_dir: self.dir.path().join(scratch),
            store: self.store.clone(),
            catalog: self.catalog.clone(),
            blocks: Arc::clone(&self.blocks),
            new_block_id: Arc::new(move || names.next()),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
        })
        .unwrap()
    }

    pub(crate) fn indexer(&self) -> Indexer {
        let names = Arc::clone(&self.names);
        Indexer {
            store: self.store.clone(),
            catalog: self.catalog.clone(),
            blocks: Arc::clone(&self.blocks),
            new_block_id: Arc::new(move || names.next()),
            metrics: Arc::clone(&self.metrics),
            damaged: Arc::default(),
        }
    }

    pub(crate) fn brakes(&self) -> Arc<Brakes> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let brakes = Brakes::new(clock, RetentionSettings::default().clock_jump_max.duration());
        brakes.surveyed(0);
        Arc::new(brakes)
    }

    pub(crate) fn retention(&self) -> Retention {
        Retention {
            settings: RetentionSettings::default(),
            store: self.store.clone(),
            catalog: self.catalog.clone(),
            brakes: self.brakes(),
            is_dropped: Arc::new(|_| true),
            metrics: Arc::clone(&self.metrics),
        }
    }

    pub(crate) fn folder(&self) -> Folder {
        Folder {
            store: self.store.clone(),
            catalog: self.catalog.clone(),
            cluster: 7,
            metrics: Arc::clone(&self.metrics),
            copy: Arc::default(),
        }
    }

    pub(crate) fn collector(&self) -> Collector {
        Collector {
            settings: RetentionSettings::default(),
            store: self.store.clone(),
            catalog: self.catalog.clone(),
            brakes: self.brakes(),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

fn open_blocks(inner: &Arc<FaultyStore>, store: &Store, dir: &tempfile::TempDir) -> Arc<Blocks> {
    let reader = Arc::new(StoreReader::new(inner.clone()));
    Arc::new(
        Blocks::new(
            store.clone(),
            reader,
            Arc::new(DecodedCache::new(64 << 20)),
            dir.path(),
            64 << 20,
        )
        .unwrap(),
    )
}

fn table(spans: &[Span]) -> SpanTable {
    let mut table = SpanTable::new();
    let resource = table.intern_resource(None, b"");
    let scope = table.intern_scope(None, b"");
    for (trace, id, start) in spans {
        let mut span = Vec::new();
        write_bytes(&mut span, 1, &[*trace; 16]);
        write_bytes(&mut span, 2, &[*id; 8]);
        write_bytes(&mut span, 5, b"work");
        write_fixed64(&mut span, 7, *start);
        write_fixed64(&mut span, 8, start + SECOND);
        table.append(resource, scope, &span).unwrap();
    }
    table
}
