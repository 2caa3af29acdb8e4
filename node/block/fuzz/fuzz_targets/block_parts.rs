//! Fuzzes `block::fuzzing::block_parts`; the corpus is replayed by an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| block::fuzzing::block_parts(bytes));
