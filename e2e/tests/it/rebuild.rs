//! The drill: every disk is lost, and what was flushed comes back from the object store alone.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use vivace_e2e::client::{Otlp, Reply, Tempo};
use vivace_e2e::ledger::Ledger;
use vivace_e2e::process::Node;
use vivace_e2e::spans::Workload;

use crate::fixture::{Fixture, eventually, fixture, read_everything, send};

const TENANT: &str = "single-tenant";

#[tokio::test(flavor = "multi_thread")]
async fn from_the_bucket_alone() {
    let settings = json!({
        "compaction": {"interval": "1s", "window": "1m"},
        "retention": {"interval": "1s"},
    });
    let Some(mut fixture) = fixture("rebuild::drill", settings) else {
        return;
    };
    let objects = fixture.scratch.dir("objects").unwrap();
    fixture.options.settings["storage"] = json!({"type": "Filesystem", "filesystem": {"path": objects}});
    let ledger = Ledger::new(Workload::starting_now(22), [(1, TENANT.to_owned())]);
    let node = fixture.start().await;
    flush(&node, &ledger, 0).await;
    flush(&node, &ledger, 1).await;
    let roots = objects.join("catalog/roots");
    eventually("the catalog is in the bucket", 30, async || roots.exists()).await;
    node.stop().await.unwrap();

    // From here on the catalog in the bucket grows old.
    fixture.options.settings["retention"] = json!({"interval": "1h"});
    let mut node = fixture.start().await;
    flush(&node, &ledger, 2).await;
    flush(&node, &ledger, 3).await;
    node.process.kill().await.unwrap();
    let checked = vivace(&fixture, &["fsck", "--deep", "-o", "json"]);
    assert!(checked.status.success(), "{checked:?}");
    let checked: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(checked["problems"], json!([]));
    assert!(checked["spans"].as_u64().unwrap() > 0, "{checked}");

    std::fs::remove_dir_all(&fixture.options.data_dir).unwrap();
    let refused = vivace(&fixture, &["standalone"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("vivace catalog rebuild"),
        "{refused:?}"
    );
    std::fs::remove_dir_all(&fixture.options.data_dir).unwrap();

    let tried = vivace(&fixture, &["catalog", "rebuild", "--dry-run"]);
    assert!(
        tried.status.success() && !fixture.options.data_dir.exists(),
        "{tried:?}"
    );
    let rebuilt = vivace(&fixture, &["catalog", "rebuild"]);
    let said = String::from_utf8_lossy(&rebuilt.stdout).into_owned();
    assert!(rebuilt.status.success() && said.contains("spans: 200"), "{rebuilt:?}");
    let again = vivace(&fixture, &["catalog", "rebuild"]);
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && said.contains("nothing to do"), "{again:?}");

    // It goes on as if nothing had been: what was, what comes, and nobody misses an object.
    fixture.options.settings["retention"] = json!({"interval": "1s"});
    let node = fixture.start().await;
    flush(&node, &ledger, 4).await;
    let verdict = read_everything(&node, &ledger, TENANT).await.unwrap();
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(verdict.required, ledger.acknowledged());
    let tempo = Tempo::new(&node.http_url(), None).unwrap();
    let folds = "vivace_catalog_folds_total";
    eventually("the catalog is in the bucket", 30, async || {
        tempo.metric(folds).await.unwrap() > Some(0.0)
    })
    .await;
    assert_eq!(tempo.metric("vivace_unknown_objects").await.unwrap(), Some(0.0));
    node.stop().await.unwrap();
    let checked = vivace(&fixture, &["fsck", "--deep"]);
    assert!(checked.status.success(), "{checked:?}");

    spoil(&objects);
    let checked = vivace(&fixture, &["fsck", "--deep"]);
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("checksum"), "{said}");
}

/// Sends a batch and waits until it is in a block.
async fn flush(node: &Node, ledger: &Ledger, batch: u64) {
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    assert_eq!(send(&mut otlp, ledger, 1, batch * 50, 50).await, Reply::Accepted);
    let tempo = Tempo::new(&node.http_url(), None).unwrap();
    eventually("everything in blocks", 60, async || {
        tempo.metric("vivace_live_spans").await.unwrap() == Some(0.0)
    })
    .await;
}

/// Runs a command of the binary on the node's settings.
fn vivace(fixture: &Fixture, words: &[&str]) -> Output {
    let config = fixture.scratch.path().join("tool.yaml");
    let mut settings = fixture.options.settings.clone();
    settings["node"] = json!({"data_dir": fixture.options.data_dir});
    let nowhere = json!("127.0.0.1:0");
    settings["listen"] = json!({"otlp_grpc": nowhere, "otlp_http": nowhere, "http": nowhere});
    std::fs::write(&config, settings.to_string()).unwrap();
    Command::new(&fixture.options.bin)
        .args(words)
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap()
}

/// Flips a bit in the middle of every block.
fn spoil(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            spoil(&path);
        } else if path.extension().is_some_and(|suffix| suffix == "parquet") {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
}
