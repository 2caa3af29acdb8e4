//! Fuzzes `shard::fuzzing::shard_command`; the corpus is replayed by an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shard::fuzzing::shard_command(bytes));
