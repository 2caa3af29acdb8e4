//! Limits on what is live, through a whole node: what is over them is refused by name, and nothing else is.

use serde_json::{Value, json};

use crate::whole::{Running, start_with};

impl Running {
    /// Sends spans given as (trace, span id, length of the name); gives the status, the spans rejected and the answer.
    async fn send(&self, spans: &[(u8, u8, usize)]) -> (u16, u64, String) {
        let span = |(trace, id, name): &(u8, u8, usize)| {
            json!({"traceId": format!("{trace:02x}").repeat(16), "spanId": format!("{id:02x}").repeat(8),
                "name": "x".repeat(*name), "startTimeUnixNano": now_unix_nanos().to_string()})
        };
        let spans: Vec<Value> = spans.iter().map(span).collect();
        let answer = reqwest::Client::new()
            .post(format!("http://{}/v1/traces", self.otlp_http))
            .json(&json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}))
            .send()
            .await
            .unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        let rejected = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|answer| answer["partialSuccess"]["rejectedSpans"].as_str()?.parse().ok());
        (status, rejected.unwrap_or(0), text)
    }

    async fn found(&self, query: &str) -> usize {
        let query = query
            .replace(' ', "%20")
            .replace('"', "%22")
            .replace('{', "%7B")
            .replace('}', "%7D");
        let answer = self.json(&format!("/api/search?q={query}")).await;
        answer["traces"].as_array().map_or(0, Vec::len)
    }
}

pub(crate) fn now_unix_nanos() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_has_so_many_live_spans() {
    let folder = tempfile::tempdir().unwrap();
    let node = start_with(folder.path(), "limits: {defaults: {trace_spans_max: 5}}").await;
    let ids = |trace: u8, ids: std::ops::Range<u8>| ids.map(|id| (trace, id, 1)).collect::<Vec<_>>();
    // limit - 1, limit, limit + 1, one request each.
    assert_eq!(node.send(&ids(1, 1..5)).await.1, 0);
    assert_eq!(node.send(&ids(1, 5..6)).await.1, 0);
    let (status, rejected, text) = node.send(&ids(1, 6..7)).await;
    assert_eq!((status, rejected), (200, 1), "{text}");
    assert!(text.contains("trace is too large"), "{text}");
    // In one request, beside another trace.
    let both = [ids(2, 1..7), ids(3, 1..6)].concat();
    assert_eq!(node.send(&both).await.1, 1);
    for trace in 1..4_u8 {
        let id = format!("{trace:02x}").repeat(16);
        let query = format!("{{ trace:id = \"{id}\" }} | count() = 5");
        assert_eq!(node.found(&query).await, 1, "{query}");
    }
    let metrics = reqwest::get(format!("http://{}/metrics", node.http)).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let line = r#"vivace_discarded_spans_total{reason="trace_too_large",tenant="single-tenant"} 2"#;
    assert!(metrics.contains(line), "{metrics}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_has_so_many_live_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let node = start_with(folder.path(), "limits: {defaults: {trace_bytes_max: 4096B}}").await;
    // A span costs its name and less than a hundred bytes.
    assert_eq!(node.send(&[(1, 1, 2000)]).await.1, 0);
    assert_eq!(node.send(&[(1, 2, 1900)]).await.1, 0);
    assert_eq!(node.send(&[(1, 3, 2000)]).await.1, 1);
    assert_eq!(node.send(&[(2, 1, 3900)]).await.1, 0);
    assert_eq!(node.send(&[(3, 1, 4096)]).await.1, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_so_many_live_traces() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "shards: {count: 1}\nlimits: {defaults: {live_traces_max: 3}}";
    let node = start_with(folder.path(), settings).await;
    assert_eq!(node.send(&[(1, 1, 1), (2, 1, 1)]).await.0, 200);
    assert_eq!(node.send(&[(3, 1, 1)]).await.0, 200);
    let (status, _, text) = node.send(&[(4, 1, 1)]).await;
    assert_eq!(status, 429, "{text}");
    assert!(text.contains("3 live traces"), "{text}");
    assert_eq!(node.found("{}").await, 3);
    node.stop().await;
}

/// Blocks cannot be built, so what is live stays live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_spans_have_a_budget() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "memory: {heads: 16MiB}\nlimits: {defaults: {trace_bytes_max: 100MB}}";
    let node = start_with(folder.path(), settings).await;
    let spool = folder.path().join("spool");
    std::fs::remove_dir_all(&spool).unwrap();
    let mut taken = 0;
    let refused = loop {
        // A name of its own for each span: 300 kB that cannot be shared.
        let (status, _, text) = node
            .send(&[(1 + taken % 200, 1 + taken / 200, 300_000 + usize::from(taken))])
            .await;
        if status != 200 {
            break (status, text);
        }
        taken += 1;
        assert!(taken < 250, "sixteen megabytes are full by now");
    };
    assert_eq!(refused.0, 429, "{}", refused.1);
    assert!(refused.1.contains("live spans fill their memory"), "{}", refused.1);
    assert!((20..=60).contains(&taken), "{taken}");
    // Room for blocks is room for spans, by itself.
    std::fs::create_dir(&spool).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while node.send(&[(250, 1, 10)]).await.0 != 200 {
        assert!(std::time::Instant::now() < deadline, "nothing was cut");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(node.found("{ name = \"xxxxxxxxxx\" }").await, 1);
    node.stop().await;
}
