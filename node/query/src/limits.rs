//! Every bound on the size of a question, with the reason for its number.
//!
//! Bounds on the cost of *answering* are a [`crate::budget::Budget`], handed in per question.

/// Longest query text, in bytes. Tempo's default for `max_query_expression_size_bytes`.
pub const QUERY_BYTES_MAX: usize = 128 * 1024;
/// Deepest nesting of brackets and highest expression tree. Keeps every recursive walk well inside a 2 MiB stack.
pub const DEPTH_MAX: u32 = 64;
/// Most spanset filters in one query: each costs one bitmap per chunk.
pub const SPANSETS_MAX: usize = 64;
/// Most pipeline stages in one query, counted over all its pipelines.
pub const STAGES_MAX: usize = 128;
/// Most regular expressions in one query.
pub const REGEXES_MAX: usize = 16;
/// Most characters of a refusal before its place: what it quotes may be the whole query.
pub const REFUSAL_CHARS_MAX: usize = 300;
/// Compiled program size of one regular expression: `a{1000}{1000}` is refused, honest alternations of 10 k words pass.
pub const REGEX_BYTES_MAX: usize = 1 << 20;
/// Lazy-DFA cache of one regular expression while it runs.
pub const REGEX_DFA_BYTES_MAX: usize = 8 << 20;
/// Most `by(...)` attributes of a metrics function, as in Tempo.
pub const METRICS_BY_MAX: usize = 5;
/// The same for `quantile_over_time` and `histogram_over_time`, which need one label for themselves.
pub const METRICS_BY_BUCKETED_MAX: usize = 4;
/// Largest `topN` of `compare()`.
pub const COMPARE_TOP_MAX: u32 = 1000;
/// `topN` of `compare()` when it is not given.
pub const COMPARE_TOP_DEFAULT: u32 = 10;
/// Most quantiles asked of one `quantile_over_time`.
pub const QUANTILES_MAX: usize = 32;
/// Most attribute names collected per scope.
pub const TAG_NAMES_MAX: usize = 10_000;
/// Most bytes of values collected for one field; Tempo's default for `max_bytes_per_tag_values_query`.
pub const TAG_VALUES_BYTES_MAX: usize = 1_000_000;
/// Most samples per series of a metrics query, as in Tempo.
pub const INTERVALS_MAX: usize = 10_000;
/// Most exemplars of a metrics query; Tempo's default for `max_exemplars`.
pub const EXEMPLARS_MAX: usize = 100;
/// Attributes with more distinct values than this are not compared by `compare()`; they are ids, not properties.
pub const COMPARE_VALUES_MAX: usize = 1_000;
/// Most samples of a metrics answer before second stages: 160 MB of doubles.
pub const SAMPLES_MAX: usize = 20_000_000;
