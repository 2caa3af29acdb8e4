//! Says whether a parsed query means anything: types, operators, arguments.
//!
//! Attributes have no type until the data is seen, so they go with everything here; what then clashes at run time is
//! "no", not an error. The classes of refusal are Tempo's, with two exceptions: `parent.` and arithmetic or comparison
//! between aggregates are answered here; spanset operators over several spansets per trace are refused here, before
//! anything is read, rather than at run time.

use crate::ast::{
    Aggregate, ArithOp, Body, Expr, FirstStage, Function, LogicOp, MetricsExpr, Pipeline, Query, ScalarExpr,
    ScalarFilter, SecondStage, SpansetExpr, Stage,
};
use crate::error::{Error, Result, shortened};
use crate::field::{Field, Name, Type};
use crate::lex::{Token, lex, position};
use crate::limits;
use crate::value::{CompareOp, Static};
use model::Scope;

/// Checks a whole query.
pub(crate) fn check_query(query: &Query) -> Result<()> {
    match &query.body {
        Body::Search(pipeline) => check_pipeline(pipeline).map(drop),
        Body::Metrics(metrics) => check_metrics(metrics),
    }
}

/// Checks an expression that stands inside `{ }`.
pub(crate) fn check_filter(expr: &Expr) -> Result<()> {
    match check_expr(expr)? {
        Type::Bool | Type::Unknown => Ok(()),
        _ => refuse(format!(
            "span filter field expressions must resolve to a boolean: {{ {expr} }}"
        )),
    }
}

/// Compiles a regular expression the way the language means it: anchored at both ends, bounded in size.
pub(crate) fn compile_regex(pattern: &str) -> Result<regex::Regex> {
    let refused = |reason: String| {
        Error::invalid(format!(
            "invalid regular expression ({reason}): {}",
            Static::str(pattern)
        ))
    };
    // By itself first: between the anchors `a)|(b` would be two groups.
    regex_syntax::Parser::new()
        .parse(pattern)
        .map_err(|error| refused(regex_fault(pattern, &error)))?;
    regex::RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
        .size_limit(limits::REGEX_BYTES_MAX)
        .dfa_size_limit(limits::REGEX_DFA_BYTES_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(bytes) => refused(format!("takes more than {bytes} bytes once compiled")),
            // What only the anchors bring about: a comment that swallows the second one, one level of nesting too many.
            error => refused(last_line(&error)),
        })
}

fn last_line(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// The reason, and where in the pattern; the crate's own text draws a picture of several lines.
fn regex_fault(pattern: &str, error: &regex_syntax::Error) -> String {
    let (reason, span) = match error {
        regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span()),
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span()),
        error => return last_line(error),
    };
    let before = pattern.get(..span.start.offset).unwrap_or(pattern);
    format!("{reason} at character {}", before.chars().count() + 1)
}

/// Longer parts are not looked for: they may repeat themselves.
const QUOTED_TOKENS_MAX: usize = 64;

/// Says where the part stands that a refusal quotes at its end, if it stands in the query as it is printed.
pub(crate) fn located(text: &str, error: Error) -> Error {
    let Error::Invalid { message } = error else {
        return error;
    };
    let place = message.split_once(": ").and_then(|(_, quoted)| {
        let (tokens, quoted) = (lex(text).ok()?, lex(quoted).ok()?);
        // The last one is the end.
        let (_, wanted) = quoted.split_last().filter(|(_, wanted)| !wanted.is_empty())?;
        let stands = |tokens: &[Token<'_>]| tokens.iter().zip(wanted).all(|(token, wanted)| token.tok == wanted.tok);
        let mut places = tokens.windows(wanted.len().min(QUOTED_TOKENS_MAX + 1));
        let at = places.position(|tokens| wanted.len() <= QUOTED_TOKENS_MAX && stands(tokens))?;
        Some(position(text, tokens.get(at)?.start))
    });
    match place {
        Some((line, col)) => Error::invalid(format!("{} (line {line}, col {col})", shortened(message))),
        None => Error::invalid(shortened(message)),
    }
}

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::invalid(message))
}

/// Whether a pipeline may hand on several spansets per trace.
type MayBeSeveral = bool;

fn check_pipeline(pipeline: &Pipeline) -> Result<MayBeSeveral> {
    let mut several = false;
    for stage in &pipeline.stages {
        match stage {
            Stage::Spanset(expr) => several |= check_spanset(expr)?,
            Stage::Scalar(filter) => check_scalar_filter(filter)?,
            Stage::By(expr) => {
                check_expr(expr)?;
                if !references_span(expr) {
                    return refuse(format!(
                        "grouping field expressions must reference the span: by({expr})"
                    ));
                }
                several = true;
            }
            Stage::Coalesce => several = false,
            Stage::Select(_) => {}
        }
    }
    Ok(several)
}

fn check_spanset(expr: &SpansetExpr) -> Result<MayBeSeveral> {
    match expr {
        SpansetExpr::Filter(None) => Ok(false),
        SpansetExpr::Filter(Some(expr)) => check_filter(expr).map(|()| false),
        SpansetExpr::Pipeline(pipeline) => check_pipeline(pipeline),
        SpansetExpr::Op { lhs, rhs, .. } => {
            if check_spanset(lhs)? | check_spanset(rhs)? {
                return refuse(format!(
                    "spanset operators are not supported for multiple spansets per trace. consider using coalesce(): {expr}"
                ));
            }
            Ok(false)
        }
    }
}

fn check_scalar_filter(filter: &ScalarFilter) -> Result<()> {
    let (lhs, rhs) = (check_scalar(&filter.lhs)?, check_scalar(&filter.rhs)?);
    if !comparable(lhs, rhs) || lhs == Type::Nil || rhs == Type::Nil {
        return refuse(format!("binary operations must operate on the same type: {filter}"));
    }
    Ok(())
}

fn check_scalar(scalar: &ScalarExpr) -> Result<Type> {
    match scalar {
        ScalarExpr::Static(value) => Ok(value.ty()),
        ScalarExpr::Aggregate(Aggregate::Count, _) => Ok(Type::Int),
        ScalarExpr::Aggregate(_, None) => refuse(format!("aggregate needs an expression: {scalar}")),
        ScalarExpr::Aggregate(aggregate, Some(expr)) => {
            let ty = check_expr(expr)?;
            if !(ty.is_numeric() || ty == Type::Unknown) {
                return refuse(format!(
                    "aggregate field expressions must resolve to a number type: {scalar}"
                ));
            }
            if !references_span(expr) {
                return refuse(format!("aggregate field expressions must reference the span: {scalar}"));
            }
            Ok(match (aggregate, ty) {
                (Aggregate::Avg, Type::Int) => Type::Float,
                // What an attribute turns out to be, it is a number by the time it is compared.
                (_, Type::Unknown) => Type::Float,
                _ => ty,
            })
        }
        ScalarExpr::Arith { op, lhs, rhs } => {
            let (left, right) = (check_scalar(lhs)?, check_scalar(rhs)?);
            if !left.is_numeric() || !right.is_numeric() {
                return refuse(format!("illegal operation for the given types: {scalar}"));
            }
            Ok(arith_type(*op, left, right))
        }
        ScalarExpr::Pipeline(pipeline, value) => {
            if check_pipeline(pipeline)? {
                return refuse(format!(
                    "aggregates in brackets need one spanset per trace. consider using coalesce(): {scalar}"
                ));
            }
            check_scalar(value)
        }
    }
}

fn arith_type(op: ArithOp, lhs: Type, rhs: Type) -> Type {
    match (lhs, rhs) {
        (Type::Unknown, _) | (_, Type::Unknown) => Type::Unknown,
        // A ratio of two durations is a plain number, a duration times a number is a duration.
        (Type::Duration, Type::Duration) if op == ArithOp::Div => Type::Float,
        (Type::Duration, _) | (_, Type::Duration) => Type::Duration,
        (Type::Float, _) | (_, Type::Float) => Type::Float,
        _ => Type::Int,
    }
}

/// Whether values of these types can be compared; unknown goes with everything.
fn comparable(lhs: Type, rhs: Type) -> bool {
    lhs == rhs || lhs == Type::Unknown || rhs == Type::Unknown || (lhs.is_numeric() && rhs.is_numeric())
}

fn check_expr(expr: &Expr) -> Result<Type> {
    match expr {
        Expr::Static(value) => Ok(value.ty()),
        Expr::Field(field) => Ok(field.ty()),
        Expr::Not(inner) => match check_expr(inner)? {
            Type::Bool | Type::Unknown => Ok(Type::Bool),
            _ => refuse(format!("illegal operation for the given type: {expr}")),
        },
        Expr::Neg(inner) => match check_expr(inner)? {
            ty if ty.is_numeric() || ty == Type::Unknown => Ok(ty),
            _ => refuse(format!("illegal operation for the given type: {expr}")),
        },
        Expr::Logic(op, operands) => {
            for operand in operands {
                if !matches!(check_expr(operand)?, Type::Bool | Type::Unknown) {
                    let word = if *op == LogicOp::And { "&&" } else { "||" };
                    return refuse(format!(
                        "operands of {word} must resolve to a boolean: {operand} in {expr}"
                    ));
                }
            }
            Ok(Type::Bool)
        }
        Expr::Compare { op, lhs, rhs } => check_compare(expr, *op, lhs, rhs),
        Expr::Arith { op, lhs, rhs } => {
            let (left, right) = (check_expr(lhs)?, check_expr(rhs)?);
            let numeric = |ty: Type| ty.is_numeric() || ty == Type::Unknown;
            if !numeric(left) || !numeric(right) {
                return refuse(format!("illegal operation for the given types: {expr}"));
            }
            let zero = matches!(**rhs, Expr::Static(Static::Int(0) | Static::Duration(0)));
            if zero && matches!(op, ArithOp::Div | ArithOp::Mod) {
                return refuse(format!("division by zero: {expr}"));
            }
            Ok(arith_type(*op, left, right))
        }
    }
}

fn check_compare(expr: &Expr, op: CompareOp, lhs: &Expr, rhs: &Expr) -> Result<Type> {
    let (left, right) = (check_expr(lhs)?, check_expr(rhs)?);
    if left == Type::Nil || right == Type::Nil {
        return check_nil(expr, op, lhs, rhs);
    }
    if matches!(op, CompareOp::Match | CompareOp::NotMatch) {
        let Expr::Static(Static::Str(pattern)) = rhs else {
            return refuse(format!("regular expressions must be literal strings: {expr}"));
        };
        if !matches!(left, Type::String | Type::Unknown) {
            return refuse(format!("illegal operation for the given types: {expr}"));
        }
        compile_regex(pattern)?;
        return Ok(Type::Bool);
    }
    if !comparable(left, right) {
        return refuse(format!("binary operations must operate on the same type: {expr}"));
    }
    let ordered = !matches!(op, CompareOp::Eq | CompareOp::Ne);
    let unordered_type = |ty: Type| matches!(ty, Type::Status | Type::Kind | Type::Bool);
    if ordered && (unordered_type(left) || unordered_type(right)) {
        return refuse(format!("illegal operation for the given types: {expr}"));
    }
    Ok(Type::Bool)
}

/// `x = nil` asks whether x is missing, so x must be able to be.
fn check_nil(expr: &Expr, op: CompareOp, lhs: &Expr, rhs: &Expr) -> Result<Type> {
    if !matches!(op, CompareOp::Eq | CompareOp::Ne) {
        return refuse(format!("nil can only be compared with = and !=: {expr}"));
    }
    for side in [lhs, rhs] {
        match side {
            Expr::Static(Static::Nil) => {}
            // Always so, which is pointless but harmless.
            Expr::Field(_) if op == CompareOp::Ne => {}
            Expr::Field(field) if field.of_parent => {}
            Expr::Field(Field {
                name: Name::Intrinsic(which, _),
                ..
            }) if !which.may_be_nil() => {
                return refuse(format!("intrinsics cannot be compared with nil: {expr}"));
            }
            Expr::Field(Field {
                name: Name::Attribute(Some(Scope::Resource), key),
                ..
            }) if &**key == "service.name" => {
                return refuse(format!("resource.service.name cannot be compared with nil: {expr}"));
            }
            Expr::Field(_) => {}
            _ => return refuse(format!("only attributes can be compared with nil: {expr}")),
        }
    }
    Ok(Type::Bool)
}

pub(crate) fn references_span(expr: &Expr) -> bool {
    match expr {
        Expr::Static(_) => false,
        Expr::Field(_) => true,
        Expr::Not(inner) | Expr::Neg(inner) => references_span(inner),
        Expr::Logic(_, operands) => operands.iter().any(references_span),
        Expr::Compare { lhs, rhs, .. } | Expr::Arith { lhs, rhs, .. } => references_span(lhs) || references_span(rhs),
    }
}

fn check_metrics(metrics: &MetricsExpr) -> Result<()> {
    match metrics {
        MetricsExpr::Scalar(_) => Ok(()),
        MetricsExpr::Math { lhs, rhs, .. } => {
            for side in [lhs, rhs] {
                check_metrics(side)?;
                if has_compare(side) {
                    return refuse("compare() cannot take part in maths");
                }
            }
            Ok(())
        }
        MetricsExpr::Staged(inner, second) => {
            check_metrics(inner)?;
            check_second(second, has_compare(inner))
        }
        MetricsExpr::Pipeline { spans, first, second } => {
            check_pipeline(spans)?;
            check_first(first)?;
            check_second(second, matches!(first.function, Function::Compare { .. }))
        }
    }
}

fn has_compare(metrics: &MetricsExpr) -> bool {
    match metrics {
        MetricsExpr::Scalar(_) => false,
        MetricsExpr::Math { lhs, rhs, .. } => has_compare(lhs) || has_compare(rhs),
        MetricsExpr::Staged(inner, _) => has_compare(inner),
        MetricsExpr::Pipeline { first, .. } => matches!(first.function, Function::Compare { .. }),
    }
}

fn check_first(first: &FirstStage) -> Result<()> {
    let mut by_max = limits::METRICS_BY_MAX;
    match &first.function {
        Function::Rate | Function::CountOverTime => {}
        Function::MinOverTime(field)
        | Function::MaxOverTime(field)
        | Function::SumOverTime(field)
        | Function::AvgOverTime(field) => check_measured(first, field)?,
        Function::HistogramOverTime(field) => {
            check_measured(first, field)?;
            by_max = limits::METRICS_BY_BUCKETED_MAX;
        }
        Function::QuantileOverTime(field, quantiles) => {
            check_measured(first, field)?;
            if let Some(bad) = quantiles.iter().find(|q| !(0.0..=1.0).contains(*q)) {
                return refuse(format!("quantile must be between 0 and 1: {bad:?}"));
            }
            by_max = limits::METRICS_BY_BUCKETED_MAX;
        }
        Function::Compare {
            selection,
            top,
            window_unix_nanos,
        } => {
            if let Some(expr) = selection {
                check_filter(expr)?;
            }
            if *top == 0 || *top > limits::COMPARE_TOP_MAX {
                return refuse(format!(
                    "compare() topN must be between 1 and {}",
                    limits::COMPARE_TOP_MAX
                ));
            }
            if window_unix_nanos.is_some_and(|(start, end)| start < 0 || end <= start) {
                return refuse("compare() selection window must end after it starts");
            }
            if !first.by.is_empty() {
                return refuse("compare() cannot be grouped");
            }
        }
    }
    if first.by.len() > by_max {
        return refuse(format!(
            "{} takes at most {by_max} by() attributes",
            first.function.word()
        ));
    }
    Ok(())
}

fn check_measured(first: &FirstStage, field: &Field) -> Result<()> {
    let ty = field.ty();
    if ty.is_numeric() || ty == Type::Unknown {
        return Ok(());
    }
    refuse(format!("{} needs a number: {field}", first.function.word()))
}

fn check_second(second: &[SecondStage], after_compare: bool) -> Result<()> {
    if after_compare && !second.is_empty() {
        return refuse("compare() cannot be followed by another stage");
    }
    for stage in second {
        if let SecondStage::TopK(0) | SecondStage::BottomK(0) = stage {
            return refuse("topk() and bottomk() must keep at least one series");
        }
    }
    Ok(())
}
