//! Filters of unfinished queries lose nothing: whatever is put where a query is unfinished, the spans of its answer satisfy
//! the filter that was read from what was typed. The naive evaluator says what the answer is and who satisfies the filter.
//!
//! A text that is cut off where it could also end is read as if it ended there; such cuts are not made here.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use query::ast::{Body, Query, SpansetExpr, Stage};
use query::value::Static;

use crate::naive;
use crate::random::{any_scalar_filter, any_spans, any_spanset_op, any_term};
use crate::spans::Span;

/// Queries beyond it take the naive evaluator too long.
const FUZZED_TEXT_MAX: usize = 512;

/// A query, and the same before one of its conditions was typed to the end.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    spans: Vec<Span>,
    finished: String,
    typed: String,
}

/// Conditions joined left to right, each with what stands before it.
type Conditions = Vec<(&'static str, String)>;

fn any_conditions() -> impl Strategy<Value = Conditions> {
    let term = any_term().prop_map(|term| if term.contains("||") { format!("({term})") } else { term });
    let op = proptest::sample::select(vec!["&&", "||"]);
    proptest::collection::vec((op, term), 1..4)
}

fn any_case() -> impl Strategy<Value = Case> {
    let spansets = proptest::collection::vec((any_spanset_op(), any_conditions()), 1..3);
    let stage = prop_oneof![
        2 => any_scalar_filter(),
        1 => proptest::sample::select(vec!["rate() by (name)", "compare({ .x = 1 }, 10)"]).prop_map(str::to_owned),
    ];
    let stage = proptest::option::of(stage);
    let place = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<bool>(),
    );
    (any_spans(), spansets, stage, place).prop_map(|(spans, spansets, stage, (hole, cut, is_open))| {
        let count: usize = spansets.iter().map(|(_, conditions)| conditions.len()).sum();
        let hole = hole.index(count);
        let is_open = is_open && hole + 1 == count;
        let (mut finished, mut typed, mut at) = (String::new(), String::new(), 0);
        for (number, (op, conditions)) in spansets.iter().enumerate() {
            let between = if number == 0 {
                String::new()
            } else {
                format!(" {} ", op.symbol())
            };
            for text in [&mut finished, &mut typed] {
                *text += &between;
                *text += "{ ";
            }
            for (number, (op, condition)) in conditions.iter().enumerate() {
                let between = if number == 0 { String::new() } else { format!(" {op} ") };
                finished += &format!("{between}{condition}");
                typed += &between;
                typed += if at == hole {
                    unfinished(condition, cut, is_open)
                } else {
                    condition
                };
                at += 1;
            }
            finished += " }";
            if !is_open || at <= hole {
                typed += " }";
            }
        }
        if let Some(stage) = stage {
            finished += &format!(" | {stage}");
            if !is_open {
                typed += &format!(" | {stage}");
            }
        }
        Case { spans, finished, typed }
    })
}

/// The beginning of a condition, which is none by itself, and leaves nothing open that what follows would be a part of.
fn unfinished(condition: &str, cut: prop::sample::Index, is_open: bool) -> &str {
    let begun = &condition[..cut.index(condition.len())];
    let count = |wanted: char| begun.chars().filter(|other| *other == wanted).count();
    let is_balanced = count('"') % 2 == 0 && count('(') == count(')');
    let is_one = query::parse(&format!("{{ {begun} }}")).is_ok();
    if is_one || !(is_open || is_balanced) { "" } else { begun }
}

/// Every span that `query` finds or measures satisfies the filter of `typed`.
fn implied(query: &Query, typed: &str, spans: &[Span]) -> Result<(), TestCaseError> {
    let pipeline = match &query.body {
        Body::Search(pipeline) => Some(pipeline),
        Body::Metrics(metrics) => metrics.single_pipeline(),
    };
    let (Some(pipeline), Some(filter)) = (pipeline, query::parse_lenient(typed)) else {
        return Ok(());
    };
    for trace in naive::traces(spans) {
        for at in trace.run(pipeline).into_iter().flat_map(|set| set.spans) {
            let kept = trace.value(&filter, at).0.contains(&Static::Bool(true));
            prop_assert!(
                kept,
                "{typed}\nis read as {filter}\nand loses {:?}\nof {query}",
                trace.spans[at]
            );
        }
    }
    Ok(())
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let Ok(query) = query::parse(&case.finished) else {
        return Ok(());
    };
    implied(&query, &case.finished, &case.spans)?;
    implied(&query, &case.typed, &case.spans)
}

/// A whole query is read as what it asks: one filter as exactly that.
fn check_whole(text: &str, spans: &[Span]) -> Result<(), TestCaseError> {
    let Ok(query) = query::parse(text) else { return Ok(()) };
    if let Body::Search(pipeline) = &query.body
        && let [Stage::Spanset(SpansetExpr::Filter(filter))] = &pipeline.stages[..]
    {
        prop_assert_eq!(&query::parse_lenient(text), filter);
    }
    implied(&query, text, spans)
}

/// For a fuzzer: eight bytes throw the dice for spans and an unfinished query, the rest is a text of its own.
pub(crate) fn traceql_lenient(bytes: &[u8]) {
    let Some((dice, text)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    query::fuzzing::traceql_lenient(text);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(dice);
    let dice = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), dice);
    let Ok(tree) = any_case().new_tree(&mut runner) else {
        return;
    };
    let case = tree.current();
    let whole = match std::str::from_utf8(text) {
        Ok(text) if text.len() <= FUZZED_TEXT_MAX => check_whole(text, &case.spans),
        _ => Ok(()),
    };
    if let Err(error) = whole.and_then(|()| check(&case)) {
        panic!("{error}\n{case:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn what_a_query_finds_satisfies_its_unfinished_forms(case in any_case()) {
        check(&case)?;
    }
}
