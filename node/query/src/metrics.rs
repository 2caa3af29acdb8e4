//! TraceQL metrics: spans measured over time, as series.
//!
//! A question goes: [`MetricsPlan`] → [`metrics_chunk`] per chunk → [`MetricsPartial::merge`] in any order →
//! [`MetricsPartial::finish`]. A partial result is exact but for quantiles (relative error at most
//! [`sketch::RELATIVE_ERROR`]) and does not depend on how spans are cut into chunks: counts are integers, sums of integers
//! and durations are exact, exemplars are chosen by hash, and when there are too many series the smallest labels stay.
//!
//! Hints: `exemplars`, `sample`, `span_sample`, `trace_sample` and `extrapolate` ([`weight`]); others say nothing here.
//!
//! Spans count by their start alone. Sample `i` covers the right-closed interval that ends at its timestamp.

pub mod attributes;
pub mod finish;
mod groups;
pub mod partial;
pub mod scan;
pub mod sketch;
mod tables;
mod tally;
pub mod weight;

use crate::ast::{Body, Expr, FirstStage, Function, MetricsExpr, Query};
use crate::engine::row_expr::Program;
use crate::error::{Error, Result};
use crate::field::Field;
use crate::limits;
use crate::plan::Plan;
use crate::predicate::Predicate;
use crate::source::{Chunk, TimeRange};
use crate::value::Static;

pub use finish::{Series, SeriesExemplar, SeriesSet};
pub use partial::MetricsPartial;
use weight::{ONE, Sampling};

pub use scan::{ChunkMetrics, Elsewhere, SpanKey, metrics_chunk};

/// The points in time a metrics query asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// Timestamp of the first sample; it covers the `step_nanos` up to and including itself.
    first_unix_nanos: u64,
    step_nanos: u64,
    count: u32,
    /// Spans outside are not counted, even where an interval reaches further.
    bounds: TimeRange,
    /// Whether it is one interval with both ends included.
    instant: bool,
}

impl Intervals {
    /// Samples every `step_nanos`, at multiples of it, from the one at or before `start` to the one at or after `end`.
    ///
    /// Errors: [`Error::Parameter`] when `end` is not behind `start`, the step is 0, or there are more than
    /// [`limits::INTERVALS_MAX`] intervals.
    pub fn range(start_unix_nanos: u64, end_unix_nanos: u64, step_nanos: u64) -> Result<Intervals> {
        let refuse = |parameter, message: &str| {
            Err(Error::Parameter {
                parameter,
                message: message.to_owned(),
            })
        };
        if end_unix_nanos <= start_unix_nanos {
            return refuse("end", "must be after start");
        }
        if step_nanos == 0 {
            return refuse("step", "must be greater than 0");
        }
        let first = start_unix_nanos - start_unix_nanos % step_nanos;
        let steps = (end_unix_nanos - first).div_ceil(step_nanos);
        let count = u32::try_from(steps + 1).unwrap_or(u32::MAX);
        if count as usize > limits::INTERVALS_MAX {
            return refuse(
                "step",
                &format!("too small: more than {} intervals", limits::INTERVALS_MAX),
            );
        }
        // The first interval reaches one step before `start` and is counted whole, so that the same sample of two
        // overlapping queries has the same value.
        let bounds = TimeRange {
            start_unix_nanos: 0,
            end_unix_nanos: u64::MAX,
        };
        Ok(Intervals {
            first_unix_nanos: first,
            step_nanos,
            count,
            bounds,
            instant: false,
        })
    }

    /// One sample at `end` over `[start, end]`.
    ///
    /// Errors: [`Error::Parameter`] when `end` is not behind `start`.
    pub fn instant(start_unix_nanos: u64, end_unix_nanos: u64) -> Result<Intervals> {
        if end_unix_nanos <= start_unix_nanos {
            return Err(Error::Parameter {
                parameter: "end",
                message: "must be after start".to_owned(),
            });
        }
        let step_nanos = end_unix_nanos - start_unix_nanos;
        let bounds = TimeRange {
            start_unix_nanos,
            end_unix_nanos,
        };
        Ok(Intervals {
            first_unix_nanos: end_unix_nanos,
            step_nanos,
            count: 1,
            bounds,
            instant: true,
        })
    }

    /// The step Tempo picks when none is given: a 240th of the range, rounded down to something round.
    pub fn auto_step_nanos(start_unix_nanos: u64, end_unix_nanos: u64) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        const SHORT: u64 = 50_000_000;
        let range = end_unix_nanos.saturating_sub(start_unix_nanos);
        let wanted = range / 240;
        if range < 60 * SECOND {
            return (wanted / SHORT * SHORT).max(SHORT);
        }
        let round = [3600, 300, 60, 15, 5, 1]
            .into_iter()
            .map(|s| s * SECOND)
            .find(|unit| wanted >= *unit);
        round.map_or(SECOND, |unit| wanted / unit * unit)
    }

    /// Number of samples per series.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Length of an interval.
    pub fn step_nanos(&self) -> u64 {
        self.step_nanos
    }

    /// When sample `index` is.
    pub fn timestamp_unix_nanos(&self, index: u32) -> u64 {
        self.first_unix_nanos
            .saturating_add(u64::from(index).saturating_mul(self.step_nanos))
    }

    /// The instants that count, inclusive.
    pub fn window(&self) -> TimeRange {
        if self.instant {
            return self.bounds;
        }
        TimeRange {
            // Before the epoch's second step the first interval is cut at 0.
            start_unix_nanos: self
                .first_unix_nanos
                .checked_sub(self.step_nanos)
                .map_or(0, |before| before + 1),
            end_unix_nanos: self.timestamp_unix_nanos(self.count - 1),
        }
    }

    /// The instants that count for a sample, inclusive.
    pub fn covered(&self, index: u32) -> TimeRange {
        let window = self.window();
        let end = self.timestamp_unix_nanos(index);
        let start = end.saturating_sub(self.step_nanos).saturating_add(1);
        if index == 0 {
            TimeRange {
                start_unix_nanos: window.start_unix_nanos,
                end_unix_nanos: end,
            }
        } else {
            TimeRange {
                start_unix_nanos: start,
                end_unix_nanos: end,
            }
        }
    }

    /// The sample an instant counts for.
    #[inline]
    pub fn index(&self, unix_nanos: u64) -> Option<u32> {
        if self.instant {
            let inside = self.bounds.start_unix_nanos <= unix_nanos && unix_nanos <= self.bounds.end_unix_nanos;
            return inside.then_some(0);
        }
        if unix_nanos <= self.first_unix_nanos {
            return (unix_nanos >= self.window().start_unix_nanos).then_some(0);
        }
        let index = (unix_nanos - self.first_unix_nanos).div_ceil(self.step_nanos);
        (index < u64::from(self.count)).then_some(index as u32)
    }
}

/// What a metrics question asks beside its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsRequest {
    /// When.
    pub intervals: Intervals,
    /// Most exemplars per pipeline; 0 for none. The query's hint `exemplars` overrides it, up to
    /// [`limits::EXEMPLARS_MAX`]; instant queries never have any.
    pub exemplars: usize,
}

/// A planned metrics query.
#[derive(Clone, Debug)]
pub struct MetricsPlan {
    pub(crate) intervals: Intervals,
    pub(crate) exemplars: usize,
    pub(crate) sampling: Option<Sampling>,
    /// Whether a span counts for those that its sender sampled away.
    pub(crate) extrapolates: bool,
    /// The pipelines, in the order in which `expr` mentions them.
    pub(crate) legs: Vec<Leg>,
    pub(crate) expr: MetricsExpr,
    text: String,
}

/// One pipeline with its metrics function.
#[derive(Clone, Debug)]
pub(crate) struct Leg {
    pub(crate) spans: Plan,
    pub(crate) first: FirstStage,
    /// The field that is measured, as a program.
    pub(crate) measured: Option<Program>,
    /// The selecting filter of `compare`.
    pub(crate) selection: Option<Predicate>,
}

impl Leg {
    /// Whether what a span contributes can change when more of its trace is known.
    pub(crate) fn needs_whole_trace(&self) -> bool {
        self.spans.needs_whole_trace()
            || self.first.by.iter().any(Field::needs_whole_trace)
            || self.measured.as_ref().is_some_and(|program| program.fields.iter().any(Field::needs_whole_trace))
            // It shows the root's name and service.
            || matches!(self.first.function, Function::Compare { .. })
    }
}

impl MetricsPlan {
    /// Plans a checked metrics query.
    ///
    /// Errors: [`Error::Invalid`] with Tempo's text when it is a search.
    pub fn new(query: &Query, request: MetricsRequest) -> Result<MetricsPlan> {
        let Body::Metrics(expr) = &query.body else {
            return Err(Error::invalid("not a metrics query"));
        };
        let mut legs = Vec::new();
        collect_legs(expr, &mut legs)?;
        let hint = query
            .hints
            .iter()
            .find(|hint| hint.key == "exemplars")
            .map(|hint| &hint.value);
        let exemplars = match hint {
            _ if request.intervals.instant => 0,
            Some(Static::Bool(false)) => 0,
            Some(Static::Bool(true)) => request.exemplars.max(limits::EXEMPLARS_MAX),
            Some(Static::Int(n)) => usize::try_from(*n).unwrap_or(0),
            _ => request.exemplars,
        };
        let needs_whole_trace = legs.iter().any(Leg::needs_whole_trace);
        Ok(MetricsPlan {
            sampling: Sampling::of(&query.hints, needs_whole_trace),
            extrapolates: query
                .hints
                .iter()
                .any(|hint| hint.key == "extrapolate" && hint.value == Static::Bool(true)),
            intervals: request.intervals,
            exemplars: exemplars.min(limits::EXEMPLARS_MAX),
            legs,
            expr: expr.clone(),
            text: query.to_string(),
        })
    }

    /// The query as text, from which [`crate::parse`] gives the same query.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The points in time asked about.
    pub fn intervals(&self) -> Intervals {
        self.intervals
    }

    /// What turns parts of spans into spans.
    pub(crate) fn count_scale(&self) -> f64 {
        self.sampling.map_or(1.0, |sampling| sampling.scale) / ONE as f64
    }

    /// What the plan will do, for people.
    pub fn explain(&self) -> String {
        use std::fmt::Write as _;
        let mut out = String::new();
        let window = self.intervals.window();
        let _ = writeln!(out, "metrics {}", self.text);
        let _ = writeln!(
            out,
            "window: {}..={} ns, {} samples {} apart, exemplars: {}",
            window.start_unix_nanos,
            window.end_unix_nanos,
            self.intervals.count(),
            crate::value::duration_text(i64::try_from(self.intervals.step_nanos()).unwrap_or(i64::MAX)),
            self.exemplars
        );
        let whole = if self.needs_whole_trace() { "yes" } else { "no" };
        let _ = writeln!(out, "needs whole traces: {whole}");
        for leg in &self.legs {
            let by: Vec<String> = leg.first.by.iter().map(Field::to_string).collect();
            let _ = writeln!(out, "measures {} by ({})", leg.first.function.word(), by.join(", "));
            crate::plan::explain::explain_plan(&leg.spans, &mut out);
            if let Some(selection) = &leg.selection {
                let _ = writeln!(out, "- against [{selection}]");
            }
        }
        out
    }

    /// Whether traces that are in several chunks must be joined. If not, the split set may be left empty and every chunk
    /// answers for its own spans.
    pub fn needs_whole_trace(&self) -> bool {
        self.legs.iter().any(Leg::needs_whole_trace)
    }

    /// False only if nothing in the chunk can contribute. Reads no columns. `has_split` as for
    /// [`crate::SearchPlan::may_match`].
    pub fn may_match(&self, chunk: &dyn Chunk, has_split: bool) -> bool {
        // Whatever is counted starts inside the window, so a chunk outside has nothing to count, and a trace to be joined
        // is named by a chunk inside.
        chunk.time_range().overlaps(&self.intervals.window())
            && self.legs.iter().any(|leg| {
                leg.spans.may_match(chunk) || (has_split && leg.needs_whole_trace() && leg.spans.part_may_match(chunk))
            })
    }
}

fn collect_legs(expr: &MetricsExpr, legs: &mut Vec<Leg>) -> Result<()> {
    match expr {
        MetricsExpr::Scalar(_) => {}
        MetricsExpr::Math { lhs, rhs, .. } => {
            collect_legs(lhs, legs)?;
            collect_legs(rhs, legs)?;
        }
        MetricsExpr::Staged(inner, _) => collect_legs(inner, legs)?,
        MetricsExpr::Pipeline { spans, first, .. } => {
            let measured = match &first.function {
                Function::MinOverTime(field)
                | Function::MaxOverTime(field)
                | Function::SumOverTime(field)
                | Function::AvgOverTime(field)
                | Function::HistogramOverTime(field)
                | Function::QuantileOverTime(field, _) => Some(Program::new(&Expr::Field(field.clone()))?),
                Function::Rate | Function::CountOverTime | Function::Compare { .. } => None,
            };
            let selection = match &first.function {
                Function::Compare { selection, .. } => Some(Predicate::compile(selection.as_ref())?),
                _ => None,
            };
            legs.push(Leg {
                spans: Plan::new(spans)?,
                first: first.clone(),
                measured,
                selection,
            });
        }
    }
    Ok(())
}
