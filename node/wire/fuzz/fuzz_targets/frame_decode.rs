//! Fuzzes `wire::fuzzing::frame_decode`; the corpus is replayed by an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire::fuzzing::frame_decode(bytes));
