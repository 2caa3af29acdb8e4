//! Fuzzes filters of unfinished queries against the naive evaluator of the tests; the corpus is replayed by an ordinary test.

#![no_main]
#![allow(dead_code, reason = "the tests' files hold more than this needs")]

#[path = "../../tests/suite/lenient.rs"]
mod lenient;
#[path = "../../tests/suite/naive.rs"]
mod naive;
#[path = "../../tests/suite/random.rs"]
mod random;
#[path = "../../tests/suite/spans.rs"]
mod spans;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lenient::traceql_lenient(bytes));
