//! What one span costs on the way in: `cargo bench -p vivace-wire [-- scan]`. Prints nanoseconds per span, best of several runs.

#[allow(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]
mod synthetic;

use std::hint::black_box;
use std::time::Instant;

use model::{ShardId, TenantId};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use wire::frame::{BatchHash, Entry, EntryBuilder};
use wire::ingest::{IngestLimits, Routed, scan};

const SPANS: usize = 8192;
const RUNS: usize = 30;

fn main() {
    let request = synthetic::request(42, SPANS);
    let body = request.encode_to_vec();
    let tenant = TenantId::single();
    let limits = IngestLimits::default();
    let shard_of = |id: &model::TraceId| ShardId::of(tenant.placement_hash(id), 4);
    println!(
        "{SPANS} spans, {} bytes, {} bytes per span",
        body.len(),
        body.len() / SPANS
    );

    measure("prost decode", || ExportTraceServiceRequest::decode(&body[..]).is_ok());
    measure("request hash", || BatchHash::of_request(&tenant, &body));
    measure("scan", || scan(&body, &limits, shard_of).is_ok());
    let packed = || {
        scan(&body, &limits, shard_of)
            .map(|scan| scan.into_sub_batches(&tenant, BatchHash(1)))
            .unwrap_or_default()
    };
    measure("scan + frames", packed);
    let routed = packed();
    let entry_of = |routed: &[Routed]| {
        let mut builder = EntryBuilder::default();
        for routed in routed {
            assert!(builder.push(routed.sub_batch.clone()).is_ok());
        }
        builder.finish()
    };
    measure("entry (zstd-1)", || entry_of(&routed));
    let entry = entry_of(&routed);
    let opened = || Entry::decode(&entry).and_then(|entry| entry.open().map(drop)).is_ok();
    measure("entry open", opened);
    let framed: usize = routed.iter().map(|routed| routed.sub_batch.frame().len()).sum();
    let whole = zstd::bulk::compress(&body, 1).map_or(0, |bytes| bytes.len());
    println!("frames {:.3} of the body", framed as f64 / body.len() as f64);
    println!(
        "entry  {:.3} of the body, {:.1} bytes per span",
        entry.len() as f64 / body.len() as f64,
        entry.len() as f64 / SPANS as f64
    );
    println!(
        "zstd-1 {:.3} of the body when compressed as it came",
        whole as f64 / body.len() as f64
    );
}

/// Runs what the first argument names, or everything.
fn measure<T>(name: &str, mut work: impl FnMut() -> T) {
    if std::env::args()
        .skip(1)
        .any(|wanted| !wanted.starts_with('-') && wanted != name)
    {
        return;
    }
    let mut best = f64::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        black_box(work());
        best = best.min(start.elapsed().as_nanos() as f64);
    }
    println!("{name:16} {:8.1} ns per span", best / SPANS as f64);
}
