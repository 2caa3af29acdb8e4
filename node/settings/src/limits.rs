//! What one tenant may do, with defaults for all and exceptions for some.
//!
//! Owns [`Limits`], [`LimitsPatch`] and [`LimitSettings`]. Sources: Tempo's defaults where users know them, else the
//! resource table of the reliability notes. Not here: what protects the node whoever asks (listen, memory, wal).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::problem::Problems;
use crate::quantity::{ByteSize, Period};
use crate::section::{limits, section};

/// What happens to an attribute that is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Oversize {
    /// The value is cut and counted; the span is kept.
    Truncate,
    /// The span is refused by name in `partial_success`.
    Reject,
}

limits! {
    /// Limits of one tenant. Zero is refused where it would switch a protection off.
    pub struct Limits, LimitsPatch {
        /// Decompressed OTLP bytes per second that are accepted on average; above it 429 with a time to come back. Absent:
        /// 30 MB with multitenancy; without it as much as the node can take, since there is nobody to protect.
        ingest_rate: Option<ByteSize> = None,
        /// Decompressed OTLP bytes that may arrive at once above the rate, where there is one. A single request larger than
        /// this is then refused for good.
        ingest_burst: ByteSize = ByteSize::mb(30),
        /// Bytes one trace may hold before further spans of it are refused, and beyond which trace by id (v1) answers 422.
        trace_bytes_max: ByteSize = ByteSize::mb(5),
        /// Spans one trace may hold in the live window before further ones are refused.
        trace_spans_max: u32 = 50_000,
        /// Traces that may be live at once in one shard.
        live_traces_max: u32 = 100_000,
        /// Bytes of one attribute value (string or bytes) before `attribute_oversize` applies.
        attribute_value_bytes_max: ByteSize = ByteSize::kib(2),
        /// Bytes of one attribute key before `attribute_oversize` applies.
        attribute_key_bytes_max: ByteSize = ByteSize(256),
        /// Cut or refuse what exceeds the two sizes above.
        attribute_oversize: Oversize = Oversize::Truncate,
        /// Attributes of one span, event, link, scope or resource.
        attributes_max: u32 = 128,
        /// Events of one span.
        events_max: u32 = 1_000,
        /// Links of one span.
        links_max: u32 = 1_000,
        /// How long spans are kept after their block ends.
        retention: Period = Period::days(14),
        /// Queries of this tenant that run at once on one node; more wait, then 429.
        queries_concurrent_max: u32 = 20,
        /// Queries of this tenant that wait on one node before 429.
        queries_queued_max: u32 = 2_000,
        /// Time one query of this tenant may take, if the kind of query is not given less; then 504.
        query_time_max: Period = Period::minutes(1),
        /// Bytes of blocks one query may read; above it 422.
        query_bytes_max: ByteSize = ByteSize::gib(2),
        /// Bytes of memory one query may hold at once; above it 422.
        query_memory_max: ByteSize = ByteSize::mib(256),
        /// Bytes of memory all queries of this tenant may hold at once on one node; above it 422.
        queries_memory_max: ByteSize = ByteSize::mib(384),
        /// Write trace ids in search answers as Tempo does, without leading zeros, instead of with all 32 digits.
        trim_trace_ids: bool = false,
        /// Longest range (`end` - `start`) of a search.
        search_range_max: Period = Period::hours(168),
        /// Longest range of a metrics query.
        metrics_range_max: Period = Period::hours(24),
        /// Largest `limit` of a search, in traces.
        search_limit_max: u32 = 262_144,
        /// Largest `spss` of a search, in spans per spanset.
        spans_per_spanset_max: u32 = 100,
        /// Bytes of tag values in one answer; what does not fit is cut and the answer says so.
        tag_values_bytes_max: ByteSize = ByteSize::mb(1),
        /// Tag names in one answer, per scope.
        tag_names_max: u32 = 10_000,
        /// Series in one metrics answer; more make it PARTIAL.
        metrics_series_max: u32 = 10_000,
        /// Largest `exemplars` of a metrics query.
        exemplars_max: u32 = 100,
    }
}

section! {
    /// Limits for everyone and the exceptions. This section is read again while the node runs.
    pub struct LimitSettings {
        /// Limits of a tenant that has no exception.
        defaults: Limits = Limits::default(),
        /// Exceptions by tenant id; each names only what differs.
        tenants: BTreeMap<String, LimitsPatch> = BTreeMap::new(),
    }
}

impl LimitSettings {
    /// What holds for this tenant.
    pub fn of(&self, tenant: &str) -> Limits {
        match self.tenants.get(tenant) {
            Some(patch) => self.defaults.patched(patch),
            None => self.defaults.clone(),
        }
    }

    pub(crate) fn check(&self, problems: &mut Problems) {
        problems.at("limits.defaults", |problems| self.defaults.check(problems));
        for (tenant, patch) in &self.tenants {
            problems.at(format!("limits.tenants.{tenant}"), |problems| {
                if !is_tenant_id(tenant) {
                    problems.add(
                        "",
                        "not a tenant id: 1 to 150 of A-Z a-z 0-9 ! _ . * ' ( ) -, and not . or ..",
                    );
                }
                self.defaults.patched(patch).check(problems);
            });
        }
    }
}

/// What a tenant may send where its limits say nothing and others share the node.
const INGEST_RATE_SHARED: ByteSize = ByteSize::mb(30);

impl Limits {
    /// The rate that holds, if any does.
    pub fn ingest_rate_where(&self, multitenancy: bool) -> Option<ByteSize> {
        self.ingest_rate.or(multitenancy.then_some(INGEST_RATE_SHARED))
    }

    fn check(&self, problems: &mut Problems) {
        if let Some(rate) = self.ingest_rate {
            problems.not_zero("ingest_rate", rate);
        }
        problems.not_zero("ingest_burst", self.ingest_burst);
        problems.not_zero("trace_bytes_max", self.trace_bytes_max);
        problems.not_zero("attribute_value_bytes_max", self.attribute_value_bytes_max);
        problems.not_zero("attribute_key_bytes_max", self.attribute_key_bytes_max);
        problems.not_zero("tag_values_bytes_max", self.tag_values_bytes_max);
        problems.at_least("query_time_max", self.query_time_max, Period::millis(10));
        problems.at_least("query_bytes_max", self.query_bytes_max, ByteSize::mib(1));
        problems.at_least("query_memory_max", self.query_memory_max, ByteSize::mib(1));
        problems.at_least("queries_memory_max", self.queries_memory_max, ByteSize::mib(1));
        for (field, value) in [
            ("trace_spans_max", self.trace_spans_max),
            ("live_traces_max", self.live_traces_max),
            ("attributes_max", self.attributes_max),
            ("queries_concurrent_max", self.queries_concurrent_max),
            ("search_limit_max", self.search_limit_max),
            ("spans_per_spanset_max", self.spans_per_spanset_max),
            ("tag_names_max", self.tag_names_max),
            ("metrics_series_max", self.metrics_series_max),
        ] {
            if value == 0 {
                problems.add(field, "must not be 0: there is no \"unlimited\"");
            }
        }
        // A slip of the unit ("14s" for "14d") would delete everything; an hour is the shortest that compaction can honour.
        problems.at_least("retention", self.retention, Period::hours(1));
        problems.at_least("search_range_max", self.search_range_max, Period::minutes(1));
        problems.at_least("metrics_range_max", self.metrics_range_max, Period::minutes(1));
    }
}

/// The same rule as `model::TenantId`; a test of the server holds the two together.
pub fn is_tenant_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!_.*'()-".contains(&byte);
    (1..=150).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".."
}
