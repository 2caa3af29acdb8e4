//! How many spans a span stands for: what sampling left out, here or at the sender.
//!
//! A weight is a whole number of parts, so that sums do not depend on their order; [`ONE`] is a span that stands for
//! itself. Senders that sample by OpenTelemetry's rules say with which probability in `tracestate`
//! (<https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/>); the hint `extrapolate` counts that
//! in. Sampling asked for by the query chooses by hash, so the same spans everywhere, and scales what is counted.

use model::TraceId;
use model::column::{Rows, Values, slice_at};

use crate::ast::Hint;
use crate::engine::context::Context;
use crate::engine::physical::Physical;
use crate::error::Result;
use crate::rowset::RowSet;
use crate::source::ColumnRef;
use crate::value::Static;

/// Parts of a whole span.
pub const ONE: u64 = 1 << 20;
/// A span stands for at most so many: 2^32, far beyond any sampler.
const HEAVIEST: u64 = ONE << 32;
/// Digits of a rejection threshold; shorter ones lack zeros at the end.
const THRESHOLD_DIGITS: usize = 14;

/// Which part of the spans is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// Hashes below it are measured.
    threshold: u64,
    of: Sampled,
    /// What counts are multiplied with.
    pub(crate) scale: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sampled {
    /// Each span by its start.
    Spans,
    /// Each trace by its id.
    Traces,
}

impl Sampling {
    /// What the hints `sample`, `span_sample` and `trace_sample` ask for. `sample=true` leaves the rate to the engine,
    /// which measures everything. A plan that looks at whole traces samples those.
    pub(crate) fn of(hints: &[Hint], needs_whole_trace: bool) -> Option<Sampling> {
        let rate = |hint: &Hint| match hint.value {
            Static::Float(rate) if rate > 0.0 && rate < 1.0 => Some(rate),
            _ => None,
        };
        hints.iter().find_map(|hint| {
            let of = match hint.key.as_str() {
                "trace_sample" => Sampled::Traces,
                "sample" | "span_sample" if needs_whole_trace => Sampled::Traces,
                "sample" | "span_sample" => Sampled::Spans,
                _ => return None,
            };
            let rate = rate(hint)?;
            Some(Sampling {
                threshold: (rate * u64::MAX as f64) as u64,
                of,
                scale: 1.0 / rate,
            })
        })
    }

    /// The rows that are measured.
    pub(crate) fn rows(&self, ctx: &Context<'_>) -> Result<RowSet> {
        Ok(match self.of {
            Sampled::Spans => RowSet::from_values(ctx.starts()?.values(), |start| {
                mix(start.cast_unsigned()) < self.threshold
            }),
            Sampled::Traces => {
                let traces = ctx.traces()?;
                let is_in = |id: &TraceId| mix(id.to_u128() as u64 ^ (id.to_u128() >> 64) as u64) < self.threshold;
                let sampled: Vec<bool> = traces.ids.iter().map(is_in).collect();
                RowSet::from_values(traces.ordinals, |ordinal| sampled[ordinal as usize])
            }
        })
    }
}

/// The finaliser of splitmix64: neighbours do not go together.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Weights of the rows of a chunk.
pub(crate) enum Weights<'c> {
    /// Every span stands for itself.
    Even,
    /// As `tracestate` says.
    Said(Physical<'c>),
}

impl<'c> Weights<'c> {
    pub(crate) fn said(ctx: &Context<'c>) -> Result<Weights<'c>> {
        Ok(Weights::Said(ctx.columns(&ColumnRef::TraceState)?))
    }

    #[inline]
    pub(crate) fn of(&self, row: u32) -> u64 {
        match self {
            Weights::Even => ONE,
            Weights::Said(columns) => said_at(columns, row),
        }
    }
}

fn said_at(columns: &Physical<'_>, row: u32) -> u64 {
    for column in columns.iter() {
        let view = column.view();
        let at = match view.rows {
            Rows::All => Some(row as usize),
            Rows::Sparse(rows) => rows.binary_search(&row).ok(),
        };
        let Some(at) = at else { continue };
        let text = match view.values {
            Values::Bytes { offsets, bytes } => slice_at(offsets, bytes, at),
            Values::Dict { ids, dict } => match (ids.get(at), dict) {
                (Some(id), model::column::DictView::Bytes { offsets, bytes }) => slice_at(offsets, bytes, *id as usize),
                _ => &[],
            },
            _ => &[],
        };
        if let Some(weight) = of_bytes(text) {
            return weight;
        }
    }
    ONE
}

/// The weight that a `tracestate` says; None if it says nothing that makes sense.
fn of_bytes(trace_state: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(trace_state).ok()?;
    let ours = text.split(',').find_map(|member| member.trim().strip_prefix("ot="))?;
    let threshold = ours.split(';').find_map(|pair| pair.strip_prefix("th:"))?;
    if threshold.is_empty() || threshold.len() > THRESHOLD_DIGITS {
        return None;
    }
    let digits = u64::from_str_radix(threshold, 16).ok()?;
    let rejected = digits << (4 * (THRESHOLD_DIGITS - threshold.len()));
    let all = 1u64 << (4 * THRESHOLD_DIGITS);
    let parts = u128::from(ONE) * u128::from(all) / u128::from(all - rejected);
    Some(u64::try_from(parts).unwrap_or(HEAVIEST).min(HEAVIEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_as_the_rules_say() {
        for (text, expected) in [
            ("ot=th:8", Some(2.0)),
            ("ot=th:c;rv:d29d6a7215ced0", Some(4.0)),
            ("vendor=x, ot=rv:1;th:0,other=y", Some(1.0)),
            ("ot=th:fd70a3d70a3d71", Some(100.0)),
            ("ot=th:ffffffffffffff", Some(4_294_967_296.0)),
            ("ot=th:fffffffffffffff", None),
            ("ot=th:", None),
            ("ot=th:x", None),
            ("ot=rv:8", None),
            ("th:8", None),
            ("", None),
        ] {
            let weight = of_bytes(text.as_bytes()).map(|parts| (parts as f64 / ONE as f64 * 1e6).round() / 1e6);
            assert_eq!(weight, expected, "{text}");
        }
        assert_eq!(of_bytes(&[0xff]), None);
    }

    #[test]
    fn samples_are_of_the_size_that_was_asked_for() {
        let hint = |key: &str, value| Hint {
            key: key.to_owned(),
            value,
        };
        let sampling = Sampling::of(&[hint("sample", Static::Float(0.25))], false).unwrap();
        let kept = (0..100_000u64).filter(|i| mix(i * 1000) < sampling.threshold).count();
        assert!((24_000..26_000).contains(&kept), "{kept}");
        assert_eq!((sampling.of, sampling.scale), (Sampled::Spans, 4.0));
        let of = |key, value, whole| Sampling::of(&[hint(key, value)], whole).map(|sampling| sampling.of);
        assert_eq!(of("sample", Static::Float(0.5), true), Some(Sampled::Traces));
        assert_eq!(of("trace_sample", Static::Float(0.5), false), Some(Sampled::Traces));
        assert_eq!(of("span_sample", Static::Float(0.5), false), Some(Sampled::Spans));
        for value in [
            Static::Bool(true),
            Static::Float(1.0),
            Static::Float(0.0),
            Static::Int(1),
            Static::Float(-0.5),
        ] {
            assert_eq!(of("sample", value, false), None);
        }
    }
}
