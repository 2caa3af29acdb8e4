//! What is kept and what is let in: retention and limits of a tenant.
//!
//! All of it is pushed to running nodes; nothing here restarts a pod.

use crate::quantity::{Period, Size};
use crate::rule::{INVALID, rule, rules, seconds};
use crate::section::section;

section! {
    /// How long spans are kept.
    #[schemars(extend("x-kubernetes-validations" = rules([
        rule(
            INVALID,
            ".maximum",
            "must not be below default",
            format!(
                "!has(self.maximum) || ({}) >= ({})",
                seconds("self.maximum"),
                seconds("(has(self.default) ? self.default : '14d')")
            ),
        ),
        rule(
            INVALID,
            ".default",
            "must be at least 1h: a slip of the unit would delete everything",
            format!("!has(self.default) || ({}) >= 3600", seconds("self.default")),
        ),
    ])))]
    pub struct Retention {
        /// For tenants that say nothing. Change: live.
        default: Period = Period::new("14d"),
        /// The most that a TracingTenant may ask for; a longer wish is cut to it and says so. Default: no bound. Change: live.
        maximum: Option<Period> = None,
        /// Time between leaving the catalog and being deleted from the bucket; longer than the longest query. Change: rolling
        /// restart.
        delete_grace: Period = Period::new("6h"),
    }
}

section! {
    /// What one tenant may do on one node, unless its TracingTenant says otherwise.
    pub struct Limits {
        /// Decompressed OTLP bytes per second that a node takes from a tenant; above it 429 with a time to come back. Default:
        /// 30M with auth.mode Header, else as much as the node can take. Change: live.
        ingest_bytes_per_second: Option<Size> = None,
        /// Bytes that may arrive at once above the rate; a single request larger than this is refused for good. Default: the
        /// node's, 30M. Change: live.
        ingest_burst_bytes: Option<Size> = None,
        /// Bytes of one trace before further spans of it are refused. Change: live.
        max_trace_bytes: Size = Size::new("10Mi"),
        /// Traces of a tenant that may be live at once in one shard. Default: the node's, 100000. Change: live.
        #[schemars(range(min = 1, max = 100000000))]
        max_live_traces: Option<i32> = None,
        /// Longest range of a search. Default: the node's, 7d. Change: live.
        max_search_range: Option<Period> = None,
        /// Queries of a tenant that run at once on a node. Default: the node's, 20. Change: live.
        #[schemars(range(min = 1, max = 10000))]
        query_concurrency: Option<i32> = None,
    }
}
