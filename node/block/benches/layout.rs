//! The gates of the block layout, each a ratio of two numbers measured in this run.
//!
//! `cargo bench -p vivace-block` prints them for 2 M spans; `VIVACE_BENCH_SPANS=200000` for fewer. Times are CPU time of
//! this thread, because the machine is shared. A gate that fails is marked and makes the run fail with
//! `VIVACE_BENCH_STRICT=1`.

#![allow(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]
#![expect(
    unsafe_code,
    reason = "counting what the allocator hands out is the only way to see peak heap"
)]

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::{Block, BlockStats, BlockWriter, Columns, Field, MemoryReader, RowGroup, Schema, SectionLocation};
use bytes::Bytes;
use model::column::{Dict, OwnedValues};
use model::otlp::{self, Fault, Owner, Repeated, Visit};
use model::proto::Malformed;
use model::{SpanTable, TenantId, TraceId, Value, ValueRef};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

#[path = "layout/data.rs"]
mod data;

struct Counting(tikv_jemallocator::Jemalloc);

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call is passed on unchanged; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's contract is ours.
        unsafe { self.0.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is ours.
        unsafe { self.0.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        grow(size);
        // SAFETY: the caller's contract is ours.
        unsafe { self.0.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting(tikv_jemallocator::Jemalloc);

/// CPU nanoseconds of this thread so far.
fn cpu_nanos() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// Median CPU nanoseconds of `rounds` runs.
fn time<T>(rounds: usize, mut run: impl FnMut() -> T) -> (f64, T) {
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..rounds {
        let start = cpu_nanos();
        last = Some(black_box(run()));
        times.push(cpu_nanos() - start);
    }
    times.sort_by(f64::total_cmp);
    (times[rounds / 2], last.unwrap())
}

struct Gates {
    failed: usize,
}

impl Gates {
    fn check(&mut self, name: &str, value: f64, limit: f64, detail: &str) {
        let verdict = if value <= limit { "ok  " } else { "FAIL" };
        self.failed += usize::from(value > limit);
        println!("{verdict} {name:<52} {value:>7.3}  <= {limit:<5}  {detail}");
    }
}

fn env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Rows of one live table: what the head seals at.
const TABLE_ROWS: usize = 128 << 10;

fn main() {
    let spans = env("VIVACE_BENCH_SPANS", 2_000_000);
    let rounds = env("VIVACE_BENCH_ROUNDS", 3);
    let data = data::generate(spans, env("VIVACE_BENCH_SEED", 42) as u64);
    let n = data.spans as f64;
    println!(
        "{} spans, {} traces, {} requests, {:.0} bytes of OTLP per span",
        data.spans,
        data.traces,
        data.requests.len(),
        data.bytes as f64 / n
    );
    let mut gates = Gates { failed: 0 };

    // Baselines.
    let (read, _) = time(5, || {
        data.requests
            .iter()
            .map(|r| {
                r.as_chunks::<8>()
                    .0
                    .iter()
                    .fold(0u64, |sum, c| sum.wrapping_add(u64::from_le_bytes(*c)))
            })
            .fold(0u64, u64::wrapping_add)
    });
    let sample: Vec<&Vec<u8>> = data.requests.iter().step_by(8).collect();
    let sample_share = sample.iter().map(|r| r.len()).sum::<usize>() as f64 / data.bytes as f64;
    let (prost, _) = time(rounds, || {
        sample
            .iter()
            .for_each(|r| drop(black_box(ExportTraceServiceRequest::decode(r.as_slice()).unwrap())));
    });
    let prost = prost / sample_share;
    let zstd = zstd_bytes(&data.requests);
    println!(
        "read {:.1} ns/span, prost decode+drop {:.0} ns/span, zstd1 {:.1} B/span",
        read / n,
        prost / n,
        zstd as f64 / n
    );

    let (walk, _) = time(rounds, || data.requests.iter().map(|r| walk(r)).sum::<usize>());
    gates.check(
        "walk + all keys and values / prost",
        walk / prost,
        0.15,
        &format!("{:.0} ns/span", walk / n),
    );

    // OTLP into live tables. Once before it counts, so that the allocator has its pages as a running node has.
    drop(append(&data.requests));
    let before = LIVE.load(Ordering::Relaxed);
    let (append, tables) = time(1, || append(&data.requests));
    let table_heap = (LIVE.load(Ordering::Relaxed) - before) as f64;
    gates.check(
        "OTLP to live table / prost",
        append / prost,
        0.6,
        &format!("{:.0} ns/span", append / n),
    );
    gates.check(
        "live table heap / OTLP",
        table_heap / data.bytes as f64,
        0.8,
        &format!("{:.0} B/span", table_heap / n),
    );

    // Tables into a block that streams out, as an upload does; once before it counts.
    let tenant = TenantId::single();
    let (first_write, _) = time(1, || write(&tenant, &tables, std::io::sink()));
    let live = LIVE.load(Ordering::Relaxed);
    PEAK.store(live, Ordering::Relaxed);
    let (encode, _) = time(rounds, || write(&tenant, &tables, std::io::sink()));
    let peak = (PEAK.load(Ordering::Relaxed) - live) as f64;
    let (bytes, block) = write(&tenant, &tables, Vec::new());
    let whole = append + encode;
    gates.check(
        "OTLP to finished block / prost",
        whole / prost,
        2.0,
        &format!(
            "{:.0} ns/span, encode {:.0} (first {:.0})",
            whole / n,
            encode / n,
            first_write / n
        ),
    );
    gates.check(
        "block bytes / zstd1 of OTLP",
        bytes.len() as f64 / zstd as f64,
        0.55,
        &format!("{:.1} B/span", bytes.len() as f64 / n),
    );
    gates.check(
        "encode peak heap above tables / OTLP",
        peak / data.bytes as f64,
        0.3,
        &format!("{:.0} B/span", peak / n),
    );
    println!("{}", sizes(&bytes, &block, n));

    // Scans, all row groups in memory.
    let reader = Arc::new(MemoryReader::new(Bytes::from(bytes)));
    let location = SectionLocation::from(&block.sections[0]);
    let opened = wait(Block::open(reader, "bench", &location, &tenant)).unwrap();
    println!("index: {} KB in memory", opened.index().memory_bytes() / 1024);
    let groups: Vec<RowGroup> = (0..opened.index().fences().len())
        .map(|g| wait(opened.row_group(g, Columns::All)).unwrap())
        .collect();
    let service = data::service_name(3);
    scans(&mut gates, &groups, &data, &service, read, n, rounds);

    // A trace by id.
    let mut ids: Vec<TraceId> = data.trace_ids.iter().map(|id| TraceId(*id)).collect();
    ids.truncate(200);
    let (lookup, found) = time(rounds, || {
        ids.iter()
            .map(|id| wait(opened.trace(id)).unwrap().iter().map(spans_out).sum::<usize>())
            .sum::<usize>()
    });
    let largest = opened.index().fences().iter().map(|f| f.length).max().unwrap_or(0);
    gates.check(
        "trace by id, ms of CPU",
        lookup / ids.len() as f64 / 1e6,
        5.0,
        &format!("{} spans", found),
    );
    gates.check(
        "trace by id, MB of its one request",
        largest as f64 / 1e6,
        4.0,
        "largest row group",
    );

    let (decode, rows) = time(rounds, || {
        groups.iter().map(|g| g.all_spans().unwrap().len()).sum::<usize>()
    });
    assert_eq!(rows, data.spans);
    gates.check(
        "full decode / prost",
        decode / prost,
        0.25,
        &format!("{:.0} ns/span", decode / n),
    );

    merge_halves(&tables, &tenant, n);
    println!("{} gates failed", gates.failed);
    if gates.failed > 0 && env("VIVACE_BENCH_STRICT", 0) == 1 {
        std::process::exit(1);
    }
}

/// Compaction: two blocks that hold parts of the same traces become one.
fn merge_halves(tables: &[SpanTable], tenant: &TenantId, n: f64) {
    let half = |odd: usize| {
        let mut stats = BlockStats::default();
        let chosen: Vec<&SpanTable> = tables.iter().skip(odd).step_by(2).collect();
        chosen.iter().for_each(|t| stats.add_table(t));
        let mut writer = BlockWriter::new(Vec::new(), Schema::choose(&stats)).unwrap();
        writer.section(tenant, &chosen).unwrap();
        let (bytes, block) = writer.finish().unwrap();
        let reader = Arc::new(MemoryReader::new(Bytes::from(bytes)));
        wait(Block::open(
            reader,
            "half",
            &SectionLocation::from(&block.sections[0]),
            tenant,
        ))
        .unwrap()
    };
    let inputs = [half(0), half(1)];
    let live = LIVE.load(Ordering::Relaxed);
    PEAK.store(live, Ordering::Relaxed);
    let options = block::MergeOptions::default();
    let (merge, (_, block)) = time(1, || wait(block::merge(&inputs, std::io::sink(), options)).unwrap());
    let peak = PEAK.load(Ordering::Relaxed) - live;
    assert_eq!(block.sections[0].totals.spans as f64, n);
    println!(
        "merge of two halves: {:.0} ns/span, peak heap {} MB",
        merge / n,
        peak >> 20
    );
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

fn zstd_bytes(requests: &[Vec<u8>]) -> usize {
    let mut frame = Vec::with_capacity(2 << 20);
    let mut total = 0;
    for request in requests {
        frame.extend_from_slice(request);
        while frame.len() >= 1 << 20 {
            let rest = frame.split_off(1 << 20);
            total += zstd::bulk::compress(&frame, 1).unwrap().len();
            frame = rest;
        }
    }
    total + zstd::bulk::compress(&frame, 1).unwrap().len()
}

/// Counts texts among the attributes.
struct Walk(usize);

impl<'a> Visit<'a> for Walk {
    fn span(&mut self, span: &'a [u8]) -> Result<(), Fault<'a>> {
        let view = otlp::read_span(span, |repeated| {
            if let Repeated::Attribute(entry) = repeated {
                let pair = otlp::read_key_value(entry.bytes()?)?;
                let is_text = matches!(ValueRef::from_any_value(pair.value)?, ValueRef::String(_));
                self.0 += usize::from(is_text);
            }
            Ok::<(), Malformed>(())
        });
        black_box(view.unwrap());
        Ok(())
    }

    fn scope_ends(&mut self, scope: Owner<'a>, _: &'a [u8]) -> Result<(), Fault<'a>> {
        black_box(scope);
        Ok(())
    }

    fn resource_ends(&mut self, resource: Owner<'a>, _: &'a [u8]) -> Result<(), Fault<'a>> {
        black_box(resource);
        Ok(())
    }
}

fn walk(request: &[u8]) -> usize {
    let mut walk = Walk(0);
    otlp::walk(request, &mut walk).unwrap();
    walk.0
}

/// Appends spans when it is known whose they are.
struct Append<'t, 'a> {
    table: &'t mut SpanTable,
    spans: Vec<&'a [u8]>,
    /// Scope, and the first of its spans.
    scopes: Vec<(u32, usize)>,
    first: usize,
}

impl<'a> Visit<'a> for Append<'_, 'a> {
    fn span(&mut self, span: &'a [u8]) -> Result<(), Fault<'a>> {
        self.spans.push(span);
        Ok(())
    }

    fn scope_ends(&mut self, scope: Owner<'a>, _: &'a [u8]) -> Result<(), Fault<'a>> {
        let scope = self.table.intern_scope(scope.message.as_deref(), scope.schema_url);
        self.scopes.push((scope, self.first));
        self.first = self.spans.len();
        Ok(())
    }

    fn resource_ends(&mut self, resource: Owner<'a>, _: &'a [u8]) -> Result<(), Fault<'a>> {
        let resource = self
            .table
            .intern_resource(resource.message.as_deref(), resource.schema_url);
        let mut spans = self.spans.drain(..).enumerate().peekable();
        for (i, (scope, _)) in self.scopes.iter().enumerate() {
            let end = self.scopes.get(i + 1).map_or(usize::MAX, |(_, first)| *first);
            while let Some((_, span)) = spans.next_if(|(place, _)| *place < end) {
                self.table.append(resource, *scope, span).unwrap();
            }
        }
        drop(spans);
        self.scopes.clear();
        self.first = 0;
        Ok(())
    }
}

fn append(requests: &[Vec<u8>]) -> Vec<SpanTable> {
    let mut tables = vec![SpanTable::new()];
    for request in requests {
        if tables.last().is_some_and(|t| t.len() >= TABLE_ROWS) {
            tables.push(SpanTable::new());
        }
        let mut append = Append {
            table: tables.last_mut().unwrap(),
            spans: Vec::new(),
            scopes: Vec::new(),
            first: 0,
        };
        otlp::walk(request, &mut append).unwrap();
    }
    tables
}

fn write<W: std::io::Write + Send>(tenant: &TenantId, tables: &[SpanTable], sink: W) -> (W, block::BlockSummary) {
    let mut stats = BlockStats::default();
    tables.iter().for_each(|t| stats.add_table(t));
    let mut writer = BlockWriter::new(sink, Schema::choose(&stats)).unwrap();
    writer.section(tenant, &tables.iter().collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap()
}

/// Bytes per span of the largest columns and of the sections.
fn sizes(bytes: &[u8], block: &block::BlockSummary, n: f64) -> String {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let file = SerializedFileReader::new(Bytes::copy_from_slice(bytes)).unwrap();
    let mut columns: Vec<(String, i64)> = Vec::new();
    for group in file.metadata().row_groups() {
        for (i, column) in group.columns().iter().enumerate() {
            if columns.len() <= i {
                columns.push((column.column_path().string(), 0));
            }
            columns[i].1 += column.compressed_size();
        }
    }
    columns.sort_by_key(|(_, size)| -*size);
    let section = &block.sections[0];
    let footer = block.bytes - section.index.end;
    let listed: Vec<String> = columns
        .iter()
        .take(40)
        .map(|(name, size)| format!("{name} {:.2}", *size as f64 / n))
        .collect();
    format!(
        "B/span: bloom {:.2}, index {:.2}, footer {:.2}; {}",
        (section.bloom.end - section.bloom.start) as f64 / n,
        (section.index.end - section.index.start) as f64 / n,
        footer as f64 / n,
        listed.join(", ")
    )
}

fn spans_out(rows: &block::SpanRows) -> usize {
    let view = rows.view();
    let mut out = Vec::new();
    for row in 0..rows.len() as u32 {
        out.clear();
        view.write_span(row, &mut out);
        black_box(&out);
    }
    rows.len()
}

fn id_of(dict: &Dict, wanted: &[u8]) -> Option<u32> {
    let view = dict.view();
    match view {
        model::DictView::Bytes { offsets, bytes } => (0..view.len())
            .find(|i| model::column::slice_at(offsets, bytes, *i) == wanted)
            .map(|i| i as u32),
        model::DictView::Values(_) => None,
    }
}

fn ids_of(column: &model::column::Column) -> (&[u32], &Dict) {
    match &column.values {
        OwnedValues::Dict { ids, dict } => (ids, dict),
        _ => panic!("a dictionary column"),
    }
}

/// For every dictionary value, whether it is an integer that `test` likes.
fn matching(dict: &Dict, test: impl Fn(i64) -> bool) -> Vec<bool> {
    match dict {
        Dict::Values(values) => values
            .iter()
            .map(|v| matches!(v, Some(Value::Int(i)) if test(*i)))
            .collect(),
        Dict::Bytes { .. } => Vec::new(),
    }
}

fn scans(gates: &mut Gates, groups: &[RowGroup], data: &data::Data, service: &str, read: f64, n: f64, rounds: usize) {
    let service = service.as_bytes();
    let count_service = |g: &RowGroup| {
        let column = g.field(Field::Service).unwrap();
        let (ids, dict) = ids_of(&column);
        id_of(dict, service).map_or(0, |id| ids.iter().filter(|i| **i == id).count())
    };
    let (t, hits) = time(rounds * 3, || groups.iter().map(count_service).sum::<usize>());
    gates.check(
        "service = x / read",
        t / read,
        0.1,
        &format!("{:.2} ns/span, {hits} hits", t / n),
    );

    let key = block::AttributeKey::new(b"http.response.status_code", model::ValueType::Int);
    let status = |g: &RowGroup| {
        let column = g.column(g.index().attribute_column(&key).unwrap()).unwrap();
        let (ids, dict) = ids_of(&column);
        let wanted = matching(dict, |v| v >= 500);
        ids.iter().filter(|id| wanted[**id as usize]).count()
    };
    let (t, hits) = time(rounds * 3, || groups.iter().map(status).sum::<usize>());
    gates.check(
        "status_code >= 500 / read",
        t / read,
        0.15,
        &format!("{:.2} ns/span, {hits} hits", t / n),
    );

    let both = |g: &RowGroup| {
        let services = g.field(Field::Service).unwrap();
        let (ids, dict) = ids_of(&services);
        let Some(id) = id_of(dict, service) else { return 0 };
        let durations = g.field(Field::Duration).unwrap();
        let OwnedValues::Int(durations) = &durations.values else {
            panic!("durations are integers")
        };
        ids.iter()
            .zip(durations)
            .filter(|(s, d)| **s == id && **d > 100_000_000)
            .count()
    };
    let (t, hits) = time(rounds * 3, || groups.iter().map(both).sum::<usize>());
    gates.check(
        "service = x && duration > 100ms / read",
        t / read,
        0.45,
        &format!("{:.2} ns/span, {hits} hits", t / n),
    );

    let rate = |g: &RowGroup| {
        let (services, seconds) = (g.field(Field::Service).unwrap(), g.field(Field::StartSeconds).unwrap());
        let (ids, names) = ids_of(&services);
        let (starts, dict) = ids_of(&seconds);
        let Dict::Values(values) = dict else {
            panic!("seconds are integers")
        };
        // Per second: where the counters of its minute start.
        let width = names.view().len() as u32;
        let minute = |v: &Option<Value>| {
            if let Some(Value::Int(s)) = v {
                (*s / 60 % 64) as u32
            } else {
                0
            }
        };
        let rows: Vec<u32> = values.iter().map(|v| minute(v) * width).collect();
        let mut counts = vec![0u32; 64 * width as usize];
        for (service, start) in ids.iter().zip(starts) {
            counts[rows[*start as usize].wrapping_add(*service) as usize] += 1;
        }
        counts.iter().filter(|c| **c > 0).count()
    };
    let (t, cells) = time(rounds * 3, || groups.iter().map(rate).sum::<usize>());
    gates.check(
        "rate() by service / read",
        t / read,
        0.25,
        &format!("{:.2} ns/span, {cells} cells", t / n),
    );

    let below = |g: &RowGroup| {
        let (services, errors) = (g.field(Field::Service).unwrap(), g.field(Field::Status).unwrap());
        let descendants = g.field(Field::Descendants).unwrap();
        let (ids, dict) = ids_of(&services);
        let Some(id) = id_of(dict, service) else { return 0 };
        let (codes, dict) = ids_of(&errors);
        let wanted = matching(dict, |v| v == 2);
        let (desc, dict) = ids_of(&descendants);
        let Dict::Values(values) = dict else {
            panic!("descendants are integers")
        };
        let sizes: Vec<u32> = values
            .iter()
            .map(|v| if let Some(Value::Int(d)) = v { *d as u32 } else { 0 })
            .collect();
        let (mut end, mut hits) = (0u32, 0usize);
        for row in 0..ids.len() {
            hits += usize::from(wanted[codes[row] as usize] && (row as u32) < end);
            if ids[row] == id {
                end = end.max(row as u32 + 1 + sizes[desc[row] as usize]);
            }
        }
        hits
    };
    let (t, hits) = time(rounds * 3, || groups.iter().map(below).sum::<usize>());
    gates.check(
        "{service = x} >> {status = error} / read",
        t / read,
        0.4,
        &format!("{:.2} ns/span, {hits} hits", t / n),
    );

    let key = block::AttributeKey::new(b"request.id", model::ValueType::String);
    let needle = data.request_id.as_bytes();
    let find = |g: &RowGroup| {
        let column = g.index().attribute_column(&key).unwrap();
        if let Some(dict) = g.distinct_texts(column).unwrap()
            && id_of(&dict, needle).is_none()
        {
            return 0;
        }
        let column = g.column(column).unwrap();
        match &column.values {
            OwnedValues::Dict { ids, dict } => {
                id_of(dict, needle).map_or(0, |id| ids.iter().filter(|i| **i == id).count())
            }
            OwnedValues::Bytes { offsets, bytes } => (0..offsets.len() - 1)
                .filter(|i| model::column::slice_at(offsets, bytes, *i) == needle)
                .count(),
            _ => 0,
        }
    };
    let (t, hits) = time(rounds * 3, || groups.iter().map(find).sum::<usize>());
    gates.check(
        "uuid needle without filter / read",
        t / read,
        0.15,
        &format!("{:.2} ns/span, {hits} hits", t / n),
    );
    assert!(hits > 0, "the needle exists");
}
