//! Fuzzes `shard::fuzzing::catalog_root`; the corpus is replayed by an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shard::fuzzing::catalog_root(bytes));
