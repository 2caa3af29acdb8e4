//! The language as a whole: printing and reading back, bounds, and texts nobody meant.

use proptest::prelude::*;
use query::Error;
use query::ast::{
    Aggregate, ArithOp, Body, Expr, FirstStage, Function, Hint, LogicOp, MetricsExpr, Pipeline, Query, ScalarExpr,
    ScalarFilter, SecondStage, SpansetExpr, Stage,
};
use query::field::{Field, Intrinsic, Name, PRECEDENCE, Spelling};
use query::limits;
use query::value::{CompareOp, SpanKind, Static, Status};

pub(crate) fn any_field() -> impl Strategy<Value = Field> {
    let key = prop_oneof![
        4 => "[a-z]{1,3}(\\.[a-z]{1,3})?",
        1 => Just("a b".to_owned()),
        1 => Just("5x".to_owned()),
        1 => Just("span.x".to_owned()),
        1 => Just("a\"b\\c".to_owned()),
        1 => Just("-/*+%:".to_owned()),
        1 => Just("ü".to_owned()),
    ];
    let scope = prop_oneof![Just(None), proptest::sample::select(PRECEDENCE.to_vec()).prop_map(Some)];
    let attribute = (scope, key, any::<bool>()).prop_map(|(scope, key, of_parent)| Field {
        of_parent,
        name: Name::Attribute(scope, key.into()),
    });
    let intrinsic = (
        proptest::sample::select(Intrinsic::ALL.to_vec()),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(which, bare, of_parent)| {
            let of_parent = of_parent && which.scoped().is_some();
            let bare = which.scoped().is_none() || (bare && which.bare().is_some() && !of_parent);
            let spelling = if bare { Spelling::Bare } else { Spelling::Scoped };
            Field {
                of_parent,
                name: Name::Intrinsic(which, spelling),
            }
        });
    prop_oneof![attribute, intrinsic]
}

fn any_static() -> impl Strategy<Value = Static> {
    prop_oneof![
        Just(Static::Nil),
        any::<i64>().prop_map(Static::Int),
        (-3..3i64).prop_map(Static::Int),
        any::<f64>()
            .prop_filter("finite", |v| v.is_finite())
            .prop_map(Static::Float),
        ".{0,6}".prop_map(|text| Static::Str(text.into())),
        any::<bool>().prop_map(Static::Bool),
        (-i64::MAX..=i64::MAX).prop_map(Static::Duration),
        (0..100_000i64).prop_map(|ms| Static::Duration(ms * 1_000_000)),
        proptest::sample::select(vec![Status::Ok, Status::Error, Status::Unset]).prop_map(Static::Status),
        proptest::sample::select(SpanKind::ALL.to_vec()).prop_map(Static::Kind),
    ]
}

fn any_compare() -> impl Strategy<Value = CompareOp> {
    use CompareOp::{Eq, Ge, Gt, Le, Lt, Match, Ne, NotMatch};
    // Regexes are rare here because a query may only have 16.
    prop_oneof![
        30 => proptest::sample::select(vec![Eq, Ne, Lt, Le, Gt, Ge]),
        1 => proptest::sample::select(vec![Match, NotMatch]),
    ]
}

fn any_ordered() -> impl Strategy<Value = CompareOp> {
    use CompareOp::{Eq, Ge, Gt, Le, Lt, Ne};
    proptest::sample::select(vec![Eq, Ne, Lt, Le, Gt, Ge])
}

fn any_arith() -> impl Strategy<Value = ArithOp> {
    use ArithOp::{Add, Div, Mod, Mul, Pow, Sub};
    proptest::sample::select(vec![Add, Sub, Mul, Div, Mod, Pow])
}

fn any_expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![any_static().prop_map(Expr::Static), any_field().prop_map(Expr::Field)];
    leaf.prop_recursive(5, 24, 3, |inner| {
        let logic = (any::<bool>(), proptest::collection::vec(inner.clone(), 2..4)).prop_map(|(and, operands)| {
            let op = if and { LogicOp::And } else { LogicOp::Or };
            // The parser keeps runs of one operator flat.
            let mut flat = Vec::new();
            for (i, operand) in operands.into_iter().enumerate() {
                match operand {
                    Expr::Logic(same, inner) if same == op && i == 0 => flat.extend(inner),
                    other => flat.push(other),
                }
            }
            Expr::Logic(op, flat)
        });
        let number = |e: &Expr| {
            matches!(e, Expr::Static(Static::Int(v)) if *v != i64::MIN)
                || matches!(e, Expr::Static(Static::Float(_) | Static::Duration(_)))
        };
        prop_oneof![
            inner.clone().prop_map(|e| Expr::Not(e.into())),
            // A minus before a number is part of the number.
            inner
                .clone()
                .prop_filter("no number", move |e| !number(e))
                .prop_map(|e| Expr::Neg(e.into())),
            logic,
            (any_compare(), inner.clone(), inner.clone()).prop_map(|(op, lhs, rhs)| Expr::Compare {
                op,
                lhs: lhs.into(),
                rhs: rhs.into()
            }),
            (any_arith(), inner.clone(), inner).prop_map(|(op, lhs, rhs)| Expr::Arith {
                op,
                lhs: lhs.into(),
                rhs: rhs.into()
            }),
        ]
    })
}

fn any_scalar(pipeline: BoxedStrategy<Pipeline>) -> impl Strategy<Value = ScalarExpr> {
    use Aggregate::{Avg, Max, Min, Sum};
    let aggregate = prop_oneof![
        Just(ScalarExpr::Aggregate(Aggregate::Count, None)),
        (proptest::sample::select(vec![Avg, Max, Min, Sum]), any_field())
            .prop_map(|(a, f)| ScalarExpr::Aggregate(a, Some(Expr::Field(f)))),
        (pipeline, Just(Aggregate::Count))
            .prop_map(|(p, a)| ScalarExpr::Pipeline(p, ScalarExpr::Aggregate(a, None).into())),
    ];
    (aggregate, proptest::option::of((any_arith(), any_static()))).prop_map(|(left, more)| match more {
        None => left,
        Some((op, value)) => ScalarExpr::Arith {
            op,
            lhs: left.into(),
            rhs: ScalarExpr::Static(value).into(),
        },
    })
}

fn any_pipeline() -> impl Strategy<Value = Pipeline> {
    let filter = proptest::option::of(any_expr()).prop_map(SpansetExpr::Filter).boxed();
    let simple = filter
        .clone()
        .prop_map(|f| Pipeline {
            stages: vec![Stage::Spanset(f)],
        })
        .boxed();
    let spanset = filter.prop_recursive(3, 6, 2, move |inner| {
        let op = (crate::random::any_spanset_op(), inner.clone(), inner.clone()).prop_map(|(op, lhs, rhs)| {
            SpansetExpr::Op {
                op,
                lhs: lhs.into(),
                rhs: rhs.into(),
            }
        });
        // Brackets around a single spanset expression leave no trace in the tree.
        let pipeline = inner.prop_map(|first| {
            SpansetExpr::Pipeline(Pipeline {
                stages: vec![Stage::Spanset(first), Stage::Coalesce],
            })
        });
        prop_oneof![3 => op, 1 => pipeline]
    });
    let stage = prop_oneof![
        spanset.clone().prop_map(Stage::Spanset),
        any_expr().prop_map(Stage::By),
        Just(Stage::Coalesce),
        proptest::collection::vec(any_field(), 1..3).prop_map(Stage::Select),
        (any_ordered(), any_scalar(simple), any_static()).prop_map(|(op, lhs, rhs)| Stage::Scalar(ScalarFilter {
            op,
            lhs,
            rhs: ScalarExpr::Static(rhs)
        })),
    ];
    (spanset, proptest::collection::vec(stage, 0..3)).prop_map(|(first, more)| {
        let mut stages = vec![Stage::Spanset(first)];
        stages.extend(more);
        Pipeline { stages }
    })
}

fn any_metrics() -> impl Strategy<Value = MetricsExpr> {
    let function = prop_oneof![
        Just(Function::Rate),
        any_field().prop_map(Function::MaxOverTime),
        any_field().prop_map(Function::HistogramOverTime),
        (any_field(), proptest::collection::vec(0.0..1.0f64, 1..3)).prop_map(|(f, q)| Function::QuantileOverTime(f, q)),
        (
            proptest::option::of(any_expr()),
            1..20u32,
            proptest::option::of((0..9i64, 9..99i64))
        )
            .prop_map(|(selection, top, window_unix_nanos)| Function::Compare {
                selection,
                top,
                window_unix_nanos
            }),
    ];
    let second = prop_oneof![
        (1..9u32).prop_map(SecondStage::TopK),
        (1..9u32).prop_map(SecondStage::BottomK),
        (any_ordered(), -9..9i64).prop_map(|(op, v)| SecondStage::Filter(op, Static::Int(v))),
    ];
    let second = proptest::collection::vec(second, 0..3);
    let pipeline = (
        any_pipeline(),
        function,
        proptest::collection::vec(any_field(), 0..3),
        second.clone(),
    )
        .prop_map(|(spans, function, by, second)| MetricsExpr::Pipeline {
            spans,
            first: FirstStage { function, by },
            second,
        });
    let op = || proptest::sample::select(vec![ArithOp::Add, ArithOp::Sub, ArithOp::Mul, ArithOp::Div]);
    pipeline.prop_recursive(2, 4, 2, move |inner| {
        prop_oneof![
            (op(), inner.clone(), inner.clone()).prop_map(|(op, lhs, rhs)| MetricsExpr::Math {
                op,
                lhs: lhs.into(),
                rhs: rhs.into()
            }),
            (op(), inner.clone(), -9.0..9.0f64).prop_map(|(op, lhs, v)| MetricsExpr::Math {
                op,
                lhs: lhs.into(),
                rhs: MetricsExpr::Scalar(v).into()
            }),
            (op(), inner.clone(), inner, second.clone()).prop_map(|(op, lhs, rhs, second)| {
                let math = MetricsExpr::Math {
                    op,
                    lhs: lhs.into(),
                    rhs: rhs.into(),
                };
                if second.is_empty() {
                    math
                } else {
                    MetricsExpr::Staged(math.into(), second)
                }
            }),
        ]
    })
}

fn any_query() -> impl Strategy<Value = Query> {
    let body = prop_oneof![
        any_pipeline().prop_map(Body::Search),
        any_metrics().prop_map(Body::Metrics)
    ];
    let hint = ("[a-z_]{1,8}", any_static()).prop_map(|(key, value)| Hint { key, value });
    (body, proptest::collection::vec(hint, 0..2)).prop_map(|(body, hints)| Query { body, hints })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Most of these queries mean nothing, so they are read without the check; what is refused is refused for its size.
    #[test]
    fn a_printed_query_reads_back_as_itself(query in any_query()) {
        let text = query.to_string();
        match query::parse_unchecked(&text) {
            Ok(again) => prop_assert_eq!(again, query, "{}", text),
            Err(Error::Parse { message, .. }) => {
                prop_assert!(message.contains("more than") || message.contains("deeper"), "{}: {}", text, message);
            }
            Err(other) => prop_assert!(false, "{}: {}", text, other),
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[{}()|&<>!=~.,\"`a-z0-9 +*/%^:-]{0,60}") {
        let _ = query::parse(&text);
        let _ = query::parse_lenient(&text);
        let _ = query::parse_field(&text);
    }

    #[test]
    fn no_mutilated_query_makes_the_parser_panic(query in any_query(), cut in any::<prop::sample::Index>()) {
        let text = query.to_string();
        let at = text.char_indices().map(|(i, _)| i).nth(cut.index(text.chars().count().max(1))).unwrap_or(0);
        let _ = query::parse(&text[..at]);
        let _ = query::parse(&text[at..]);
        let _ = query::parse_lenient(&text[..at]);
        let _ = query::parse_lenient(&text[at..]);
    }
}

fn refused(text: &str) -> String {
    query::parse(text).map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
}

#[test]
fn the_length_of_a_query_is_bounded() {
    let of_length = |length: usize| format!("{{ }}{}", " ".repeat(length - 3));
    assert_eq!(refused(&of_length(limits::QUERY_BYTES_MAX - 1)), "accepted");
    assert_eq!(refused(&of_length(limits::QUERY_BYTES_MAX)), "accepted");
    assert_eq!(
        refused(&of_length(limits::QUERY_BYTES_MAX + 1)),
        "query is 131073 bytes long, the limit is 131072"
    );
}

#[test]
fn nesting_is_bounded() {
    let brackets = |n: usize| format!("{{ {}.a{} }}", "(".repeat(n), ")".repeat(n));
    assert_eq!(refused(&brackets(63)), "accepted");
    assert_eq!(refused(&brackets(64)), "accepted");
    assert_eq!(
        refused(&brackets(65)),
        "parse error at line 1, col 67: query nests deeper than 64 levels"
    );
    let spansets = |n: usize| format!("{}{{ }}{}", "(".repeat(n), ")".repeat(n));
    assert_eq!(refused(&spansets(64)), "accepted");
    assert!(refused(&spansets(65)).ends_with("query nests deeper than 64 levels"));
    let sums = |n: usize| format!("{{ 1{} = .a }}", " + .a".repeat(n));
    assert_eq!(refused(&sums(62)), "accepted");
    assert!(refused(&sums(64)).ends_with("expression nests deeper than 64 levels"));
    assert!(refused(&format!("{{ {}.a = 1 }}", "-".repeat(100_000))).ends_with("query nests deeper than 64 levels"));
    assert!(refused(&format!("{{ .a = 1{} }}", " ^ 2".repeat(30_000))).ends_with("query nests deeper than 64 levels"));
}

#[test]
fn long_runs_of_one_operator_are_not_nesting() {
    let ors = format!("{{ .a = 0{} }}", " || .a = 1".repeat(10_000));
    assert_eq!(refused(&ors), "accepted");
}

#[test]
fn the_number_of_spansets_stages_and_patterns_is_bounded() {
    let spansets = |n: usize| vec!["{ }"; n].join(" || ");
    assert_eq!(refused(&spansets(63)), "accepted");
    assert_eq!(refused(&spansets(64)), "accepted");
    assert!(refused(&spansets(65)).ends_with("query has more than 64 spanset filters"));
    let stages = |n: usize| format!("{{ }}{}", " | coalesce()".repeat(n - 1));
    assert_eq!(refused(&stages(127)), "accepted");
    assert_eq!(refused(&stages(128)), "accepted");
    assert!(refused(&stages(129)).ends_with("query has more than 128 pipeline stages"));
    let patterns = |n: usize| format!("{{ {} }}", vec![".a =~ \"x\""; n].join(" && "));
    assert_eq!(refused(&patterns(15)), "accepted");
    assert_eq!(refused(&patterns(16)), "accepted");
    assert!(refused(&patterns(17)).ends_with("query has more than 16 regular expressions"));
    assert!(refused("{ .a =~ `(a{1000}){1000}` }").starts_with("invalid regular expression"));
}

#[test]
fn the_number_of_groups_quantiles_and_tops_is_bounded() {
    let list = |n: usize| (0..n).map(|i| format!(".a{i}")).collect::<Vec<_>>().join(", ");
    let quantiles = |n: usize| ", .5".repeat(n);
    let (by, few) = (limits::METRICS_BY_MAX, limits::METRICS_BY_BUCKETED_MAX);
    let (at_most, top) = (limits::QUANTILES_MAX, limits::COMPARE_TOP_MAX as usize);
    type Ask<'a> = &'a dyn Fn(usize) -> String;
    let cases: [(usize, Ask<'_>, &str); 5] = [
        (
            by,
            &|n| format!("{{ }} | rate() by({})", list(n)),
            "rate takes at most 5 by() attributes",
        ),
        (
            few,
            &|n| format!("{{ }} | histogram_over_time(duration) by({})", list(n)),
            "histogram_over_time takes at most 4 by() attributes",
        ),
        (
            few,
            &|n| format!("{{ }} | quantile_over_time(duration, .5) by({})", list(n)),
            "quantile_over_time takes at most 4 by() attributes",
        ),
        (
            at_most,
            &|n| format!("{{ }} | quantile_over_time(duration{})", quantiles(n)),
            "more than 32 quantiles",
        ),
        (
            top,
            &|n| format!("{{ }} | compare({{ status = error }}, {n})"),
            "compare() topN must be between 1 and 1000",
        ),
    ];
    for (limit, ask, why) in cases {
        assert_eq!(refused(&ask(limit - 1)), "accepted");
        assert_eq!(refused(&ask(limit)), "accepted");
        assert!(refused(&ask(limit + 1)).contains(why), "{}", refused(&ask(limit + 1)));
    }
}

#[test]
fn refusals_quote_so_much_and_no_more() {
    let quoting = |n: usize| refused(&format!("{{ name = 1 || .x = `{}` }}", "é".repeat(n)));
    let wrong = "binary operations must operate on the same type: name = 1 (line 1, col 3)";
    assert_eq!(quoting(100_000 / 2), wrong);
    let pattern = |n: usize| refused(&format!("{{ .a =~ `({}` }}", "é".repeat(n)));
    let head = "invalid regular expression (unclosed group at character 1): \"(";
    let room = limits::REFUSAL_CHARS_MAX - head.len();
    let place = " (line 1, col 9)";
    assert_eq!(pattern(room - 1), format!("{head}{}\"{place}", "é".repeat(room - 1)));
    assert_eq!(pattern(room), format!("{head}{}…{place}", "é".repeat(room)));
    assert_eq!(pattern(60_000), format!("{head}{}…{place}", "é".repeat(room)));
    let unknown = refused(&format!("{{ {} = 1 }}", "x".repeat(100_000)));
    assert!(unknown.ends_with("xxx…") && unknown.chars().count() < 2 * limits::REFUSAL_CHARS_MAX);
    assert!(unknown.starts_with("parse error at line 1, col 3: unknown identifier: xxx"));
}
