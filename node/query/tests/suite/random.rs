//! Random spans and random queries, for whoever holds an engine against the naive evaluator.
//!
//! The shard's tests include this file, `spans` and `naive` by path: the same dice for chunks in memory and for blocks.

use std::collections::BTreeMap;

use model::Value;
use proptest::prelude::*;
use query::ast::{Flavour, Relation, SpansetOp};

use crate::spans::{Event, Link, Span};

fn any_value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        4 => (0..4i64).prop_map(Value::Int),
        4 => proptest::sample::select(vec!["a", "b", "ab"]).prop_map(|t| Value::String(t.to_owned())),
        1 => proptest::sample::select(vec![0.5, 1.0, 2.0]).prop_map(Value::Double),
        1 => any::<bool>().prop_map(Value::Bool),
    ];
    let list = prop_oneof![
        proptest::collection::vec((0..4i64).prop_map(Value::Int), 0..3),
        proptest::collection::vec(
            proptest::sample::select(vec!["a", "b", "ab"]).prop_map(|t| Value::String(t.to_owned())),
            0..3
        ),
    ];
    prop_oneof![8 => scalar, 1 => list.prop_map(Value::Array)]
}

fn any_attributes() -> impl Strategy<Value = Vec<(String, Value)>> {
    let key = proptest::sample::select(vec!["x", "yy", "z"]);
    proptest::collection::btree_map(key, any_value(), 0..3)
        .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

fn any_span() -> impl Strategy<Value = Span> {
    let ids = (1..5u8, 0..9u8);
    let time = (0..6u64, -1..5i64);
    let core = (
        proptest::sample::select(vec!["a", "b", "ab"]),
        0..6i64,
        0..3i64,
        prop_oneof![Just(""), Just("a")],
    );
    let event = (proptest::sample::select(vec!["a", "b"]), -1..3i64, any_attributes()).prop_map(
        |(name, since_start, attributes)| Event {
            name: name.to_owned(),
            since_start,
            attributes,
        },
    );
    let link = (1..3u8, 1..3u8, any_attributes()).prop_map(|(trace, span, attributes)| Link {
        trace,
        span,
        attributes,
    });
    let owners = (0..3usize, 0..2usize, any_attributes());
    let lists = (
        proptest::collection::vec(event, 0..3),
        proptest::collection::vec(link, 0..2),
    );
    (ids, time, core, any_attributes(), owners, lists).prop_map(
        |((trace, parent), (start, duration), (name, kind, status, message), attributes, owners, (events, links))| {
            let (resource, library, library_attributes) = owners;
            let service = |name: &str| ("service.name".to_owned(), Value::String(name.to_owned()));
            let resource = match resource {
                0 => vec![],
                1 => vec![service("a"), ("x".to_owned(), Value::Int(1))],
                _ => vec![service("b"), ("yy".to_owned(), Value::String("b".to_owned()))],
            };
            Span {
                trace,
                id: 0,
                parent,
                start: 1_000 + start,
                duration,
                name: name.to_owned(),
                kind,
                status,
                message: message.to_owned(),
                attributes,
                resource,
                library: if library == 0 {
                    (String::new(), String::new())
                } else {
                    ("a".into(), "b".into())
                },
                library_attributes: if library == 0 { vec![] } else { library_attributes },
                events,
                links,
            }
        },
    )
}

/// Up to 24 spans in up to four traces, with roots, orphans, cycles and the odd double root. Ids differ within a trace.
pub(crate) fn any_spans() -> impl Strategy<Value = Vec<Span>> {
    proptest::collection::vec(any_span(), 1..24).prop_map(|mut spans| {
        let mut next: BTreeMap<u8, u8> = BTreeMap::new();
        for span in &mut spans {
            let id = next.entry(span.trace).or_insert(0);
            *id += 1;
            span.id = *id;
        }
        spans
    })
}

pub(crate) fn any_term() -> impl Strategy<Value = String> {
    let field = proptest::sample::select(vec![
        ".x",
        ".yy",
        "span.x",
        "span.yy",
        "resource.x",
        "event.x",
        "link.yy",
        "instrumentation.x",
        "parent.x",
        "parent.span.yy",
        ".z",
    ]);
    let literal = proptest::sample::select(vec!["0", "1", "2", "1.0", "0.5", "\"a\"", "\"b\"", "true", "2ns"]);
    let op = proptest::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let fixed = proptest::sample::select(vec![
        "true",
        "name = \"a\"",
        "name != \"a\"",
        "name =~ \"a.*\"",
        "name !~ \".*b\"",
        "kind = server",
        "kind != client",
        "status = error",
        "status != unset",
        "duration > 1ns",
        "duration = 0s",
        "duration * 2 > 3ns",
        ".x =~ \"a|b\"",
        ".yy !~ \"a\"",
        "event.yy !~ \"a\"",
        ".x = nil",
        "span.x != nil",
        "event.x = nil",
        "event:name = \"a\"",
        "event:name != \"a\"",
        "event:timeSinceStart > 0s",
        "event:timeSinceStart * 2 < 2ns",
        "link:spanID = \"1\"",
        "link:traceID != nil",
        "nestedSetParent < 0",
        "nestedSetParent = -1",
        "nestedSetLeft > 2",
        "nestedSetRight < 6",
        "span:childCount > 0",
        "parent = nil",
        "parent != nil",
        "span:parentID = nil",
        "name != nil",
        "nil != status",
        "kind != nil",
        "statusMessage != nil",
        "duration != nil",
        "rootName != nil",
        "nestedSetLeft != nil",
        "instrumentation:version != nil",
        "resource.service.name != nil",
        "span:parentID != nil",
        "span:id != \"b000000000000001\"",
        "span:id = \"b000000000000002\"",
        "rootName = \"a\"",
        "rootServiceName != \"b\"",
        "traceDuration > 4ns",
        "trace:id = \"a0a0a0a0a0a0a0a0a0a0a0a0a0a0a002\"",
        "statusMessage = \"a\"",
        "statusMessage != \"a\"",
        "instrumentation:name = \"a\"",
        "instrumentation:version != \"b\"",
        ".x",
        "!.x",
        ".x + 1 = span.yy",
        ".x > resource.x",
        "span.x = span.yy",
        "span.x != .z",
        "-.x < 0",
        ".x ^ 2 > 1",
        ".x / 2 = 1",
        ".x % 2 = 0",
        "parent.span:name = \"a\"",
        "parent.span:duration < duration",
        "parent.resource.service.name != resource.service.name",
        "parent.x = nil",
        "(.x = 1) = (.yy = 1)",
        "resource.service.name = \"a\" || resource.service.name = \"b\"",
        "1 < .x",
        "kind = 2",
        "status > 0 || status = 2",
    ]);
    prop_oneof![
        2 => (field, op, literal).prop_map(|(f, o, l)| format!("{f} {o} {l}")),
        3 => fixed.prop_map(str::to_owned),
    ]
}

pub(crate) fn any_filter() -> impl Strategy<Value = String> {
    let term = any_term();
    let negated = (any::<bool>(), term).prop_map(|(not, term)| if not { format!("!({term})") } else { term });
    let joined = negated.prop_recursive(2, 4, 2, |inner| {
        (inner.clone(), any::<bool>(), inner)
            .prop_map(|(a, and, b)| format!("({a}) {} ({b})", if and { "&&" } else { "||" }))
    });
    prop_oneof![1 => Just("{ }".to_owned()), 6 => joined.prop_map(|inner| format!("{{ {inner} }}"))]
}

pub(crate) fn any_scalar_filter() -> impl Strategy<Value = String> {
    let aggregate = prop_oneof![
        Just("count()".to_owned()),
        (
            proptest::sample::select(vec!["min", "max", "avg", "sum"]),
            proptest::sample::select(vec![
                ".x",
                "duration",
                "span.yy",
                "event.x",
                "duration + 1ns",
                "parent.x"
            ])
        )
            .prop_map(|(f, e)| format!("{f}({e})")),
        any_filter().prop_map(|filter| format!("({filter} | count())")),
        any_filter().prop_map(|filter| format!("({filter} | max(duration))")),
    ];
    let op = proptest::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let rhs = prop_oneof![
        3 => proptest::sample::select(vec!["0", "1", "2", "1.5", "2ns"]).prop_map(str::to_owned),
        1 => aggregate.clone(),
    ];
    let plus = proptest::option::of(proptest::sample::select(vec!["+ 1", "* 2", "- 1", "/ 2"]));
    (aggregate, plus, op, rhs).prop_map(|(a, plus, op, rhs)| format!("{a} {} {op} {rhs}", plus.unwrap_or_default()))
}

pub(crate) fn any_query() -> impl Strategy<Value = String> {
    let spanset = any_filter().prop_recursive(2, 3, 2, |inner| {
        let op = any_spanset_op().prop_map(|op| op.symbol());
        prop_oneof![
            3 => (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
            1 => (inner, any_scalar_filter()).prop_map(|(a, s)| format!("({a} | {s})")),
        ]
    });
    let by = proptest::sample::select(vec![
        "by(name)",
        "by(.x)",
        "by(resource.service.name)",
        "by(status)",
        "by(duration + 1ns)",
        "by(parent.x)",
        "by(event.x)",
    ]);
    let stage = prop_oneof![
        2 => spanset.clone(),
        2 => by.prop_map(str::to_owned),
        1 => Just("coalesce()".to_owned()),
        1 => Just("select(.x, kind, event:name, parent.span:name, nestedSetParent)".to_owned()),
        3 => any_scalar_filter(),
    ];
    let first = prop_oneof![4 => spanset, 1 => any_scalar_filter(), 1 => Just("by(name)".to_owned())];
    (first, proptest::collection::vec(stage, 0..3)).prop_map(|(first, more)| {
        let stages: Vec<String> = std::iter::once(first).chain(more).collect();
        stages.join(" | ")
    })
}

pub(crate) fn any_spanset_op() -> impl Strategy<Value = SpansetOp> {
    use Relation::{Ancestor, Child, Descendant, Parent, Sibling};
    let relation = proptest::sample::select(vec![Child, Descendant, Parent, Ancestor, Sibling]);
    let flavour = proptest::sample::select(vec![Flavour::Plain, Flavour::Negated, Flavour::Union]);
    prop_oneof![
        Just(SpansetOp::And),
        Just(SpansetOp::Or),
        (relation, flavour).prop_map(|(relation, flavour)| SpansetOp::Structural(relation, flavour)),
    ]
}

pub(crate) fn any_metrics() -> impl Strategy<Value = String> {
    let function = proptest::sample::select(vec![
        "rate()",
        "count_over_time()",
        "min_over_time(duration)",
        "max_over_time(.x)",
        "sum_over_time(span.yy)",
        "sum_over_time(.x)",
        "avg_over_time(duration)",
        "sum_over_time(event:timeSinceStart)",
        "quantile_over_time(duration, 0.5, 0.9)",
        "quantile_over_time(.x, 0, 1)",
        "max_over_time(parent.x)",
        "min_over_time(traceDuration)",
    ]);
    let by = proptest::sample::select(vec![
        "",
        "by(name)",
        "by(resource.service.name)",
        "by(.x)",
        "by(status, kind)",
        "by(span.x, resource.yy)",
        "by(rootName)",
        "by(event.x)",
        "by(parent.name)",
        "by(.yy, name, span.z)",
    ]);
    // Mostly all spans, so that chunks have something to merge.
    let spans = prop_oneof![2 => Just("{ }".to_owned()), 1 => any_query()];
    (spans, function, by).prop_map(|(spans, function, by)| format!("{spans} | {function} {by}"))
}
