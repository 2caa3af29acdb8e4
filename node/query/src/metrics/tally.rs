//! Counts of one chunk by place: an interval of a group.
//!
//! Rows come in batches, each with its place, and every measure is one plain loop over a batch.
//!
//! What always holds: a place has counted something or is left out in the end; an exemplar is the span of the trace with
//! the smallest hash, so it does not depend on how spans are cut into chunks.
//!
//! Not here: which rows count, and for which group and interval (`scan`, `groups`).

use std::collections::{BTreeMap, HashMap};

use model::TraceId;

use super::partial::{Bucket, Exemplar, GroupKey, LegPartial, Measured, Power};
use super::sketch::{NanosCodes, Sketch, code};
use super::tables::{Codes, Octaves};
use super::weight::{ONE, Weights, mix};
use crate::ast::Function;
use crate::budget::Budget;
use crate::engine::context::{Context, Ints};
use crate::error::Result;
use crate::source::ColumnRef;
use crate::value::Static;

/// What it takes to say how good an exemplar a row is.
pub(super) struct Offers<'c> {
    ordinals: &'c [u32],
    /// By ordinal. The smaller the better.
    hashes: Vec<u64>,
}

/// Of all of the id, so that traces with the same half of it are told apart.
fn hash(id: &TraceId) -> u64 {
    let id = id.to_u128();
    mix(id as u64 ^ mix((id >> 64) as u64))
}

impl<'c> Offers<'c> {
    pub(super) fn new(ctx: &Context<'c>) -> Result<Offers<'c>> {
        let traces = ctx.traces()?;
        Ok(Offers {
            ordinals: traces.ordinals,
            hashes: traces.ids.iter().map(hash).collect(),
        })
    }
}

/// Counts of rows that stand for themselves, where nothing else is wanted of them.
///
/// Spans that stand together are mostly of one group and interval, and adding to the number that was just added to waits
/// for that: so each place has several numbers, taken in turn.
pub(super) struct Lanes {
    groups: u32,
    first: u32,
    count: u32,
    /// By place, then by lane.
    counts: Vec<[u32; LANES]>,
}

const LANES: usize = 4;

impl Lanes {
    /// False if nobody said that there is such a group and interval.
    #[inline(always)]
    pub(super) fn add(&mut self, row: u32, group: u32, index: u32) -> bool {
        let at = index.wrapping_sub(self.first);
        if at >= self.count || group >= self.groups {
            return false;
        }
        let place = at.wrapping_mul(self.groups).wrapping_add(group);
        match self.counts.get_mut(place as usize) {
            Some(lanes) => lanes[row as usize % LANES] += 1,
            None => return false,
        }
        true
    }
}

/// Rows and their places, one of each.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) rows: Vec<u32>,
    pub(super) places: Vec<u32>,
}

/// What is known of the durations at a place.
#[derive(Clone, Copy)]
struct Nanos {
    min: i64,
    max: i64,
    /// Times [`ONE`].
    sum: i128,
}

const NO_NANOS: Nanos = Nanos {
    min: i64::MAX,
    max: -1,
    sum: 0,
};

/// The best exemplar of a place: any row there of the trace with the smallest hash.
#[derive(Clone, Copy)]
struct Best {
    hash: u64,
    row: u32,
}

/// A row that is never there.
const NO_ROW: u32 = u32::MAX;
/// Places brought together between two looks at the budget: each may take some microseconds, and others wait meanwhile.
const PLACES: usize = 256;

const NO_BEST: Best = Best {
    hash: u64::MAX,
    row: NO_ROW,
};

/// How places are numbered.
enum Numbers {
    /// All there can be, interval by interval, groups together.
    All { groups: u32, first: u32, count: u32 },
    /// As they come.
    Met {
        numbers: HashMap<(u32, u32), u32>,
        places: Vec<(u32, u32)>,
    },
}

/// Places that are numbered although most may have no span. About 100 bytes each where something is measured.
const ALL_PLACES_MAX: usize = 1 << 14;

/// See the module's documentation.
pub(super) struct Tally {
    numbers: Numbers,
    /// By place.
    counts: Vec<u64>,
    /// By place, of values that are no durations of spans.
    measured: Vec<Option<Box<Measured>>>,
    /// By place, where durations are measured.
    nanos: Vec<Nanos>,
    /// Weights by place and bucket, for quantiles.
    codes: Codes,
    /// Durations of histograms.
    octaves: Octaves,
    /// Other values of histograms.
    powers: HashMap<(u32, Power), u64>,
    best: Vec<Best>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Count,
    Measure,
    Quantile,
    Histogram,
}

/// The place of a row as group and interval, and what it shows there; None if it is not counted.
pub(super) type Shown = Option<((u32, u32), Option<f64>)>;

impl Tally {
    /// For rows of so many groups whose intervals are among `first..=last`.
    pub(super) fn new(groups: usize, (first, last): (u32, u32), function: &Function) -> Tally {
        let kind = match function {
            Function::Rate | Function::CountOverTime | Function::Compare { .. } => Kind::Count,
            Function::QuantileOverTime(..) => Kind::Quantile,
            Function::HistogramOverTime(_) => Kind::Histogram,
            _ => Kind::Measure,
        };
        let count = last.saturating_sub(first).saturating_add(1);
        let all = groups.saturating_mul(count as usize);
        let is_small = all <= ALL_PLACES_MAX;
        let numbers = match is_small {
            true => Numbers::All {
                groups: groups as u32,
                first,
                count,
            },
            false => Numbers::Met {
                numbers: HashMap::new(),
                places: Vec::new(),
            },
        };
        let mut tally = Tally {
            numbers,
            counts: Vec::new(),
            measured: Vec::new(),
            nanos: Vec::new(),
            codes: Codes::default(),
            octaves: Octaves::default(),
            powers: HashMap::new(),
            best: Vec::new(),
            kind,
        };
        tally.widen(if is_small { all } else { 0 });
        tally
    }

    /// Makes room for so many places.
    fn widen(&mut self, places: usize) {
        self.counts.resize(places, 0);
        self.best.resize(places, NO_BEST);
        if self.kind != Kind::Count {
            self.measured.resize(places, None);
            self.nanos.resize(places, NO_NANOS);
        }
    }

    /// The place of a row's group and interval; None if nobody said that there are such.
    #[inline(always)]
    pub(super) fn place(&mut self, group: u32, index: u32) -> Option<u32> {
        match &self.numbers {
            Numbers::All { groups, first, count } => {
                let at = index.wrapping_sub(*first);
                // Fits: all places do.
                (at < *count && group < *groups).then(|| at.wrapping_mul(*groups).wrapping_add(group))
            }
            Numbers::Met { .. } => Some(self.number(group, index)),
        }
    }

    #[inline(never)]
    fn number(&mut self, group: u32, index: u32) -> u32 {
        let Numbers::Met { numbers, places } = &mut self.numbers else {
            return 0;
        };
        let number = *numbers.entry((group, index)).or_insert(places.len() as u32);
        if number as usize == places.len() {
            places.push((group, index));
            // Twice as many at once, so that growing stays cheap.
            if places.len() > self.counts.len() {
                self.widen((2 * number as usize).max(1024));
            }
        }
        number
    }

    /// Group and interval of a place.
    fn which(&self, place: usize) -> (u32, u32) {
        match &self.numbers {
            Numbers::All { groups, first, .. } => (place as u32 % groups, first + place as u32 / groups),
            Numbers::Met { places, .. } => places.get(place).copied().unwrap_or_default(),
        }
    }

    /// Places that have counted something.
    fn used(&self) -> impl Iterator<Item = usize> + use<> {
        let used: Vec<usize> = (0..self.counts.len()).filter(|place| self.counts[*place] > 0).collect();
        used.into_iter()
    }

    /// Counters for rows of which nothing is wanted but their number; None where places are numbered as they come.
    pub(super) fn lanes(&self) -> Option<Lanes> {
        match (&self.numbers, self.kind) {
            (Numbers::All { groups, first, count }, Kind::Count) => Some(Lanes {
                groups: *groups,
                first: *first,
                count: *count,
                counts: vec![[0; LANES]; self.counts.len()],
            }),
            _ => None,
        }
    }

    /// Adds what was counted.
    pub(super) fn add_lanes(&mut self, lanes: &Lanes) {
        for (count, lanes) in self.counts.iter_mut().zip(&lanes.counts) {
            *count += lanes.iter().map(|lane| u64::from(*lane)).sum::<u64>() * ONE;
        }
    }

    /// Counts rows.
    pub(super) fn count(&mut self, batch: &Batch, weights: &Weights<'_>) {
        let counts = self.counts.as_mut_slice();
        match weights {
            Weights::Even => batch.places.iter().for_each(|place| counts[*place as usize] += ONE),
            Weights::Said(_) => {
                let both = batch.places.iter().zip(&batch.rows);
                both.for_each(|(place, row)| counts[*place as usize] += weights.of(*row));
            }
        }
    }

    /// Says which durations there can be, before any comes.
    pub(super) fn expect(&mut self, shortest: i64, longest: i64) {
        if self.kind == Kind::Quantile && matches!(self.numbers, Numbers::All { .. }) {
            let codes = NanosCodes::get();
            self.codes = Codes::within(self.counts.len(), codes.of(shortest), codes.of(longest));
        }
    }

    /// Takes in durations of spans, by row; what is below zero counts as zero.
    pub(super) fn measure(&mut self, batch: &Batch, durations: &[i64], weights: &Weights<'_>) {
        let rows = || batch.places.iter().zip(&batch.rows);
        let of = |row: u32| durations[row as usize].max(0);
        let known = self.nanos.as_mut_slice();
        for (place, row) in rows() {
            let (known, nanos) = (&mut known[*place as usize], of(*row));
            known.min = known.min.min(nanos);
            known.max = known.max.max(nanos);
        }
        if self.kind == Kind::Quantile {
            let codes = NanosCodes::get();
            for (place, row) in rows() {
                self.codes.add(*place, codes.of(of(*row)), weights.of(*row));
            }
            return;
        }
        for (place, row) in rows() {
            known[*place as usize].sum += i128::from(of(*row)) * i128::from(weights.of(*row));
        }
        if self.kind != Kind::Histogram {
            return;
        }
        for (place, row) in rows() {
            let (nanos, weight) = (of(*row), weights.of(*row));
            if !self.octaves.add(*place, nanos, weight)
                && let Some(power) = Power::of(&Static::Duration(nanos))
            {
                *self.powers.entry((*place, power)).or_default() += weight;
            }
        }
    }

    /// Takes in a value that is no duration of a span.
    pub(super) fn add(&mut self, place: u32, value: &Static, number: f64, weight: u64) {
        self.counts[place as usize] += weight;
        let Some(measured) = self.measured.get_mut(place as usize) else {
            return;
        };
        let measured = measured.get_or_insert_with(|| Box::new(Measured::new()));
        match self.kind {
            Kind::Quantile => {
                if let Some(code) = code(number) {
                    self.codes.add(place, code, weight);
                }
                measured.bound(number);
            }
            Kind::Measure => measured.add(value, number, weight),
            Kind::Histogram => {
                measured.add(value, number, weight);
                if let Some(power) = Power::of(value) {
                    *self.powers.entry((place, power)).or_default() += weight;
                }
            }
            Kind::Count => {}
        }
    }

    /// Remembers of each place a row of the trace with the smallest hash.
    pub(super) fn offer(&mut self, batch: &Batch, offers: &Offers<'_>) {
        let (ordinals, hashes, best) = (offers.ordinals, offers.hashes.as_slice(), self.best.as_mut_slice());
        for (place, row) in batch.places.iter().zip(&batch.rows) {
            let hash = hashes[ordinals[*row as usize] as usize];
            let best = &mut best[*place as usize];
            if hash < best.hash || best.row == NO_ROW {
                *best = Best { hash, row: *row };
            }
        }
    }

    /// The exemplars by place: of the spans that the best trace has there the one with the smallest id. What is no better
    /// than what is known is not looked up; the more chunks were seen, the fewer pages are read.
    ///
    /// `shown` says what a row would show, `known` what a place has already.
    fn exemplars<'k>(
        &self,
        ctx: &Context<'_>,
        shown: &dyn Fn(u32) -> Result<Shown>,
        known: &dyn Fn((u32, u32)) -> Option<&'k Exemplar>,
    ) -> Result<Vec<Option<Box<Exemplar>>>> {
        let mut candidates: Vec<(usize, u32, Option<f64>)> = Vec::new();
        for place in self.used() {
            let (which, best) = (self.which(place), self.best[place]);
            if best.row == NO_ROW || known(which).is_some_and(|known| known.hash < best.hash) {
                continue;
            }
            ctx.budget.check()?;
            let ordinal = ctx.traces()?.ordinals[best.row as usize];
            for row in ctx.run(ordinal)?.iter() {
                if let Some((there, value)) = shown(row)?
                    && there == which
                {
                    candidates.push((place, row, value));
                }
            }
        }
        let rows_of = |all: &[(usize, u32, Option<f64>)]| {
            let mut rows: Vec<u32> = all.iter().map(|(_, row, _)| *row).collect();
            rows.sort_unstable();
            rows.dedup();
            rows
        };
        let span_ids = ctx.columns_at(&ColumnRef::SpanId, &rows_of(&candidates))?;
        let id = |row| crate::engine::search::span_id(&span_ids, row);
        let mut chosen: Vec<(usize, u32, Option<f64>)> = Vec::new();
        for of_place in candidates.chunk_by(|(a, ..), (b, ..)| a == b) {
            chosen.extend(of_place.iter().min_by_key(|(_, row, _)| id(*row)));
        }
        let starts = Ints::of_some(ctx.columns_at(&ColumnRef::Start, &rows_of(&chosen))?)?;
        let mut exemplars: Vec<Option<Box<Exemplar>>> = vec![None; self.counts.len()];
        for (i, (place, row, value)) in chosen.into_iter().enumerate() {
            if i % PLACES == 0 {
                ctx.budget.check()?;
            }
            exemplars[place] = Some(Box::new(Exemplar {
                hash: self.best[place].hash,
                trace_id: ctx.trace_id(ctx.traces()?.ordinals[row as usize])?,
                span_id: id(row),
                unix_nanos: starts.get_some(row).cast_unsigned(),
                value,
            }));
        }
        Ok(exemplars)
    }

    /// Brings together what was measured at each place.
    fn measured(&mut self, budget: &Budget) -> Result<Vec<Option<Box<Measured>>>> {
        let mut all = std::mem::take(&mut self.measured);
        if all.is_empty() {
            all.resize(self.counts.len(), None);
            return Ok(all);
        }
        for (i, place) in self.used().enumerate() {
            if i % PLACES == 0 {
                budget.check()?;
            }
            let measured = all[place].get_or_insert_with(|| Box::new(Measured::new()));
            let nanos = self.nanos[place];
            if nanos.max >= 0 {
                measured.bound(nanos.min as f64 / 1e9);
                measured.bound(nanos.max as f64 / 1e9);
                measured.sum_nanos += nanos.sum;
            }
            measured.sketch = self.codes.of_place(place);
            measured.powers.extend(self.octaves.of_place(place));
        }
        for (place, code, weight) in self.codes.others() {
            if let Some(measured) = &mut all[place as usize] {
                measured
                    .sketch
                    .get_or_insert_with(Sketch::default)
                    .add_code(code, weight);
            }
        }
        for ((place, power), count) in std::mem::take(&mut self.powers) {
            if let Some(measured) = &mut all[place as usize] {
                *measured.powers.entry(power).or_default() += count;
            }
        }
        Ok(all)
    }

    /// Adds everything to `partial`, with the groups' keys.
    pub(super) fn finish(
        mut self,
        ctx: &Context<'_>,
        keys: &[GroupKey],
        known: Option<&LegPartial>,
        shown: &dyn Fn(u32) -> Result<Shown>,
        partial: &mut LegPartial,
    ) -> Result<()> {
        let known = |(group, index): (u32, u32)| {
            let buckets = known?.groups.get(&keys[group as usize])?;
            buckets.get(&index)?.exemplar.as_deref()
        };
        let mut exemplars = self.exemplars(ctx, shown, &known)?;
        let mut measured = self.measured(ctx.budget)?;
        let mut places: Vec<((u32, u32), usize)> = self.used().map(|place| (self.which(place), place)).collect();
        places.sort_unstable();
        let series_max = ctx.budget.limits().series_max;
        for (i, of_group) in places.chunk_by(|((a, _), _), ((b, _), _)| a == b).enumerate() {
            if i % PLACES == 0 {
                ctx.budget.check()?;
            }
            let mine: BTreeMap<u32, Bucket> = of_group
                .iter()
                .map(|((_, index), place)| {
                    let bucket = Bucket {
                        count: self.counts[*place],
                        measured: measured[*place].take(),
                        exemplar: exemplars[*place].take(),
                    };
                    (*index, bucket)
                })
                .collect();
            let group = of_group.first().map_or(0, |((group, _), _)| *group);
            if let Some(slot) = partial.group(keys[group as usize].clone(), series_max) {
                *slot = mine;
            }
        }
        Ok(())
    }
}
