//! Real senders: what OpenTelemetry Collector and telemetrygen send over gRPC and HTTP is found again, all of it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use vivace_e2e::client::{Otlp, Reply, Tempo};
use vivace_e2e::ledger::Ledger;
use vivace_e2e::process::{Node, Process, START_WITHIN, free_addr};
use vivace_e2e::skip::skipped;
use vivace_e2e::spans::{Workload, flatten};
use vivace_e2e::tools::Tool;

use crate::fixture::{eventually, fixture, read_everything, send};

const TENANT: &str = "single-tenant";

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_forwards_everything() {
    let program = match Tool::Collector.obtain() {
        Ok(program) => program,
        Err(reason) => return skipped("collector::forwards", &reason),
    };
    let Some(fixture) = fixture("collector::forwards", json!({})) else {
        return;
    };
    let node = fixture.start().await;
    let receivers = [free_addr().unwrap(), free_addr().unwrap()];
    let config = fixture.scratch.path().join("collector.yaml");
    std::fs::write(&config, collector_config(receivers, &node)).unwrap();
    let mut command = Command::new(program);
    command.arg("--config").arg(format!("file:{}", config.display()));
    let mut collector = Process::start("otelcol", command, fixture.scratch.path())
        .await
        .unwrap();
    for receiver in receivers {
        collector.accepting(receiver, START_WITHIN).await.unwrap();
    }

    let ledger = Ledger::new(
        Workload::starting_now(3),
        [(0, TENANT.to_owned()), (1, TENANT.to_owned())],
    );
    let mut grpc = Otlp::grpc(&format!("http://{}", receivers[0]), None).unwrap();
    let mut http = Otlp::grpc(&format!("http://{}", receivers[1]), None).unwrap();
    for batch in 0..20 {
        assert_eq!(send(&mut grpc, &ledger, 0, batch * 100, 100).await, Reply::Accepted);
        assert_eq!(send(&mut http, &ledger, 1, batch * 100, 100).await, Reply::Accepted);
    }
    // The Collector acknowledges before it has forwarded; its batches leave when it stops.
    collector.terminate(Duration::from_secs(60)).await.unwrap();
    let verdict = read_everything(&node, &ledger, TENANT).await.unwrap();
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(verdict.required, 4_000);
    node.stop().await.unwrap();
}

/// One pipeline per exporter, so that a span that is missing says which of them lost it.
fn collector_config([to_grpc, to_http]: [SocketAddr; 2], node: &Node) -> String {
    format!(
        r"
receivers:
  otlp/to-grpc: {{protocols: {{grpc: {{endpoint: '{to_grpc}'}}}}}}
  otlp/to-http: {{protocols: {{grpc: {{endpoint: '{to_http}'}}}}}}
processors:
  batch: {{send_batch_size: 512, timeout: 200ms}}
exporters:
  otlp_grpc:
    endpoint: '{}'
    tls: {{insecure: true}}
  otlp_http:
    endpoint: '{}'
    compression: gzip
service:
  telemetry:
    metrics: {{level: none}}
  pipelines:
    traces/grpc: {{receivers: [otlp/to-grpc], processors: [batch], exporters: [otlp_grpc]}}
    traces/http: {{receivers: [otlp/to-http], processors: [batch], exporters: [otlp_http]}}
",
        node.otlp_grpc,
        node.otlp_http_url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetrygen_is_found_again() {
    let program = match Tool::Telemetrygen.obtain() {
        Ok(program) => program,
        Err(reason) => return skipped("collector::telemetrygen", &reason),
    };
    let Some(fixture) = fixture("collector::telemetrygen", json!({})) else {
        return;
    };
    let node = fixture.start().await;
    for (service, endpoint, http) in [("gen-grpc", node.otlp_grpc, false), ("gen-http", node.otlp_http, true)] {
        let mut command = Command::new(&program);
        command.args(["traces", "--otlp-insecure", "--otlp-endpoint", &endpoint.to_string()]);
        command.args([
            "--traces",
            "50",
            "--child-spans",
            "3",
            "--workers",
            "2",
            "--rate",
            "0",
            "--service",
            service,
        ]);
        if http {
            command.arg("--otlp-http");
        }
        let mut generator = Process::start(service, command, fixture.scratch.path()).await.unwrap();
        assert!(generator.ended(Duration::from_secs(60)).await.unwrap().success());
    }
    let tempo = Tempo::new(&node.http_url(), None).unwrap();
    for service in ["gen-grpc", "gen-http"] {
        let query = format!("{{ resource.service.name = \"{service}\" }}");
        let mut found = Vec::new();
        // Two workers make fifty traces each.
        eventually(&format!("100 traces of {service}"), 30, async || {
            found = tempo.search(&query, &[("limit", "1000")]).await.unwrap().traces;
            found.len() >= 100
        })
        .await;
        assert_eq!(found.len(), 100, "{service}");
        for trace in &found {
            let mut id = [0; 16];
            for (at, byte) in id.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&trace.full_id()[at * 2..at * 2 + 2], 16).unwrap();
            }
            let spans = flatten(tempo.trace(id).await.unwrap().resource_spans);
            assert_eq!(spans.len(), 4, "{service} {}", trace.trace_id);
        }
    }
    node.stop().await.unwrap();
}
