//! Fuzzes `query::fuzzing::traceql_lenient`; the corpus is replayed by an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| query::fuzzing::traceql_lenient(bytes));
