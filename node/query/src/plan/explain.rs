//! Plans as text, for people who ask why a query is slow.

use std::fmt::Write as _;

use super::{Plan, Scalar, ScalarStep, SearchPlan, SpansetStep, Step};
use crate::source::TimeRange;

pub(super) fn explain(search: &SearchPlan) -> String {
    let mut out = String::new();
    let request = &search.request;
    let _ = writeln!(out, "search {}", search.text);
    let window = match request.window {
        TimeRange::ALWAYS => "always".to_owned(),
        TimeRange {
            start_unix_nanos,
            end_unix_nanos,
        } => format!("{start_unix_nanos}..={end_unix_nanos} ns"),
    };
    let _ = writeln!(
        out,
        "window: {window}, limit: {}, spans per spanset: {}",
        request.limit, request.spans_per_spanset
    );
    let whole = if search.plan.needs_whole_trace() { "yes" } else { "no" };
    let _ = writeln!(out, "needs whole traces: {whole}");
    explain_plan(&search.plan, &mut out);
    let shown: Vec<String> = search.shown.iter().map(ToString::to_string).collect();
    let _ = writeln!(
        out,
        "shows: {}",
        if shown.is_empty() {
            "nothing more".to_owned()
        } else {
            shown.join(", ")
        }
    );
    out
}

pub(crate) fn explain_plan(plan: &Plan, out: &mut String) {
    let fields: Vec<String> = plan.fields().iter().map(ToString::to_string).collect();
    let _ = writeln!(
        out,
        "reads: {}",
        if fields.is_empty() {
            "nothing".to_owned()
        } else {
            fields.join(", ")
        }
    );
    for step in &plan.steps {
        let _ = writeln!(out, "- {}", step_text(plan, step));
    }
}

fn step_text(plan: &Plan, step: &Step) -> String {
    match step {
        Step::Spanset(spanset) => spanset_text(plan, spanset),
        Step::Scalar(ScalarStep { op, lhs, rhs }) => {
            format!(
                "keep spansets where {} {} {}",
                scalar_text(plan, lhs),
                op.symbol(),
                scalar_text(plan, rhs)
            )
        }
        Step::By(_, label) => format!("split {label}"),
        Step::Coalesce => "merge spansets".to_owned(),
    }
}

fn spanset_text(plan: &Plan, step: &SpansetStep) -> String {
    match step {
        SpansetStep::Leaf(leaf) => format!("[{}]", plan.leaves[*leaf]),
        SpansetStep::Op(op, lhs, rhs) => {
            format!(
                "({} {} {})",
                spanset_text(plan, lhs),
                op.symbol(),
                spanset_text(plan, rhs)
            )
        }
        SpansetStep::Pipeline(steps) => steps_text(plan, steps),
    }
}

fn steps_text(plan: &Plan, steps: &[Step]) -> String {
    let texts: Vec<String> = steps.iter().map(|step| step_text(plan, step)).collect();
    format!("({})", texts.join(", then "))
}

fn scalar_text(plan: &Plan, scalar: &Scalar) -> String {
    match scalar {
        Scalar::Static(value) => value.to_string(),
        Scalar::Aggregate(_, _, label) => label.clone(),
        Scalar::Arith(op, lhs, rhs) => {
            format!(
                "({} {} {})",
                scalar_text(plan, lhs),
                op.symbol(),
                scalar_text(plan, rhs)
            )
        }
        Scalar::Pipeline(steps, value, _) => format!("{} of {}", scalar_text(plan, value), steps_text(plan, steps)),
    }
}
