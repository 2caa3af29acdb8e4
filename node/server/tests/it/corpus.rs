//! The corpus of the fuzz targets (`fuzz/corpus`), replayed and mutated.

use server::fuzzing;

use crate::replay::replay;

#[test]
fn http_params() {
    replay("http_params", fuzzing::http_params, 5_000, || {
        [
            "/api/search?q=%7B+status+%3D+error+%7D&limit=5&spss=1&start=1700000000&end=1700000100",
            "/api/search?tags=service.name%3D%22a%20b%22+http.status_code%3D500&minDuration=10ms&maxDuration=1h30m",
            "/api/search?service.name=a&x=1&since=15m",
            "/api/v2/search/tag/span.a%252Fb/values?q=%7B.a%3D%60b%60%7D&limit=10&maxStaleValues=3",
            "/api/v2/search/tags?scope=resource&limit=0&start=0&end=0",
            "/api/v2/traces/0af7651916cd43dd8448eb211c80319c?mode=blocks&start=1&end=2",
            "/status/overrides/acme?",
            "?limit=99999999999&limit=1&%00=%ff&a=%zz",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    });
}

#[test]
fn tenant_header() {
    replay("tenant_header", fuzzing::tenant_header, 5_000, || {
        [
            "acme",
            "a|b|a",
            "ok-1_2.3!*'()",
            "..",
            "a/b",
            "",
            &"x".repeat(151),
            "a\u{fc}",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    });
}
