//! What the tests of a node start from: a folder, a binary, settings that make minutes hold many flushes, and readers
//! that turn a whole store into one [`Verdict`].

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::bail;
use futures::StreamExt as _;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use prost::Message as _;
use serde_json::{Value, json};
use vivace_e2e::client::{Otlp, Reply, Tempo, TraceAnswer, hex, http_client};
use vivace_e2e::ledger::{Ledger, Reading, Verdict};
use vivace_e2e::process::{Node, NodeOptions, Scratch, vivace_bin};
use vivace_e2e::skip::skipped;
use vivace_e2e::spans::flatten;

/// Reads in flight at once: enough to keep two cores busy, few enough to stay under every limit.
const READERS: usize = 8;

/// One test's node, not yet started.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) scratch: Scratch,
    pub(crate) options: NodeOptions,
}

/// The binary to test; `None`, after saying so, when there is none.
pub(crate) fn binary(test: &str) -> Option<PathBuf> {
    vivace_bin().map_err(|reason| skipped(test, &reason)).ok()
}

/// Prepares a node with these settings laid over [`small`]; `None`, after saying so, when there is no binary.
pub(crate) fn fixture(test: &str, settings: Value) -> Option<Fixture> {
    let bin = binary(test)?;
    let scratch = Scratch::new(&test.replace("::", "-")).unwrap();
    Some(in_folder(scratch, bin, settings))
}

/// The same, with no other test beside it.
pub(crate) fn fixture_alone(test: &str, settings: Value) -> Option<Fixture> {
    let bin = binary(test)?;
    let scratch = Scratch::alone(&test.replace("::", "-")).unwrap();
    Some(in_folder(scratch, bin, settings))
}

fn in_folder(scratch: Scratch, bin: PathBuf, settings: Value) -> Fixture {
    let data_dir = scratch.dir("data").unwrap();
    let log_dir = scratch.path().to_path_buf();
    let mut all = small();
    overlay(&mut all, settings);
    Fixture {
        scratch,
        options: NodeOptions {
            bin,
            data_dir,
            log_dir,
            settings: all,
        },
    }
}

/// Small segments and a short tail: a block every second or so instead of every two minutes.
fn small() -> Value {
    json!({
        "wal": {"segment_bytes": "8MiB", "quota_bytes": "256MiB"},
        "flush": {"tail_bytes": "1MiB", "tail_age": "1s"},
        "log": {"level": "info"},
    })
}

/// Lays `over` on `base`, section by section.
fn overlay(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

impl Fixture {
    pub(crate) async fn start(&self) -> Node {
        Node::start(&self.options).await.unwrap()
    }

    /// Blocks in the bucket, which is a folder here. Not those in the spool or on their way: they go while one looks.
    pub(crate) fn parquet_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.options.data_dir.join("objects")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|suffix| suffix == "parquet")
                    && is_parquet(&std::fs::read(&path).unwrap_or_default())
                {
                    found.push(path);
                }
            }
        }
        found
    }
}

/// Whole: the magic stands at both ends.
pub(crate) fn is_parquet(bytes: &[u8]) -> bool {
    bytes.len() > 8 && bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1")
}

/// Sends spans `first..first + count` of a client and enters it in the ledger.
pub(crate) async fn send(otlp: &mut Otlp, ledger: &Ledger, client: u16, first: u64, count: u64) -> Reply {
    let sent = ledger.send(client, first, count);
    let reply = otlp.export(ledger.workload().request(client, first, count)).await;
    ledger.settle(sent, reply.outcome());
    reply
}

/// Reads every trace that the ledger knows for this tenant, by id, and judges the sum. A partial answer is an error.
pub(crate) async fn read_everything(node: &Node, ledger: &Ledger, tenant: &str) -> anyhow::Result<Verdict> {
    let (verdict, excused) = read(node, ledger, tenant).await?;
    match excused.first() {
        Some(reason) => bail!("{} answers were not complete, the first: {reason}", excused.len()),
        None => Ok(verdict),
    }
}

/// Reads everything while the store may fail: what is not answered, or said to be partial, is left out of the verdict,
/// and the rest must be right. Also gives how many traces were left out.
pub(crate) async fn read_what_answers(node: &Node, ledger: &Ledger, tenant: &str) -> anyhow::Result<(Verdict, usize)> {
    let (verdict, excused) = read(node, ledger, tenant).await?;
    Ok((verdict, excused.len()))
}

async fn read(node: &Node, ledger: &Ledger, tenant: &str) -> anyhow::Result<(Verdict, Vec<String>)> {
    let tempo = Tempo::new(&node.http_url(), Some(tenant))?;
    let floor = ledger.floor();
    let answers: Vec<_> = futures::stream::iter(ledger.traces_of(tenant))
        .map(|id| {
            let tempo = &tempo;
            async move { (id, tempo.trace(id).await) }
        })
        .buffer_unordered(READERS)
        .collect()
        .await;
    let (mut traces, mut spans, mut excused) = (HashSet::new(), Vec::new(), Vec::new());
    for (id, answer) in answers {
        match answer {
            Ok(TraceAnswer {
                partial: None,
                resource_spans,
            }) => {
                traces.insert(id);
                spans.extend(flatten(resource_spans));
            }
            Ok(TraceAnswer {
                partial: Some(reason), ..
            }) => excused.push(format!("{}: partial: {reason}", hex(&id))),
            Err(error) => excused.push(format!("{}: {error:#}", hex(&id))),
        }
    }
    Ok((
        ledger.verify(&Reading {
            floor,
            tenant,
            traces: Some(traces),
            spans,
        }),
        excused,
    ))
}

/// A node without room refuses a request on both transports and says when to come back.
pub(crate) async fn assert_retry_info(node: &Node, request: ExportTraceServiceRequest) {
    let answer = http_client()
        .unwrap()
        .post(format!("{}/v1/traces", node.otlp_http_url()))
        .header("content-type", "application/x-protobuf")
        .body(request.encode_to_vec())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    let seconds: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    let mut client = TraceServiceClient::connect(node.otlp_grpc_url()).await.unwrap();
    let status = client.export(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    let details = String::from_utf8_lossy(status.details()).into_owned();
    assert!(details.contains("google.rpc.RetryInfo"), "{status:?}");
}

/// Waits for a condition of the outside world; panics with `what` when it does not come.
pub(crate) async fn eventually(what: &str, seconds: u64, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "not within {seconds} s: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
