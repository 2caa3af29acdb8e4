//! The seam between the query API and what answers questions.
//!
//! Questions are checked and planned before they come here; answers are plain data that [`crate::api`] spells out.
//! Every answer says in `missing` what could not be read: an answer with an empty `missing` is complete.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use model::{Scope, TenantId, TraceId};
use query::SearchPlan;
use query::answer::TraceMatch;
use query::ast::Expr;
use query::budget::Budget;
use query::field::Field;
use query::metrics::{MetricsPlan, Series};
use query::source::TimeRange;
use query::value::Static;

use crate::preview::Watching;
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
    /// Which of its spans. `None`: all.
    pub pick: Option<query::SpanPick>,
}

/// One trace, as far as it could be read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraceAnswer {
    /// OTLP `TracesData`; empty when there is no such trace.
    pub trace: Bytes,
    /// Whether spans were left out because of `bytes_max`.
    pub is_cut: bool,
    /// Whether spans were left out because the question does not want them.
    pub is_picked: bool,
    pub stats: Stats,
    pub missing: Vec<String>,
}

/// What one question may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes read from blocks.
    pub bytes_max: u64,
    /// Memory held at once.
    pub memory_max: u64,
    /// Memory held at once by all questions of the tenant.
    pub tenant_memory_max: u64,
}

impl Allowance {
    /// What a tenant with these limits is allowed.
    pub fn of(limits: &settings::Limits) -> Self {
        Self {
            bytes_max: limits.query_bytes_max.bytes(),
            memory_max: limits.query_memory_max.bytes(),
            tenant_memory_max: limits.queries_memory_max.bytes(),
        }
    }
}

/// The memory of an answer, counted in its question's budget until the answer is gone.
#[derive(Debug, Clone, Default)]
pub struct Held(Option<Budget>);

impl Held {
    /// What the question held when it was answered.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, Budget::held)
    }
}

impl From<Budget> for Held {
    fn from(budget: Budget) -> Self {
        Self(Some(budget))
    }
}

/// Answers are compared by what they say.
impl PartialEq for Held {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Asks for traces that satisfy a query.
#[derive(Debug, Clone)]
pub struct SearchQuestion {
    pub tenants: Tenants,
    pub allowance: Allowance,
    pub plan: Arc<SearchPlan>,
}

/// Traces, newest first, at most as many as the plan's limit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SearchAnswer {
    pub traces: Vec<TraceMatch>,
    pub stats: Stats,
    pub missing: Vec<String>,
    pub held: Held,
}

/// Asks for series.
#[derive(Debug, Clone)]
pub struct MetricsQuestion {
    pub tenants: Tenants,
    pub allowance: Allowance,
    pub plan: Arc<MetricsPlan>,
    /// Series of each pipeline; beyond it those with the smallest labels stay.
    pub series_max: usize,
}

/// Series by their labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsAnswer {
    pub series: Vec<Series>,
    /// Whether there were more series than asked for.
    pub is_cut: bool,
    /// In a preview: samples of intervals that begin before this may still grow. `None`: nothing grows any more.
    pub unfinished_to: Option<u64>,
    pub stats: Stats,
    pub missing: Vec<String>,
    pub held: Held,
}

/// Asks which attributes there are.
#[derive(Debug, Clone, PartialEq)]
pub struct TagsQuestion {
    pub tenants: Tenants,
    pub allowance: Allowance,
    /// `None`: all scopes.
    pub scope: Option<Scope>,
    /// Only attributes of spans that satisfy this.
    pub filter: Option<Expr>,
    /// `None`: live spans and what blocks are recent.
    pub window: Option<TimeRange>,
    /// Names per scope.
    pub names_max: usize,
    /// After this the answer is what was found until then.
    pub time_max: Duration,
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
    pub allowance: Allowance,
    pub field: Field,
    pub filter: Option<Expr>,
    pub window: Option<TimeRange>,
    pub values_max: usize,
    /// Bytes of all values.
    pub bytes_max: usize,
    /// After this the answer is what was found until then.
    pub time_max: Duration,
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
    /// Blocks outside of the window.
    pub blocks_outside: u32,
    /// Row groups that were read, and those that hold nothing by what their index and filters say.
    pub row_groups: u32,
    pub row_groups_skipped: u32,
    /// Traces that were brought together from several places.
    pub joined_traces: u64,
    /// The most memory that was held at once.
    pub memory_bytes: u64,
}

/// Answers questions. Boxed futures because it is called through `dyn`: the node behind it, or the script of the tests.
///
/// Cancel: dropping the future stops the work soon after; deadlines are the caller's, who drops it.
/// Errors: a refused question, or a failure that leaves nothing worth answering with. What is only partly readable is an
/// answer with `missing`.
pub trait Querier: Send + Sync + 'static {
    fn trace_by_id(&self, question: TraceQuestion) -> BoxFuture<'_, Result<TraceAnswer, Refusal>>;
    /// Traces shown to who watches stay in the answer, at their place.
    fn search(
        &self,
        question: SearchQuestion,
        watching: Watching<SearchAnswer>,
    ) -> BoxFuture<'_, Result<SearchAnswer, Refusal>>;
    fn metrics(
        &self,
        question: MetricsQuestion,
        watching: Watching<MetricsAnswer>,
    ) -> BoxFuture<'_, Result<MetricsAnswer, Refusal>>;
    /// Who watches is shown the names found so far.
    fn tags(
        &self,
        question: TagsQuestion,
        watching: Watching<TagsAnswer>,
    ) -> BoxFuture<'_, Result<TagsAnswer, Refusal>>;
    /// Who watches is shown the values found so far.
    fn tag_values(
        &self,
        question: ValuesQuestion,
        watching: Watching<ValuesAnswer>,
    ) -> BoxFuture<'_, Result<ValuesAnswer, Refusal>>;
}
