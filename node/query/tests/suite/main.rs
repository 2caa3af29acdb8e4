//! Tests of the query crate from outside: text in, text or answers out.
//!
//! `chunk` is the simplest storage side there can be, `naive` the simplest evaluator; `equivalence` pits the engine
//! against it over random traces, random queries and random cuts into chunks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bounds;
mod chunk;
mod corpus;
mod equivalence;
mod golden;
mod language;
mod lenient;
mod measured;
mod naive;
mod random;
#[path = "../../../fuzz/replay.rs"]
mod replay;
mod series;
mod span_text;
mod spans;
mod speed;
mod suggestions;
mod tempo_rows;
