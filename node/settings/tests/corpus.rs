//! The corpus of the fuzz target (`fuzz/corpus`), replayed and mutated.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn settings_yaml() {
    replay::replay("settings_yaml", settings::fuzzing::settings_yaml, 500, || {
        [
            include_str!("../example.yaml"),
            "flush: {tail_age: 30s}\nlimits: {tenants: {acme: {retention: 3d}}}",
            "limits: {defaults: {ingest_rate: 1GB}, tenants: {'a*b': {attribute_oversize: reject, trace_spans_max: 7}}}",
            "storage: {type: S3, prefix: a/b, s3: {bucket: b, endpoint: 'http://x', allow_http: true}}",
            "a: &x [1, 2]\nb: *x\n? {c: d}\n: |\n  text\n",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    });
}
