//! One shard with its catalog and object store, all in this process.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{JoiningReader, StoreReader};
use bytes::Bytes;
use model::{BlockId, Generation, LogIndex, ManualClock, ShardId, TenantId};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use query::answer::TraceMatch;
use query::budget::Budget;
use query::metrics::{Intervals, MetricsPlan, MetricsRequest, SeriesSet};
use query::source::TimeRange;
use query::{SearchPlan, SearchRequest};
use shard::blocks::Blocks;
use shard::catalog::{BlockRecord, Catalog, Command, GroupKey, ObjectId, RingTime, SplitTraces};
use shard::command::ShardCommand;
use shard::crew::Means;
use shard::decoded_cache::DecodedCache;
use shard::flush::Flusher;
use shard::measure::{MetricsAnswer, measure};
use shard::owner::{Appended, Shard, ShardOptions};
use shard::port::{CatalogPort, LocalCatalog};
use shard::search::{SearchAnswer, SearchOnlooker, search};
use shard::snapshot::Snapshot;
use shard::store::Store;
use shard::trace::{Places, whole_trace};
use shard::turns::Turns;
use wire::frame::{BatchHash, EntryBuilder};
use wire::ingest::{IngestLimits, scan};

pub(crate) const NOW: u64 = 1_700_000_000_000_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;

pub(crate) fn group() -> GroupKey {
    GroupKey {
        shard: ShardId(0),
        generation: Generation(1),
    }
}

/// Version 7 ids that ascend.
pub(crate) fn ids() -> Arc<dyn Fn() -> BlockId + Send + Sync> {
    let next = AtomicU64::new(1);
    Arc::new(move || BlockId::from_parts(NOW / 1_000_000, u128::from(next.fetch_add(1, Ordering::Relaxed))))
}

pub(crate) struct World {
    pub(crate) shard: Arc<Shard>,
    pub(crate) flusher: Flusher,
    pub(crate) catalog: Arc<LocalCatalog>,
    pub(crate) blocks: Arc<Blocks>,
    pub(crate) tenant: TenantId,
    log: Vec<Bytes>,
    dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::over(Arc::new(InMemory::new()))
    }

    pub(crate) fn over(store: Arc<dyn ObjectStore>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spool_dir = dir.path().join("spool");
        shard::spool::clear(&spool_dir).unwrap();
        let mut catalog = Catalog::new();
        catalog.open_group(group());
        let catalog = Arc::new(LocalCatalog::new(
            catalog,
            RingTime {
                unix_nanos: NOW,
                is_trusted: true,
            },
        ));
        let new_block_id = ids();
        let options = ShardOptions {
            spool_dir: spool_dir.clone(),
            live_bytes_max: usize::MAX,
            clock: Arc::new(ManualClock::at(NOW)),
            new_block_id: Arc::clone(&new_block_id),
            wait_for_disk: Arc::new(|| panic!("nobody waits here")),
        };
        let shard = Arc::new(Shard::starting_after(group(), LogIndex(0), options));
        let store = Store::new(store, Path::from("cluster"));
        let blocks = open_blocks(&store, &spool_dir);
        let flusher = Flusher {
            shard: Arc::clone(&shard),
            store,
            catalog: Arc::clone(&catalog) as _,
            blocks: Arc::clone(&blocks),
            new_block_id,
        };
        Self {
            shard,
            flusher,
            catalog,
            blocks,
            tenant: TenantId::single(),
            log: Vec::new(),
            dir,
        }
    }

    /// Forgets what was read of blocks, as a restart does.
    pub(crate) fn close_blocks(&mut self) {
        self.blocks = open_blocks(&self.flusher.store, &self.dir.path().join("spool"));
    }

    /// Sends one request; returns what the shard made of it.
    pub(crate) fn send(&mut self, spans: &[Span]) -> Appended {
        self.send_body(&request(spans))
    }

    /// The same for a request of any form.
    pub(crate) fn send_body(&mut self, body: &[u8]) -> Appended {
        let command = append_body(&self.tenant, body);
        self.log.push(command.clone());
        self.shard
            .apply(LogIndex(self.log.len() as u64), &command, None)
            .unwrap()
    }

    pub(crate) async fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(
            Snapshot::take(&*self.catalog, &[Arc::clone(&self.shard)], &self.tenant)
                .await
                .unwrap(),
        )
    }

    pub(crate) fn means(&self, budget: Budget) -> Means {
        Means {
            blocks: Arc::clone(&self.blocks),
            turns: Turns::new(2, Arc::new(ManualClock::at(NOW))),
            threads: 3,
            budget,
        }
    }

    pub(crate) async fn search(&self, query: &str, window: TimeRange) -> SearchAnswer {
        let request = SearchRequest {
            window,
            limit: 10,
            spans_per_spanset: 3,
            after: None,
        };
        self.ask(query, request, None).await
    }

    pub(crate) async fn ask(
        &self,
        query: &str,
        request: SearchRequest,
        onlooker: Option<SearchOnlooker>,
    ) -> SearchAnswer {
        let plan = Arc::new(SearchPlan::new(&query::parse(query).unwrap(), request).unwrap());
        let snapshot = self.snapshot().await;
        let means = self.means(Budget::default());
        let answer = search(&snapshot, &plan, &means, onlooker).await.unwrap();
        assert_eq!(
            answer.looked.jobs_done,
            answer.looked.jobs - answer.looked.missing.len() as u32
        );
        // What is left is the finds themselves.
        let found: usize = answer.traces.iter().map(TraceMatch::held_bytes).sum();
        assert_eq!(means.budget.held(), found as u64, "memory is given back");
        answer
    }

    pub(crate) async fn measure(&self, query: &str, intervals: Intervals) -> (SeriesSet, MetricsAnswer) {
        let request = MetricsRequest {
            intervals,
            exemplars: 5,
        };
        let plan = Arc::new(MetricsPlan::new(&query::parse(query).unwrap(), request).unwrap());
        let snapshot = self.snapshot().await;
        let means = self.means(Budget::default());
        let answer = measure(&snapshot, &plan, &means, None).await.unwrap();
        assert_eq!(
            means.budget.held(),
            answer.partial.held_bytes() as u64,
            "memory is given back"
        );
        (answer.partial.finish(&plan, &Budget::default()).unwrap(), answer)
    }

    pub(crate) async fn find(&self, query: &str) -> Vec<TraceMatch> {
        let answer = self.search(query, TimeRange::ALWAYS).await;
        assert_eq!(answer.looked.missing, Vec::<String>::new());
        answer.traces
    }

    /// The spans of a trace, sorted by id and content.
    pub(crate) async fn trace(&self, trace: u8) -> Vec<Span> {
        let snapshot = self.snapshot().await;
        let whole = whole_trace(&snapshot, &self.blocks, trace_id(trace), Places::ALL, u64::MAX).await;
        assert_eq!(whole.missing, Vec::<String>::new());
        let mut spans: Vec<Span> = (0..whole.spans.len() as u32)
            .map(|row| {
                let mut bytes = Vec::new();
                whole.spans.write_span(row, &mut bytes);
                Span::decode(bytes.as_slice()).unwrap()
            })
            .collect();
        spans
            .iter_mut()
            .for_each(|span| span.attributes.sort_by_key(Message::encode_to_vec));
        spans.sort_by_key(|span| (span.span_id.clone(), span.encode_to_vec()));
        spans
    }

    /// Takes from a block the list of its split traces: a copy of its record takes its place.
    pub(crate) fn unlist(&self, id: BlockId) {
        let view = self.catalog.view();
        let record = (**view.block(id).unwrap()).clone();
        let mut object = (**view.object(record.object).unwrap()).clone();
        object.id = ObjectId((self.flusher.new_block_id)());
        let changed = BlockRecord {
            id: (self.flusher.new_block_id)(),
            object: object.id,
            split_traces: SplitTraces::All,
            ..record
        };
        let replace = Command::Replace {
            old: vec![id],
            objects: vec![object],
            records: vec![changed],
        };
        let now = self.catalog.now();
        self.catalog.edit(|catalog| catalog.apply(replace, now)).unwrap();
    }

    /// Cuts, and uploads everything that waits.
    pub(crate) async fn flush(&self) {
        self.flusher.cut().await.unwrap();
        while self.flusher.flush_oldest().await.unwrap().is_some() {}
    }
}

fn open_blocks(store: &Store, spool_dir: &FilePath) -> Arc<Blocks> {
    let reader = Arc::new(StoreReader::new(Arc::clone(store.inner())));
    let reader = Arc::new(JoiningReader::new(reader));
    let decoded = Arc::new(DecodedCache::new(64 << 20));
    Arc::new(Blocks::new(store.clone(), reader, decoded, spool_dir, 64 << 20).unwrap())
}

pub(crate) fn trace_id(trace: u8) -> model::TraceId {
    model::TraceId([trace + 1; 16])
}

pub(crate) fn text(key: &str, value: String) -> KeyValue {
    let value = Some(AnyValue {
        value: Some(any_value::Value::StringValue(value)),
    });
    KeyValue {
        key: key.into(),
        value,
        ..Default::default()
    }
}

/// A span that is a function of its numbers.
pub(crate) fn span(trace: u8, id: u8, parent: u8, start_seconds: u64, flavour: u8) -> Span {
    let start = NOW + start_seconds * 1_000_000_000;
    Span {
        trace_id: trace_id(trace).0.to_vec(),
        span_id: vec![id + 1; 8],
        parent_span_id: if parent == id { Vec::new() } else { vec![parent + 1; 8] },
        name: format!("op-{}", flavour % 3),
        kind: i32::from(flavour % 6),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 1_000_000 * (1 + u64::from(flavour)),
        attributes: vec![text("flavour", format!("f{}", flavour % 5))],
        status: (flavour.is_multiple_of(4)).then(|| Status {
            message: String::new(),
            code: 2,
        }),
        ..Default::default()
    }
}

pub(crate) fn request(spans: &[Span]) -> Vec<u8> {
    let groups = spans
        .chunk_by(|a, b| a.kind % 2 == b.kind % 2)
        .map(|spans| ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", format!("service-{}", spans[0].kind % 2))],
                ..Default::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans: spans.to_vec(),
                ..Default::default()
            }],
            schema_url: String::new(),
        });
    ExportTraceServiceRequest {
        resource_spans: groups.collect(),
    }
    .encode_to_vec()
}

pub(crate) fn append_command(tenant: &TenantId, spans: &[Span]) -> Bytes {
    append_body(tenant, &request(spans))
}

fn append_body(tenant: &TenantId, body: &[u8]) -> Bytes {
    let scanned = scan(body, &IngestLimits::default(), |_| ShardId(0)).unwrap();
    let mut entry = EntryBuilder::default();
    for routed in scanned.into_sub_batches(tenant, BatchHash::of_request(tenant, body)) {
        entry.push(routed.sub_batch).unwrap();
    }
    ShardCommand::Append {
        stamped_unix_nanos: NOW,
        entry: entry.finish(),
    }
    .encode()
}
