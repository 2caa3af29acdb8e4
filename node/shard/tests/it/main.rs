//! Shards driven as a node drives them: entries applied in order, cuts at any point, blocks in an object store, questions
//! asked at every stage.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

// Inside its own tests the crate has its package name; everywhere else it is `shard`.
extern crate vivace_shard as shard;

mod against_naive;
mod corpus;
mod counted;
mod cut_anywhere;
mod faults;
mod leadership;
#[path = "../../../query/tests/suite/naive.rs"]
mod naive;
mod questions;
#[path = "../../../query/tests/suite/random.rs"]
mod random;
#[path = "../../../fuzz/replay.rs"]
mod replay;
#[path = "../../../query/tests/suite/series.rs"]
mod series;
#[path = "../../../query/tests/suite/spans.rs"]
mod spans;
mod world;
