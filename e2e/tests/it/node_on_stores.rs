//! A node on each object store that can be had: what it took lies there as blocks, and is found after it was killed.

use serde_json::json;
use vivace_e2e::client::{Otlp, Reply, Tempo};
use vivace_e2e::ledger::Ledger;
use vivace_e2e::process::{Node, Scratch};
use vivace_e2e::s3::{Dialect, S3Options, S3Server};
use vivace_e2e::skip::skipped;
use vivace_e2e::spans::Workload;
use vivace_e2e::stores::{Kind, Settings, start};

use crate::fixture::{eventually, fixture, read_everything, send};

const TENANT: &str = "single-tenant";
/// Each makes a block or more, so that some are compacted.
const BATCHES: u64 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn minio() {
    on(Kind::Minio).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto() {
    on(Kind::Moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azurite() {
    on(Kind::Azurite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fake_gcs_server() {
    on(Kind::FakeGcs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_server_in_googles_words() {
    let server = S3Server::start(S3Options {
        dialect: Dialect::Gcs,
        ..S3Options::default()
    })
    .await
    .unwrap();
    keeps_and_finds("gcs-dialect", &Settings::of(&server)).await;
}

async fn on(kind: Kind) {
    let name = kind.tool().name();
    let scratch = Scratch::new(&format!("node-on-{name}")).unwrap();
    match start(kind, scratch.path()).await {
        Ok(store) => keeps_and_finds(name, &store.unwrap().settings).await,
        Err(reason) => skipped(&format!("node_on_stores::{name}"), &reason),
    }
}

async fn keeps_and_finds(name: &str, settings: &Settings) {
    let small = json!({"compaction": {"interval": "1s", "window": "1m"}});
    let Some(mut fixture) = fixture(&format!("node_on_stores::{name}-node"), small) else {
        return;
    };
    let mut storage = settings.for_node(&fixture.scratch.path().join("secrets")).unwrap();
    // Else the disk answers for the store.
    storage["read_cache"] = json!("0B");
    fixture.options.settings["storage"] = storage;
    let ledger = Ledger::new(Workload::starting_now(21), [(1, TENANT.to_owned())]);
    let mut node = fixture.start().await;
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    for batch in 0..BATCHES {
        let reply = send(&mut otlp, &ledger, 1, batch * 50, 50).await;
        assert_eq!(reply, Reply::Accepted, "{name}");
        stored(&node).await;
    }
    let verdict = read_everything(&node, &ledger, TENANT).await.unwrap();
    assert!(verdict.is_clean(), "{name}: {verdict}");
    node.process.kill().await.unwrap();

    let node = fixture.start().await;
    let verdict = read_everything(&node, &ledger, TENANT).await.unwrap();
    assert!(verdict.is_clean(), "{name}, after it was killed: {verdict}");
    assert_eq!(verdict.required, ledger.acknowledged(), "{name}");
    let blocks = settings.client().unwrap().list(None);
    let blocks: Vec<_> = futures::TryStreamExt::try_collect(blocks).await.unwrap();
    assert!(
        blocks
            .iter()
            .any(|object| object.location.as_ref().ends_with(".parquet")),
        "{name}: {blocks:?}"
    );
    node.stop().await.unwrap();
}

async fn stored(node: &Node) {
    let tempo = Tempo::new(&node.http_url(), None).unwrap();
    eventually("everything in blocks", 90, async || {
        tempo.metric("vivace_live_spans").await.unwrap() == Some(0.0)
    })
    .await;
}
