//! The corpus of the fuzz target (`fuzz/corpus`), replayed and mutated.

use crate::replay::replay;

#[test]
fn traceql_parse() {
    replay("traceql_parse", query::fuzzing::traceql_parse, 5_000, || {
        [
            "{}",
            "{ span.http.status_code >= 500 && duration > 100ms } | count() > 2",
            "{ .a = \"x\\n\" || resource.service.name =~ \"a.*|b\" } >> { status = error } && { kind != server }",
            "({ name = `raw` } | avg(duration) > 1.5s) || { event:name = \"e\" && link:traceID = \"0\" }",
            "{ !(.x = nil) && -duration < -3 * 2 ^ 2 % 5 } | by(resource.a) | coalesce() | select(span.b, name)",
            "{ traceDuration > 1h30m && rootName !~ \"x\" } &>> { parent.a = true } !< { instrumentation:name = \"i\" }",
            "{ status = error } | rate() by (resource.service.name, span.http.route) with (exemplars=true)",
            "{ } | quantile_over_time(duration, .5, .99, 1) by (name) | topk(5)",
            "{ } | compare({ status = error }, 10, 1, 2)",
            "{ .a = ",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    });
}

#[test]
fn traceql_lenient() {
    replay("traceql_lenient", crate::lenient::traceql_lenient, 1_000, || {
        [
            "{}",
            "{ .a = ",
            "{ resource.service.name = \"a\" && span.b = }",
            "{ status = error && .x =~ \"a.*\" || name != `raw` && duration > 1.5s }",
            "{ .a = 1 && (.b = 2 || .c = 3) && .d",
            "{ .a = 1 } >> { .b = 2 } | count() > 1",
            "{ .\"quoted name\" = -1e3 && kind = server && event:name = \"e\" && \"unfinished",
        ]
        .iter()
        .enumerate()
        .map(|(n, text)| [&[n as u8 + 1; 8][..], text.as_bytes()].concat())
        .collect()
    });
}

#[test]
fn traceql_eval_vs_naive() {
    replay(
        "traceql_eval_vs_naive",
        crate::equivalence::traceql_eval_vs_naive,
        1_000,
        || {
            [
                "",
                "{ .x = 1 || parent.yy != \"a\" }",
                "{ name =~ \"a.*\" } >> { .x > 0 } | count() >= 1",
                "({ event.x = 1 } && { link.yy = \"b\" }) || { nestedSetParent < 0 }",
                "{ } | by(.x) | avg(duration) > 1ns | coalesce() | select(span.yy, event:name)",
                "{ .x ^ 2 - -span.yy * 3 % 2 >= duration / 2 }",
                "({ } | max(.x)) + min(resource.x) > ({ status = error } | count()) / 2",
                "{ rootName = \"a\" && traceDuration > 2ns } !< { parent = nil }",
                "{ kind = server } &~ { span:childCount = 0 } | { !(.z = true) }",
                "{ statusMessage != nil && instrumentation:name = \"a\" } << { instrumentation.x != 2 }",
            ]
            .iter()
            .enumerate()
            .map(|(n, text)| [&[n as u8 + 1; 8][..], text.as_bytes()].concat())
            .collect()
        },
    );
}
