//! pyarrow and DuckDB read every column of a block and see what we wrote.
//!
//! Needs a Python with both, in a virtual environment under `~/.cache/vivace`; made there when it can be, else the test
//! says loudly that it was skipped: past the harness's capture, and in the list that `.ci/run` prints at its end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use block::Columns;
use model::column::slice_at;
use model::{ValueRef, ValueType};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use support::*;

/// The interpreter with both libraries, if there is or can be one.
fn python() -> Option<PathBuf> {
    let home = PathBuf::from(std::env::var_os("HOME")?);
    let venv = home.join(".cache/vivace/parquet-readers");
    let python = venv.join("bin/python");
    let works = || {
        Command::new(&python)
            .args(["-c", "import pyarrow, duckdb"])
            .status()
            .is_ok_and(|s| s.success())
    };
    if works() {
        return Some(python);
    }
    let made = Command::new("python3")
        .args(["-m", "venv"])
        .arg(&venv)
        .status()
        .is_ok_and(|s| s.success())
        && Command::new(venv.join("bin/pip"))
            .args(["install", "-q", "pyarrow", "duckdb"])
            .status()
            .is_ok_and(|s| s.success());
    (made && works()).then_some(python)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn show(value: Option<ValueRef<'_>>) -> String {
    match value {
        None => "-".into(),
        Some(ValueRef::String(text)) => String::from_utf8_lossy(text).into_owned(),
        Some(ValueRef::Int(n)) => n.to_string(),
        Some(ValueRef::Double(n)) => format!("{n:.6}"),
        Some(ValueRef::Bool(b)) => b.to_string(),
        Some(ValueRef::Raw(raw)) => hex(raw),
    }
}

/// As `e2e`'s own: `eprintln!` would say it to the harness alone, which keeps what tests that pass have said.
fn skipped() {
    let line = "SKIPPED: block foreign: no Python with pyarrow and duckdb; `pip install pyarrow duckdb` into \
                ~/.cache/vivace/parquet-readers\n";
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("VIVACE_SKIPPED_LIST")
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = file.write_all(line.as_bytes());
    }
}

#[test]
fn every_column_reads_the_same_everywhere() {
    let Some(python) = python() else {
        return skipped();
    };
    let mut spans = sample_spans(20_000);
    let attribute = |key: &str, value| KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..Default::default()
    };
    for (i, owned) in spans.iter_mut().enumerate() {
        if i % 3 == 0 {
            owned
                .span
                .attributes
                .push(attribute("ratio", Value::DoubleValue(i as f64 / 7.0)));
        }
        if i % 2 == 0 {
            owned
                .span
                .attributes
                .push(attribute("cached", Value::BoolValue(i % 4 == 0)));
        }
        owned.resource = [0, 2, 2, 2, 3][i % 5];
        if i % 97 == 0 {
            owned.span.parent_span_id = vec![0xee; 8];
        }
    }
    let (bytes, block) = write(&[(&tenant("acme"), &[&table(&spans)])]);
    let path = std::env::temp_dir().join(format!("vivace-block-{}.parquet", std::process::id()));
    std::fs::write(&path, &bytes).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign_readers.py");
    let output = Command::new(python).arg(script).arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();

    let expected = expected(&bytes, &block);
    let (pyarrow, duckdb) = printed
        .strip_prefix("== pyarrow\n")
        .unwrap()
        .split_once("== duckdb\n")
        .unwrap();
    for (reader, lines) in [("pyarrow", pyarrow), ("duckdb", duckdb)] {
        assert_eq!(lines.lines().count(), expected.len(), "{reader}");
        for (row, (read, wanted)) in lines.lines().zip(&expected).enumerate() {
            assert_eq!(read, wanted, "{reader}, row {row}");
        }
    }
}

/// What the lines must say, from our own reader (which the round-trip tests hold to the table).
fn expected(bytes: &[u8], block: &block::BlockSummary) -> Vec<String> {
    let opened = open(bytes, block, 0).unwrap();
    let mut lines = Vec::new();
    for group in 0..opened.index().fences().len() {
        let group = wait(opened.row_group(group, Columns::All)).unwrap();
        let rows = group.all_spans().unwrap();
        let view = rows.view();
        let (desc, up) = group.structure().unwrap();
        let mut trace_start = vec![u64::MAX; view.traces.len()];
        let mut root = vec![None; view.traces.len()];
        for row in 0..rows.len() {
            let trace = view.trace[row] as usize;
            trace_start[trace] = trace_start[trace].min(view.start[row]);
            if view.parent_span_id[row] == [0; 8] {
                root[trace] = root[trace].or(Some(row));
            }
        }
        for row in 0..rows.len() as u32 {
            let at = row as usize;
            let parts = view.parts(row);
            let trace = view.trace[at] as usize;
            let attribute = |key: &[u8], value_type: ValueType| {
                let column = view
                    .attributes
                    .iter()
                    .find(|a| a.key == key && a.value_type == value_type);
                show(column.and_then(|a| a.value(row)))
            };
            let sparse = |bytes: &[u8]| if bytes.is_empty() { "-".into() } else { hex(bytes) };
            let explicit = if up[at] == 0 && parts.parent_span_id != [0; 8] {
                hex(&parts.parent_span_id)
            } else {
                "-".into()
            };
            let service = rows.resource(row);
            let service = if slice_at(&[0, service.len() as u32], service, 0)
                .windows(4)
                .any(|w| w == b"shop")
            {
                "shop"
            } else {
                "-"
            };
            let message = String::from_utf8_lossy(parts.status_message).into_owned();
            lines.push(
                [
                    hex(&parts.trace_id),
                    hex(&parts.span_id),
                    explicit,
                    desc[at].to_string(),
                    up[at].to_string(),
                    trace_start[trace].to_string(),
                    (parts.start_unix_nanos - trace_start[trace]).to_string(),
                    (parts.start_unix_nanos / 1_000_000_000).to_string(),
                    parts.duration_nanos.to_string(),
                    block::format::duration::bucket(parts.duration_nanos).to_string(),
                    parts.kind.to_string(),
                    (i32::from(parts.status) - 1).to_string(),
                    String::from_utf8_lossy(parts.name).into_owned(),
                    service.into(),
                    view.resource[at].to_string(),
                    root[trace].map_or("-".into(), |r| {
                        String::from_utf8_lossy(view.names.get(view.name[r] as usize)).into_owned()
                    }),
                    if message.is_empty() { "-".into() } else { message },
                    sparse(parts.events),
                    attribute(b"http.method", ValueType::String),
                    attribute(b"http.status_code", ValueType::Int),
                    attribute(b"request.id", ValueType::String),
                    attribute(b"ratio", ValueType::Double),
                    attribute(b"cached", ValueType::Bool),
                    sparse(view.tail.get(row)),
                ]
                .join(" "),
            );
        }
    }
    lines
}
