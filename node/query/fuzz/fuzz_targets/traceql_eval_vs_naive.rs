//! Fuzzes the engine against the naive evaluator of the tests; the corpus is replayed by an ordinary test.

#![no_main]
#![allow(dead_code, reason = "the tests' files hold more than this needs")]

#[path = "../../tests/suite/chunk.rs"]
mod chunk;
#[path = "../../tests/suite/equivalence.rs"]
mod equivalence;
#[path = "../../tests/suite/naive.rs"]
mod naive;
#[path = "../../tests/suite/random.rs"]
mod random;
#[path = "../../tests/suite/spans.rs"]
mod spans;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| equivalence::traceql_eval_vs_naive(bytes));
