//! Fuzzes `wire::fuzzing::decompress_stream`; the corpus is replayed by an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire::fuzzing::decompress_stream(bytes));
