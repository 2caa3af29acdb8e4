//! What is known of the series so far: merges in any order, with any cut of the spans, to the same.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use model::{SpanId, TraceId};

use super::attributes::Comparison;
use super::sketch::Sketch;
use super::weight::ONE;
use crate::value::Static;

/// The values of a series' `by(...)` fields, in order. Ordered, so that "the first series" means something.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupKey(pub Vec<Static>);

impl Eq for GroupKey {}

impl PartialOrd for GroupKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for GroupKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_value = self
            .0
            .iter()
            .zip(&other.0)
            .map(|(a, b)| a.total_order(b))
            .find(|o| o.is_ne());
        by_value.unwrap_or_else(|| self.0.len().cmp(&other.0.len()))
    }
}

/// A histogram bucket by its upper edge, a power of two in the unit of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Power {
    /// Whether the values are durations, whose unit is the nanosecond.
    pub is_duration: bool,
    /// The edge is two to the power of it; None for the bucket of zeros.
    pub exponent: Option<i32>,
}

impl Power {
    /// The bucket of a value; None for what is negative or no number.
    pub(crate) fn of(value: &Static) -> Option<Power> {
        let number = value.as_f64().filter(|v| *v >= 0.0 && v.is_finite())?;
        let is_duration = matches!(value, Static::Duration(_));
        if number == 0.0 {
            return Some(Power {
                is_duration,
                exponent: None,
            });
        }
        let mut exponent = number.log2().ceil() as i32;
        // Logarithms are not exact at the edges themselves.
        if 2f64.powi(exponent - 1) >= number {
            exponent -= 1;
        } else if 2f64.powi(exponent) < number {
            exponent += 1;
        }
        Some(Power {
            is_duration,
            exponent: Some(exponent),
        })
    }

    /// The upper edge as series carry it: durations in seconds.
    pub fn edge(&self) -> f64 {
        let edge = self.exponent.map_or(0.0, |exponent| 2f64.powi(exponent));
        if self.is_duration { edge / 1e9 } else { edge }
    }
}

/// What one interval of one series has collected. Small, because most only count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bucket {
    /// Spans, or values where a field is measured, in parts of [`ONE`].
    pub count: u64,
    /// Where a field is measured.
    pub measured: Option<Box<Measured>>,
    /// The span that stands for the interval.
    pub exemplar: Option<Box<Exemplar>>,
}

/// What is known of the measured values of one interval. Never of none.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Sum of integers, times [`ONE`].
    pub sum_ints: i128,
    /// Sum of durations in nanoseconds, times [`ONE`].
    pub sum_nanos: i128,
    /// Sum of floats.
    pub sum_floats: f64,
    /// For quantiles.
    pub sketch: Option<Sketch>,
    /// For histograms, in parts of [`ONE`].
    pub powers: BTreeMap<Power, u64>,
}

/// A span that shows what a sample is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// Decides which of several spans is kept: the smallest.
    pub hash: u64,
    /// Its trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
    /// Its start.
    pub unix_nanos: u64,
    /// What was measured; None where spans are only counted.
    pub value: Option<f64>,
}

impl Exemplar {
    fn rank(&self) -> (u64, TraceId, SpanId) {
        (self.hash, self.trace_id, self.span_id)
    }
}

impl Measured {
    /// Of the first value.
    pub(crate) fn new() -> Measured {
        Measured {
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum_ints: 0,
            sum_nanos: 0,
            sum_floats: 0.0,
            sketch: None,
            powers: BTreeMap::new(),
        }
    }

    /// Widens smallest and largest.
    #[inline]
    pub(crate) fn bound(&mut self, number: f64) {
        self.min = self.min.min(number);
        self.max = self.max.max(number);
    }

    /// Takes in a value whose number is `number`, of a span that stands for `weight` parts.
    #[inline]
    pub(crate) fn add(&mut self, value: &Static, number: f64, weight: u64) {
        self.bound(number);
        match value {
            Static::Int(v) => self.sum_ints += i128::from(*v) * i128::from(weight),
            Static::Duration(v) => self.sum_nanos += i128::from(*v) * i128::from(weight),
            _ => self.sum_floats += number * (weight as f64 / ONE as f64),
        }
    }

    pub(crate) fn sum(&self) -> f64 {
        let one = ONE as f64;
        self.sum_ints as f64 / one + self.sum_nanos as f64 / one / 1e9 + self.sum_floats
    }

    fn merge(&mut self, other: Measured) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum_ints += other.sum_ints;
        self.sum_nanos += other.sum_nanos;
        self.sum_floats += other.sum_floats;
        match (&mut self.sketch, other.sketch) {
            (Some(mine), Some(theirs)) => mine.merge(&theirs),
            (mine @ None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        }
        for (power, count) in other.powers {
            *self.powers.entry(power).or_default() += count;
        }
    }
}

impl Bucket {
    fn merge(&mut self, other: Bucket) {
        self.count += other.count;
        match (&mut self.measured, other.measured) {
            (Some(mine), Some(theirs)) => mine.merge(*theirs),
            (mine @ None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        }
        match (&self.exemplar, other.exemplar) {
            (Some(mine), Some(theirs)) if theirs.rank() < mine.rank() => self.exemplar = Some(theirs),
            (None, theirs) => self.exemplar = theirs,
            _ => {}
        }
    }

    fn held_bytes(&self) -> usize {
        let of = |m: &Measured| 160 + m.sketch.as_ref().map_or(0, Sketch::held_bytes) + m.powers.len() * 24;
        40 + self.measured.as_ref().map_or(0, |m| of(m)) + self.exemplar.as_ref().map_or(0, |_| 64)
    }
}

/// A number as series carry it: durations in seconds. None for what is not a number.
pub(crate) fn seconds(value: &Static) -> Option<f64> {
    match value {
        Static::Duration(v) => Some(*v as f64 / 1e9),
        Static::Int(v) => Some(*v as f64),
        Static::Float(v) if !v.is_nan() => Some(*v),
        _ => None,
    }
}

/// The series of one pipeline, by the values of its `by(...)`; buckets by interval, empty ones left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LegPartial {
    /// The series.
    pub groups: BTreeMap<GroupKey, BTreeMap<u32, Bucket>>,
    /// Set once there were too many: groups at or behind it are left out.
    pub cut: Option<GroupKey>,
    /// For `compare()`.
    pub comparison: Comparison,
}

impl LegPartial {
    /// The buckets of a group, unless it is cut away.
    pub(crate) fn group(&mut self, key: GroupKey, series_max: usize) -> Option<&mut BTreeMap<u32, Bucket>> {
        if self.cut.as_ref().is_some_and(|cut| key >= *cut) {
            return None;
        }
        self.groups.entry(key.clone()).or_default();
        self.shrink(series_max);
        self.groups.get_mut(&key)
    }

    fn shrink(&mut self, series_max: usize) {
        while self.groups.len() > series_max {
            let Some((last, _)) = self.groups.pop_last() else {
                return;
            };
            self.cut = Some(last);
        }
    }

    fn merge(&mut self, other: LegPartial, series_max: usize) {
        for (key, buckets) in other.groups {
            let mine = self.groups.entry(key).or_default();
            for (index, bucket) in buckets {
                mine.entry(index).or_default().merge(bucket);
            }
        }
        let cut = match (self.cut.take(), other.cut) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if let Some(cut) = &cut {
            self.groups.split_off(cut);
        }
        self.cut = cut;
        self.shrink(series_max);
        self.comparison.merge(other.comparison);
    }
}

/// A metrics answer in the making: one per pipeline of the query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsPartial {
    /// In the order of the query.
    pub legs: Vec<LegPartial>,
}

impl MetricsPartial {
    /// Nothing yet, for a plan's pipelines.
    pub fn new(plan: &super::MetricsPlan) -> MetricsPartial {
        MetricsPartial {
            legs: plan.legs.iter().map(|_| LegPartial::default()).collect(),
        }
    }

    /// Adds what was found elsewhere. `series_max` bounds the series of each pipeline; see
    /// [`crate::budget::Limits::series_max`].
    pub fn merge(&mut self, other: MetricsPartial, series_max: usize) {
        if self.legs.len() < other.legs.len() {
            self.legs.resize_with(other.legs.len(), LegPartial::default);
        }
        for (mine, theirs) in self.legs.iter_mut().zip(other.legs) {
            mine.merge(theirs, series_max);
        }
    }

    /// Whether series had to be left out.
    pub fn is_cut(&self) -> bool {
        self.legs.iter().any(|leg| leg.cut.is_some())
    }

    /// Approximate bytes it holds, for budgets.
    pub fn held_bytes(&self) -> usize {
        let leg_bytes = |leg: &LegPartial| {
            let groups = leg
                .groups
                .values()
                .flat_map(BTreeMap::values)
                .map(Bucket::held_bytes)
                .sum::<usize>();
            groups + leg.groups.len() * 96 + leg.comparison.held_bytes()
        };
        self.legs.iter().map(leg_bytes).sum()
    }
}
