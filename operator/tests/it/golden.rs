//! Files with what is expected. `UPDATE_EXPECT=1` writes them anew; read the difference before it is committed.

use std::path::PathBuf;

pub(crate) fn testdata(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

/// Compares with the file, or writes it.
pub(crate) fn check(path: &str, actual: &str) {
    let file = testdata(path);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    if expected != actual {
        let line = expected
            .lines()
            .zip(actual.lines())
            .position(|(expected, actual)| expected != actual);
        let line = line.unwrap_or_else(|| expected.lines().count().min(actual.lines().count()));
        let around = |text: &str| {
            text.lines()
                .skip(line.saturating_sub(3))
                .take(8)
                .collect::<Vec<_>>()
                .join("\n")
        };
        panic!(
            "{path} differs from line {}:\n--- expected\n{}\n--- actual\n{}\nUPDATE_EXPECT=1 writes it anew",
            line + 1,
            around(&expected),
            around(actual)
        );
    }
}
