//! What one node costs from socket to bucket: `cargo bench -p vivace-e2e --bench ingest`.
//!
//! A node with its defaults, except that what is live becomes a block soon after the load ends, so that the whole way is
//! paid for; `vivace load` sends 2 million spans over gRPC as fast as they are acknowledged, each after its fdatasync.
//! `VIVACE_BENCH_SPANS` sends fewer, `VIVACE_BENCH_ROUNDS` repeats on a fresh node, `VIVACE_BIN` names the binary (else the
//! youngest build, which should be a release one). Sender and node share the machine. CPU is the node's own, user and
//! system, from the kernel's accounts; every goal is of a machine of two cores. Nothing fails here: it is a measurement.
//!
//! Machines differ, and one machine from minute to minute: decoding the same requests with prost, right after each round, is
//! the measure that does not. The goal of 5 CPU-seconds was set where that took 1.1.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use serde_json::json;
use vivace_e2e::process::{Node, NodeOptions, Scratch, vivace_bin};

/// Longest wait for the last block.
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// Spans that prost decodes: more than the caches hold.
const PROST_SPANS: usize = 200_000;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let spans = from_env("VIVACE_BENCH_SPANS", 2_000_000)?;
    let rounds = from_env("VIVACE_BENCH_ROUNDS", 1)?;
    for round in 0..rounds {
        let measured = runtime.block_on(measure(spans, round))?;
        measured.print();
    }
    Ok(())
}

fn from_env(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is not a number")),
        Err(_) => Ok(default),
    }
}

struct Measured {
    spans: f64,
    spans_per_second: f64,
    ack_ms: [f64; 3],
    cpu_seconds: [f64; 2],
    peak_rss_bytes: f64,
    bucket_bytes: f64,
    otlp_bytes: f64,
    generator_nanos: f64,
    /// Decoding a million of these spans with prost.
    prost_seconds: f64,
}

impl Measured {
    fn print(&self) {
        let millions = self.spans / 1e6;
        let [user, system] = self.cpu_seconds;
        let [p50, p99, max] = self.ack_ms;
        println!(
            "{:.1} M spans, {:.0} bytes of OTLP each; the sender took {:.0} ns of CPU per span",
            millions,
            self.otlp_bytes / self.spans,
            self.generator_nanos
        );
        let row = |name: &str, value: String, goal: &str| println!("{name:44} {value:>12}   {goal}");
        row("", "measured".to_owned(), "goal");
        row(
            "acknowledged, spans/s",
            format!("{:.0}", self.spans_per_second),
            ">= 200000",
        );
        row(
            "CPU from socket to block, s per million spans",
            format!("{:.2}", (user + system) / millions),
            "<= 5",
        );
        row(
            "  in times of decoding with prost",
            format!("{:.2}", (user + system) / millions / self.prost_seconds),
            "<= 4.5",
        );
        row("  of it in the kernel", format!("{:.2}", system / millions), "");
        row("ack p50, ms", format!("{p50:.1}"), "");
        row("ack p99, ms", format!("{p99:.1}"), "< 50");
        row("ack max, ms", format!("{max:.1}"), "");
        row("peak RSS, MB", format!("{:.0}", self.peak_rss_bytes / 1e6), "< 600");
        row(
            "in the bucket, bytes per span",
            format!("{:.1}", self.bucket_bytes / self.spans),
            "",
        );
        row(
            "  of the OTLP bytes",
            format!("{:.3}", self.bucket_bytes / self.otlp_bytes),
            "",
        );
    }
}

async fn measure(spans: u64, round: u64) -> anyhow::Result<Measured> {
    let bin = vivace_bin().map_err(|why| anyhow::anyhow!("{why}"))?;
    println!("round {round}: {}", bin.display());
    let scratch = Scratch::new("bench-ingest")?;
    let options = NodeOptions {
        bin: bin.clone(),
        data_dir: scratch.dir("data")?,
        log_dir: scratch.dir("log")?,
        settings: json!({"flush": {"tail_age": "5s"}, "compaction": {"enabled": false}}),
    };
    let node = Node::start(&options).await?;
    let load = tokio::process::Command::new(&bin)
        .args([
            "load",
            "--json",
            "--seed",
            "7",
            "--endpoint",
            &node.otlp_grpc.to_string(),
        ])
        .args(["--spans", &spans.to_string()])
        .output()
        .await?;
    anyhow::ensure!(
        load.status.success(),
        "vivace load failed: {}",
        String::from_utf8_lossy(&load.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&load.stdout).context("the report of vivace load")?;
    let number = |key: &str| report.get(key).and_then(serde_json::Value::as_f64).unwrap_or_default();

    let metrics = format!("{}/metrics", node.http_url());
    let settled = async {
        loop {
            let text = reqwest::get(&metrics).await?.text().await?;
            if ["vivace_live_spans 0", "vivace_spooled_blocks 0"]
                .iter()
                .all(|gone| text.lines().any(|line| line == *gone))
            {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(SETTLE_MAX, settled)
        .await
        .context("live spans did not become blocks")??;
    let pid = node.process.id().context("the node has gone")?;
    let mut measured = Measured {
        spans: number("spans_acknowledged"),
        spans_per_second: number("spans_per_second"),
        ack_ms: [number("ack_p50_ms"), number("ack_p99_ms"), number("ack_max_ms")],
        cpu_seconds: cpu_seconds(pid)?,
        peak_rss_bytes: peak_rss_bytes(pid)?,
        bucket_bytes: bytes_below(&options.data_dir.join("objects"))?,
        otlp_bytes: number("bytes"),
        generator_nanos: number("generator_ns_per_span"),
        prost_seconds: f64::NAN,
    };
    node.stop().await?;
    measured.prost_seconds = prost_seconds(&bin).await?;
    Ok(measured)
}

/// Seconds that prost takes to decode and drop a million spans of `vivace load`; the best of several goes.
async fn prost_seconds(bin: &std::path::Path) -> anyhow::Result<f64> {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&requests);
    let take = move |body: Bytes| {
        taken.lock().unwrap_or_else(PoisonError::into_inner).push(body);
        std::future::ready(())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = listener.local_addr()?.to_string();
    let limit = axum::extract::DefaultBodyLimit::disable();
    let router = axum::Router::new()
        .route("/v1/traces", axum::routing::post(take))
        .layer(limit);
    let sink = tokio::spawn(axum::serve(listener, router).into_future());
    let spans = PROST_SPANS.to_string();
    let load = tokio::process::Command::new(bin)
        .args(["load", "--protocol", "http", "--endpoint", &endpoint, "--spans", &spans])
        .args(["--json", "--seed", "7"])
        .output()
        .await?;
    sink.abort();
    anyhow::ensure!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    let requests = std::mem::take(&mut *requests.lock().unwrap_or_else(PoisonError::into_inner));
    let (mut best, mut spans) = (f64::INFINITY, 0);
    for _ in 0..5 {
        let begun = std::time::Instant::now();
        spans = 0;
        for body in &requests {
            let request = ExportTraceServiceRequest::decode(&body[..])?;
            let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
            spans += scopes.map(|scope| scope.spans.len()).sum::<usize>();
        }
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok(best / spans as f64 * 1e6)
}

/// User and system time of a process so far.
fn cpu_seconds(pid: u32) -> anyhow::Result<[f64; 2]> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, second, is in parentheses and may hold anything; user and system time are 14th and 15th.
    let (_, after_name) = stat.rsplit_once(')').context("no name in /proc/<pid>/stat")?;
    let mut fields = after_name.split_whitespace().skip(11).map(str::parse::<f64>);
    let mut next = || fields.next().context("too few fields in /proc/<pid>/stat");
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    Ok([next()?? / ticks, next()?? / ticks])
}

fn peak_rss_bytes(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .context("no VmHWM")?;
    Ok(kib.trim().parse::<f64>()? * 1024.0)
}

fn bytes_below(dir: &std::path::Path) -> anyhow::Result<f64> {
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        bytes += match entry.metadata()? {
            meta if meta.is_dir() => bytes_below(&entry.path())?,
            meta => meta.len() as f64,
        };
    }
    Ok(bytes)
}
