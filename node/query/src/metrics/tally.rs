//! Counts of one chunk by place: an interval of a group that has a span.
//!
//! What always holds: places are numbered as they come; an exemplar is the span of the trace with the smallest hash, so it
//! does not depend on how spans are cut into chunks.
//!
//! Not here: which rows count, and for which group and interval (`scan`, `groups`).

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use super::partial::{Bucket, Exemplar, GroupKey, LegPartial, Measured, Power};
use super::sketch::{CODE_OFFSET, Sketch, code};
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

impl<'c> Offers<'c> {
    pub(super) fn new(ctx: &Context<'c>) -> Result<Offers<'c>> {
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
pub(super) struct Tally {
    intervals: usize,
    /// By group and interval; [`NO_PLACE`] where there is no span yet. Empty when it would be too large.
    table: Vec<u32>,
    /// Instead of the table.
    map: HashMap<(u32, u32), u32>,
    /// By place: which it is.
    places: Vec<(u32, u32)>,
    pub(super) counts: Vec<u64>,
    measured: Vec<Measured>,
    /// Weights by place and bucket, for quantiles.
    codes: Codes,
    powers: HashMap<(u32, Power), u64>,
    exemplars: Vec<Option<(u64, u32, Option<f64>)>>,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Count,
    Measure,
    Quantile,
    Histogram,
}

const NO_PLACE: u32 = u32::MAX;
/// Entries of the place table, 4 bytes each: small enough to stay in the second-level cache.
const TABLE_MAX: usize = 1 << 18;

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
            codes: Codes::default(),
            powers: HashMap::new(),
            exemplars: Vec::new(),
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
            }
            self.exemplars.push(None);
        }
        *slot as usize
    }

    #[inline]
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

    /// Counts a value for quantiles whose bucket is known.
    #[inline]
    pub(super) fn add_code(&mut self, place: usize, code: i32, number: f64, weight: u64) {
        self.counts[place] += weight;
        self.measured[place].bound(number);
        self.codes.add(place as u32, code, weight);
    }

    /// Keeps the trace with the smallest hash, and of its spans the one with the smallest id, which is only read of those.
    #[inline]
    pub(super) fn offer(
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

    pub(super) fn finish(
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
