//! From collected buckets to series: labels, values, second stages, maths.

use std::collections::{BTreeMap, BTreeSet};

use model::TraceId;

use super::attributes::{Counts, Side};
use super::partial::{Bucket, Exemplar, GroupKey, LegPartial, Measured, MetricsPartial, Power, seconds};
use super::weight::ONE;
use super::{Intervals, Leg, MetricsPlan};
use crate::ast::{ArithOp, Function, MetricsExpr, SecondStage};
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::limits;
use crate::value::{CompareOp, Static};

/// A metrics answer.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesSet {
    /// By labels.
    pub series: Vec<Series>,
    /// Whether there were more than the budget's number of series; those with the smallest labels are answered.
    pub is_cut: bool,
}

/// One series.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Name and value, in the order of `by(...)`.
    pub labels: Vec<(String, Static)>,
    /// Timestamp and value, ascending; never NaN, never empty.
    pub samples: Vec<(u64, f64)>,
    /// Ascending by time.
    pub exemplars: Vec<SeriesExemplar>,
}

impl Series {
    /// Memory that it takes, about.
    pub fn held_bytes(&self) -> usize {
        160 + self.labels.len() * 64 + self.samples.len() * 16 + self.exemplars.len() * 40
    }
}

/// A span behind a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeriesExemplar {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its start.
    pub unix_nanos: u64,
    /// What was measured; where spans are counted, the sample of its interval.
    pub value: f64,
}

/// A series in the making: NaN where there is no sample.
#[derive(Clone, Debug)]
struct Line {
    labels: Vec<(String, Static)>,
    values: Vec<f64>,
    exemplars: Vec<Exemplar>,
}

const NAME: &str = "__name__";
const META_TYPE: &str = "__meta_type";
const META_ERROR: &str = "__meta_error";
const TOO_MANY: &str = "__too_many_values__";

impl MetricsPartial {
    /// The answer, once everything is merged.
    ///
    /// The memory of the series is held in `budget` from then on.
    ///
    /// Errors: [`Error::Exhausted`] when series times intervals exceed [`limits::SAMPLES_MAX`] or the budget.
    pub fn finish(&self, plan: &MetricsPlan, budget: &Budget) -> Result<SeriesSet> {
        let mut legs = plan.legs.iter().zip(&self.legs);
        let mut lines = evaluate(plan, &plan.expr, &mut legs, budget)?;
        lines.sort_by(|a, b| compare_labels(&a.labels, &b.labels));
        let shown = choose_exemplars(&lines, plan.exemplars);
        let series = lines
            .into_iter()
            .map(|line| line.finish(&plan.intervals, &shown))
            .filter(|series| !series.samples.is_empty())
            .collect();
        Ok(SeriesSet {
            series,
            is_cut: self.is_cut(),
        })
    }
}

fn compare_labels(a: &[(String, Static)], b: &[(String, Static)]) -> std::cmp::Ordering {
    let by_label = a
        .iter()
        .zip(b)
        .map(|((an, av), (bn, bv))| an.cmp(bn).then_with(|| av.total_order(bv)))
        .find(|o| o.is_ne());
    by_label.unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// Hashes of the exemplars that are shown: the smallest, over all series.
fn choose_exemplars(lines: &[Line], limit: usize) -> BTreeSet<u64> {
    let mut hashes: BTreeSet<u64> = lines.iter().flat_map(|line| &line.exemplars).map(|e| e.hash).collect();
    while hashes.len() > limit {
        hashes.pop_last();
    }
    hashes
}

impl Line {
    fn finish(self, intervals: &Intervals, shown: &BTreeSet<u64>) -> Series {
        let mut exemplars: Vec<SeriesExemplar> = self
            .exemplars
            .iter()
            .filter(|exemplar| shown.contains(&exemplar.hash))
            .filter_map(|exemplar| {
                let sample = *self.values.get(intervals.index(exemplar.unix_nanos)? as usize)?;
                (!sample.is_nan()).then_some(SeriesExemplar {
                    trace_id: exemplar.trace_id,
                    unix_nanos: exemplar.unix_nanos,
                    value: exemplar.value.unwrap_or(sample),
                })
            })
            .collect();
        exemplars.sort_by_key(|exemplar| (exemplar.unix_nanos, exemplar.trace_id));
        let timed = self.values.iter().enumerate().filter(|(_, value)| !value.is_nan());
        let samples = timed
            .map(|(i, value)| (intervals.timestamp_unix_nanos(i as u32), *value))
            .collect();
        Series {
            labels: self.labels,
            samples,
            exemplars,
        }
    }
}

type Legs<'a> = dyn Iterator<Item = (&'a Leg, &'a LegPartial)> + 'a;

fn evaluate<'a>(plan: &MetricsPlan, expr: &MetricsExpr, legs: &mut Legs<'a>, budget: &Budget) -> Result<Vec<Line>> {
    match expr {
        MetricsExpr::Scalar(_) => Ok(Vec::new()),
        MetricsExpr::Pipeline { second, .. } => {
            let Some((leg, partial)) = legs.next() else {
                return Ok(Vec::new());
            };
            second_stages(leg_lines(plan, leg, partial, budget)?, second)
        }
        MetricsExpr::Staged(inner, second) => second_stages(evaluate(plan, inner, legs, budget)?, second),
        MetricsExpr::Math { op, lhs, rhs } => {
            let left = evaluate(plan, lhs, legs, budget)?;
            let right = evaluate(plan, rhs, legs, budget)?;
            let lines = match (&**lhs, &**rhs) {
                (MetricsExpr::Scalar(a), MetricsExpr::Scalar(_)) => {
                    // Two constants have no series to be applied to.
                    let _ = a;
                    Vec::new()
                }
                (MetricsExpr::Scalar(a), _) => map_values(right, |v| apply(*op, *a, v)),
                (_, MetricsExpr::Scalar(b)) => map_values(left, |v| apply(*op, v, *b)),
                _ => join(*op, left, right),
            };
            Ok(named(lines, &math_name(expr)))
        }
    }
}

fn math_name(expr: &MetricsExpr) -> String {
    match expr {
        MetricsExpr::Pipeline { first, .. } => first.function.word().to_owned(),
        MetricsExpr::Scalar(value) => Static::Float(*value).display(),
        MetricsExpr::Staged(inner, _) => math_name(inner),
        MetricsExpr::Math { op, lhs, rhs } => format!("({} {} {})", math_name(lhs), op.symbol(), math_name(rhs)),
    }
}

/// Series without labels are named after what they are.
fn named(mut lines: Vec<Line>, name: &str) -> Vec<Line> {
    for line in &mut lines {
        line.labels.retain(|(label, _)| label != NAME);
        if line.labels.is_empty() {
            line.labels.push((NAME.to_owned(), Static::str(name)));
        }
    }
    lines
}

fn map_values(mut lines: Vec<Line>, f: impl Fn(f64) -> f64) -> Vec<Line> {
    lines
        .iter_mut()
        .flat_map(|line| &mut line.values)
        .for_each(|value| *value = f(*value));
    lines
}

fn apply(op: ArithOp, a: f64, b: f64) -> f64 {
    match op {
        ArithOp::Add => a + b,
        ArithOp::Sub => a - b,
        ArithOp::Mul => a * b,
        ArithOp::Div if b == 0.0 => f64::NAN,
        ArithOp::Div => a / b,
        ArithOp::Mod | ArithOp::Pow => f64::NAN,
    }
}

/// Joins on the exact set of labels; a side that is one series without labels goes with every series of the other.
fn join(op: ArithOp, left: Vec<Line>, right: Vec<Line>) -> Vec<Line> {
    let bare = |lines: &[Line]| matches!(lines, [one] if one.labels.iter().all(|(label, _)| label == NAME));
    let zip = |labels: &Line, a: &Line, b: &Line| Line {
        labels: labels.labels.clone(),
        values: a.values.iter().zip(&b.values).map(|(a, b)| apply(op, *a, *b)).collect(),
        exemplars: labels.exemplars.clone(),
    };
    if bare(&right) {
        return left.iter().map(|line| zip(line, line, &right[0])).collect();
    }
    if bare(&left) {
        return right.iter().map(|line| zip(line, &left[0], line)).collect();
    }
    let key = |line: &Line| -> BTreeMap<String, String> {
        let labels = line.labels.iter().filter(|(label, _)| label != NAME);
        labels
            .map(|(label, value)| (label.clone(), value.to_string()))
            .collect()
    };
    let by_labels: BTreeMap<_, &Line> = right.iter().map(|line| (key(line), line)).collect();
    left.iter()
        .filter_map(|line| Some(zip(line, line, by_labels.get(&key(line))?)))
        .collect()
}

fn second_stages(mut lines: Vec<Line>, stages: &[SecondStage]) -> Result<Vec<Line>> {
    for stage in stages {
        match stage {
            SecondStage::TopK(n) => keep_best(&mut lines, *n as usize, |a, b| b.total_cmp(&a)),
            SecondStage::BottomK(n) => keep_best(&mut lines, *n as usize, |a, b| a.total_cmp(&b)),
            SecondStage::Filter(op, value) => {
                let limit = seconds(value).unwrap_or(f64::NAN);
                lines = map_values(lines, |v| if passes(*op, v, limit) { v } else { f64::NAN });
            }
        }
        lines.retain(|line| line.values.iter().any(|value| !value.is_nan()));
    }
    Ok(lines)
}

fn passes(op: CompareOp, value: f64, limit: f64) -> bool {
    value.partial_cmp(&limit).is_some_and(|ordering| op.accepts(ordering))
}

/// At each point in time keeps the `n` first by `order`; ties go to the smaller labels.
fn keep_best(lines: &mut [Line], n: usize, order: impl Fn(f64, f64) -> std::cmp::Ordering) {
    lines.sort_by(|a, b| compare_labels(&a.labels, &b.labels));
    let points = lines.iter().map(|line| line.values.len()).max().unwrap_or(0);
    for at in 0..points {
        let mut present: Vec<usize> = (0..lines.len()).filter(|i| !lines[*i].values[at].is_nan()).collect();
        present.sort_by(|a, b| order(lines[*a].values[at], lines[*b].values[at]));
        present.iter().skip(n).for_each(|i| lines[*i].values[at] = f64::NAN);
    }
}

fn leg_lines(plan: &MetricsPlan, leg: &Leg, partial: &LegPartial, budget: &Budget) -> Result<Vec<Line>> {
    let points = plan.intervals.count() as usize;
    let mut lines = Lines::new(points, budget);
    let scale = plan.count_scale();
    if let Function::Compare { top, .. } = &leg.first.function {
        compare_lines(partial, *top as usize, points, scale, &mut lines)?;
        return Ok(lines.made);
    }
    for (key, buckets) in &partial.groups {
        let labels = group_labels(leg, key);
        let exemplars: Vec<Exemplar> = buckets
            .values()
            .filter_map(|bucket| bucket.exemplar.as_deref().copied())
            .collect();
        let line = |value: &dyn Fn(&Bucket) -> f64, empty: f64| fill(points, empty, buckets, value);
        match &leg.first.function {
            Function::QuantileOverTime(_, quantiles) => {
                for (i, q) in quantiles.iter().enumerate() {
                    let value = |bucket: &Bucket| quantile(bucket, *q).unwrap_or(0.0);
                    let values = line(&value, 0.0);
                    let mut labels = labels.clone();
                    labels.push(("p".to_owned(), Static::Float(*q)));
                    // An exemplar is shown once, with the quantile it comes closest to.
                    let mine = |e: &&Exemplar| nearest_quantile(e, buckets, quantiles, &plan.intervals) == Some(i);
                    let exemplars = exemplars.iter().filter(mine).copied().collect();
                    lines.push(Line {
                        labels,
                        values,
                        exemplars,
                    })?;
                }
            }
            Function::HistogramOverTime(_) => {
                let powers: BTreeSet<Power> = buckets
                    .values()
                    .filter_map(|b| b.measured.as_ref())
                    .flat_map(|m| m.powers.keys().copied())
                    .collect();
                for power in powers {
                    let value = |bucket: &Bucket| {
                        bucket
                            .measured
                            .as_ref()
                            .and_then(|m| m.powers.get(&power))
                            .copied()
                            .unwrap_or(0) as f64
                            * scale
                    };
                    let values = line(&value, 0.0);
                    let mut labels = labels.clone();
                    labels.push(("__bucket".to_owned(), Static::Float(power.edge())));
                    let inside = |e: &&Exemplar| e.value.is_some_and(|v| v <= power.edge() && v > power.edge() / 2.0);
                    let exemplars = exemplars.iter().filter(inside).copied().collect();
                    lines.push(Line {
                        labels,
                        values,
                        exemplars,
                    })?;
                }
            }
            function => {
                let of = |bucket: &Bucket, value: fn(&Measured) -> f64| {
                    bucket.measured.as_ref().map_or(f64::NAN, |measured| value(measured))
                };
                let step_seconds = plan.intervals.step_nanos() as f64 / 1e9;
                let values = match function {
                    Function::Rate => line(&|bucket| bucket.count as f64 * scale / step_seconds, 0.0),
                    Function::CountOverTime => line(&|bucket| bucket.count as f64 * scale, 0.0),
                    Function::MinOverTime(_) => line(&|bucket| of(bucket, |m| m.min), f64::NAN),
                    Function::MaxOverTime(_) => line(&|bucket| of(bucket, |m| m.max), f64::NAN),
                    Function::SumOverTime(_) => {
                        let scale = scale * ONE as f64;
                        line(&|bucket| of(bucket, Measured::sum) * scale, f64::NAN)
                    }
                    _ => line(
                        &|bucket| of(bucket, Measured::sum) / (bucket.count as f64 / ONE as f64),
                        f64::NAN,
                    ),
                };
                lines.push(Line {
                    labels,
                    values,
                    exemplars,
                })?;
            }
        }
    }
    Ok(lines.made)
}

/// What a point of a series takes: its value, and then timestamp and value in the answer.
const POINT_BYTES: usize = 24;

/// Series that are made one by one, within bounds.
struct Lines<'a> {
    made: Vec<Line>,
    points: usize,
    budget: &'a Budget,
}

impl<'a> Lines<'a> {
    fn new(points: usize, budget: &'a Budget) -> Self {
        Self {
            made: Vec::new(),
            points,
            budget,
        }
    }

    fn push(&mut self, line: Line) -> Result<()> {
        self.budget.check()?;
        self.budget.hold(self.points * POINT_BYTES)?;
        self.made.push(line);
        if self.made.len().saturating_mul(self.points) > limits::SAMPLES_MAX {
            return Err(Error::Exhausted {
                what: "samples",
                limit: limits::SAMPLES_MAX as u64,
                name: "query_samples_max",
            });
        }
        Ok(())
    }
}

fn fill(points: usize, empty: f64, buckets: &BTreeMap<u32, Bucket>, value: &dyn Fn(&Bucket) -> f64) -> Vec<f64> {
    let mut values = vec![empty; points];
    for (index, bucket) in buckets {
        if let Some(slot) = values.get_mut(*index as usize) {
            *slot = value(bucket);
        }
    }
    values
}

/// The quantile, never outside what was seen: so a single value, the smallest and the largest are exact.
fn quantile(bucket: &Bucket, q: f64) -> Option<f64> {
    let measured = bucket.measured.as_ref()?;
    let value = measured.sketch.as_ref()?.quantile(q)?;
    Some(value.max(measured.min).min(measured.max))
}

fn nearest_quantile(
    exemplar: &Exemplar,
    buckets: &BTreeMap<u32, Bucket>,
    quantiles: &[f64],
    intervals: &Intervals,
) -> Option<usize> {
    let sketch = buckets
        .get(&intervals.index(exemplar.unix_nanos)?)?
        .measured
        .as_ref()?
        .sketch
        .as_ref()?;
    let value = exemplar.value?;
    let distances = quantiles
        .iter()
        .enumerate()
        .filter_map(|(i, q)| Some((i, (sketch.quantile(*q)? - value).abs())));
    distances.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(i, _)| i)
}

/// Labels of a group. A missing value drops its label; when all are missing the first stays and says so.
fn group_labels(leg: &Leg, key: &GroupKey) -> Vec<(String, Static)> {
    let bucketed = matches!(
        leg.first.function,
        Function::QuantileOverTime(..) | Function::HistogramOverTime(_)
    );
    if leg.first.by.is_empty() {
        let name = || vec![(NAME.to_owned(), Static::str(leg.first.function.word()))];
        return if bucketed { Vec::new() } else { name() };
    }
    let labels: Vec<(String, Static)> = leg
        .first
        .by
        .iter()
        .zip(&key.0)
        .filter(|(_, value)| **value != Static::Nil)
        .map(|(field, value)| (field.to_string(), value.clone()))
        .collect();
    if labels.is_empty() {
        return vec![(leg.first.by[0].to_string(), Static::str("nil"))];
    }
    labels
}

fn compare_lines(partial: &LegPartial, top: usize, points: usize, scale: f64, lines: &mut Lines<'_>) -> Result<()> {
    let values_of = |counts: &Counts| {
        let mut values = vec![f64::NAN; points];
        for (index, count) in counts {
            if let Some(slot) = values.get_mut(*index as usize) {
                *slot = *count as f64 * scale;
            }
        }
        values
    };
    let line = |kind: &str, more: Vec<(String, Static)>, counts: &Counts| {
        let mut labels = vec![(META_TYPE.to_owned(), Static::str(kind))];
        labels.extend(more);
        Line {
            labels,
            values: values_of(counts),
            exemplars: Vec::new(),
        }
    };
    for (field, counts) in &partial.comparison.attributes {
        let label = field.to_string();
        for (side, kind, total) in [
            (Side::Baseline, "baseline", "baseline_total"),
            (Side::Selection, "selection", "selection_total"),
        ] {
            let totals = &counts.totals[side as usize];
            if totals.is_empty() {
                continue;
            }
            let nil = (label.clone(), Static::str("nil"));
            lines.push(line(total, vec![nil.clone()], totals))?;
            if counts.too_many {
                let error = (META_ERROR.to_owned(), Static::str(TOO_MANY));
                lines.push(line(kind, vec![error, nil], totals))?;
                continue;
            }
            let sum = |counts: &Counts| counts.values().sum::<u64>();
            let mut values: Vec<(&GroupKey, &Counts)> = counts
                .values
                .iter()
                .map(|(value, sides)| (value, &sides[side as usize]))
                .collect();
            values.retain(|(_, counts)| !counts.is_empty());
            // Stable: equally frequent values stay in their own order.
            values.sort_by_key(|(_, counts)| std::cmp::Reverse(sum(counts)));
            for (value, counts) in values.into_iter().take(top) {
                let value = value.0.first().cloned().unwrap_or(Static::Nil);
                lines.push(line(kind, vec![(label.clone(), value)], counts))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Limits;

    #[test]
    fn an_answer_has_so_many_samples() {
        let budget = Budget::new(Limits {
            memory_max: u64::MAX,
            ..Limits::default()
        });
        let lines = |count: usize, points: usize| {
            let mut lines = Lines::new(points, &budget);
            (0..count).try_for_each(|_| {
                lines.push(Line {
                    labels: Vec::new(),
                    values: Vec::new(),
                    exemplars: Vec::new(),
                })
            })
        };
        let points = limits::INTERVALS_MAX;
        let most = limits::SAMPLES_MAX / points;
        assert!(lines(most - 1, points).is_ok() && lines(most, points).is_ok());
        let refused = lines(most + 1, points).unwrap_err();
        assert_eq!(refused.to_string(), "query exceeds query_samples_max: 20000000 samples");
        assert!(lines(1, limits::SAMPLES_MAX - 1).is_ok() && lines(1, limits::SAMPLES_MAX).is_ok());
        assert!(lines(1, limits::SAMPLES_MAX + 1).is_err());
    }
}
