//! The door of a node, and the one place that knows all rooms.
//!
//! Requests come in through [`net`] to [`receiver`] (OTLP, ports 4317 and 4318) or [`api`] (queries, port 3200). Behind
//! both are seams: [`ingest::Ingest`] takes spans, [`querier::Querier`] answers questions. [`app`] builds what stands
//! behind them and runs it until it is told to stop.
//!
//! What always holds: what goes wrong becomes a [`refusal::Refusal`], which alone knows status codes; every buffer that
//! a client can fill is bounded; nothing panics on input, because a panic here takes the node down.
//!
//! Not here: what a span is (`model`), how one is stored (`shard`), how a question is evaluated (`query`).

pub mod admin;
pub mod admission;
pub mod api;
pub mod app;
pub mod body;
pub mod catalog;
pub mod cli;
pub mod client;
pub mod clock;
pub mod cpu;
mod framing;
#[doc(hidden)]
pub mod fuzzing;
pub mod ingest;
pub mod load;
pub mod metrics;
pub mod net;
pub mod node;
pub mod notice;
pub mod peer;
pub mod preview;
mod pruning;
pub mod purge;
pub mod querier;
pub mod receiver;
pub mod refusal;
pub mod reload;
pub mod storage;
pub mod telemetry;
pub mod tenant;
mod tracediff;

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The revision it was built from, when the build said so.
pub const REVISION: &str = match option_env!("VIVACE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
