//! Shards driven as a node drives them: entries applied in order, cuts at any point, blocks in an object store, questions
//! asked at every stage.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

// Inside its own tests the crate has its package name; everywhere else it is `shard`.
extern crate vivace_shard as shard;

mod corpus;
mod cut_anywhere;
mod faults;
mod leadership;
mod questions;
#[path = "../../../fuzz/replay.rs"]
mod replay;
mod world;
