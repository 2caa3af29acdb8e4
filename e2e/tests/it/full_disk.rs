//! A disk without room: writes are refused with a time to come back, what was acknowledged can be read, also after a
//! death in the middle of it, and when there is room again the node goes on by itself.
//!
//! The data folder is a small file system in memory, so the test needs root.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use vivace_e2e::client::{Otlp, Reply};
use vivace_e2e::ledger::Ledger;
use vivace_e2e::process::Node;
use vivace_e2e::skip::{Unavailable, skipped};
use vivace_e2e::spans::Workload;

use crate::fixture::{assert_retry_info, eventually, fixture, read_everything, send};

const TENANT: &str = "single-tenant";
const BATCH: u64 = 200;
/// Room for the log's first segment, a few more, and some blocks.
const DISK_MIB: u32 = 128;

/// A small file system that goes with the test.
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    pub(crate) fn mount(path: &Path, mib: u32) -> Result<Self, Unavailable> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(path)
            .output();
        let mount = mount.map_err(|error| Unavailable::because("mount", error))?;
        if !mount.status.success() {
            let said = String::from_utf8_lossy(&mount.stderr).into_owned();
            return Err(Unavailable::because("mounting a small file system needs root", said));
        }
        Ok(Self { path: path.to_owned() })
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Takes all the room there is.
    pub(crate) fn fill(&self) {
        let mut filler = std::fs::File::create(self.filler()).unwrap();
        for piece in [1 << 20, 4 << 10] {
            while filler.write_all(&vec![0; piece]).is_ok() {}
        }
    }

    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open is on its way out.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

struct Run {
    ledger: Ledger,
    next: u64,
}

impl Run {
    async fn send(&mut self, node: &Node) -> Reply {
        let mut otlp = Otlp::http(&node.otlp_http_url(), None).unwrap();
        let first = self.next;
        self.next += BATCH;
        send(&mut otlp, &self.ledger, 1, first, BATCH).await
    }

    /// Sends until the node has no room.
    async fn send_until_refused(&mut self, node: &Node) {
        for _ in 0..2_000 {
            match self.send(node).await {
                Reply::Accepted => {}
                Reply::Busy(said) => {
                    assert!(said.contains("503"), "{said}");
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("the disk is full, and nothing was refused");
    }

    async fn assert_all_there(&self, node: &Node, when: &str) {
        let verdict = read_everything(node, &self.ledger, TENANT).await;
        let verdict = verdict.unwrap_or_else(|error| panic!("{when}: {error:#}"));
        assert!(verdict.is_clean(), "{when}: {verdict}");
        assert_eq!(verdict.required, self.ledger.acknowledged(), "{when}");
        node.assert_no_panic().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_wait_for_room_and_nothing_is_lost() {
    let Some(fixture) = fixture("full_disk::writes", json!({})) else {
        return;
    };
    let disk = match Disk::mount(&fixture.options.data_dir, DISK_MIB) {
        Ok(disk) => disk,
        Err(reason) => return skipped("full_disk::writes", &reason),
    };
    let mut run = Run {
        ledger: Ledger::new(Workload::starting_now(5), [(1, TENANT.to_owned())]),
        next: 0,
    };
    let node = fixture.start().await;
    assert_eq!(run.send(&node).await, Reply::Accepted);
    disk.fill();
    run.send_until_refused(&node).await;
    assert_retry_info(&node, run.ledger.workload().request(2, 0, 1)).await;
    run.assert_all_there(&node, "while the disk is full").await;

    // Death in the middle of it, and a life on a disk that is still full.
    let mut node = node;
    node.process.kill().await.unwrap();
    let node = fixture.start().await;
    run.assert_all_there(&node, "after a death on a full disk").await;
    run.send_until_refused(&node).await;

    disk.make_room();
    eventually("writes are taken again", 60, async || {
        run.send(&node).await == Reply::Accepted
    })
    .await;
    for _ in 0..20 {
        assert_eq!(run.send(&node).await, Reply::Accepted);
    }
    run.assert_all_there(&node, "when there is room again").await;
    eventually("a block of the spans", 90, async || !fixture.parquet_files().is_empty()).await;
    run.assert_all_there(&node, "when blocks are written again").await;
    node.stop().await.unwrap();
    let node = fixture.start().await;
    run.assert_all_there(&node, "after a restart").await;
    node.stop().await.unwrap();
    drop(disk);
}
