//! What queries mean when they leave something out, and what one query may cost.
//!
//! Owns [`QuerySettings`]. Defaults follow Tempo where a user can see them. What differs by tenant (ranges, result
//! sizes, concurrency) is in [`crate::limits::Limits`]. There is no end cutoff: a span is found as soon as it is
//! acknowledged.

use crate::problem::Problems;
use crate::quantity::{ByteSize, Period};
use crate::section::section;

/// Origins that may be named, and the longest: a scheme, a DNS name and a port.
const ORIGINS_MAX: usize = 64;
const ORIGIN_BYTES_MAX: usize = 300;

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
        /// Origins (`https://host:port`) of web pages that may speak to `/api/mcp`. Programs that are no browsers need not be
        /// named, nor pages that are loaded from the very IP address or `localhost` that they ask.
        mcp_origins: Vec<String> = Vec::new(),
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
        if self.mcp_origins.len() > ORIGINS_MAX {
            problems.add("mcp_origins", format!("must name at most {ORIGINS_MAX} origins"));
        }
        for (index, origin) in self.mcp_origins.iter().enumerate() {
            if !is_origin(origin) {
                let message =
                    format!("must be as browsers send it, https://host or https://host:port: {origin:?} is not");
                problems.add(&format!("mcp_origins.{index}"), message);
            }
        }
    }
}

fn is_origin(text: &str) -> bool {
    let is_plain = |part: &str| !part.is_empty() && !part.contains(['/', '@', '*', '?', '#', ' ']) && part.is_ascii();
    text.len() <= ORIGIN_BYTES_MAX
        && text
            .split_once("://")
            .is_some_and(|(scheme, host)| is_plain(scheme) && is_plain(host))
}

#[cfg(test)]
mod tests {
    //! Text in, the fields that are wrong out.

    use super::{ORIGIN_BYTES_MAX, ORIGINS_MAX};
    use crate::parse;

    fn wrong(origins: &[String]) -> Vec<String> {
        match parse(&format!("query: {{mcp_origins: {origins:?}}}")) {
            Ok(_) => Vec::new(),
            Err(error) => error.problems().iter().map(|problem| problem.field.clone()).collect(),
        }
    }

    #[test]
    fn origins_are_what_browsers_send() {
        let named = |origin: &str| wrong(&[origin.to_owned()]);
        for origin in ["https://tools.example", "http://[::1]:8080", "vscode-webview://panel"] {
            assert!(named(origin).is_empty(), "{origin}");
        }
        for origin in [
            "",
            "*",
            "null",
            "tools.example",
            "https://",
            "https://a/",
            "https://*.example",
        ] {
            assert_eq!(named(origin), ["query.mcp_origins.0"], "{origin}");
        }
    }

    #[test]
    fn origins_at_the_limit_and_one_beside_it() {
        for (count, is_right) in [(ORIGINS_MAX - 1, true), (ORIGINS_MAX, true), (ORIGINS_MAX + 1, false)] {
            assert_eq!(
                wrong(&vec!["https://a".to_owned(); count]).is_empty(),
                is_right,
                "{count}"
            );
        }
        for (length, is_right) in [
            (ORIGIN_BYTES_MAX - 1, true),
            (ORIGIN_BYTES_MAX, true),
            (ORIGIN_BYTES_MAX + 1, false),
        ] {
            let origin = format!("https://{:a<1$}", "", length - 8);
            assert_eq!(wrong(&[origin]).is_empty(), is_right, "{length}");
        }
    }
}
