//! What queries mean when they leave something out, and what one query may cost.
//!
//! Owns [`QuerySettings`]. Defaults follow Tempo where a user can see them. What differs by tenant (ranges, result
//! sizes, concurrency) is in [`crate::limits::Limits`]. There is no end cutoff: a span is found as soon as it is
//! acknowledged.

use crate::problem::Problems;
use crate::quantity::{ByteSize, Period};
use crate::section::section;

section! {
    /// Queries.
    pub struct QuerySettings {
        /// Longest TraceQL text; above it 400.
        expression_bytes_max: ByteSize = ByteSize::kib(128),
        /// Time one search may take; then 504.
        search_timeout: Period = Period::secs(30),
        /// Time one metrics query may take.
        metrics_timeout: Period = Period::minutes(1),
        /// Time one trace by id may take.
        trace_timeout: Period = Period::secs(10),
        /// Time a tag name or tag value lookup may scan before it answers with what it has, marked as cut.
        tag_timeout: Period = Period::secs(5),
        /// How far back a search without `start` and `end` looks. Live spans are always searched.
        recent_window: Period = Period::hours(1),
        /// `limit` of a search that names none, in traces.
        search_limit: u32 = 20,
        /// `spss` of a search that names none, in spans per spanset.
        spans_per_spanset: u32 = 3,
        /// Bytes of one answer; above it 422.
        response_bytes_max: ByteSize = ByteSize::mib(50),
        /// Intervals of one metrics answer.
        metrics_intervals_max: u32 = 10_000,
        /// Whether `/api/mcp` answers: questions by the Model Context Protocol, so that what is found may reach a language
        /// model.
        mcp_enabled: bool = false,
        /// Queries that run at once on this node, whoever asks.
        concurrent_max: u32 = 64,
        /// Threads that scan. Absent: one per CPU the node may use.
        #[serde(skip_serializing_if = "Option::is_none")]
        threads: Option<u32> = None,
    }
}

impl QuerySettings {
    /// The longest any query may run.
    pub fn longest(&self) -> Period {
        self.search_timeout.max(self.metrics_timeout).max(self.trace_timeout)
    }

    pub(crate) fn check(&self, problems: &mut Problems) {
        problems.at_least("expression_bytes_max", self.expression_bytes_max, ByteSize(256));
        problems.at_most("expression_bytes_max", self.expression_bytes_max, ByteSize::mib(1));
        for (field, timeout) in [
            ("search_timeout", self.search_timeout),
            ("metrics_timeout", self.metrics_timeout),
            ("trace_timeout", self.trace_timeout),
            ("tag_timeout", self.tag_timeout),
        ] {
            problems.between(field, timeout, Period::millis(10), Period::minutes(30));
        }
        problems.at_least("recent_window", self.recent_window, Period::minutes(1));
        problems.at_least("response_bytes_max", self.response_bytes_max, ByteSize::kib(64));
        for (field, value) in [
            ("search_limit", self.search_limit),
            ("metrics_intervals_max", self.metrics_intervals_max),
            ("concurrent_max", self.concurrent_max),
            ("threads", self.threads.unwrap_or(1)),
        ] {
            if value == 0 {
                problems.add(field, "must be at least 1");
            }
        }
    }
}
