//! Fuzzes `wal::fuzzing::recover`; the corpus is replayed by an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wal::fuzzing::recover(bytes));
