//! Commands that cannot do what they are told: the sentence alone, and exit status 1.

use std::process::Command;

#[test]
fn a_command_that_fails_says_why_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for (words, sentence) in [
        (
            &["standalone", "--listen", "127.0.0.1", "--data-dir", file][..],
            "cannot make the folder",
        ),
        (&["query", "--url", "http://127.0.0.1:1", "tags"][..], "127.0.0.1:1"),
        (&["admin", "--url", "http://127.0.0.1:1", "status"][..], "127.0.0.1:1"),
    ] {
        let ran = Command::new(env!("CARGO_BIN_EXE_vivace"))
            .args(words)
            .env("RUST_BACKTRACE", "1")
            .output()
            .unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{words:?}: {said}");
        // A node has log lines before it.
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains(sentence), "{words:?}: {said}");
        assert!(
            !said.contains("Error:") && !said.contains("backtrace"),
            "{words:?}: {said}"
        );
    }
}
