//! Counts of one chunk by place: an interval of a group that has a span.
//!
//! What always holds: places are numbered as they come; an exemplar is the span of the trace with the smallest hash, so it
//! does not depend on how spans are cut into chunks.
//!
//! Not here: which rows count, and for which group and interval (`scan`, `groups`).

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use model::TraceId;

use super::partial::{Bucket, Exemplar, GroupKey, LegPartial, Measured, Power};
use super::sketch::{CODE_OFFSET, Sketch, code, code_of_nanos};
use super::weight::{ONE, mix};
use crate::ast::Function;
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

/// Weights by place and bucket. The first places have a table each that counts spans that stand for themselves in the
/// buckets of times between a nanosecond and months; everything else goes into a map.
#[derive(Default)]
struct Codes {
    /// By place, then by bucket.
    tables: Vec<u32>,
    map: HashMap<u64, u64, BuildHasherDefault<Mix>>,
}

/// Buckets of a table, and the first of them.
const TABLE_CODES: usize = 2048;
const TABLE_FIRST: i32 = CODE_OFFSET - 1152;
/// Places with a table: 8 MiB together, of which a chunk mostly touches a few hundred buckets per place.
const TABLES_MAX: usize = 1024;

impl Codes {
    #[inline(always)]
    fn add(&mut self, place: u32, code: i32, weight: u64) {
        let at = code.wrapping_sub(TABLE_FIRST) as usize;
        if at < TABLE_CODES
            && weight == ONE
            && let Some(count) = self.tables.get_mut(place as usize * TABLE_CODES + at)
        {
            *count += 1;
        } else {
            self.add_elsewhere(place, code, weight);
        }
    }

    #[inline(never)]
    fn add_elsewhere(&mut self, place: u32, code: i32, weight: u64) {
        let at = code.wrapping_sub(TABLE_FIRST) as usize;
        let table = place as usize * TABLE_CODES;
        if at < TABLE_CODES && weight == ONE && (place as usize) < TABLES_MAX && table >= self.tables.len() {
            self.tables.resize(table + TABLE_CODES, 0);
            self.tables[table + at] += 1;
            return;
        }
        let key = u64::from(place) << 32 | u64::from(code.cast_unsigned() ^ 1 << 31);
        *self.map.entry(key).or_default() += weight;
    }

    /// What a place's table holds of the buckets `first..=last`, ascending.
    fn of_place(&self, place: usize, first: i32, last: i32) -> Sketch {
        let at = |code: i32| code.saturating_sub(TABLE_FIRST).clamp(0, TABLE_CODES as i32) as usize;
        let (first, end) = (at(first), at(last.saturating_add(1)));
        let start = place * TABLE_CODES;
        let counts = self.tables.get(start + first..start + end).unwrap_or_default();
        let used = counts.iter().filter(|count| **count > 0).count();
        let mut sketch = Sketch::with_capacity(used);
        for (code, count) in (TABLE_FIRST + first as i32..).zip(counts) {
            if *count > 0 {
                sketch.add_code(code, u64::from(*count) * ONE);
            }
        }
        sketch
    }

    /// Place, bucket, weight of what stands in no table; ascending.
    fn others(&self) -> impl Iterator<Item = (u32, i32, u64)> {
        let mut rest: Vec<(u64, u64)> = self.map.iter().map(|(key, weight)| (*key, *weight)).collect();
        rest.sort_unstable();
        let of = |(key, weight): (u64, u64)| ((key >> 32) as u32, (key as u32 ^ 1 << 31).cast_signed(), weight);
        rest.into_iter().map(of)
    }
}

/// Weights of durations by place and power of two.
#[derive(Default)]
struct Octaves {
    /// By place, then zeros, then by exponent.
    table: Vec<u64>,
}

/// Zeros, and the exponents 0 to 63.
const OCTAVES: usize = 65;
/// Places in the table: 2 MiB.
const OCTAVE_PLACES_MAX: usize = 4096;

impl Octaves {
    /// False if there is no room for the place.
    #[inline]
    fn add(&mut self, place: usize, nanos: i64, weight: u64) -> bool {
        let bits = (nanos as f64).to_bits();
        // Rounded up to the next power of two, as a double.
        let exponent = (bits >> 52) as usize + usize::from(bits << 12 != 0);
        let octave = match nanos {
            0 => 0,
            _ => exponent - 1023 + 1,
        };
        let at = place * OCTAVES + octave;
        if at >= self.table.len() {
            if place >= OCTAVE_PLACES_MAX {
                return false;
            }
            self.table.resize((place + 1) * OCTAVES, 0);
        }
        self.table[at] += weight;
        true
    }

    fn of_place(&self, place: usize) -> impl Iterator<Item = (Power, u64)> {
        let weights = self
            .table
            .get(place * OCTAVES..(place + 1) * OCTAVES)
            .unwrap_or_default();
        let used = weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
        used.map(|(octave, weight)| {
            let power = Power {
                is_duration: true,
                exponent: octave.checked_sub(1).map(|exponent| exponent as i32),
            };
            (power, *weight)
        })
    }
}

/// What is known of the durations at a place.
#[derive(Clone, Copy)]
struct Nanos {
    min: i64,
    max: i64,
    /// Times [`ONE`].
    sum: i128,
}

/// The best exemplar of a place: any row of the trace with the smallest hash.
#[derive(Clone, Copy)]
struct Best {
    hash: u64,
    row: u32,
}

/// A row that is never there.
const NO_ROW: u32 = u32::MAX;

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
pub(super) struct Tally {
    intervals: usize,
    /// By group and interval; [`NO_PLACE`] where there is no span yet. Empty when it would be too large.
    table: Vec<u32>,
    /// Instead of the table.
    map: HashMap<(u32, u32), u32>,
    /// By place: which it is.
    places: Vec<(u32, u32)>,
    pub(super) counts: Vec<u64>,
    /// By place, but for counts.
    measured: Vec<Measured>,
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

const NO_PLACE: u32 = u32::MAX;
/// Entries of the place table, 4 bytes each: small enough to stay in the second-level cache.
const TABLE_MAX: usize = 1 << 18;

/// The place of a row as group and interval, and what it shows there; None if it is not counted.
pub(super) type Shown = Option<((u32, u32), Option<f64>)>;

impl Tally {
    pub(super) fn new(groups: usize, intervals: usize, function: &Function) -> Tally {
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
            nanos: Vec::new(),
            codes: Codes::default(),
            octaves: Octaves::default(),
            powers: HashMap::new(),
            best: Vec::new(),
            kind,
        }
    }

    #[inline(always)]
    pub(super) fn place(&mut self, group: u32, index: u32) -> usize {
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
                self.nanos.push(Nanos {
                    min: i64::MAX,
                    max: -1,
                    sum: 0,
                });
            }
            self.best.push(Best {
                hash: u64::MAX,
                row: NO_ROW,
            });
        }
        *slot as usize
    }

    /// Takes in a value that is no duration of a span.
    pub(super) fn add(&mut self, place: usize, value: &Static, number: f64, weight: u64) {
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

    /// Takes in the duration of a span, which is not negative.
    #[inline(always)]
    pub(super) fn add_nanos(&mut self, place: usize, nanos: i64, weight: u64) {
        self.counts[place] += weight;
        let Some(known) = self.nanos.get_mut(place) else {
            return;
        };
        known.min = known.min.min(nanos);
        known.max = known.max.max(nanos);
        if self.kind == Kind::Quantile {
            return self.codes.add(place as u32, code_of_nanos(nanos), weight);
        }
        known.sum += i128::from(nanos) * i128::from(weight);
        if self.kind == Kind::Histogram
            && !self.octaves.add(place, nanos, weight)
            && let Some(power) = Power::of(&Static::Duration(nanos))
        {
            *self.powers.entry((place as u32, power)).or_default() += weight;
        }
    }

    /// Remembers the row if its trace has the smallest hash of the place.
    #[inline(always)]
    pub(super) fn offer(&mut self, offers: &Offers<'_>, place: usize, row: u32) {
        let hash = offers.hashes[offers.ordinals[row as usize] as usize];
        let best = &mut self.best[place];
        if hash < best.hash || best.row == NO_ROW {
            *best = Best { hash, row };
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
        for (place, (which, best)) in self.places.iter().zip(&self.best).enumerate() {
            if best.row == NO_ROW || known(*which).is_some_and(|known| known.hash < best.hash) {
                continue;
            }
            ctx.budget.check()?;
            let ordinal = ctx.traces()?.ordinals[best.row as usize];
            for row in ctx.run(ordinal)?.iter() {
                if let Some((there, value)) = shown(row)?
                    && there == *which
                {
                    candidates.push((place, row, value));
                }
            }
        }
        let mut rows: Vec<u32> = candidates.iter().map(|(_, row, _)| *row).collect();
        rows.sort_unstable();
        rows.dedup();
        let span_ids = ctx.columns_at(&ColumnRef::SpanId, &rows)?;
        let id = |row| crate::engine::search::span_id(&span_ids, row);
        let mut chosen: Vec<(usize, u32, Option<f64>)> = Vec::new();
        for of_place in candidates.chunk_by(|(a, ..), (b, ..)| a == b) {
            chosen.extend(of_place.iter().min_by_key(|(_, row, _)| id(*row)));
        }
        let mut rows: Vec<u32> = chosen.iter().map(|(_, row, _)| *row).collect();
        rows.sort_unstable();
        rows.dedup();
        let starts = Ints::of_some(ctx.columns_at(&ColumnRef::Start, &rows)?)?;
        let mut exemplars: Vec<Option<Box<Exemplar>>> = vec![None; self.places.len()];
        for (place, row, value) in chosen {
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
    fn measured(&mut self) -> Vec<Measured> {
        let mut all = std::mem::take(&mut self.measured);
        for (place, (measured, nanos)) in all.iter_mut().zip(&self.nanos).enumerate() {
            if nanos.max >= 0 {
                measured.bound(nanos.min as f64 / 1e9);
                measured.bound(nanos.max as f64 / 1e9);
                measured.sum_nanos += nanos.sum;
            }
            if self.kind == Kind::Quantile {
                let sketch = match nanos.max {
                    ..0 => self.codes.of_place(place, i32::MIN, i32::MAX),
                    _ => self
                        .codes
                        .of_place(place, code_of_nanos(nanos.min), code_of_nanos(nanos.max)),
                };
                measured.sketch = Some(sketch).filter(|sketch| !sketch.is_empty());
            }
            measured.powers.extend(self.octaves.of_place(place));
        }
        for (place, code, weight) in self.codes.others() {
            let sketch = all[place as usize].sketch.get_or_insert_with(Sketch::default);
            sketch.add_code(code, weight);
        }
        for ((place, power), count) in std::mem::take(&mut self.powers) {
            *all[place as usize].powers.entry(power).or_default() += count;
        }
        all
    }

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
        let exemplars = self.exemplars(ctx, shown, &known)?;
        let mut measured = self.measured().into_iter();
        let mut buckets: Vec<((u32, u32), Bucket)> = Vec::with_capacity(self.places.len());
        for ((place, count), exemplar) in self.places.into_iter().zip(self.counts).zip(exemplars) {
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
