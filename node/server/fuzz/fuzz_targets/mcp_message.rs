//! Fuzzes `server::fuzzing::mcp_message`; the corpus is replayed by an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzzing::mcp_message(bytes));
