//! The seam between the query API and what answers questions.
//!
//! Questions are checked and planned before they come here; answers are plain data that [`crate::api`] spells out.
//! Every answer says in `missing` what could not be read: an answer with an empty `missing` is complete.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use model::{Scope, TenantId, TraceId};
use query::SearchPlan;
use query::answer::TraceMatch;
use query::ast::Expr;
use query::field::Field;
use query::source::TimeRange;
use query::value::Static;

use crate::refusal::Refusal;

/// Whose spans are asked about: sorted, without doubles, never empty.
pub type Tenants = Arc<[TenantId]>;

/// Where to look for a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    All,
    /// Live spans alone.
    Recent,
    /// Blocks alone.
    Blocks,
}

/// Asks for one trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceQuestion {
    pub tenants: Tenants,
    pub trace_id: TraceId,
    /// A hint where to look: blocks outside need not be read. `None`: everywhere.
    pub window: Option<TimeRange>,
    pub places: Places,
    /// OTLP bytes beyond which the trace may be cut.
    pub bytes_max: u64,
}

/// One trace, as far as it could be read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraceAnswer {
    /// OTLP `TracesData`; empty when there is no such trace.
    pub trace: Bytes,
    /// Whether spans were left out because of `bytes_max`.
    pub is_cut: bool,
    pub stats: Stats,
    pub missing: Vec<String>,
}

/// Asks for traces that satisfy a query.
#[derive(Debug, Clone)]
pub struct SearchQuestion {
    pub tenants: Tenants,
    pub plan: Arc<SearchPlan>,
}

/// Traces, newest first, at most as many as the plan's limit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SearchAnswer {
    pub traces: Vec<TraceMatch>,
    pub stats: Stats,
    pub missing: Vec<String>,
}

/// Asks which attributes there are.
#[derive(Debug, Clone, PartialEq)]
pub struct TagsQuestion {
    pub tenants: Tenants,
    /// `None`: all scopes.
    pub scope: Option<Scope>,
    /// Only attributes of spans that satisfy this.
    pub filter: Option<Expr>,
    /// `None`: live spans and what blocks are recent.
    pub window: Option<TimeRange>,
    /// Names per scope.
    pub names_max: usize,
}

/// Attribute names by scope, each sorted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TagsAnswer {
    pub scopes: Vec<(Scope, Vec<String>)>,
    pub stats: Stats,
    pub missing: Vec<String>,
    /// Whether there are more than `names_max`, or time was up.
    pub is_cut: bool,
}

/// Asks which values a field has.
#[derive(Debug, Clone, PartialEq)]
pub struct ValuesQuestion {
    pub tenants: Tenants,
    pub field: Field,
    pub filter: Option<Expr>,
    pub window: Option<TimeRange>,
    pub values_max: usize,
    /// Bytes of all values.
    pub bytes_max: usize,
}

/// Values in their order, each once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ValuesAnswer {
    pub values: Vec<Static>,
    pub stats: Stats,
    pub missing: Vec<String>,
    pub is_cut: bool,
}

/// What answering took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub inspected_traces: u32,
    pub inspected_spans: u64,
    pub inspected_bytes: u64,
    pub blocks: u32,
    pub block_bytes: u64,
    pub jobs: u32,
    pub jobs_done: u32,
    /// Reads of the object store, and their bytes.
    pub backend_reads: u64,
    pub backend_bytes: u64,
}

/// Answers questions. Boxed futures because it is called through `dyn`: the node behind it, or the script of the tests.
///
/// Cancel: dropping the future stops the work soon after; deadlines are the caller's, who drops it.
/// Errors: a refused question, or a failure that leaves nothing worth answering with. What is only partly readable is an
/// answer with `missing`.
pub trait Querier: Send + Sync + 'static {
    fn trace_by_id(&self, question: TraceQuestion) -> BoxFuture<'_, Result<TraceAnswer, Refusal>>;
    fn search(&self, question: SearchQuestion) -> BoxFuture<'_, Result<SearchAnswer, Refusal>>;
    fn tags(&self, question: TagsQuestion) -> BoxFuture<'_, Result<TagsAnswer, Refusal>>;
    fn tag_values(&self, question: ValuesQuestion) -> BoxFuture<'_, Result<ValuesAnswer, Refusal>>;
}
