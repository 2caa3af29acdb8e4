//! Series as a line each: labels, the curve, and its numbers.

use std::fmt::Write as _;

use query::value::Static;
use wire::tempopb::common::v1::KeyValue;
use wire::tempopb::{QueryInstantResponse, QueryRangeResponse, TimeSeries};

use super::table::pairs;
use super::tree::{fit, width};
use super::{Screen, time};

const LABELS_MAX: usize = 50;
const CURVE_MIN: usize = 20;
const CURVE_MAX: usize = 80;

pub(super) fn print(found: &QueryRangeResponse, screen: Screen) -> String {
    let samples = || found.series.iter().flat_map(|series| &series.samples);
    let (Some(first), Some(last)) = (
        samples().map(|sample| sample.timestamp_ms).min(),
        samples().map(|sample| sample.timestamp_ms).max(),
    ) else {
        return "no series\n".to_owned();
    };
    let labels: Vec<String> = found.series.iter().map(|series| name(&series.labels)).collect();
    let labels_width = labels
        .iter()
        .map(|text| width(text))
        .max()
        .unwrap_or(0)
        .clamp(6, LABELS_MAX);
    let numbers_width = 3 * 12;
    let columns = screen
        .width
        .saturating_sub(labels_width + numbers_width + 2)
        .clamp(CURVE_MIN, CURVE_MAX);
    let instant = |millis: i64| time::instant(u64::try_from(millis).unwrap_or(0) * 1_000_000);
    let mut out = format!("{} to {}\n\n", instant(first), instant(last));
    let _ = writeln!(
        out,
        "{}  {}{:>12}{:>12}{:>12}",
        fit("SERIES", labels_width),
        " ".repeat(columns),
        "MIN",
        "MAX",
        "LAST"
    );
    for (series, label) in found.series.iter().zip(&labels) {
        let values = series.samples.iter().map(|sample| sample.value);
        let (low, high) = values.clone().fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let latest = series.samples.last().map_or(f64::NAN, |sample| sample.value);
        let _ = writeln!(
            out,
            "{}  {}{:>12}{:>12}{:>12}",
            fit(label, labels_width),
            curve(series, first, last, columns),
            number(low),
            number(high),
            number(latest)
        );
    }
    out
}

pub(super) fn print_instant(found: &QueryInstantResponse) -> String {
    if found.series.is_empty() {
        return "no series\n".to_owned();
    }
    let labels: Vec<String> = found.series.iter().map(|series| name(&series.labels)).collect();
    let labels_width = labels
        .iter()
        .map(|text| width(text))
        .max()
        .unwrap_or(0)
        .clamp(6, LABELS_MAX);
    let mut out = String::new();
    let _ = writeln!(out, "{}{:>14}", fit("SERIES", labels_width), "VALUE");
    for (series, label) in found.series.iter().zip(&labels) {
        let _ = writeln!(out, "{}{:>14}", fit(label, labels_width), number(series.value));
    }
    out
}

fn name(labels: &[KeyValue]) -> String {
    pairs(labels).trim_start_matches("__name__=").to_owned()
}

/// Each column the largest of its samples, on a scale from zero (or the smallest, if that is below) to the largest.
fn curve(series: &TimeSeries, first: i64, last: i64, columns: usize) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let span = (last - first).max(1) as f64;
    let mut largest: Vec<Option<f64>> = vec![None; columns];
    for sample in &series.samples {
        let at = ((sample.timestamp_ms - first) as f64 / span * (columns - 1) as f64).round() as usize;
        if let Some(slot) = largest.get_mut(at) {
            *slot = Some(slot.map_or(sample.value, |known| known.max(sample.value)));
        }
    }
    let values = || largest.iter().flatten().copied();
    let low = values().fold(0.0, f64::min);
    let range = (values().fold(f64::MIN, f64::max) - low).max(f64::MIN_POSITIVE);
    // Fewer samples than columns leave gaps between them, which a curve does not have.
    let mut before = None;
    let step = |value: f64| STEPS[(((value - low) / range * 7.0).round() as usize).min(7)];
    let drawn: Vec<char> = largest
        .iter()
        .map(|value| {
            before = value.or(before);
            before.map_or(' ', step)
        })
        .collect();
    drawn.into_iter().collect()
}

/// Four digits or so.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e9).contains(&size) {
        return format!("{value:.3e}");
    }
    let digits = match size {
        size if size >= 1000.0 || size == 0.0 => 0,
        size if size >= 1.0 => 3,
        _ => 6,
    };
    let rounded: f64 = format!("{value:.digits$}").parse().unwrap_or(value);
    Static::Float(rounded).display()
}
