//! Saying loudly that a test did not run: a suite that silently skips is worse than one that fails.
//!
//! The line goes to the process's stderr itself, past the test harness's capture, and to the file named by
//! [`SKIPPED_LIST`], which `.ci/run` prints at its end.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Environment variable: where to append one line per skipped test.
pub const SKIPPED_LIST: &str = "VIVACE_SKIPPED_LIST";

/// Something that a test needs is not to be had on this machine, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

impl Unavailable {
    /// Wraps what went wrong in the words of what was wanted.
    pub fn because(what: &str, error: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {error:#}"))
    }
}

/// Writes `SKIPPED: <test>: <reason>`.
pub fn skipped(test: &str, reason: &Unavailable) {
    let line = format!("SKIPPED: {test}: {}\n", reason.0.replace('\n', " "));
    // A closed stderr or a full disk must not fail a test that did not run anyway.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os(SKIPPED_LIST)
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = file.write_all(line.as_bytes());
    }
}
