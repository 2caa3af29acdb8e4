//! Blocks are plain Parquet: what the node wrote is read by pyarrow and by DuckDB, which share no code with it.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::json;
use vivace_e2e::client::{Otlp, Reply, hex};
use vivace_e2e::ledger::Ledger;
use vivace_e2e::skip::skipped;
use vivace_e2e::spans::{SpanKey, Workload};
use vivace_e2e::tools::Tool;

use crate::fixture::{eventually, fixture, send};

const SPANS: u64 = 4_000;

/// Prints one line per reader: its name, the number of rows, the distinct span ids in hex.
const READER: &str = r#"
import sys
import pyarrow.parquet as parquet
import duckdb

files = sys.argv[1:]
rows, ids = 0, set()
for file in files:
    table = parquet.ParquetFile(file, page_checksum_verification=True).read()
    rows += table.num_rows
    ids |= {value.hex() for value in table.column("span_id").to_pylist()}
print("pyarrow", rows, ",".join(sorted(ids)))

found = duckdb.execute("select lower(hex(span_id)) from read_parquet($files, union_by_name = true)", {"files": files}).fetchall()
print("duckdb", len(found), ",".join(sorted({row[0] for row in found})))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_read_by_other_programs() {
    let python = match Tool::Readers.obtain() {
        Ok(python) => python,
        Err(reason) => return skipped("formats::readers", &reason),
    };
    let Some(fixture) = fixture("formats::readers", json!({"compaction": {"enabled": false}})) else {
        return;
    };
    let ledger = Ledger::new(Workload::starting_now(4), [(0, "single-tenant".to_owned())]);
    let node = fixture.start().await;
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    for batch in 0..SPANS / 500 {
        assert_eq!(send(&mut otlp, &ledger, 0, batch * 500, 500).await, Reply::Accepted);
    }

    let wanted: BTreeSet<String> = (0..SPANS)
        .map(|seq| hex(&ledger.workload().span_id(SpanKey { client: 0, seq })))
        .collect();
    let mut last = String::new();
    eventually("blocks with every span", 90, async || {
        let files = fixture.parquet_files();
        if files.is_empty() {
            return false;
        }
        let output = Command::new(&python)
            .args(["-c", READER])
            .args(&files)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        last = String::from_utf8(output.stdout).unwrap();
        last.lines()
            .next()
            .is_some_and(|line| line.split(' ').nth(1) == Some(&SPANS.to_string()))
    })
    .await;

    let mut readers = Vec::new();
    for line in last.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[1], SPANS.to_string(), "{}: every span in one row", words[0]);
        let found: BTreeSet<String> = words[2].split(',').map(str::to_owned).collect();
        assert_eq!(found, wanted, "{}", words[0]);
        readers.push(words[0]);
    }
    assert_eq!(readers, ["pyarrow", "duckdb"]);
    node.stop().await.unwrap();
}
