//! One chunk's part of a metrics query.
//!
//! Spans are found as in a search, but neither sorted nor cut; then each is put into the interval of its start and the
//! series of its group. Groups are small numbers until the end: dictionary ids where the field has a dictionary.

use std::collections::BTreeMap;
use std::fmt;

use model::column::{Rows, Values};
use model::{SpanId, TraceId};

use super::attributes::compare_rows;
use super::groups::{Groups, group_rows};
use super::partial::{LegPartial, MetricsPartial, seconds};
use super::tally::{Batch, Lanes, Offers, Tally};
use super::weight::Weights;
use super::{Intervals, Leg, MetricsPlan};
use crate::ast::Function;
use crate::budget::{BATCH, Budget};
use crate::engine::context::{Context, Ints};
use crate::engine::filter::filter;
use crate::engine::physical::{Meaning, dict_value, row_values};
use crate::engine::pipeline::{Marks, Run};
use crate::engine::read::Runner;
use crate::engine::search::{Inspected, SplitCandidate};
use crate::error::{Error, Result};
use crate::field::{Field, Intrinsic, Name};
use crate::predicate::Predicate;
use crate::rowset::{RowBatch, RowSet};
use crate::source::{Chunk, ColumnRef, Expected, TimeRange};
use crate::value::Static;

/// What one chunk contributes to a metrics query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChunkMetrics {
    /// To be merged.
    pub partial: MetricsPartial,
    /// Traces to be loaded whole and asked again, as in a search. Empty unless the plan needs whole traces.
    pub split: Vec<SplitCandidate>,
    /// What was looked at.
    pub inspected: Inspected,
    /// Memory of the partial answer, held in the budget until whoever takes it gives it back.
    pub held_bytes: usize,
}

/// A span as the model tells spans apart: trace, id, kind.
pub type SpanKey = (TraceId, SpanId, i64);

/// Traces of a chunk that may also be elsewhere.
pub struct Elsewhere<'a> {
    /// Whether this one may be.
    pub is_split: &'a dyn Fn(&TraceId) -> bool,
    /// Whether this span of such a trace is seen for the first time, in whatever chunk. Each is asked about once per
    /// chunk.
    pub is_first: &'a dyn Fn(SpanKey) -> bool,
}

impl fmt::Debug for Elsewhere<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Elsewhere")
    }
}

/// Measures the spans of one chunk.
///
/// `elsewhere` tells of traces that are also in other chunks; None when no trace of this one is. If the plan needs whole
/// traces those are not measured but named in [`ChunkMetrics::split`]; otherwise their spans count where they are seen
/// first, because one span may stand in two chunks.
///
/// `known` is what other chunks gave: an exemplar that is no better than one of those is left out.
///
/// Errors: as [`crate::search_chunk`].
pub fn metrics_chunk(
    plan: &MetricsPlan,
    chunk: &dyn Chunk,
    elsewhere: Option<&Elsewhere<'_>>,
    known: Option<&MetricsPartial>,
    budget: &Budget,
) -> Result<ChunkMetrics> {
    let mut found = ChunkMetrics {
        partial: MetricsPartial::new(plan),
        ..ChunkMetrics::default()
    };
    let ctx = Context::new(chunk, budget);
    if ctx.rows == 0 {
        return Ok(found);
    }
    found.inspected.spans = ctx.rows as u64;
    // One answer must come from one look at a trace: if any pipeline joins it, all do.
    let needs_whole = plan.needs_whole_trace();
    chunk.expect(&expected_first(&ctx, plan, needs_whole || elsewhere.is_some()))?;
    let mut in_time = rows_in_time(&ctx, plan)?;
    if let Some(elsewhere) = elsewhere.filter(|_| !needs_whole) {
        in_time.remove_all(&seen_before(&ctx, elsewhere, &in_time)?);
    }
    if let Some(sampling) = &plan.sampling {
        in_time.keep_common(&sampling.rows(&ctx)?);
    }
    let is_split = |trace: &TraceId| needs_whole && elsewhere.is_some_and(|elsewhere| (elsewhere.is_split)(trace));
    let mut split: BTreeMap<TraceId, (u64, Marks)> = BTreeMap::new();
    for (i, (leg, partial)) in plan.legs.iter().zip(&mut found.partial.legs).enumerate() {
        let mut rows = match leg.spans.only_filter() {
            Some(predicate) if !needs_whole => filter(&ctx, predicate, &in_time)?,
            _ => {
                let run = Run::new(&ctx, &leg.spans);
                let candidates = run.candidates(&is_split, None)?;
                for (ordinal, marks) in candidates.split {
                    // Its spans inside the window are counted where they stand; a part without any has nothing to say.
                    if !ctx.run(ordinal)?.iter().any(|row| in_time.contains(row)) {
                        continue;
                    }
                    split.insert(ctx.trace_id(ordinal)?, (ctx.trace_starts()?[ordinal as usize], marks));
                }
                match run.only_filter_rows() {
                    Some(rows) => rows.clone(),
                    None => rows_of_traces(&ctx, &run, candidates.whole, &in_time)?,
                }
            }
        };
        rows.keep_common(&in_time);
        if !rows.is_empty() {
            chunk.expect(&expected_of(&ctx, plan, leg))?;
            let known = known.and_then(|known| known.legs.get(i));
            measure(&ctx, plan, leg, &rows, known, partial)?;
        }
    }
    found.held_bytes = found.partial.held_bytes();
    budget.hold(found.held_bytes)?;
    found.split = split
        .into_iter()
        .map(|(trace_id, (start_unix_nanos, marks))| SplitCandidate {
            marks,
            trace_id,
            start_unix_nanos,
        })
        .collect();
    Ok(found)
}

/// What is read before any row is measured; where every span is, that too.
fn expected_first(ctx: &Context<'_>, plan: &MetricsPlan, traces: bool) -> Expected {
    let mut expected = Expected {
        traces,
        ..Expected::default()
    };
    if !plan.intervals.window().covers(&ctx.chunk.time_range()) {
        expected.column(ColumnRef::Start);
    }
    for leg in &plan.legs {
        match leg.spans.only_filter() {
            Some(Predicate::All) => expected.add(expected_of(ctx, plan, leg)),
            _ => leg
                .spans
                .first_filters()
                .iter()
                .for_each(|filter| expected.filter(filter)),
        }
    }
    expected
}

/// What measuring reads.
fn expected_of(ctx: &Context<'_>, plan: &MetricsPlan, leg: &Leg) -> Expected {
    let mut expected = Expected {
        traces: plan.exemplars > 0,
        ..Expected::default()
    };
    if only_interval(ctx, plan).is_none() {
        expected.column(ColumnRef::Start);
    }
    expected.fields(&leg.first.by);
    expected.fields(leg.measured.iter().flat_map(|program| &program.fields));
    if let Some(selection) = &leg.selection {
        expected.filter(selection);
    }
    expected
}

/// Rows of `within` whose span was seen in another chunk before.
fn seen_before(ctx: &Context<'_>, elsewhere: &Elsewhere<'_>, within: &RowSet) -> Result<RowSet> {
    let traces = ctx.traces()?;
    let split: Vec<bool> = traces.ids.iter().map(elsewhere.is_split).collect();
    let mut seen = RowSet::empty(ctx.rows);
    if !split.contains(&true) {
        return Ok(seen);
    }
    let mut rows = RowSet::from_values(traces.ordinals, |ordinal| split[ordinal as usize]);
    rows.keep_common(within);
    let rows: Vec<u32> = rows.iter().collect();
    let (kinds, ids) = (
        ctx.columns_at(&ColumnRef::Kind, &rows)?,
        ctx.columns_at(&ColumnRef::SpanId, &rows)?,
    );
    let plain = |value| match value {
        Static::Int(kind) => kind,
        _ => 0,
    };
    // As blocks have them, a value in every row; there may be a great many rows.
    let dense_ids = match ids.first().map(|column| column.view()) {
        Some(view) if matches!(view.rows, Rows::All) => match view.values {
            Values::Fixed8(ids) => ids,
            _ => &[],
        },
        _ => &[],
    };
    let (dense_kinds, by_code): (&[u32], Vec<i64>) = match kinds.first().map(|column| column.view()) {
        Some(view) if matches!(view.rows, Rows::All) && kinds.len() == 1 => match view.values {
            Values::Dict { ids, dict } => {
                let of = |id| plain(dict_value(&dict, id, Meaning::Plain));
                (ids, (0..dict.len()).map(of).collect())
            }
            _ => (&[], Vec::new()),
        },
        _ => (&[], Vec::new()),
    };
    for (i, row) in rows.into_iter().enumerate() {
        if i % BATCH == 0 {
            ctx.budget.check()?;
        }
        let at = row as usize;
        let trace = traces.ids[traces.ordinals[at] as usize];
        let kind = match dense_kinds.get(at).and_then(|code| by_code.get(*code as usize)) {
            Some(kind) => *kind,
            None => plain(row_values(&kinds, row, Meaning::Plain)),
        };
        let id = match dense_ids.get(at) {
            Some(id) => *id,
            None => crate::engine::search::span_id(&ids, row).0,
        };
        if !(elsewhere.is_first)((trace, SpanId(id), kind)) {
            seen.insert(row);
        }
    }
    Ok(seen)
}

fn rows_in_time(ctx: &Context<'_>, plan: &MetricsPlan) -> Result<RowSet> {
    let window = plan.intervals.window();
    let range = ctx.chunk.time_range();
    if window.covers(&range) {
        return Ok(RowSet::full(ctx.rows));
    }
    if !window.overlaps(&range) {
        return Ok(RowSet::empty(ctx.rows));
    }
    let starts = ctx.starts()?;
    let TimeRange {
        start_unix_nanos,
        end_unix_nanos,
    } = window;
    Ok(RowSet::from_values(starts.values(), |start| {
        let start = start.cast_unsigned();
        start_unix_nanos <= start && start <= end_unix_nanos
    }))
}

/// All spans of all spansets of the given traces.
fn rows_of_traces(ctx: &Context<'_>, run: &Run<'_, '_>, ordinals: Vec<u32>, in_time: &RowSet) -> Result<RowSet> {
    let mut rows = RowSet::empty(ctx.rows);
    for ordinal in ordinals {
        ctx.budget.check()?;
        let trace = ctx.run(ordinal)?;
        if !trace.iter().any(|row| in_time.contains(row)) {
            continue;
        }
        for set in run.trace(ordinal)? {
            set.positions.iter().for_each(|at| rows.insert(trace.row(*at)));
        }
    }
    Ok(rows)
}

/// How the measured value is read.
enum Measure<'p, 'c> {
    /// Nothing is measured, spans are counted.
    Nothing,
    Duration(Ints<'c>),
    Field(Runner<'p, 'c>),
}

fn weights<'c>(ctx: &Context<'c>, plan: &MetricsPlan) -> Result<Weights<'c>> {
    if plan.extrapolates {
        Weights::said(ctx)
    } else {
        Ok(Weights::Even)
    }
}

/// The interval in which all spans of the chunk start, if it is one.
fn only_interval(ctx: &Context<'_>, plan: &MetricsPlan) -> Option<u32> {
    let range = ctx.chunk.start_range();
    let (first, last) = (range.start_unix_nanos, range.end_unix_nanos);
    let index = plan.intervals.index(first)?;
    (plan.intervals.index(last) == Some(index)).then_some(index)
}

/// First and last interval in which spans of the chunk may start.
fn interval_range(ctx: &Context<'_>, plan: &MetricsPlan) -> (u32, u32) {
    let (range, intervals) = (ctx.chunk.start_range(), &plan.intervals);
    let window = intervals.window();
    let last = intervals.count().saturating_sub(1);
    // Outside of the window lie spans that are not counted.
    let first = range.start_unix_nanos.max(window.start_unix_nanos);
    let end = range.end_unix_nanos.min(window.end_unix_nanos);
    (
        intervals.index(first).unwrap_or(0),
        intervals.index(end).unwrap_or(last),
    )
}

/// The smallest and the largest of those above zero.
fn bounds(values: &[i64]) -> (i64, i64) {
    // Zeros have a bucket far from all others.
    let above = |value: i64| if value > 0 { value } else { i64::MAX };
    let widen = |(min, max): (i64, i64), value: &i64| (min.min(above(*value)), max.max(*value));
    values.iter().fold((i64::MAX, 0), widen)
}

/// Measures `rows` into `partial`; an exemplar that is no better than `known`'s is left out.
fn measure(
    ctx: &Context<'_>,
    plan: &MetricsPlan,
    leg: &Leg,
    rows: &RowSet,
    known: Option<&LegPartial>,
    partial: &mut LegPartial,
) -> Result<()> {
    if let (Function::Compare { window_unix_nanos, .. }, Some(selection)) = (&leg.first.function, &leg.selection) {
        let mut selected = filter(ctx, selection, rows)?;
        if let Some((from, to)) = window_unix_nanos {
            selected.keep_common(&RowSet::from_values(ctx.starts()?.values(), |start| {
                *from <= start && start <= *to
            }));
        }
        let weights = weights(ctx, plan)?;
        partial.comparison = compare_rows(ctx, rows, &selected, &plan.intervals, &weights)?;
        return Ok(());
    }
    let weights = weights(ctx, plan)?;
    let source = match &leg.measured {
        None => Measure::Nothing,
        Some(program) => match program.fields.first() {
            Some(Field {
                of_parent: false,
                name: Name::Intrinsic(Intrinsic::Duration, _),
            }) => Measure::Duration(ctx.durations()?),
            _ => Measure::Field(Runner::new(ctx, program)?),
        },
    };
    let (groups, keys) = group_rows(ctx, &leg.first.by, rows)?;
    let offers = match plan.exemplars {
        0 => None,
        _ => Some(Offers::new(ctx)?),
    };
    let spots = Spots::new(ctx, plan, &groups)?;
    let mut tally = Tally::new(keys.len(), spots.range, &leg.first.function);
    let duration_values = match &source {
        Measure::Duration(durations) if durations.values().len() == ctx.rows => durations.values(),
        Measure::Duration(_) => {
            return Err(Error::Inconsistent {
                what: "durations differ in number from the rows",
            });
        }
        _ => &[],
    };
    if let Measure::Duration(_) = source {
        let (shortest, longest) = bounds(duration_values);
        tally.expect(shortest, longest);
    }
    let lanes = match (&source, &offers, &weights) {
        (Measure::Nothing, None, Weights::Even) => tally.lanes(),
        _ => None,
    };
    match (&source, lanes) {
        (_, Some(mut lanes)) => {
            let mut last = FIRST_STRETCH;
            for part in rows.batches() {
                ctx.budget.check()?;
                spots.count(part, &mut lanes, &mut last)?;
            }
            tally.add_lanes(&lanes);
        }
        (Measure::Field(runner), None) => {
            tally_field(ctx, rows, &spots, &mut tally, offers.as_ref(), runner, &weights)?
        }
        (Measure::Nothing | Measure::Duration(_), None) => {
            let mut batch = Batch::default();
            let mut last = FIRST_STRETCH;
            for part in rows.batches() {
                ctx.budget.check()?;
                spots.place(part, &mut tally, &mut last, &mut batch)?;
                tally.count(&batch, &weights);
                if !duration_values.is_empty() {
                    tally.measure(&batch, duration_values, &weights);
                }
                if let Some(offers) = &offers {
                    tally.offer(&batch, offers);
                }
            }
        }
    }
    let nanos = |row: u32| duration_values[row as usize].max(0);
    // What a row shows as an exemplar; asked of few.
    let shown = |row: u32| {
        let Some(place) = spots.at(row, &mut FIRST_STRETCH.clone()).filter(|_| rows.contains(row)) else {
            return Ok(None);
        };
        Ok(match &source {
            Measure::Nothing => Some((place, None)),
            Measure::Duration(_) => Some((place, Some(nanos(row) as f64 / 1e9))),
            Measure::Field(runner) => {
                let cell = runner.run(ctx, row)?;
                let first = cell.items().iter().find_map(seconds);
                first.map(|first| (place, Some(first)))
            }
        })
    };
    tally.finish(ctx, &keys, known, &shown, partial)
}

/// What only damaged storage says.
const OUT_OF_RANGE: Error = Error::Inconsistent {
    what: "a span starts outside of its chunk's range",
};

/// A stretch of time whose interval is known: first and last instant, and the interval.
type Stretch = (u64, u64, u32);

/// Holds nothing.
const FIRST_STRETCH: Stretch = (1, 0, 0);

/// Where a row counts: in which group and interval.
struct Spots<'a, 'c> {
    groups: &'a Groups,
    intervals: &'a Intervals,
    /// The interval of all rows, if they have the same.
    only: Option<u32>,
    /// The first and last interval of any row, if it is in one.
    range: (u32, u32),
    /// Of every row, unless they have the same interval.
    starts: Option<Ints<'c>>,
}

impl<'a, 'c> Spots<'a, 'c> {
    fn new(ctx: &Context<'c>, plan: &'a MetricsPlan, groups: &'a Groups) -> Result<Spots<'a, 'c>> {
        let only = only_interval(ctx, plan);
        let starts = match only {
            None => Some(ctx.starts()?),
            Some(_) => None,
        };
        if starts.as_ref().is_some_and(|starts| starts.values().len() != ctx.rows) {
            return Err(Error::Inconsistent {
                what: "starts differ in number from the rows",
            });
        }
        Ok(Spots {
            groups,
            intervals: &plan.intervals,
            only,
            range: interval_range(ctx, plan),
            starts,
        })
    }

    /// Puts the rows that count into `batch`, with their places.
    fn place(&self, rows: RowBatch<'_>, tally: &mut Tally, last: &mut Stretch, batch: &mut Batch) -> Result<()> {
        let mut is_missed = false;
        batch.rows.clear();
        batch.places.clear();
        let mut add = |row: u32, index: u32, tally: &mut Tally| {
            if let Some(place) = tally.place(self.groups.of(row), index) {
                batch.rows.push(row);
                batch.places.push(place);
            } else {
                is_missed = true;
            }
        };
        match (&self.starts, self.only) {
            (Some(starts), _) => {
                let starts = starts.values();
                rows.each(|row| {
                    if let Some(index) = interval(self.intervals, starts[row as usize].cast_unsigned(), last) {
                        add(row, index, tally);
                    }
                });
            }
            (None, Some(index)) => rows.each(|row| add(row, index, tally)),
            (None, None) => {}
        }
        match is_missed {
            true => Err(OUT_OF_RANGE),
            false => Ok(()),
        }
    }

    /// Counts the rows that count.
    fn count(&self, rows: RowBatch<'_>, lanes: &mut Lanes, last: &mut Stretch) -> Result<()> {
        let is_known = match self.groups {
            Groups::One => self.count_by(rows, lanes, last, |_| 0),
            Groups::Many(groups) => self.count_by(rows, lanes, last, |row| groups[row as usize]),
        };
        if is_known { Ok(()) } else { Err(OUT_OF_RANGE) }
    }

    /// False if a row is nowhere.
    #[inline(always)]
    fn count_by(&self, rows: RowBatch<'_>, lanes: &mut Lanes, last: &mut Stretch, group: impl Fn(u32) -> u32) -> bool {
        let mut is_known = true;
        match (&self.starts, self.only) {
            (Some(starts), _) => {
                let starts = starts.values();
                rows.each(|row| {
                    if let Some(index) = interval(self.intervals, starts[row as usize].cast_unsigned(), last) {
                        is_known &= lanes.add(row, group(row), index);
                    }
                });
            }
            (None, Some(index)) => rows.each(|row| is_known &= lanes.add(row, group(row), index)),
            (None, None) => {}
        }
        is_known
    }

    fn at(&self, row: u32, last: &mut Stretch) -> Option<(u32, u32)> {
        let index = match (&self.starts, self.only) {
            (Some(starts), _) => interval(self.intervals, starts.get(row).cast_unsigned(), last)?,
            (None, only) => only?,
        };
        Some((self.groups.of(row), index))
    }
}

/// The interval of an instant. Spans that stand together mostly start together, so the last stretch is tried first.
#[inline(always)]
fn interval(intervals: &Intervals, start: u64, last: &mut Stretch) -> Option<u32> {
    if start < last.0 || start > last.1 {
        let index = intervals.index(start)?;
        let covered = intervals.covered(index);
        *last = (covered.start_unix_nanos, covered.end_unix_nanos, index);
    }
    Some(last.2)
}

/// Measures a field, of which a row may have no value or several.
fn tally_field<'c>(
    ctx: &Context<'c>,
    rows: &RowSet,
    spots: &Spots<'_, '_>,
    tally: &mut Tally,
    offers: Option<&Offers<'_>>,
    runner: &Runner<'_, 'c>,
    weights: &Weights<'_>,
) -> Result<()> {
    let mut last = FIRST_STRETCH;
    let mut batch = Batch::default();
    for (i, row) in rows.iter().enumerate() {
        if i % BATCH == 0 {
            ctx.budget.check()?;
        }
        let Some((group, index)) = spots.at(row, &mut last) else {
            continue;
        };
        let cell = runner.run(ctx, row)?;
        let mut place = None;
        for value in cell.items() {
            let Some(number) = seconds(value) else { continue };
            let at = place.or_else(|| tally.place(group, index)).ok_or(OUT_OF_RANGE)?;
            place = Some(at);
            tally.add(at, value, number, weights.of(row));
        }
        if let (Some(place), Some(_)) = (place, offers) {
            batch.rows.push(row);
            batch.places.push(place);
        }
        if let (Some(offers), BATCH..) = (offers, batch.rows.len()) {
            tally.offer(&batch, offers);
            batch = Batch::default();
        }
    }
    if let Some(offers) = offers {
        tally.offer(&batch, offers);
    }
    Ok(())
}
