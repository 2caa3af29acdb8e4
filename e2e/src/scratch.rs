//! Folders of tests, below cargo's.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where cargo puts the workspace's builds.
pub fn target_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    // A relative CARGO_TARGET_DIR is relative to where cargo was called, which is the workspace for all our scripts.
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |dir| workspace.join(dir))
}

/// A folder of one test's own, emptied at its start and kept if the test fails.
///
/// With it goes a share of the machine: most tests do not mind who else runs, and one that compares how long things take
/// asks for all of it and waits until no other test has a folder.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _share: File,
}

impl Scratch {
    /// Makes it under the target folder, so that `cargo clean` takes it too. Waits while a test has the machine alone.
    pub fn new(test: &str) -> anyhow::Result<Self> {
        Self::with(test, File::lock_shared)
    }

    /// The same, for a test that wants no other beside it: waits until those that run are over.
    pub fn alone(test: &str) -> anyhow::Result<Self> {
        Self::with(test, File::lock)
    }

    fn with(test: &str, lock: impl FnOnce(&File) -> std::io::Result<()>) -> anyhow::Result<Self> {
        let all = target_dir().join("e2e");
        let path = all.join(format!("{test}-{}", std::process::id()));
        if path.is_dir() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let share = File::create(all.join("machine.lock"))?;
        lock(&share)?;
        Ok(Self { path, _share: share })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it, made if need be.
    pub fn dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.path.join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the test left behind is in {}", self.path.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
