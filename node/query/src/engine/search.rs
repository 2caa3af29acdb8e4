//! One chunk's part of a search: candidates, stages, and the answer's rows, read last.

use std::collections::BTreeMap;

use model::{SpanId, TraceId};

use super::context::{Context, Ints, Summary, TraceRun, service_column, text_or_empty};
use super::physical::{Meaning, row_values};
use super::pipeline::{Marks, Run, Spanset};
use super::read::Reader;
use crate::answer::{Place, Root, ServiceStats, SpanMatch, SpansetMatch, TraceMatch};
use crate::budget::{BATCH, Budget};
use crate::error::Result;
use crate::field::Field;
use crate::plan::SearchPlan;
use crate::rowset::RowSet;
use crate::source::{Chunk, ColumnRef, Expected, TimeRange};
use crate::value::{Static, Status};

/// What one chunk contributes to a search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChunkFinds {
    /// Found traces that stand whole in the chunk, newest first, at most as many as the search wants.
    pub traces: Vec<TraceMatch>,
    /// Traces that are also elsewhere and may be in the answer: to be loaded whole and searched again.
    pub split: Vec<SplitCandidate>,
    /// What was looked at.
    pub inspected: Inspected,
    /// Memory of the finds, held in the budget until whoever takes them gives it back.
    pub held_bytes: usize,
}

/// A trace to be joined before it can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitCandidate {
    /// Which.
    pub trace_id: TraceId,
    /// Earliest start seen of it in this chunk; the whole trace starts no later. A candidate whose place by this start is
    /// already behind the floor of the answer need not be loaded.
    pub start_unix_nanos: u64,
    /// What this chunk has of it. Chunks add up; see [`SearchPlan::may_join`].
    pub marks: Marks,
}

/// Counts of what a question looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    /// Spans.
    pub spans: u64,
    /// Traces.
    pub traces: u64,
}

impl Inspected {
    /// Adds another count.
    pub fn add(&mut self, other: Inspected) {
        self.spans += other.spans;
        self.traces += other.traces;
    }
}

/// What every answer shows of its spans, read once there is one.
const SHOWN: [ColumnRef; 5] = [
    ColumnRef::SpanId,
    ColumnRef::Start,
    ColumnRef::Duration,
    ColumnRef::ParentSpanId,
    ColumnRef::Name,
];

/// A trace that is in the answer.
struct Winner {
    ordinal: u32,
    sets: Vec<Spanset>,
}

/// See [`crate::search_chunk`].
pub(crate) fn search_chunk(
    search: &SearchPlan,
    chunk: &dyn Chunk,
    is_split: &dyn Fn(&TraceId) -> bool,
    floor: Option<Place>,
    budget: &Budget,
) -> Result<ChunkFinds> {
    let ctx = Context::new(chunk, budget);
    let mut finds = ChunkFinds::default();
    if ctx.rows == 0 {
        return Ok(finds);
    }
    let run = Run::new(&ctx, &search.plan);
    let mut expected = Expected {
        traces: true,
        ..Expected::default()
    };
    search
        .plan
        .first_filters()
        .iter()
        .for_each(|filter| expected.filter(filter));
    chunk.expect(&expected)?;
    let (traces, trace_starts) = (ctx.traces()?, ctx.trace_starts()?);
    finds.inspected = Inspected {
        spans: ctx.rows as u64,
        traces: traces.ids.len() as u64,
    };
    let place_of = |ordinal: u32| Place::new(trace_starts[ordinal as usize], traces.ids[ordinal as usize]);
    // What stands behind enough finds need not be looked at. A trace that is also elsewhere starts no later than here.
    let wanted = floor.map(|floor| RowSet::from_fn(traces.ids.len(), |ordinal| place_of(ordinal as u32) <= floor));
    if wanted.as_ref().is_some_and(RowSet::is_empty) {
        return Ok(finds);
    }
    let is_wanted = |ordinal: u32| wanted.as_ref().is_none_or(|wanted| wanted.contains(ordinal));
    let candidates = run.candidates(is_split, wanted.as_ref())?;

    for (ordinal, marks) in candidates.split.into_iter().filter(|(ordinal, _)| is_wanted(*ordinal)) {
        finds.split.push(SplitCandidate {
            trace_id: traces.ids[ordinal as usize],
            start_unix_nanos: trace_starts[ordinal as usize],
            marks,
        });
    }

    let window = search.request.window;
    if !window.overlaps(&chunk.time_range()) {
        return Ok(finds);
    }
    let covered = window.covers(&chunk.time_range());
    if !candidates.whole.is_empty() {
        chunk.expect(&Expected {
            columns: SHOWN.to_vec(),
            traces: false,
            structure: true,
        })?;
    }
    let mut places: Vec<(Place, u32)> = Vec::with_capacity(candidates.whole.len());
    for (i, ordinal) in candidates.whole.iter().enumerate() {
        if i % BATCH == 0 {
            budget.check()?;
        }
        let place = place_of(*ordinal);
        let is_answered = search.request.after.is_some_and(|after| place <= after);
        if !is_answered && is_wanted(*ordinal) && (covered || touches(&ctx, *ordinal, window)?) {
            places.push((place, *ordinal));
        }
    }
    places.sort_unstable();
    let mut winners = Vec::new();
    for (_, ordinal) in places {
        budget.check()?;
        let sets = run.trace(ordinal)?;
        if !sets.is_empty() {
            winners.push(Winner { ordinal, sets });
            if winners.len() == search.request.limit {
                break;
            }
        }
    }
    finds.traces = materialise(search, &ctx, winners)?;
    finds.held_bytes = finds.traces.iter().map(TraceMatch::held_bytes).sum();
    Ok(finds)
}

/// Whether any span of the trace overlaps the window.
fn touches(ctx: &Context<'_>, ordinal: u32, window: TimeRange) -> Result<bool> {
    let (starts, durations) = (ctx.starts()?, ctx.durations()?);
    Ok(ctx.run(ordinal)?.iter().any(|row| {
        let start = starts.get(row).cast_unsigned();
        let end = start.saturating_add(durations.get(row).max(0).cast_unsigned());
        window.overlaps(&TimeRange {
            start_unix_nanos: start,
            end_unix_nanos: end,
        })
    }))
}

/// Fills answers; reads the shown columns for the shown rows only.
fn materialise(search: &SearchPlan, ctx: &Context<'_>, winners: Vec<Winner>) -> Result<Vec<TraceMatch>> {
    if winners.is_empty() {
        return Ok(Vec::new());
    }
    let mut matched: Vec<u32> = Vec::new();
    let mut all: Vec<u32> = Vec::new();
    for winner in &winners {
        ctx.budget.check()?;
        let run = ctx.run(winner.ordinal)?;
        all.extend(run.iter());
        matched.extend(
            winner
                .sets
                .iter()
                .flat_map(|set| set.positions.iter().map(|at| run.row(*at))),
        );
    }
    sort_unique(&mut all);
    sort_unique(&mut matched);
    let ids = ctx.columns_at(&ColumnRef::SpanId, &matched)?;
    let starts = Ints::of_some(ctx.columns_at(&ColumnRef::Start, &all)?)?;
    let durations = Ints::of_some(ctx.columns_at(&ColumnRef::Duration, &all)?)?;
    let parents = ctx.columns_at(&ColumnRef::ParentSpanId, &all)?;
    let preorder = ctx.preorder()?;
    let is_root = |row: u32| {
        preorder.is_none_or(|preorder| preorder.parent_distance[row as usize] == 0)
            && span_id(&parents, row) == SpanId::default()
    };
    let summaries = winners
        .iter()
        .map(|winner| {
            ctx.budget.check()?;
            summary(ctx, ctx.run(winner.ordinal)?, &starts, &durations, &is_root)
        })
        .collect::<Result<Vec<_>>>()?;
    // First the cut, because what is cut away is not read.
    let mut shown_rows = Vec::new();
    let mut cut: Vec<Vec<Vec<u32>>> = Vec::with_capacity(winners.len());
    for winner in &winners {
        ctx.budget.check()?;
        let run = ctx.run(winner.ordinal)?;
        let mut sets = Vec::with_capacity(winner.sets.len());
        for set in &winner.sets {
            let mut rows: Vec<u32> = set.positions.iter().map(|at| run.row(*at)).collect();
            rows.sort_by_cached_key(|row| (starts.get_some(*row), span_id(&ids, *row)));
            if search.request.spans_per_spanset > 0 {
                rows.truncate(search.request.spans_per_spanset);
            }
            shown_rows.extend_from_slice(&rows);
            sets.push(rows);
        }
        cut.push(sets);
    }
    let mut named_rows = shown_rows.clone();
    named_rows.extend(summaries.iter().filter_map(|summary| summary.root));
    sort_unique(&mut shown_rows);
    sort_unique(&mut named_rows);

    let shown: Vec<(String, Reader<'_>)> = search
        .shown
        .iter()
        .map(|field| Ok((shown_key(field), Reader::new(ctx, field, Some(&shown_rows))?)))
        .collect::<Result<_>>()?;
    let names = ctx.columns_at(&ColumnRef::Name, &named_rows)?;
    let services = ctx.columns_at(&service_column(), &all)?;
    let statuses = ctx.columns_at(&ColumnRef::Status, &all)?;
    let name = |row: u32| text_or_empty(row_values(&names, row, Meaning::Plain));
    let service = |row: u32| text_or_empty(row_values(&services, row, Meaning::Plain));
    let is_error = |row: u32| row_values(&statuses, row, Meaning::Status) == Static::Status(Status::Error);

    let mut traces = Vec::with_capacity(winners.len());
    for ((winner, summary), sets) in winners.into_iter().zip(summaries).zip(cut) {
        ctx.budget.check()?;
        let run = ctx.run(winner.ordinal)?;
        let mut spansets = Vec::with_capacity(sets.len());
        for (set, rows) in winner.sets.into_iter().zip(sets) {
            let mut spans = Vec::with_capacity(rows.len());
            for row in rows {
                spans.push(SpanMatch {
                    span_id: span_id(&ids, row),
                    name: name(row),
                    start_unix_nanos: starts.get_some(row).cast_unsigned(),
                    duration_nanos: durations.get_some(row).max(0).cast_unsigned(),
                    attributes: show(ctx, &shown, row)?,
                });
            }
            let matched = u32::try_from(set.positions.len()).unwrap_or(u32::MAX);
            spansets.push(SpansetMatch {
                matched,
                spans,
                attributes: set.attributes,
            });
        }
        let found = TraceMatch {
            trace_id: ctx.trace_id(winner.ordinal)?,
            start_unix_nanos: summary.start_unix_nanos,
            duration_nanos: summary.end_unix_nanos.saturating_sub(summary.start_unix_nanos),
            root: summary.root.map(|row| Root {
                service: service(row),
                name: name(row),
            }),
            spansets,
            services: count_services(run, service, is_error),
        };
        ctx.budget.hold(found.held_bytes())?;
        traces.push(found);
    }
    Ok(traces)
}

/// What is known of a trace as a whole; the root is the earliest span without a parent, of several the smallest id.
fn summary(
    ctx: &Context<'_>,
    run: TraceRun<'_>,
    starts: &Ints<'_>,
    durations: &Ints<'_>,
    is_root: &dyn Fn(u32) -> bool,
) -> Result<Summary> {
    let mut summary = Summary {
        start_unix_nanos: u64::MAX,
        end_unix_nanos: 0,
        root: None,
    };
    let mut roots: Vec<(u64, u32)> = Vec::new();
    for row in run.iter() {
        let start = starts.get_some(row).cast_unsigned();
        let end = start.saturating_add(durations.get_some(row).max(0).cast_unsigned());
        summary.start_unix_nanos = summary.start_unix_nanos.min(start);
        summary.end_unix_nanos = summary.end_unix_nanos.max(end);
        if is_root(row) {
            roots.push((start, row));
        }
    }
    let earliest = roots.iter().map(|(start, _)| *start).min();
    roots.retain(|(start, _)| Some(*start) == earliest);
    summary.root = match roots.as_slice() {
        [] => None,
        [(_, row)] => Some(*row),
        several => {
            let rows: Vec<u32> = several.iter().map(|(_, row)| *row).collect();
            let ids = ctx.columns_at(&ColumnRef::SpanId, &rows)?;
            rows.into_iter().min_by_key(|row| span_id(&ids, *row))
        }
    };
    Ok(summary)
}

fn count_services(
    run: TraceRun<'_>,
    service: impl Fn(u32) -> String,
    is_error: impl Fn(u32) -> bool,
) -> BTreeMap<String, ServiceStats> {
    let mut services: BTreeMap<String, ServiceStats> = BTreeMap::new();
    for row in run.iter() {
        let stats = services.entry(service(row)).or_default();
        stats.span_count += 1;
        stats.error_count += u32::from(is_error(row));
    }
    services
}

/// The key of a shown field: attributes without their scope, except that a parent's field says so.
fn shown_key(field: &Field) -> String {
    if field.of_parent {
        field.to_string()
    } else {
        field.key().to_owned()
    }
}

fn show<'c>(ctx: &Context<'c>, shown: &[(String, Reader<'c>)], row: u32) -> Result<Vec<(String, Static)>> {
    let mut attributes: Vec<(String, Static)> = Vec::new();
    for (key, reader) in shown {
        let value = reader.read(ctx, row)?.value;
        // `.x` and `span.x` may both be mentioned and mean the same.
        if value != Static::Nil && !attributes.iter().any(|(k, v)| k == key && *v == value) {
            attributes.push((key.clone(), value));
        }
    }
    Ok(attributes)
}

pub(crate) fn span_id(columns: &[model::column::ColumnCow<'_>], row: u32) -> SpanId {
    for column in columns {
        let view = column.view();
        if let (Some(at), model::column::Values::Fixed8(ids)) =
            (super::physical::positions(&view, row).next(), view.values)
            && let Some(id) = ids.get(at)
        {
            return SpanId(*id);
        }
    }
    SpanId::default()
}

fn sort_unique(rows: &mut Vec<u32>) {
    rows.sort_unstable();
    rows.dedup();
}
