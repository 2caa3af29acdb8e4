//! The simplest metrics: a list of values per group and interval.

use std::collections::{BTreeMap, BTreeSet};

use query::ast::{Body, Function, MetricsExpr, Query};
use query::metrics::{Intervals, Series};
use query::value::Static;

use crate::naive;
use crate::spans::Span;

/// Series of a single pipeline without second stages, but for `compare`.
pub(crate) fn series(query: &Query, intervals: &Intervals, spans: &[Span]) -> BTreeMap<String, Vec<(u64, f64)>> {
    let Body::Metrics(MetricsExpr::Pipeline {
        spans: pipeline, first, ..
    }) = &query.body
    else {
        panic!("one pipeline: {query}")
    };
    let mut groups: BTreeMap<String, Vec<Vec<Static>>> = BTreeMap::new();
    let points = intervals.count() as usize;
    for trace in naive::traces(spans) {
        let kept: BTreeSet<usize> = trace.run(pipeline).into_iter().flat_map(|set| set.spans).collect();
        for at in kept {
            let start = trace.spans[at].start;
            let Some(index) = (0..points).find(|i| {
                let end = intervals.timestamp_unix_nanos(*i as u32);
                start <= end && start > end.saturating_sub(intervals.step_nanos())
            }) else {
                continue;
            };
            let labels: Vec<String> = first
                .by
                .iter()
                .filter_map(|field| match naive::list(trace.field(field, at).0) {
                    Static::Nil => None,
                    value => Some(format!("{field}={value}")),
                })
                .collect();
            let values = match &first.function {
                Function::Rate | Function::CountOverTime => vec![Static::Int(1)],
                Function::MinOverTime(f)
                | Function::MaxOverTime(f)
                | Function::SumOverTime(f)
                | Function::AvgOverTime(f)
                | Function::QuantileOverTime(f, _)
                | Function::HistogramOverTime(f) => trace.field(f, at).0,
                Function::Compare { .. } => panic!("not here"),
            };
            let values: Vec<Static> = values.into_iter().filter(|v| v.as_f64().is_some()).collect();
            if !values.is_empty() {
                groups.entry(labels.join(" ")).or_insert_with(|| vec![vec![]; points])[index].extend(values);
            }
        }
    }
    let seconds = |v: &Static| match v {
        Static::Duration(n) => *n as f64 / 1e9,
        other => other.as_f64().unwrap(),
    };
    let mut series = BTreeMap::new();
    for (labels, buckets) in groups {
        let mut add = |label: String, value: &dyn Fn(&[Static]) -> Option<f64>| {
            let samples = buckets
                .iter()
                .enumerate()
                .filter_map(|(i, values)| Some((intervals.timestamp_unix_nanos(i as u32), value(values)?)));
            series.insert(label, samples.collect::<Vec<_>>());
        };
        let numbers = |values: &[Static]| values.iter().map(seconds).collect::<Vec<f64>>();
        let some = |values: &[Static], f: &dyn Fn(&[f64]) -> f64| (!values.is_empty()).then(|| f(&numbers(values)));
        match &first.function {
            Function::Rate => add(labels, &|v| {
                Some(v.len() as f64 / (intervals.step_nanos() as f64 / 1e9))
            }),
            Function::CountOverTime => add(labels, &|v| Some(v.len() as f64)),
            Function::MinOverTime(_) => add(labels, &|v| some(v, &|n| n.iter().copied().fold(f64::MAX, f64::min))),
            Function::MaxOverTime(_) => add(labels, &|v| some(v, &|n| n.iter().copied().fold(f64::MIN, f64::max))),
            Function::SumOverTime(_) => add(labels, &|v| some(v, &|n| n.iter().sum())),
            Function::AvgOverTime(_) => add(labels, &|v| some(v, &|n| n.iter().sum::<f64>() / n.len() as f64)),
            Function::QuantileOverTime(_, quantiles) => {
                for q in quantiles {
                    add(format!("{labels} p={q:?}"), &|v| {
                        let mut n = numbers(v);
                        n.sort_by(f64::total_cmp);
                        Some(if n.is_empty() {
                            0.0
                        } else {
                            n[(q * (n.len() - 1) as f64).round() as usize]
                        })
                    });
                }
            }
            _ => panic!("not here"),
        }
    }
    series
}

/// Says what differs between the engine's series and [`series`].
pub(crate) fn compare(
    text: &str,
    found: Vec<Series>,
    mut expected: BTreeMap<String, Vec<(u64, f64)>>,
) -> Result<(), String> {
    let tolerance = if text.contains("quantile") { 0.0101 } else { 1e-12 };
    for series in found {
        let labels: Vec<String> = series
            .labels
            .iter()
            .filter(|(k, v)| k != "__name__" && *v != Static::str("nil"))
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let mut key = labels.join(" ");
        if labels.len() == 1 && labels[0].starts_with("p=") {
            key = format!(" {key}");
        }
        let wanted = expected
            .remove(&key)
            .ok_or_else(|| format!("{key} is too many in {text}"))?;
        // Sums of floats that cancel out leave dust.
        let is_close = |((at, value), (wanted_at, wanted)): (&(u64, f64), &(u64, f64))| {
            at == wanted_at && (value - wanted).abs() <= wanted.abs() * tolerance + 1e-18
        };
        if series.samples.len() != wanted.len() || !series.samples.iter().zip(&wanted).all(is_close) {
            return Err(format!("{:?} is not {wanted:?}: {key} of {text}", series.samples));
        }
    }
    if expected.is_empty() {
        Ok(())
    } else {
        Err(format!("{expected:?} is missing in {text}"))
    }
}
