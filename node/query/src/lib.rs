//! TraceQL: from text to answers over chunks of spans.
//!
//! A question goes one way: text → [`parse()`] → [`ast::Query`] → [`SearchPlan`] → [`search_chunk`] per chunk →
//! [`answer::TopTraces`]. Nothing here opens a file, takes a lock, reads a clock or starts a thread: the executor (the
//! `shard` crate) brings chunks ([`source::Chunk`]) and calls these functions from as many threads as it likes.
//!
//! # For the executor
//! ```text
//! let query = query::parse(text)?;
//! let plan = SearchPlan::new(&query, request)?;
//! let mut top = TopTraces::new(request.limit);
//! let mut joins = BTreeMap::new();                       // trace id → earliest start seen
//! for chunk in chunks, newest first {
//!     if !plan.may_match(&chunk, has_split) { continue; }            // before columns are fetched
//!     let finds = search_chunk(&plan, &chunk, &|id| split.contains(id), top.floor(), &budget)?;
//!     finds.traces → top.push(..)
//!     finds.split  → joins
//! }
//! for trace in joins, newest first {
//!     if Place::new(seen_start, id) > top.floor() { continue; }      // cannot be in the answer any more
//!     let whole = every span of it, from every chunk, once, as one chunk;
//!     search_chunk(&plan, &whole, &|_| false, top.floor(), &budget)?.traces → top.push(..)
//! }
//! ```
//! Metrics go the same way with [`metrics::MetricsPlan`], [`metrics::metrics_chunk`], [`metrics::MetricsPartial::merge`] and
//! [`metrics::MetricsPartial::finish`]; only if the plan needs whole traces are split ones named, otherwise a span that
//! stands in two chunks is counted where it is seen first. Suggestions
//! ([`tags::collect_tag_names`], [`tags::collect_tag_values`]) look at every chunk by itself.
//!
//! The split set must hold every trace of which the chunk has only a part, be the rest in another block, in another row
//! group or in a head; it may hold more. A trace qualifies for the window by any of its spans, so chunks outside the window
//! still matter when they hold parts of traces that also stand in chunks inside it: `has_split` says that they do.
//!
//! What always holds:
//! - the answer does not depend on how spans are cut into chunks, nor on the order in which chunks are searched;
//! - the [`budget::Budget`] is looked at once per column and trace, and every [`budget::BATCH`] rows where rows are looked
//!   at one by one;
//! - recursion is bounded by [`limits::DEPTH_MAX`].

pub mod answer;
pub mod ast;
pub mod budget;
mod check;
mod engine;
mod error;
pub mod field;
#[doc(hidden)]
pub mod fuzzing;
mod lenient;
mod lex;
pub mod limits;
mod matcher;
pub mod metrics;
mod parse;
mod pick;
mod plan;
mod predicate;
mod print;
mod rowset;
pub mod source;
pub mod tags;
pub mod value;

pub use engine::pipeline::Marks;
pub use engine::search::{ChunkFinds, Inspected, SplitCandidate};
pub use error::{Error, Kind, Result};
pub use pick::{Levels, SpanPick, pick_spans};
pub use plan::{SearchPlan, SearchRequest};

use model::TraceId;

/// Parses a query and checks that it means something.
///
/// Errors: [`Error::Parse`] with line and column, or [`Error::Invalid`] quoting the part at fault.
///
/// ```
/// let query = query::parse("{span.http.status_code>=500&&duration>100ms}|count()>2").unwrap();
/// assert_eq!(query.to_string(), "{ span.http.status_code >= 500 && duration > 100ms } | count() > 2");
/// let error = query::parse("{ nam = 1 }").unwrap_err();
/// assert_eq!(error.to_string(), "parse error at line 1, col 3: unknown identifier: nam, did you mean name?");
/// ```
pub fn parse(text: &str) -> Result<ast::Query> {
    let query = parse::parse_query(text)?;
    check::check_query(&query).map_err(|error| check::located(text, error))?;
    Ok(query)
}

/// Parses a query without asking whether it means something. For tools that print and format.
pub fn parse_unchecked(text: &str) -> Result<ast::Query> {
    parse::parse_query(text)
}

/// Parses a field as URLs name it: `.foo`, `span.foo`, `name`, `event:name`.
pub fn parse_field(text: &str) -> Result<field::Field> {
    parse::parse_field(text)
}

/// Reads a query that may be unfinished and gives the filter its spans must satisfy; None keeps all spans. Never fails.
pub fn parse_lenient(text: &str) -> Option<ast::Expr> {
    lenient::parse_lenient(text)
}

/// Searches one chunk. See the crate's documentation for how the executor uses it.
///
/// `is_split` says which traces are also elsewhere: they are not judged but named in [`ChunkFinds::split`]. Traces whose
/// place is behind `floor` are left out.
///
/// Errors: [`Kind::TooExpensive`] and [`Kind::Cancelled`] from the budget, [`Kind::Unavailable`] and [`Kind::Corrupt`] from
/// the chunk. Nothing of the chunk is in the answer then.
pub fn search_chunk(
    plan: &SearchPlan,
    chunk: &dyn source::Chunk,
    is_split: &dyn Fn(&TraceId) -> bool,
    floor: Option<answer::Place>,
    budget: &budget::Budget,
) -> Result<ChunkFinds> {
    engine::search::search_chunk(plan, chunk, is_split, floor, budget)
}
