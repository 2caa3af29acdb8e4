//! Fuzzes `wire::fuzzing::otlp_json`; the corpus is replayed by an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire::fuzzing::otlp_json(bytes));
