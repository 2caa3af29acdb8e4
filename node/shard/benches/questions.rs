//! The gates of the block layout's scans, held against the engine that ships: questions as text, planned, run by one thread
//! over one block, each as a ratio to reading the same spans' OTLP from memory once.
//!
//! `cargo bench -p vivace-shard` prints them for 1 M spans; `VIVACE_BENCH_SPANS=200000` for fewer,
//! `VIVACE_BENCH_QUESTION=rate` for the questions whose names hold that word. Times are CPU time of this process, the best
//! of several runs, because the machine is shared; everything takes part in every round, so that what the machine does
//! meanwhile happens to all alike.
//!
//! Each question is asked in two states of a node that has been asked before:
//! - **stored**: columns are in memory as they are stored, and decoded for each question. The gates are about this one.
//! - **decoded**: columns are in memory as an earlier question left them.
//!
//! A gate that fails is marked and makes the run fail with `VIVACE_BENCH_STRICT=1`.

#![allow(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

// Inside its own benches the crate has its package name; everywhere else it is `shard`.
extern crate vivace_shard as shard;

use std::hint::black_box;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use block::{JoiningReader, StoreReader};
use model::{BlockId, Clock, Generation, LogIndex, ShardId, TenantId, TraceId};
use object_store::memory::InMemory;
use object_store::path::Path;
use query::budget::Budget;
use query::metrics::{Intervals, MetricsPlan, MetricsRequest};
use query::source::TimeRange;
use query::{SearchPlan, SearchRequest};
use shard::blocks::Blocks;
use shard::catalog::{Catalog, GroupKey, RingTime};
use shard::column_cache::ColumnCache;
use shard::command::ShardCommand;
use shard::crew::Means;
use shard::decoded_cache::DecodedCache;
use shard::flush::Flusher;
use shard::measure::measure;
use shard::owner::{Shard, ShardOptions};
use shard::port::LocalCatalog;
use shard::search::search;
use shard::snapshot::Snapshot;
use shard::store::Store;
use shard::trace::{Places, whole_trace};
use shard::turns::Turns;
use wire::frame::{BatchHash, EntryBuilder};
use wire::ingest::{IngestLimits, scan};

#[path = "../../block/benches/layout/data.rs"]
mod data;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// When the data's last trace has long ended.
const NOW: u64 = data::START_NANOS + data::DURATION_NANOS + 600 * SECOND;
const SECOND: u64 = 1_000_000_000;
/// More than all columns take, decoded.
const CACHE_BYTES: u64 = 8 << 30;
/// Traces that Grafana asks for.
const LIMIT: usize = 20;

fn env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// CPU nanoseconds of this process so far.
fn cpu_nanos() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// CPU nanoseconds of one run, and what it gave.
fn time<T>(run: impl FnOnce() -> T) -> (f64, T) {
    let start = cpu_nanos();
    let done = black_box(run());
    (cpu_nanos() - start, done)
}

/// The system's clocks, as a node reads them.
struct SystemClock(Instant);

impl Clock for SystemClock {
    fn unix_nanos(&self) -> u64 {
        NOW
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A node's shard and what reads its blocks, in two states.
struct World {
    runtime: tokio::runtime::Runtime,
    shard: Arc<Shard>,
    catalog: Arc<LocalCatalog>,
    tenant: TenantId,
    /// Keeps columns as they are stored.
    stored: Arc<Blocks>,
    /// Keeps what it decoded.
    decoded: Arc<Blocks>,
    _dir: tempfile::TempDir,
}

impl World {
    /// All requests in one block.
    fn new(requests: &[Vec<u8>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spool_dir = dir.path().join("spool");
        shard::spool::clear(&spool_dir).unwrap();
        let group = GroupKey {
            shard: ShardId(0),
            generation: Generation(1),
        };
        let mut catalog = Catalog::new();
        catalog.open_group(group);
        let time = RingTime {
            unix_nanos: NOW,
            is_trusted: true,
        };
        let catalog = Arc::new(LocalCatalog::new(catalog, time));
        let next = AtomicU64::new(1);
        let new_block_id: Arc<dyn Fn() -> BlockId + Send + Sync> =
            Arc::new(move || BlockId::from_parts(NOW / 1_000_000, u128::from(next.fetch_add(1, Ordering::Relaxed))));
        let options = ShardOptions {
            spool_dir: spool_dir.clone(),
            live_bytes_max: usize::MAX,
            clock: Arc::new(SystemClock(Instant::now())),
            new_block_id: Arc::clone(&new_block_id),
            wait_for_disk: Arc::new(|| panic!("there is room for one block")),
        };
        let shard = Arc::new(Shard::starting_after(group, LogIndex(0), options));
        let store = Store::new(Arc::new(InMemory::new()), Path::from("cluster"));
        let stored = open_blocks(&store, &spool_dir, 0);
        let world = Self {
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
            shard: Arc::clone(&shard),
            catalog: Arc::clone(&catalog),
            tenant: TenantId::single(),
            decoded: open_blocks(&store, &spool_dir, CACHE_BYTES),
            stored: Arc::clone(&stored),
            _dir: dir,
        };
        let limits = IngestLimits::default();
        for (index, body) in (1..).zip(requests) {
            let scanned = scan(body, &limits, |_| ShardId(0)).unwrap();
            let mut entry = EntryBuilder::default();
            for routed in scanned.into_sub_batches(&world.tenant, BatchHash::of_request(&world.tenant, body)) {
                entry.push(routed.sub_batch).unwrap();
            }
            let command = ShardCommand::Append {
                stamped_unix_nanos: NOW,
                entry: entry.finish(),
            };
            shard.apply(LogIndex(index), &command.encode(), None).unwrap();
        }
        let flusher = Flusher {
            shard,
            store,
            catalog,
            blocks: stored,
            new_block_id,
        };
        world.runtime.block_on(async {
            assert!(flusher.cut().await.unwrap());
            while flusher.flush_oldest().await.unwrap().is_some() {}
        });
        world
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        let shards = [Arc::clone(&self.shard)];
        let taken = Snapshot::take(&*self.catalog, &shards, &self.tenant);
        Arc::new(self.runtime.block_on(taken).unwrap())
    }

    /// Asks as a node with one CPU does, from the text on. Gives how many traces or series were found.
    fn ask(&self, blocks: &Arc<Blocks>, question: &Question) -> usize {
        let snapshot = self.snapshot();
        let means = Means {
            blocks: Arc::clone(blocks),
            turns: Turns::new(1, Arc::new(SystemClock(Instant::now()))),
            threads: 1,
            budget: Budget::default(),
        };
        let (start, end) = (data::START_NANOS - 600 * SECOND, NOW);
        let looked;
        let found = match &question.ask {
            Ask::Search(text) => {
                let request = SearchRequest {
                    window: TimeRange {
                        start_unix_nanos: start,
                        end_unix_nanos: end,
                    },
                    limit: LIMIT,
                    spans_per_spanset: 3,
                    after: None,
                };
                let plan = Arc::new(SearchPlan::new(&query::parse(text).unwrap(), request).unwrap());
                let searching = search(&snapshot, &plan, &means, None);
                let answer = self.runtime.block_on(searching).unwrap();
                looked = answer.looked;
                answer.traces.len()
            }
            Ask::Measure(text, step_nanos) => {
                let intervals = match step_nanos {
                    None => Intervals::instant(start, end),
                    Some(step_nanos) => Intervals::range(start, end, *step_nanos),
                };
                let request = MetricsRequest {
                    intervals: intervals.unwrap(),
                    exemplars: 0,
                };
                let plan = Arc::new(MetricsPlan::new(&query::parse(text).unwrap(), request).unwrap());
                let measuring = measure(&snapshot, &plan, &means, None);
                let answer = self.runtime.block_on(measuring).unwrap();
                looked = answer.looked;
                answer.partial.finish(&plan, &Budget::default()).unwrap().series.len()
            }
            Ask::Trace(id) => {
                let finding = whole_trace(&snapshot, blocks, *id, Places::ALL, u64::MAX);
                let whole = self.runtime.block_on(finding);
                assert!(whole.missing.is_empty(), "{:?}", whole.missing);
                return whole.spans.len();
            }
        };
        assert!(looked.missing.is_empty(), "{:?}", looked.missing);
        found
    }
}

fn open_blocks(store: &Store, spool_dir: &FilePath, decoded_bytes: u64) -> Arc<Blocks> {
    let reader = Arc::new(StoreReader::new(Arc::clone(store.inner())));
    let reader = Arc::new(JoiningReader::new(reader));
    let reader = Arc::new(ColumnCache::new(reader, CACHE_BYTES));
    let decoded = Arc::new(DecodedCache::new(decoded_bytes));
    Arc::new(Blocks::new(store.clone(), reader, decoded, spool_dir, 64 << 20).unwrap())
}

enum Ask {
    /// The newest traces that match.
    Search(String),
    /// One sample, or one for each step.
    Measure(String, Option<u64>),
    Trace(TraceId),
}

struct Question {
    name: &'static str,
    /// The largest ratio that is good enough; None where nobody has said.
    gate: Option<f64>,
    ask: Ask,
    stored: Best,
    decoded: Best,
}

/// The best time of several runs.
struct Best(f64);

impl Best {
    fn take(&mut self, nanos: f64) {
        self.0 = self.0.min(nanos);
    }
}

fn questions(data: &data::Data) -> Vec<Question> {
    let mut all = Vec::new();
    let mut add = |name, gate, ask| {
        all.push(Question {
            name,
            gate,
            ask,
            stored: Best(f64::INFINITY),
            decoded: Best(f64::INFINITY),
        });
    };
    let service = format!("resource.service.name = \"{}\"", data::service_name(3));
    let minutes = Some(60 * SECOND);
    let (status, slow) = ("span.http.response.status_code >= 500", "duration > 100ms");
    add("service = x", Some(0.1), Ask::Search(format!("{{ {service} }}")));
    add(
        "service = x, counted",
        Some(0.1),
        Ask::Measure(format!("{{ {service} }} | count_over_time()"), None),
    );
    add("status_code >= 500", Some(0.15), Ask::Search(format!("{{ {status} }}")));
    add(
        "status_code >= 500, counted",
        Some(0.15),
        Ask::Measure(format!("{{ {status} }} | count_over_time()"), None),
    );
    add(
        "service = x && duration > 100ms",
        Some(0.45),
        Ask::Search(format!("{{ {service} && {slow} }}")),
    );
    add(
        "service = x && duration > 100ms, counted",
        Some(0.45),
        Ask::Measure(format!("{{ {service} && {slow} }} | count_over_time()"), None),
    );
    add(
        "rate() by service",
        Some(0.25),
        Ask::Measure("{} | rate() by (resource.service.name)".into(), minutes),
    );
    add(
        "{service = x} >> {status = error}",
        Some(0.4),
        Ask::Search(format!("{{ {service} }} >> {{ status = error }}")),
    );
    add(
        "uuid needle",
        Some(0.15),
        Ask::Search(format!("{{ span.request.id = \"{}\" }}", data.request_id)),
    );
    add("name =~ GET.*", None, Ask::Search("{ name =~ \"GET.*\" }".into()));
    add(
        "errors by service",
        None,
        Ask::Measure(
            "{ status = error } | count_over_time() by (resource.service.name)".into(),
            None,
        ),
    );
    add(
        "p99 by service",
        None,
        Ask::Measure(
            "{} | quantile_over_time(duration, 0.99) by (resource.service.name)".into(),
            minutes,
        ),
    );
    let trace = data.trace_ids.first().unwrap();
    add("trace by id", None, Ask::Trace(TraceId(*trace)));
    let wanted = std::env::var("VIVACE_BENCH_QUESTION").unwrap_or_default();
    all.retain(|question| question.name.contains(&wanted));
    all
}

/// Reads all the bytes once, as fast as one thread can.
fn read(requests: &[Vec<u8>]) -> u64 {
    let sum = |request: &Vec<u8>| {
        let words = request.as_chunks::<8>().0.iter();
        words.fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
    };
    requests.iter().map(sum).fold(0, u64::wrapping_add)
}

fn main() {
    let data = data::generate(
        env("VIVACE_BENCH_SPANS", 1_000_000),
        env("VIVACE_BENCH_SEED", 42) as u64,
    );
    let n = data.spans as f64;
    let world = World::new(&data.requests);
    println!(
        "{} spans, {} traces, {:.0} bytes of OTLP per span, {} blocks",
        data.spans,
        data.traces,
        data.bytes as f64 / n,
        world.snapshot().blocks().len()
    );
    let mut questions = questions(&data);
    // The first round fetches, and leaves what is decoded.
    let mut found: Vec<usize> = Vec::new();
    for question in &questions {
        found.push(world.ask(&world.stored, question));
        assert_eq!(
            world.ask(&world.decoded, question),
            found[found.len() - 1],
            "{}",
            question.name
        );
    }
    let mut baseline = Best(f64::INFINITY);
    for _ in 0..env("VIVACE_BENCH_ROUNDS", 9) {
        baseline.take(time(|| read(&data.requests)).0);
        for question in &mut questions {
            let stored = time(|| world.ask(&world.stored, question)).0;
            let decoded = time(|| world.ask(&world.decoded, question)).0;
            question.stored.take(stored);
            question.decoded.take(decoded);
        }
    }
    println!("reading the OTLP once: {:.1} ns/span\n", baseline.0 / n);
    println!(
        "     {:<42} {:>7}  {:<7} {:>8} {:>9} {:>9} {:>6}",
        "/ reading the OTLP once", "stored", "gate", "decoded", "ns/span", "decoded", "found"
    );
    let mut failed = 0;
    for (question, found) in questions.iter().zip(found) {
        assert!(found > 0, "{} finds nothing", question.name);
        let (stored, decoded) = (question.stored.0, question.decoded.0);
        let ratio = stored / baseline.0;
        let verdict = match question.gate {
            None => "    ",
            Some(gate) if ratio <= gate => "ok  ",
            Some(_) => "FAIL",
        };
        failed += usize::from(verdict == "FAIL");
        let gate = question.gate.map_or(String::new(), |gate| format!("<= {gate}"));
        println!(
            "{verdict} {:<42} {ratio:>7.3}  {gate:<7} {:>8.3} {:>9.2} {:>9.2} {found:>6}",
            question.name,
            decoded / baseline.0,
            stored / n,
            decoded / n,
        );
    }
    println!("{failed} gates failed");
    if failed > 0 && env("VIVACE_BENCH_STRICT", 0) == 1 {
        std::process::exit(1);
    }
}
