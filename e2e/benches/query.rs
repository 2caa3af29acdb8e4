//! What answers cost over HTTP: `cargo bench -p vivace-e2e --bench query`.
//!
//! A node takes in 2 million spans (`VIVACE_BENCH_SPANS`) and turns them into blocks; each question is asked again and again
//! by one client, first of the blocks as they were cut, then of what they were merged into. The tables show:
//! - the first answer of a node that was just started on that data, and how many reads of the object store it took;
//! - warm: median and 95th percentile over [`ROUNDS`], beside the goal for the median on two cores;
//! - what the answer says of itself: spans looked at, by the median per second, and bytes read or found in memory;
//! - its length.
//!
//! Questions about live spans go to a second node that has made no block yet. `VIVACE_BIN` names the binary, else the
//! youngest build. On one core: `taskset -c 0 cargo bench …`. Nothing fails here but a wrong answer: it is a measurement.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use vivace_e2e::process::{Node, NodeOptions, Scratch, vivace_bin};

/// Longest wait for the last block.
const SETTLE_MAX: Duration = Duration::from_secs(180);
/// How often each question is asked once everything is warm.
const ROUNDS: usize = 30;
/// How often before that.
const WARM_UP: usize = 3;
/// An attribute with a value per message, in the generated data.
const NEEDLE: &str = "span.messaging.message.id";

/// One question, how it may be answered, and the median we want.
struct Question {
    name: &'static str,
    path: String,
    goal_ms: Option<f64>,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let spans = match std::env::var("VIVACE_BENCH_SPANS") {
        Ok(text) => text.parse().context("VIVACE_BENCH_SPANS is not a number")?,
        Err(_) => 2_000_000,
    };
    runtime.block_on(run(spans))
}

async fn run(spans: u64) -> anyhow::Result<()> {
    let scratch = Scratch::new("bench-query")?;
    let node = start(&scratch, "blocks", as_cut()).await?;
    load(&node, spans).await?;
    until(&node, "nothing is live", |is| {
        is("vivace_live_spans") == 0.0 && is("vivace_spooled_blocks") == 0.0
    })
    .await?;
    let node = ask_of_blocks(&scratch, node, spans).await?;
    node.stop().await?;

    let node = start(&scratch, "blocks", json!({})).await?;
    // What should be merged is counted before the first merge is chosen.
    until(&node, "blocks are merged", |is| {
        is("vivace_compaction_outstanding_blocks") == 0.0 && is("vivace_compaction_merges_total") > 0.0
    })
    .await?;
    let node = ask_of_blocks(&scratch, node, spans).await?;
    node.stop().await?;
    let cpus = cpus();

    let live = start(
        &scratch,
        "live",
        json!({"flush": {"tail_age": "1h", "tail_bytes": "1GiB"}}),
    )
    .await?;
    let live_spans = spans.min(300_000);
    load(&live, live_spans).await?;
    let client = reqwest::Client::new();
    println!("\n{live_spans} live spans, {cpus} cores");
    header();
    for question in about_live()? {
        ask(&client, &live, &question, None).await?;
    }
    live.stop().await
}

/// Blocks stay as they are: a merge beside a question is another measurement.
fn as_cut() -> Value {
    json!({"flush": {"tail_age": "3s"}, "compaction": {"enabled": false}})
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A table over the blocks that this node has; the node that is given back was started on the same data.
async fn ask_of_blocks(scratch: &Scratch, mut node: Node, spans: u64) -> anyhow::Result<Node> {
    let client = reqwest::Client::new();
    let count = counter(&client, &node, "vivace_blocks").await?.unwrap_or_default();
    println!("\n{spans} spans in {count:.0} blocks, {} cores", cpus());
    header();
    for question in about_blocks(&client, &node).await? {
        node.stop().await?;
        node = start(scratch, "blocks", as_cut()).await?;
        let cold = first(&client, &node, &question).await?;
        ask(&client, &node, &question, Some(cold)).await?;
    }
    Ok(node)
}

async fn start(scratch: &Scratch, name: &str, settings: Value) -> anyhow::Result<Node> {
    Node::start(&NodeOptions {
        bin: vivace_bin().map_err(|why| anyhow::anyhow!("{why}"))?,
        data_dir: scratch.dir(&format!("{name}/data"))?,
        log_dir: scratch.dir(&format!("{name}/log"))?,
        settings,
    })
    .await
}

async fn load(node: &Node, spans: u64) -> anyhow::Result<()> {
    let bin = vivace_bin().map_err(|why| anyhow::anyhow!("{why}"))?;
    let status = tokio::process::Command::new(bin)
        .args(["load", "--seed", "7", "--endpoint", &node.otlp_grpc.to_string()])
        .args(["--spans", &spans.to_string()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .await?;
    anyhow::ensure!(status.success(), "vivace load failed");
    Ok(())
}

/// Waits until the node's metrics say so.
async fn until(node: &Node, what: &str, holds: impl Fn(&dyn Fn(&str) -> f64) -> bool) -> anyhow::Result<()> {
    let metrics = format!("{}/metrics", node.http_url());
    let settled = async {
        loop {
            let text = reqwest::get(&metrics).await?.text().await?;
            if holds(&|name| number(&text, name).unwrap_or(f64::NAN)) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(SETTLE_MAX, settled)
        .await
        .with_context(|| format!("the node never said that {what}"))?
}

/// A number of the node's own metrics.
async fn counter(client: &reqwest::Client, node: &Node, name: &str) -> anyhow::Result<Option<f64>> {
    let text = client
        .get(format!("{}/metrics", node.http_url()))
        .send()
        .await?
        .text()
        .await?;
    Ok(number(&text, name))
}

fn number(metrics: &str, name: &str) -> Option<f64> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    metrics.lines().find_map(value)
}

async fn about_blocks(client: &reqwest::Client, node: &Node) -> anyhow::Result<Vec<Question>> {
    let found: Value = get_json(client, node, &search("{status = error}")?).await?;
    let trace = found
        .pointer("/traces/0/traceID")
        .and_then(Value::as_str)
        .context("no trace with an error")?;
    let values: Value = get_json(client, node, &format!("/api/v2/search/tag/{NEEDLE}/values")).await?;
    let needle = values
        .pointer("/tagValues/0/value")
        .and_then(Value::as_str)
        .context("no value to look for")?;
    let question = |name, path, goal_ms| Question { name, path, goal_ms };
    Ok(vec![
        question("trace by id", format!("/api/traces/{trace}"), Some(10.0)),
        question("needle", search(&format!("{{{NEEDLE} = \"{needle}\"}}"))?, Some(16.0)),
        question(
            "value that is nowhere",
            search(&format!("{{{NEEDLE} = \"nowhere\"}}"))?,
            None,
        ),
        question("key that is nowhere", search("{.nowhere = 1}")?, None),
        question("regex on name", search("{name =~ \".*(GET|select).*\"}")?, Some(40.0)),
        question(
            "service and duration",
            search("{resource.service.name = \"cart\" && duration > 100ms}")?,
            None,
        ),
        question(
            "structural descendant",
            search("{resource.service.name = \"cart\"} >> {status = error}")?,
            Some(24.0),
        ),
        question("count() > 20", search("{} | count() > 20")?, None),
        question(
            "rate by service",
            metrics("{} | rate() by (resource.service.name)")?,
            Some(30.0),
        ),
        question(
            "p99 by service",
            metrics("{} | quantile_over_time(duration, .99) by (resource.service.name)")?,
            Some(30.0),
        ),
        question(
            "values of a high-cardinality tag",
            format!("/api/v2/search/tag/{NEEDLE}/values"),
            Some(50.0),
        ),
        question(
            "values of service.name",
            "/api/v2/search/tag/resource.service.name/values".to_owned(),
            None,
        ),
        question("tag names", "/api/v2/search/tags".to_owned(), None),
    ])
}

fn about_live() -> anyhow::Result<Vec<Question>> {
    let question = |name, path, goal_ms| Question { name, path, goal_ms };
    Ok(vec![
        question("search for errors", search("{status = error}")?, None),
        question(
            "rate by service",
            metrics("{} | rate() by (resource.service.name)")?,
            Some(10.0),
        ),
        question(
            "p99 by service",
            metrics("{} | quantile_over_time(duration, .99) by (resource.service.name)")?,
            Some(10.0),
        ),
    ])
}

fn search(query: &str) -> anyhow::Result<String> {
    with_query("/api/search", &[("q", query), ("limit", "20")])
}

/// Over the last hour in steps of a minute.
fn metrics(query: &str) -> anyhow::Result<String> {
    let now = jiff::Timestamp::now().as_second();
    let (start, end) = ((now - 3600).to_string(), (now + 60).to_string());
    let pairs = [("q", query), ("start", &start), ("end", &end), ("step", "60s")];
    with_query("/api/metrics/query_range", &pairs)
}

fn with_query(path: &str, pairs: &[(&str, &str)]) -> anyhow::Result<String> {
    let url = reqwest::Url::parse_with_params(&format!("http://node{path}"), pairs)?;
    Ok(format!("{path}?{}", url.query().unwrap_or_default()))
}

async fn get_json(client: &reqwest::Client, node: &Node, path: &str) -> anyhow::Result<Value> {
    let body = get(client, node, path).await?;
    serde_json::from_slice(&body).context("the answer is not JSON")
}

async fn get(client: &reqwest::Client, node: &Node, path: &str) -> anyhow::Result<Vec<u8>> {
    let answer = client.get(format!("{}{path}", node.http_url())).send().await?;
    let status = answer.status();
    let body = answer.bytes().await?;
    anyhow::ensure!(
        status.is_success(),
        "{path}: {status}: {}",
        String::from_utf8_lossy(&body)
    );
    Ok(body.to_vec())
}

fn header() {
    println!(
        "{:34} {:>8} {:>6} {:>8} {:>8} {:>8} {:>9} {:>9} {:>10}",
        "", "cold ms", "reads", "p50 ms", "p95 ms", "goal ms", "Mspans/s", "MB looked", "bytes"
    );
}

/// The first answer of a node.
struct Cold {
    ms: f64,
    /// Reads of the object store.
    reads: f64,
}

const STORE_READS: &str = "vivace_store_reads_total";

async fn first(client: &reqwest::Client, node: &Node, question: &Question) -> anyhow::Result<Cold> {
    let before = counter(client, node, STORE_READS).await?.unwrap_or_default();
    let (ms, _) = timed(client, node, question).await?;
    let after = counter(client, node, STORE_READS).await?.unwrap_or_default();
    Ok(Cold {
        ms,
        reads: after - before,
    })
}

async fn timed(client: &reqwest::Client, node: &Node, question: &Question) -> anyhow::Result<(f64, Vec<u8>)> {
    let begun = Instant::now();
    let body = get(client, node, &question.path).await?;
    Ok((begun.elapsed().as_secs_f64() * 1e3, body))
}

async fn ask(client: &reqwest::Client, node: &Node, question: &Question, cold: Option<Cold>) -> anyhow::Result<()> {
    for _ in 0..WARM_UP {
        timed(client, node, question).await?;
    }
    let (mut times, mut body) = (Vec::with_capacity(ROUNDS), Vec::new());
    for _ in 0..ROUNDS {
        let (ms, answer) = timed(client, node, question).await?;
        times.push(ms);
        body = answer;
    }
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(ROUNDS * part / 100).copied().unwrap_or_default();
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let says = |name: &str| -> Option<f64> {
        let said = answer.pointer(&format!("/metrics/{name}"))?;
        said.as_f64().or_else(|| said.as_str()?.parse().ok())
    };
    let shown = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "-".to_owned(),
    };
    println!(
        "{:34} {:>8} {:>6} {:8.1} {:8.1} {:>8} {:>9} {:>9} {:>10}",
        question.name,
        shown(cold.as_ref().map(|cold| cold.ms), 1),
        shown(cold.as_ref().map(|cold| cold.reads), 0),
        at(50),
        at(95),
        shown(question.goal_ms, 0),
        shown(says("inspectedSpans").map(|spans| spans / at(50) / 1e3), 0),
        shown(says("inspectedBytes").map(|bytes| bytes / 1e6), 1),
        body.len(),
    );
    Ok(())
}
