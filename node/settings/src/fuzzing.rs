//! The entry for the fuzzer (`fuzz/`) and for the test that replays its corpus: any bytes as a settings file.

/// Reads settings; what was read is printed and read as the same, and what was refused says why on lines of its own.
pub fn settings_yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match crate::parse(text) {
        Ok(settings) => assert_eq!(crate::parse(&settings.to_yaml()).as_ref().ok(), Some(&settings)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
