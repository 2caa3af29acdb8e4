//! Where to look first: `trace-summary-v0-native`.
//!
//! Counts come from the patch; times from whole traces, so that many small changes which no single span shows still add
//! up here. Directions are named without saying which is good.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Warning;
use super::flatten::{FlatTrace, Identity};
use super::patch::Patch;

/// A service whose spans take this much more or less together has drifted: a millisecond, and a twentieth.
const DRIFT_NANOS: i64 = 1_000_000;
const DRIFT_PART: i64 = 20;
const UNKNOWN_SERVICE: &str = "unknown";

/// See the module's documentation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    version: &'static str,
    base: Side,
    compare: Side,
    signals: Signals,
    trust: Trust,
    stats: Stats,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
    changed_services: Vec<String>,
    services: Vec<Service>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Side {
    trace_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    root_service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    root_name: String,
    span_count: usize,
    error_span_count: usize,
    duration_ms: i64,
    sum_span_duration_ms: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Signals {
    trace_latency: &'static str,
    sum_span_duration: &'static str,
    errors: &'static str,
    span_count: &'static str,
    structure: &'static str,
}

/// How far the two can be compared at all.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Trust {
    matched_span_ratio: f64,
    structure_overlap: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    trace_latency_delta_ms: i64,
    sum_span_duration_delta_ms: i64,
    span_count_delta: i64,
    error_span_delta: i64,
    matched_spans: usize,
    modified_spans: usize,
    added_spans: usize,
    removed_spans: usize,
    field_changes: usize,
    attribute_changes: usize,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Service {
    name: String,
    sum_span_duration_delta_ms: i64,
    modified: u32,
    added: u32,
    removed: u32,
    new_errors: u32,
    resolved_errors: u32,
}

/// What is known of a trace as a whole, in nanoseconds until differences are taken.
struct Whole {
    latency: i64,
    by_service: BTreeMap<String, i64>,
    errors: usize,
    /// Spans by service, name, kind and parent.
    shape: BTreeMap<(Identity, Option<Identity>), usize>,
}

fn service_of(name: &str) -> &str {
    if name.is_empty() { UNKNOWN_SERVICE } else { name }
}

impl Whole {
    fn of(trace: &FlatTrace) -> Self {
        let valid = || trace.spans.iter().filter(|span| span.duration_nanos.is_some());
        let start = valid().map(|span| span.start).min().unwrap_or(0);
        let end = valid().map(|span| span.end).max().unwrap_or(0);
        let mut whole = Self {
            latency: i64::try_from(end.saturating_sub(start)).unwrap_or(i64::MAX),
            by_service: BTreeMap::new(),
            errors: trace.spans.iter().filter(|span| span.status == "error").count(),
            shape: BTreeMap::new(),
        };
        for span in &trace.spans {
            let sum = whole
                .by_service
                .entry(service_of(&span.identity.service).to_owned())
                .or_default();
            *sum = sum.saturating_add(span.duration_nanos.unwrap_or(0));
            *whole
                .shape
                .entry((span.identity.clone(), span.parent.clone()))
                .or_default() += 1;
        }
        whole
    }

    fn sum(&self) -> i64 {
        self.by_service
            .values()
            .fold(0, |sum, nanos| sum.saturating_add(*nanos))
    }

    fn side(&self, trace: &FlatTrace) -> Side {
        let root = trace.spans.first();
        Side {
            trace_id: trace.trace_id.clone(),
            root_service: root.map_or(String::new(), |root| root.identity.service.clone()),
            root_name: root.map_or(String::new(), |root| root.identity.name.clone()),
            span_count: trace.spans.len(),
            error_span_count: self.errors,
            duration_ms: self.latency / 1_000_000,
            sum_span_duration_ms: self.sum() / 1_000_000,
        }
    }
}

fn signal(difference: i64) -> &'static str {
    match difference.signum() {
        1 => "increased",
        -1 => "decreased",
        _ => "unchanged",
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Summary {
    pub(super) fn of(base: &FlatTrace, compared: &FlatTrace, patch: &Patch) -> Self {
        let (before, after) = (Whole::of(base), Whole::of(compared));
        let stats = Stats {
            trace_latency_delta_ms: (after.latency - before.latency) / 1_000_000,
            sum_span_duration_delta_ms: after.sum().saturating_sub(before.sum()) / 1_000_000,
            span_count_delta: count(compared.spans.len()) - count(base.spans.len()),
            error_span_delta: count(after.errors) - count(before.errors),
            matched_spans: patch.stats.matched_spans,
            modified_spans: patch.stats.modified_spans,
            added_spans: patch.stats.added_spans,
            removed_spans: patch.stats.removed_spans,
            field_changes: patch.stats.field_changes,
            attribute_changes: patch.stats.attribute_changes,
        };
        let reshaped = reshaped_services(&before, &after);
        let (changed_services, services) = services(&before, &after, patch, &reshaped);
        Self {
            version: "trace-summary-v0-native",
            base: before.side(base),
            compare: after.side(compared),
            signals: Signals {
                trace_latency: signal(stats.trace_latency_delta_ms),
                sum_span_duration: signal(stats.sum_span_duration_delta_ms),
                errors: signal(stats.error_span_delta),
                span_count: signal(stats.span_count_delta),
                structure: if reshaped.is_empty() { "unchanged" } else { "changed" },
            },
            trust: trust(&before, &after, base, compared, stats.matched_spans),
            stats,
            warnings: patch.warnings.clone(),
            changed_services,
            services,
        }
    }
}

fn trust(before: &Whole, after: &Whole, base: &FlatTrace, compared: &FlatTrace, matched: usize) -> Trust {
    let ratio = |part: usize, of: usize| if of == 0 { 1.0 } else { part as f64 / of as f64 };
    let common: usize = before
        .shape
        .iter()
        .map(|(row, count)| after.shape.get(row).copied().unwrap_or(0).min(*count))
        .sum();
    let larger = base.spans.len().max(compared.spans.len());
    Trust {
        matched_span_ratio: ratio(matched, larger),
        structure_overlap: ratio(common, larger),
    }
}

/// Services some of whose spans came, went or hang elsewhere.
fn reshaped_services(before: &Whole, after: &Whole) -> BTreeSet<String> {
    let rows = before.shape.keys().chain(after.shape.keys());
    rows.filter(|row| before.shape.get(row) != after.shape.get(row))
        .map(|(identity, _)| service_of(&identity.service).to_owned())
        .collect()
}

fn services(before: &Whole, after: &Whole, patch: &Patch, reshaped: &BTreeSet<String>) -> (Vec<String>, Vec<Service>) {
    let mut counted: BTreeMap<String, Service> = BTreeMap::new();
    let mut of = |service: &str, note: &dyn Fn(&mut Service)| {
        note(counted.entry(service_of(service).to_owned()).or_default());
    };
    for modified in &patch.modified {
        of(&modified.span.service, &|service| {
            service.modified += 1;
            match modified.error_change() {
                1 => service.new_errors += 1,
                -1 => service.resolved_errors += 1,
                _ => {}
            }
        });
    }
    for added in &patch.added {
        let is_error = added.span.status == "error";
        of(&added.span.place.service, &|service| {
            service.added += 1;
            service.new_errors += u32::from(is_error);
        });
    }
    for removed in &patch.removed {
        let is_error = removed.span.status == "error";
        of(&removed.span.place.service, &|service| {
            service.removed += 1;
            service.resolved_errors += u32::from(is_error);
        });
    }
    let mut changed: BTreeSet<String> = reshaped.clone();
    let mut rows = Vec::new();
    let names: BTreeSet<&String> = before.by_service.keys().chain(after.by_service.keys()).collect();
    for name in names {
        let old = before.by_service.get(name).copied().unwrap_or(0);
        let difference = after.by_service.get(name).copied().unwrap_or(0).saturating_sub(old);
        let drifted = difference.abs() >= DRIFT_NANOS && difference.abs() >= old / DRIFT_PART;
        let counts = counted.get(name);
        if !drifted && counts.is_none() {
            continue;
        }
        changed.insert(name.clone());
        rows.push(Service {
            name: name.clone(),
            sum_span_duration_delta_ms: difference / 1_000_000,
            ..counts.cloned().unwrap_or_default()
        });
    }
    rows.sort_by_key(|row| {
        let by_time = std::cmp::Reverse(row.sum_span_duration_delta_ms.abs());
        (by_time, std::cmp::Reverse(row.new_errors), row.name.clone())
    });
    (changed.into_iter().collect(), rows)
}
