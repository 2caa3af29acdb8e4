//! Why a query is slow: its plan, and what answering took.
//!
//! `explain=true` on a search or metrics query runs it and answers with this page instead of what was found; the bodies
//! of those answers have no place for more.

use std::fmt::Write as _;
use std::time::Duration;

use query::SearchPlan;
use query::metrics::MetricsPlan;

use super::answer::Spelled;
use super::params::{Params, flag};
use super::status;
use crate::querier::{MetricsAnswer, SearchAnswer, Stats};
use crate::refusal::Refusal;

pub(super) fn wants_explanation(query: Option<&str>) -> Result<bool, Refusal> {
    Ok(flag(&Params::parse(query)?, "explain")?.unwrap_or(false))
}

pub(super) fn search(plan: &SearchPlan, answer: &SearchAnswer, took: Duration) -> Spelled {
    let found = format!("{} traces", answer.traces.len());
    page(plan.explain(), &found, &answer.stats, &answer.missing, took)
}

pub(super) fn metrics(plan: &MetricsPlan, answer: &MetricsAnswer, took: Duration) -> Spelled {
    let samples: usize = answer.series.iter().map(|series| series.samples.len()).sum();
    let found = format!("{} series, {samples} samples", answer.series.len());
    page(plan.explain(), &found, &answer.stats, &answer.missing, took)
}

fn page(plan: String, found: &str, stats: &Stats, missing: &[String], took: Duration) -> Spelled {
    let mut out = plan;
    let Stats {
        inspected_traces: _,
        inspected_spans,
        inspected_bytes,
        blocks,
        block_bytes,
        jobs,
        jobs_done,
        backend_reads,
        backend_bytes: _,
        blocks_outside,
        row_groups,
        row_groups_skipped,
        joined_traces,
        memory_bytes,
    } = stats;
    let _ = writeln!(out);
    let _ = writeln!(out, "found: {found}");
    let _ = writeln!(out, "time: {:.1} ms", took.as_secs_f64() * 1e3);
    let _ = writeln!(
        out,
        "blocks: {blocks} inside the window ({block_bytes} bytes), {blocks_outside} outside and not read"
    );
    let _ = writeln!(
        out,
        "row groups: {row_groups} read, {row_groups_skipped} skipped by their index and filters"
    );
    let _ = writeln!(out, "jobs: {jobs_done} of {jobs}");
    let _ = writeln!(out, "spans looked at: {inspected_spans}");
    let _ = writeln!(out, "traces brought together: {joined_traces}");
    let _ = writeln!(out, "read: {inspected_bytes} bytes in {backend_reads} reads");
    let _ = writeln!(out, "memory: {memory_bytes} bytes at most");
    for reason in missing {
        let _ = writeln!(out, "not read: {reason}");
    }
    status::text(&out)
}
