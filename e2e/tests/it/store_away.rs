//! An object store that refuses connections: spans are taken and found, questions answer soon with what is live and say
//! that the rest is missing, and everything is there again when the store is.

use std::time::{Duration, Instant};

use serde_json::json;
use vivace_e2e::client::{Otlp, Reply, SearchAnswer, Tempo, with_query};
use vivace_e2e::ledger::Ledger;
use vivace_e2e::s3::{Availability, S3Options, S3Server};
use vivace_e2e::spans::Workload;
use vivace_e2e::stores::Settings;

use crate::fixture::{eventually, fixture, read_everything, send};

const TENANT: &str = "single-tenant";
/// Far below the minute that all retries of one request may take, and far above what a busy machine needs.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn questions_do_not_wait_for_a_store_that_is_away() {
    let server = S3Server::start(S3Options::default()).await.unwrap();
    let Some(mut fixture) = fixture("store_away::questions", json!({})) else {
        return;
    };
    let mut storage = Settings::of(&server)
        .for_node(&fixture.scratch.path().join("secrets"))
        .unwrap();
    // Else the disk answers for the store.
    storage["read_cache"] = json!("0B");
    fixture.options.settings["storage"] = storage;
    let ledger = Ledger::new(
        Workload::starting_now(8),
        [(1, TENANT.to_owned()), (2, TENANT.to_owned())],
    );
    let node = fixture.start().await;
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    for batch in 0..5 {
        assert_eq!(send(&mut otlp, &ledger, 1, batch * 50, 50).await, Reply::Accepted);
        // Blocks of their own.
        let blocks = async || {
            let tempo = Tempo::new(&node.http_url(), None).unwrap();
            let answer = tempo.search("{ }", &[]).await.unwrap();
            answer.metrics["totalBlocks"].as_u64().unwrap_or(0) > batch
        };
        eventually("another block", 60, blocks).await;
    }
    node.stop().await.unwrap();

    // It starts again without the store, and nothing of the blocks is in memory.
    server.toxics().set_availability(Availability::Refusing);
    let node = fixture.start().await;
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    assert_eq!(send(&mut otlp, &ledger, 2, 0, 50).await, Reply::Accepted);
    let tempo = Tempo::new(&node.http_url(), None).unwrap();
    let live = format!("{:032x}", u128::from_be_bytes(ledger.workload().trace_ids(2, 0, 50)[0]));
    for _ in 0..3 {
        let begun = Instant::now();
        let (answer, missing) = search(&tempo).await;
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        assert!(missing.is_some(), "what is missing is said");
        assert!(
            answer.traces.iter().any(|trace| trace.full_id() == live),
            "what is live is found"
        );
        let begun = Instant::now();
        let trace = tempo.trace(ledger.workload().trace_ids(2, 0, 50)[0]).await.unwrap();
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        assert!(!trace.resource_spans.is_empty() && trace.partial.is_some());
    }
    let metrics = tempo.get("/metrics", "*/*").await.unwrap().text().await.unwrap();
    assert!(metrics.contains("vivace_object_store_away 1"), "{metrics}");

    server.toxics().set_availability(Availability::Up);
    eventually("complete answers", 60, async || search(&tempo).await.1.is_none()).await;
    let verdict = read_everything(&node, &ledger, TENANT).await.unwrap();
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(verdict.required, ledger.acknowledged());
    node.stop().await.unwrap();
}

/// Everything there is, and what is said to be missing.
async fn search(tempo: &Tempo) -> (SearchAnswer, Option<String>) {
    let path = with_query("/api/search", &[("q", "{ }"), ("limit", "1000")]).unwrap();
    let answer = tempo.get(&path, "application/json").await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let missing = answer.headers().get("x-vivace-partial");
    let missing = missing.map(|reason| reason.to_str().unwrap().to_owned());
    (serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap(), missing)
}
