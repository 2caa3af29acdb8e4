//! One chunk's part of a metrics query.
//!
//! Spans are found as in a search, but neither sorted nor cut; then each is put into the interval of its start and the
//! series of its group. Groups are small numbers until the end: dictionary ids where the field has a dictionary.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use model::column::{DictView, Rows, Values};
use model::{SpanId, TraceId, Value};

use super::attributes::compare_rows;
use super::partial::{Bucket, Exemplar, GroupKey, LegPartial, Measured, MetricsPartial, Power, seconds};
use super::sketch::{CODE_OFFSET, Sketch, code, code_of_nanos};
use super::weight::{ONE, Weights, mix};
use super::{Leg, MetricsPlan};
use crate::ast::Function;
use crate::budget::{BATCH, Budget};
use crate::engine::context::{Context, Ints};
use crate::engine::filter::filter;
use crate::engine::physical::{Meaning, dict_value, row_values, value_at};
use crate::engine::pipeline::{Marks, Run};
use crate::engine::read::{Group, Reader, Runner};
use crate::engine::search::{Inspected, SplitCandidate};
use crate::error::{Error, Result};
use crate::field::{Field, Intrinsic, Name};
use crate::rowset::RowSet;
use crate::source::{Chunk, ColumnRef, TimeRange};
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
    let kinds = ctx.columns_at(&ColumnRef::Kind, &rows)?;
    for (i, row) in rows.into_iter().enumerate() {
        if i % BATCH == 0 {
            ctx.budget.check()?;
        }
        let trace = traces.ids[traces.ordinals[row as usize] as usize];
        let kind = match row_values(&kinds, row, Meaning::Plain) {
            Static::Int(kind) => kind,
            _ => 0,
        };
        if !(elsewhere.is_first)((trace, SpanId(ctx.span_id(row)?), kind)) {
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
    let mut tally = Tally::new(keys.len(), plan.intervals.count() as usize, &leg.first.function);
    let offers = match plan.exemplars {
        0 => None,
        _ => Some(Offers::new(ctx)?),
    };
    let only = only_interval(ctx, plan);
    let starts = match only {
        None => Some(ctx.starts()?),
        Some(_) => None,
    };
    let start_values = starts.as_ref().map_or(&[][..], Ints::values);
    if only.is_none() && start_values.len() != ctx.rows {
        return Err(Error::Inconsistent {
            what: "starts differ in number from the rows",
        });
    }
    let duration_values = match &source {
        Measure::Duration(durations) if durations.values().len() == ctx.rows => durations.values(),
        Measure::Duration(_) => {
            return Err(Error::Inconsistent {
                what: "durations differ in number from the rows",
            });
        }
        _ => &[],
    };
    // Spans that stand together mostly start together, so the last interval is tried before dividing.
    let mut last = (1u64, 0u64, 0u32);
    for (i, row) in rows.iter().enumerate() {
        if i % BATCH == 0 {
            ctx.budget.check()?;
        }
        let index = match only {
            Some(index) => index,
            None => {
                let start = start_values[row as usize].cast_unsigned();
                if start < last.0 || start > last.1 {
                    let Some(index) = plan.intervals.index(start) else {
                        continue;
                    };
                    let covered = plan.intervals.covered(index);
                    last = (covered.start_unix_nanos, covered.end_unix_nanos, index);
                }
                last.2
            }
        };
        let group = groups.of(row);
        let mut shown = None;
        let place = match &source {
            Measure::Nothing => {
                let place = tally.place(group, index);
                tally.counts[place] += weights.of(row);
                place
            }
            Measure::Duration(_) => {
                let place = tally.place(group, index);
                let nanos = duration_values[row as usize].max(0);
                let number = nanos as f64 / 1e9;
                if tally.kind == Kind::Quantile {
                    tally.add_code(place, code_of_nanos(nanos), number, weights.of(row));
                } else {
                    tally.add(place, &Static::Duration(nanos), number, weights.of(row));
                }
                shown = Some(number);
                place
            }
            Measure::Field(runner) => {
                let cell = runner.run(ctx, row)?;
                let mut place = None;
                for value in cell.items() {
                    let Some(number) = seconds(value) else { continue };
                    let at = *place.get_or_insert_with(|| tally.place(group, index));
                    tally.add(at, value, number, weights.of(row));
                    shown = shown.or(Some(number));
                }
                let Some(place) = place else { continue };
                place
            }
        };
        if let Some(offers) = &offers {
            tally.offer(ctx, offers, place, row, shown)?;
        }
    }
    tally.finish(ctx, &keys, known, partial)
}

/// What it takes to say how good an exemplar a row is.
struct Offers<'c> {
    ordinals: &'c [u32],
    /// By ordinal. The smaller the better.
    hashes: Vec<u64>,
}

impl<'c> Offers<'c> {
    fn new(ctx: &Context<'c>) -> Result<Offers<'c>> {
        let traces = ctx.traces()?;
        Ok(Offers {
            ordinals: traces.ordinals,
            hashes: traces.ids.iter().map(|id| mix(id.to_u128() as u64)).collect(),
        })
    }
}

/// Weights by place and bucket. The first places have a table each that counts spans that stand for themselves in the
/// buckets of times between a nanosecond and months; everything else goes into a map.
#[derive(Default)]
struct Codes {
    tables: Vec<Option<Box<[u32; TABLE_CODES]>>>,
    map: HashMap<u64, u64, BuildHasherDefault<Mix>>,
}

/// Buckets of a table, and the first of them.
const TABLE_CODES: usize = 2048;
const TABLE_FIRST: i32 = CODE_OFFSET - 1152;
/// Places with a table: 512 KiB together.
const TABLES_MAX: usize = 64;

impl Codes {
    #[inline]
    fn add(&mut self, place: u32, code: i32, weight: u64) {
        let at = code.wrapping_sub(TABLE_FIRST) as usize;
        if at < TABLE_CODES && (place as usize) < TABLES_MAX && weight == ONE {
            if self.tables.len() <= place as usize {
                self.tables.resize_with(place as usize + 1, || None);
            }
            let table = self.tables[place as usize].get_or_insert_with(|| Box::new([0; TABLE_CODES]));
            table[at] += 1;
        } else {
            let key = u64::from(place) << 32 | u64::from(code.cast_unsigned() ^ 1 << 31);
            *self.map.entry(key).or_default() += weight;
        }
    }

    /// Place, bucket, weight; ascending in each place, except that what was in the map comes last.
    fn in_order(self) -> impl Iterator<Item = (u32, i32, u64)> {
        let tables = self.tables.into_iter().enumerate().flat_map(|(place, table)| {
            let weights = table.into_iter().flat_map(|table| table.into_iter().enumerate());
            let of = move |(at, count): (usize, u32)| (place as u32, TABLE_FIRST + at as i32, u64::from(count) * ONE);
            weights.map(of).filter(|(_, _, weight)| *weight > 0)
        });
        let mut rest: Vec<(u64, u64)> = self.map.into_iter().collect();
        rest.sort_unstable();
        let of = |(key, weight): (u64, u64)| ((key >> 32) as u32, (key as u32 ^ 1 << 31).cast_signed(), weight);
        tables.chain(rest.into_iter().map(of))
    }
}

/// Mixes one number: the keys are our own, nobody can choose them so that they collide.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0 ^ number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Counts of one chunk by place, a place being an interval of a group that has a span. Places are numbered as they come.
struct Tally {
    intervals: usize,
    /// By group and interval; [`NO_PLACE`] where there is no span yet. Empty when it would be too large.
    table: Vec<u32>,
    /// Instead of the table.
    map: HashMap<(u32, u32), u32>,
    /// By place: which it is.
    places: Vec<(u32, u32)>,
    counts: Vec<u64>,
    measured: Vec<Measured>,
    /// Weights by place and bucket, for quantiles.
    codes: Codes,
    powers: HashMap<(u32, Power), u64>,
    exemplars: Vec<Option<(u64, u32, Option<f64>)>>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Count,
    Measure,
    Quantile,
    Histogram,
}

const NO_PLACE: u32 = u32::MAX;
/// Entries of the place table, 4 bytes each: small enough to stay in the second-level cache.
const TABLE_MAX: usize = 1 << 18;

impl Tally {
    fn new(groups: usize, intervals: usize, function: &Function) -> Tally {
        let entries = groups.saturating_mul(intervals);
        let kind = match function {
            Function::Rate | Function::CountOverTime | Function::Compare { .. } => Kind::Count,
            Function::QuantileOverTime(..) => Kind::Quantile,
            Function::HistogramOverTime(_) => Kind::Histogram,
            _ => Kind::Measure,
        };
        Tally {
            intervals,
            table: if entries <= TABLE_MAX {
                vec![NO_PLACE; entries]
            } else {
                Vec::new()
            },
            map: HashMap::new(),
            places: Vec::new(),
            counts: Vec::new(),
            measured: Vec::new(),
            codes: Codes::default(),
            powers: HashMap::new(),
            exemplars: Vec::new(),
            kind,
        }
    }

    #[inline(always)]
    fn place(&mut self, group: u32, index: u32) -> usize {
        match self.table.get(group as usize * self.intervals + index as usize) {
            Some(slot) if *slot != NO_PLACE => *slot as usize,
            _ => self.find_place(group, index),
        }
    }

    #[inline(never)]
    fn find_place(&mut self, group: u32, index: u32) -> usize {
        let slot = match self.table.get_mut(group as usize * self.intervals + index as usize) {
            Some(slot) => slot,
            None => self.map.entry((group, index)).or_insert(NO_PLACE),
        };
        if *slot == NO_PLACE {
            *slot = self.places.len() as u32;
            self.places.push((group, index));
            self.counts.push(0);
            if self.kind != Kind::Count {
                self.measured.push(Measured::new());
            }
            self.exemplars.push(None);
        }
        *slot as usize
    }

    #[inline]
    fn add(&mut self, place: usize, value: &Static, number: f64, weight: u64) {
        self.counts[place] += weight;
        match self.kind {
            Kind::Quantile => {
                if let Some(code) = code(number) {
                    self.codes.add(place as u32, code, weight);
                }
                self.measured[place].bound(number);
            }
            Kind::Measure => self.measured[place].add(value, number, weight),
            Kind::Histogram => {
                self.measured[place].add(value, number, weight);
                if let Some(power) = Power::of(value) {
                    *self.powers.entry((place as u32, power)).or_default() += weight;
                }
            }
            Kind::Count => {}
        }
    }

    /// Counts a value for quantiles whose bucket is known.
    #[inline]
    fn add_code(&mut self, place: usize, code: i32, number: f64, weight: u64) {
        self.counts[place] += weight;
        self.measured[place].bound(number);
        self.codes.add(place as u32, code, weight);
    }

    /// Keeps the trace with the smallest hash, and of its spans the one with the smallest id, which is only read of those.
    #[inline]
    fn offer(
        &mut self,
        ctx: &Context<'_>,
        offers: &Offers<'_>,
        place: usize,
        row: u32,
        value: Option<f64>,
    ) -> Result<()> {
        let hash = offers.hashes[offers.ordinals[row as usize] as usize];
        let better = match self.exemplars[place] {
            None => true,
            Some((known, _, _)) if hash != known => hash < known,
            Some((_, other, _)) => ctx.span_id(row)? < ctx.span_id(other)?,
        };
        if better {
            self.exemplars[place] = Some((hash, row, value));
        }
        Ok(())
    }

    fn finish(
        mut self,
        ctx: &Context<'_>,
        keys: &[GroupKey],
        known: Option<&LegPartial>,
        partial: &mut LegPartial,
    ) -> Result<()> {
        for (place, code, weight) in self.codes.in_order() {
            let sketch = self.measured[place as usize].sketch.get_or_insert_with(Sketch::default);
            sketch.add_code(code, weight);
        }
        for ((place, power), count) in self.powers {
            *self.measured[place as usize].powers.entry(power).or_default() += count;
        }
        // What is known already is not looked up again; the more chunks were seen, the fewer pages are read for the rest.
        for ((group, index), exemplar) in self.places.iter().zip(&mut self.exemplars) {
            let of_group = known.and_then(|known| known.groups.get(&keys[*group as usize]));
            let best = of_group.and_then(|buckets| buckets.get(index)?.exemplar.as_ref());
            if best
                .zip(exemplar.as_ref())
                .is_some_and(|(best, (hash, _, _))| best.hash < *hash)
            {
                *exemplar = None;
            }
        }
        let mut rows: Vec<u32> = self.exemplars.iter().flatten().map(|(_, row, _)| *row).collect();
        rows.sort_unstable();
        let starts = Ints::of_some(ctx.columns_at(&ColumnRef::Start, &rows)?)?;
        let span_ids = ctx.columns_at(&ColumnRef::SpanId, &rows)?;
        let mut measured = self.measured.into_iter();
        let mut buckets: Vec<((u32, u32), Bucket)> = Vec::with_capacity(self.places.len());
        for ((place, count), exemplar) in self.places.into_iter().zip(self.counts).zip(self.exemplars) {
            let exemplar = match exemplar {
                None => None,
                Some((hash, row, value)) => Some(Box::new(Exemplar {
                    hash,
                    trace_id: ctx.trace_id(ctx.traces()?.ordinals[row as usize])?,
                    span_id: crate::engine::search::span_id(&span_ids, row),
                    unix_nanos: starts.get_some(row).cast_unsigned(),
                    value,
                })),
            };
            buckets.push((
                place,
                Bucket {
                    count,
                    measured: measured.next().map(Box::new),
                    exemplar,
                },
            ));
        }
        buckets.sort_unstable_by_key(|(place, _)| *place);
        let series_max = ctx.budget.limits().series_max;
        let mut buckets = buckets.into_iter().peekable();
        while let Some(((group, _), _)) = buckets.peek() {
            let group = *group;
            let mut mine: BTreeMap<u32, Bucket> = BTreeMap::new();
            while let Some(((_, index), bucket)) = buckets.next_if(|((other, _), _)| *other == group) {
                mine.insert(index, bucket);
            }
            if let Some(slot) = partial.group(keys[group as usize].clone(), series_max) {
                *slot = mine;
            }
        }
        Ok(())
    }
}

/// Stands for "no value".
const NIL: u32 = 0;

/// Group numbers of rows.
enum Groups {
    /// All rows are in the one group.
    One,
    /// By row; rows that were not asked for have any number.
    Many(Vec<u32>),
}

impl Groups {
    #[inline]
    fn of(&self, row: u32) -> u32 {
        match self {
            Groups::One => 0,
            Groups::Many(groups) => groups[row as usize],
        }
    }
}

/// The group of each row, and the key of each group.
fn group_rows(ctx: &Context<'_>, by: &[Field], rows: &RowSet) -> Result<(Groups, Vec<GroupKey>)> {
    let Some((first, more)) = by.split_first() else {
        return Ok((Groups::One, vec![GroupKey(Vec::new())]));
    };
    let (mut groups, values) = code_rows(ctx, first, rows)?;
    let mut keys: Vec<GroupKey> = values.into_iter().map(|value| GroupKey(vec![value])).collect();
    for field in more {
        let (codes, values) = code_rows(ctx, field, rows)?;
        let mut pairs: HashMap<(u32, u32), u32> = HashMap::new();
        let mut combined: Vec<GroupKey> = Vec::new();
        for row in rows.iter() {
            let pair = (groups[row as usize], codes[row as usize]);
            let group = *pairs.entry(pair).or_insert_with(|| {
                let mut key = keys[pair.0 as usize].clone();
                key.0.push(values[pair.1 as usize].clone());
                combined.push(key);
                combined.len() as u32 - 1
            });
            groups[row as usize] = group;
        }
        keys = combined;
    }
    Ok((Groups::Many(groups), keys))
}

/// Numbers the values of a field: by row its value's number, and the values by number. Number 0 is nil.
fn code_rows(ctx: &Context<'_>, field: &Field, rows: &RowSet) -> Result<(Vec<u32>, Vec<Static>)> {
    let reader = Reader::new(ctx, field, None)?;
    let mut coder = Coder {
        codes: BTreeMap::new(),
        values: vec![Static::Nil],
    };
    if let Reader::Columns { groups, missing } = &reader
        && groups.iter().all(|group| is_simple(ctx.rows, group))
    {
        let mut codes = vec![NIL; ctx.rows];
        for group in groups {
            code_group(ctx, group, &mut codes, &mut coder)?;
        }
        if *missing != Static::Nil {
            let code = coder.code(missing.clone());
            codes.iter_mut().filter(|c| **c == NIL).for_each(|c| *c = code);
        }
        return Ok((codes, coder.values));
    }
    let mut codes = vec![NIL; ctx.rows];
    for (i, row) in rows.iter().enumerate() {
        if i % BATCH == 0 {
            ctx.budget.check()?;
        }
        codes[row as usize] = coder.code(reader.read(ctx, row)?.value);
    }
    Ok((codes, coder.values))
}

struct Coder {
    codes: BTreeMap<GroupKey, u32>,
    values: Vec<Static>,
}

impl Coder {
    fn code(&mut self, value: Static) -> u32 {
        if value == Static::Nil {
            return NIL;
        }
        let values = &mut self.values;
        *self.codes.entry(GroupKey(vec![value.clone()])).or_insert_with(|| {
            values.push(value);
            values.len() as u32 - 1
        })
    }
}

/// Whether each row has at most one value, as far as the columns themselves show.
fn is_simple(rows: usize, group: &Group<'_>) -> bool {
    let mut taken = RowSet::empty(rows);
    let several = group.columns.len() > 1;
    group.columns.iter().all(|column| {
        let view = column.view();
        let single = match view.rows {
            Rows::All => !several,
            Rows::Sparse(at_rows) => {
                let repeats = at_rows.windows(2).any(|pair| pair[0] == pair[1]);
                // A span may carry one key twice, with values of two types.
                let shared = several && at_rows.iter().any(|row| taken.contains(*row));
                at_rows.iter().for_each(|row| taken.insert(*row));
                !repeats && !shared
            }
        };
        let lists = match view.values {
            Values::Raw { .. } => true,
            Values::Dict {
                dict: DictView::Values(values),
                ..
            } => values.iter().any(|value| matches!(value, Some(Value::Array(_)))),
            _ => false,
        };
        single && !lists
    })
}

/// The same for a column with a dictionary and a value in every row: each used entry is looked at once.
fn code_dense(ids: &[u32], dict: &DictView<'_>, meaning: Meaning, codes: &mut [u32], coder: &mut Coder) {
    let mut used = vec![false; dict.len()];
    for id in ids {
        if let Some(used) = used.get_mut(*id as usize) {
            *used = true;
        }
    }
    let code = |(id, used): (usize, &bool)| match used {
        true => coder.code(dict_value(dict, id, meaning)),
        false => NIL,
    };
    let by_id: Vec<u32> = used.iter().enumerate().map(code).collect();
    for (code, id) in codes.iter_mut().zip(ids) {
        if *code == NIL {
            *code = by_id.get(*id as usize).copied().unwrap_or(NIL);
        }
    }
}

/// Fills in the codes of rows that have none yet.
fn code_group(ctx: &Context<'_>, group: &Group<'_>, codes: &mut [u32], coder: &mut Coder) -> Result<()> {
    for column in group.columns.iter() {
        let view = column.view();
        if let (Rows::All, Values::Dict { ids, dict }) = (view.rows, view.values)
            && codes.len() == ids.len()
        {
            code_dense(ids, &dict, group.meaning, codes, coder);
            continue;
        }
        let mut by_id: Vec<Option<u32>> = match view.values {
            Values::Dict { dict, .. } => vec![None; dict.len()],
            _ => Vec::new(),
        };
        let mut by_int: HashMap<i64, u32> = HashMap::new();
        for at in 0..view.values.len() {
            if at % BATCH == 0 {
                ctx.budget.check()?;
            }
            let row = match view.rows {
                Rows::All => at,
                Rows::Sparse(rows) => rows[at] as usize,
            };
            if codes[row] != NIL {
                continue;
            }
            codes[row] = match view.values {
                Values::Dict { ids, dict } => match by_id.get_mut(ids[at] as usize) {
                    None => NIL,
                    Some(Some(code)) => *code,
                    Some(slot) => {
                        let code = coder.code(dict_value(&dict, ids[at] as usize, group.meaning));
                        *slot = Some(code);
                        code
                    }
                },
                Values::Int(values) => *by_int
                    .entry(values[at])
                    .or_insert_with(|| coder.code(group.meaning.of_int(values[at]))),
                values => coder.code(value_at(&values, at, group.meaning)),
            };
        }
    }
    Ok(())
}
