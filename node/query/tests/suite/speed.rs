//! How long the engine takes, for people: `cargo test -p vivace-query --release -- --ignored --nocapture speed`.
//!
//! One chunk of 64 Ki spans in depth-first order with columns as a block reader hands them out, all in memory: what is
//! measured is this crate alone. Minimum of several runs.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use model::column::{Column, ColumnCow, ColumnView, Dict, OwnedValues};
use model::{Scope, TraceId, Value};
use query::budget::Budget;
use query::metrics::{Elsewhere, Intervals, MetricsPlan, MetricsRequest, metrics_chunk};
use query::source::{Chunk, ColumnRef, Preorder, TimeRange, TraceRows};
use query::{Result, SearchPlan, SearchRequest, search_chunk};

const ROWS: usize = 65_536;
const TRACE: usize = 27;
const SECOND: u64 = 1_000_000_000;

struct Block {
    ordinals: Vec<u32>,
    ids: Vec<TraceId>,
    descendants: Vec<u32>,
    distances: Vec<u32>,
    columns: Vec<(ColumnRef, Column)>,
}

fn dense(values: OwnedValues) -> Column {
    Column { rows: None, values }
}

fn words(of: impl Fn(usize) -> u32, words: Vec<String>) -> OwnedValues {
    let mut offsets = vec![0u32];
    let mut bytes = Vec::new();
    for word in words {
        bytes.extend_from_slice(word.as_bytes());
        offsets.push(bytes.len() as u32);
    }
    OwnedValues::Dict {
        ids: (0..ROWS).map(of).collect(),
        dict: Arc::new(Dict::Bytes { offsets, bytes }),
    }
}

/// A cheap stand-in for chance.
fn mix(x: usize) -> usize {
    (x.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17) & 0xffff_ffff
}

impl Block {
    fn new() -> Block {
        let ordinals: Vec<u32> = (0..ROWS).map(|row| (row / TRACE) as u32).collect();
        let ids = (0..=ROWS / TRACE)
            .map(|n| TraceId(((mix(n) as u128) << 64 | n as u128).to_be_bytes()))
            .collect();
        // Every trace is a comb: odd spans hang below the even one before them, even ones in a chain.
        let at = |row: usize| row % TRACE;
        let length = |row: usize| TRACE.min(ROWS - row / TRACE * TRACE);
        let distances = (0..ROWS)
            .map(|row| match at(row) {
                0 => 0,
                n if n % 2 == 1 => 1,
                _ => 2,
            })
            .collect();
        let descendants = (0..ROWS)
            .map(|row| {
                if at(row) % 2 == 1 {
                    0
                } else {
                    (length(row) - at(row) - 1) as u32
                }
            })
            .collect();
        let services = (0..40).map(|n| Some(Value::String(format!("service-{n}")))).collect();
        let service = OwnedValues::Dict {
            ids: (0..ROWS).map(|row| (mix(row / 3) % 40) as u32).collect(),
            dict: Arc::new(Dict::Values(services)),
        };
        let starts = (0..ROWS).map(|row| (SECOND as usize * 1000 + row / TRACE * 20_000_000 + at(row) * 1000) as i64);
        let sparse: Vec<u32> = (0..ROWS as u32).filter(|row| row % 2 == 0).collect();
        let codes = sparse
            .iter()
            .map(|row| if mix(*row as usize) % 100 < 2 { 500 } else { 200 })
            .collect();
        let columns = vec![
            (
                ColumnRef::Name,
                dense(words(
                    |row| (mix(row) % 600) as u32,
                    (0..600).map(|n| format!("GET /x/{n}")).collect(),
                )),
            ),
            (
                ColumnRef::Kind,
                dense(OwnedValues::Int((0..ROWS).map(|row| (mix(row) % 5) as i64).collect())),
            ),
            (
                ColumnRef::Status,
                dense(OwnedValues::Int(
                    (0..ROWS)
                        .map(|row| if mix(row).is_multiple_of(50) { 2 } else { 0 })
                        .collect(),
                )),
            ),
            (ColumnRef::Start, dense(OwnedValues::Int(starts.collect()))),
            (
                ColumnRef::Duration,
                dense(OwnedValues::Int(
                    (0..ROWS).map(|row| (mix(row) % 300_000_000) as i64).collect(),
                )),
            ),
            (
                ColumnRef::SpanId,
                dense(OwnedValues::Fixed8(
                    (0..ROWS).map(|row| (row as u64 + 1).to_be_bytes()).collect(),
                )),
            ),
            (
                ColumnRef::Attribute(Scope::Resource, "service.name".into()),
                dense(service),
            ),
            (
                ColumnRef::Attribute(Scope::Span, "http.status_code".into()),
                Column {
                    rows: Some(sparse),
                    values: OwnedValues::Int(codes),
                },
            ),
        ];
        Block {
            ordinals,
            ids,
            descendants,
            distances,
            columns,
        }
    }
}

impl Chunk for Block {
    fn row_count(&self) -> usize {
        ROWS
    }

    fn time_range(&self) -> TimeRange {
        TimeRange {
            start_unix_nanos: 1000 * SECOND,
            end_unix_nanos: 1100 * SECOND,
        }
    }

    fn traces(&self) -> Result<TraceRows<'_>> {
        Ok(TraceRows {
            ordinals: &self.ordinals,
            ids: &self.ids,
            in_preorder: true,
        })
    }

    fn preorder(&self) -> Result<Option<Preorder<'_>>> {
        Ok(Some(Preorder {
            descendants: &self.descendants,
            parent_distance: &self.distances,
        }))
    }

    fn columns(&self, column: &ColumnRef) -> Result<Vec<ColumnCow<'_>>> {
        let known = self.columns.iter().filter(|(known, _)| known == column);
        Ok(known.map(|(_, column)| ColumnCow::Borrowed(view(column))).collect())
    }

    fn attribute_keys(&self, _: Scope) -> Result<Vec<Arc<str>>> {
        Ok(Vec::new())
    }
}

fn view(column: &Column) -> ColumnView<'_> {
    column.view()
}

fn nanos_per_span(mut run: impl FnMut() -> usize) -> (f64, usize) {
    let mut best = f64::MAX;
    let mut found = 0;
    for _ in 0..15 {
        let start = Instant::now();
        found = run();
        best = best.min(start.elapsed().as_nanos() as f64 / ROWS as f64);
    }
    (best, found)
}

#[test]
#[ignore = "for people"]
fn speed() {
    let block = Block::new();
    let request = SearchRequest {
        window: TimeRange::ALWAYS,
        limit: 20,
        spans_per_spanset: 3,
        after: None,
    };
    for text in [
        "{ resource.service.name = \"none\" }",
        "{ resource.service.name = \"service-7\" }",
        "{ span.http.status_code >= 500 }",
        "{ resource.service.name = \"service-7\" && duration > 100ms }",
        "{ name =~ \"GET.*7\" }",
        "{ status = error } | count() > 2",
        "{ resource.service.name = \"service-7\" } >> { status = error }",
        "{ resource.service.name = \"service-7\" } >> { status = error } | count() > 100",
        "{ nestedSetParent < 0 && duration > 290ms }",
    ] {
        let plan = SearchPlan::new(&query::parse(text).unwrap(), request).unwrap();
        let (nanos, found) = nanos_per_span(|| {
            search_chunk(&plan, &block, &|_| false, None, &Budget::default())
                .unwrap()
                .traces
                .len()
        });
        println!("{nanos:8.2} ns/span {found:6} traces  {text}");
    }
    let intervals = Intervals::range(1000 * SECOND, 1060 * SECOND, SECOND).unwrap();
    for (text, exemplars) in [
        ("{ } | rate()", 0),
        ("{ } | rate() by(resource.service.name)", 0),
        ("{ status = error } | rate() by(resource.service.name)", 0),
        ("{ } | rate() by(resource.service.name, name)", 0),
        ("{ } | quantile_over_time(duration, 0.99) by(resource.service.name)", 0),
        ("{ } | rate() by(resource.service.name)", 100),
    ] {
        let plan = MetricsPlan::new(&query::parse(text).unwrap(), MetricsRequest { intervals, exemplars }).unwrap();
        let (nanos, found) = nanos_per_span(|| {
            let found = metrics_chunk(&plan, &block, None, None, &Budget::default()).unwrap();
            found.partial.legs[0].groups.len()
        });
        println!("{nanos:8.2} ns/span {found:6} series  {text} exemplars={exemplars}");
    }
    // Every span may also stand elsewhere.
    let plan = query::parse("{ } | rate() by(resource.service.name)").unwrap();
    let plan = MetricsPlan::new(
        &plan,
        MetricsRequest {
            intervals,
            exemplars: 0,
        },
    )
    .unwrap();
    let (nanos, found) = nanos_per_span(|| {
        let seen = RefCell::new(HashSet::new());
        let elsewhere = Elsewhere {
            is_split: &|_| true,
            is_first: &|span| seen.borrow_mut().insert(span),
        };
        let found = metrics_chunk(&plan, &block, Some(&elsewhere), None, &Budget::default()).unwrap();
        found.partial.legs[0].groups.len()
    });
    println!("{nanos:8.2} ns/span {found:6} series  the same where every span may be elsewhere too");
}
