//! The first five minutes of a user: start, send, look, restart, look again.

use serde_json::json;
use vivace_e2e::client::{Otlp, Reply, Tempo, hex};
use vivace_e2e::ledger::{Ledger, Reading};
use vivace_e2e::spans::{SpanKey, Workload, flatten};

use crate::fixture::{Fixture, eventually, fixture, read_everything, send};

/// What a node without tenants calls everyone.
const TENANT: &str = "single-tenant";

fn ledger(fixture: &Fixture) -> Ledger {
    let ledger = Ledger::new(
        Workload::starting_now(1),
        [(0, TENANT.to_owned()), (1, TENANT.to_owned())],
    );
    ledger.logging_to(&fixture.scratch.path().join("ledger.jsonl")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_there_when_acknowledged_and_after_restarts() {
    let Some(fixture) = fixture("smoke::restart", json!({})) else {
        return;
    };
    let ledger = ledger(&fixture);
    let node = fixture.start().await;
    let mut grpc = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    let mut http = Otlp::http(&node.otlp_http_url(), None).unwrap();
    for batch in 0..10 {
        assert_eq!(send(&mut grpc, &ledger, 0, batch * 50, 50).await, Reply::Accepted);
        assert_eq!(send(&mut http, &ledger, 1, batch * 50, 50).await, Reply::Accepted);
    }
    let verdict = read_everything(&node, &ledger, TENANT).await.unwrap();
    assert!(verdict.is_clean(), "fresh: {verdict}");
    assert_eq!(verdict.required, 1_000);

    eventually("a block of the spans", 60, async || !fixture.parquet_files().is_empty()).await;
    let verdict = read_everything(&node, &ledger, TENANT).await.unwrap();
    assert!(verdict.is_clean(), "while it is flushed: {verdict}");

    node.stop().await.unwrap();
    let node = fixture.start().await;
    let verdict = read_everything(&node, &ledger, TENANT).await.unwrap();
    assert!(verdict.is_clean(), "after a restart: {verdict}");
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_trace_says_the_same() {
    let Some(fixture) = fixture("smoke::forms", json!({})) else {
        return;
    };
    let ledger = ledger(&fixture);
    let node = fixture.start().await;
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    assert_eq!(send(&mut otlp, &ledger, 0, 0, 200).await, Reply::Accepted);

    let tempo = Tempo::new(&node.http_url(), None).unwrap();
    for id in ledger.traces_of(TENANT) {
        let forms = [
            ("v1 protobuf", tempo.trace_v1(id).await.unwrap().unwrap_or_default()),
            ("v1 JSON", tempo.trace_v1_json(id).await.unwrap().unwrap_or_default()),
            ("v2 protobuf", tempo.trace(id).await.unwrap().resource_spans),
            ("v2 JSON", tempo.trace_json(id).await.unwrap().resource_spans),
        ];
        for (form, resource_spans) in forms {
            let traces = Some([id].into());
            let reading = Reading {
                floor: ledger.floor(),
                tenant: TENANT,
                traces,
                spans: flatten(resource_spans),
            };
            let verdict = ledger.verify(&reading);
            assert!(
                verdict.is_clean() && verdict.required > 0,
                "{form} of {}: {verdict}",
                hex(&id)
            );
        }
    }
    assert_eq!(
        tempo.trace_v1([7; 16]).await.unwrap(),
        None,
        "v1 answers 404 for an unknown trace"
    );
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_needle_is_found_live_and_flushed() {
    let Some(fixture) = fixture("smoke::search", json!({})) else {
        return;
    };
    let ledger = ledger(&fixture);
    let node = fixture.start().await;
    let mut otlp = Otlp::http(&node.otlp_http_url(), None).unwrap();
    assert_eq!(send(&mut otlp, &ledger, 0, 0, 400).await, Reply::Accepted);
    let tempo = Tempo::new(&node.http_url(), None).unwrap();

    let workload = ledger.workload();
    for flushed in [false, true] {
        if flushed {
            eventually("a block of the spans", 60, async || !fixture.parquet_files().is_empty()).await;
        }
        for seq in [0, 123, 399] {
            let query = format!("{{ span.e2e.key = \"0-{seq}\" }}");
            let answer = tempo.search(&query, &[]).await.unwrap();
            let found: Vec<String> = answer.traces.iter().map(|trace| trace.full_id()).collect();
            assert_eq!(
                found,
                [hex(&workload.trace_id(SpanKey { client: 0, seq }))],
                "{query}, flushed: {flushed}"
            );
        }
        let none = tempo.search("{ span.e2e.key = \"0-400\" }", &[]).await.unwrap();
        assert!(none.traces.is_empty(), "{none:?}");
    }

    let tags = tempo.tags().await.unwrap().to_string();
    assert!(tags.contains("e2e.key") && tags.contains("service.name"), "{tags}");
    let values = tempo.tag_values("resource.service.name").await.unwrap().to_string();
    for service in ["service-0", "service-1", "service-2"] {
        assert!(values.contains(service), "{values}");
    }
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_says_so_and_metrics_are_served() {
    let Some(fixture) = fixture("smoke::ready", json!({})) else {
        return;
    };
    let node = fixture.start().await;
    let tempo = Tempo::new(&node.http_url(), None).unwrap();
    let (status, text) = tempo.ready().await.unwrap();
    assert_eq!((status.as_u16(), text.trim()), (200, "ready"));
    let metrics = tempo.get("/metrics", "text/plain").await.unwrap();
    assert!(metrics.status().is_success());
    let text = metrics.text().await.unwrap();
    assert!(text.lines().any(|line| line.starts_with("vivace_")), "{text}");
    node.stop().await.unwrap();
}
