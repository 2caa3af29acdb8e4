//! Fuzzes `settings::fuzzing::settings_yaml`; the corpus is replayed by an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| settings::fuzzing::settings_yaml(bytes));
