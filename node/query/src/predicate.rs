//! A span filter, compiled: which parts are answered column by column, and which need a look at each span.
//!
//! A [`Predicate`] is true or false for a span, never in between: comparisons with what is missing are false, so "not"
//! is the complement. Evaluating it over a chunk is in [`crate::engine::filter`].

use std::collections::HashSet;
use std::fmt;

use model::{Scope, TraceId};

use crate::ast::{Expr, LogicOp};
use crate::check::references_span;
use crate::engine::row_expr::{self, Program};
use crate::error::Result;
use crate::field::{Field, Intrinsic, Name, PRECEDENCE};
use crate::matcher::Matcher;
use crate::source::{Chunk, ColumnRef};
use crate::value::{CompareOp, Static};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) enum Predicate {
    /// True.
    All,
    /// False.
    Nothing,
    And(Vec<Predicate>),
    Or(Vec<Predicate>),
    Not(Box<Predicate>),
    /// The field's value satisfies the matcher.
    Match(Field, Matcher),
    /// The field has a value.
    Exists(Field),
    /// The span has no parent id. Known of a span without its trace.
    IsRoot,
    /// Anything else, span by span.
    PerSpan(Program),
}

impl Predicate {
    /// Compiles the inside of `{ }`. The expression has passed [`crate::check`].
    pub(crate) fn compile(expr: Option<&Expr>) -> Result<Predicate> {
        match expr {
            None => Ok(Predicate::All),
            Some(expr) => compile(expr),
        }
    }

    /// Whether a span's answer can change when more spans of its trace are known.
    pub(crate) fn needs_whole_trace(&self) -> bool {
        match self {
            Predicate::All | Predicate::Nothing | Predicate::IsRoot => false,
            Predicate::And(parts) | Predicate::Or(parts) => parts.iter().any(Predicate::needs_whole_trace),
            Predicate::Not(inner) => inner.needs_whole_trace(),
            Predicate::Match(field, _) | Predicate::Exists(field) => field.needs_whole_trace(),
            Predicate::PerSpan(program) => program.fields.iter().any(Field::needs_whole_trace),
        }
    }

    /// Whether it tells roots from other spans.
    pub(crate) fn asks_for_roots(&self) -> bool {
        match self {
            Predicate::IsRoot => true,
            Predicate::And(parts) | Predicate::Or(parts) => parts.iter().any(Predicate::asks_for_roots),
            Predicate::Not(inner) => inner.asks_for_roots(),
            _ => false,
        }
    }

    /// A predicate that is true wherever this one could be true once the rest of the trace is known.
    pub(crate) fn relaxed(&self) -> Predicate {
        if !self.needs_whole_trace() {
            return self.clone();
        }
        match self {
            Predicate::And(parts) => and(parts.iter().map(Predicate::relaxed).collect()),
            Predicate::Or(parts) => or(parts.iter().map(Predicate::relaxed).collect()),
            _ => Predicate::All,
        }
    }

    /// False only if no span of the chunk can satisfy it, by what the chunk knows without reading columns.
    pub(crate) fn may_match(&self, chunk: &dyn Chunk) -> bool {
        match self {
            Predicate::Nothing => false,
            Predicate::And(parts) => parts.iter().all(|part| part.may_match(chunk)),
            Predicate::Or(parts) => parts.iter().any(|part| part.may_match(chunk)),
            Predicate::Match(field, matcher) => match (matcher.wanted(), probed_columns(field)) {
                (Some(values), Some(columns)) => values
                    .iter()
                    .any(|value| columns.iter().any(|column| chunk.may_contain(column, value))),
                _ => true,
            },
            _ => true,
        }
    }

    /// Fields it reads, in order of mention, each once.
    pub(crate) fn fields(&self, out: &mut Vec<Field>) {
        let mut add = |field: &Field| {
            if !out.contains(field) {
                out.push(field.clone());
            }
        };
        match self {
            Predicate::All | Predicate::Nothing | Predicate::IsRoot => {}
            Predicate::And(parts) | Predicate::Or(parts) => parts.iter().for_each(|part| part.fields(out)),
            Predicate::Not(inner) => inner.fields(out),
            Predicate::Match(field, _) | Predicate::Exists(field) => add(field),
            Predicate::PerSpan(program) => program.fields.iter().for_each(&mut add),
        }
    }
}

/// Fields an expression reads, in order of mention, each once.
pub(crate) fn expr_fields(expr: &Expr, out: &mut Vec<Field>) {
    match expr {
        Expr::Static(_) => {}
        Expr::Field(field) => {
            if !out.contains(field) {
                out.push(field.clone());
            }
        }
        Expr::Not(inner) | Expr::Neg(inner) => expr_fields(inner, out),
        Expr::Logic(_, operands) => operands.iter().for_each(|operand| expr_fields(operand, out)),
        Expr::Compare { lhs, rhs, .. } | Expr::Arith { lhs, rhs, .. } => {
            expr_fields(lhs, out);
            expr_fields(rhs, out);
        }
    }
}

/// The columns that would have to hold a value for the field to have it. None where blooms cannot know.
fn probed_columns(field: &Field) -> Option<Vec<ColumnRef>> {
    if field.of_parent {
        return None;
    }
    Some(match &field.name {
        Name::Attribute(Some(scope), key) => vec![ColumnRef::Attribute(*scope, key.clone())],
        Name::Attribute(None, key) => PRECEDENCE
            .iter()
            .map(|scope| ColumnRef::Attribute(*scope, key.clone()))
            .collect(),
        Name::Intrinsic(which, _) => match which {
            Intrinsic::Name => vec![ColumnRef::Name],
            Intrinsic::StatusMessage => vec![ColumnRef::StatusMessage],
            Intrinsic::SpanId => vec![ColumnRef::SpanId],
            Intrinsic::TraceId => vec![ColumnRef::TraceId],
            Intrinsic::EventName => vec![ColumnRef::EventName],
            Intrinsic::LinkTraceId => vec![ColumnRef::LinkTraceId],
            Intrinsic::LinkSpanId => vec![ColumnRef::LinkSpanId],
            Intrinsic::InstrumentationName => vec![ColumnRef::InstrumentationName],
            Intrinsic::InstrumentationVersion => vec![ColumnRef::InstrumentationVersion],
            _ => return None,
        },
    })
}

pub(crate) fn and(parts: Vec<Predicate>) -> Predicate {
    let mut kept = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Predicate::All => {}
            Predicate::Nothing => return Predicate::Nothing,
            Predicate::And(inner) => kept.extend(inner),
            other => kept.push(other),
        }
    }
    match kept.len() {
        0 => Predicate::All,
        1 => kept.remove(0),
        _ => Predicate::And(kept),
    }
}

pub(crate) fn or(parts: Vec<Predicate>) -> Predicate {
    let mut kept: Vec<Predicate> = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Predicate::Nothing => {}
            Predicate::All => return Predicate::All,
            Predicate::Or(inner) => inner.into_iter().for_each(|part| add_alternative(&mut kept, part)),
            other => add_alternative(&mut kept, other),
        }
    }
    match kept.len() {
        0 => Predicate::Nothing,
        1 => kept.remove(0),
        _ => Predicate::Or(kept),
    }
}

/// `x = "a" || x = "b"` becomes one look into a set.
fn add_alternative(kept: &mut Vec<Predicate>, part: Predicate) {
    if let Predicate::Match(field, matcher) = &part
        && let Some(texts) = texts_of(matcher)
    {
        for known in kept.iter_mut() {
            if let Predicate::Match(same, known_matcher) = known
                && same == field
                && let Some(mut all) = texts_of(known_matcher)
            {
                all.extend(texts);
                *known_matcher = Matcher::OneOf(all);
                return;
            }
        }
    }
    kept.push(part);
}

fn texts_of(matcher: &Matcher) -> Option<HashSet<String>> {
    match matcher {
        Matcher::Compare(CompareOp::Eq, Static::Str(text)) => Some(HashSet::from([text.to_string()])),
        Matcher::OneOf(texts) => Some(texts.clone()),
        _ => None,
    }
}

fn compile(expr: &Expr) -> Result<Predicate> {
    if !references_span(expr) {
        let truth = row_expr::constant(expr) == Static::Bool(true);
        return Ok(if truth { Predicate::All } else { Predicate::Nothing });
    }
    match expr {
        Expr::Logic(op, operands) => {
            let parts = operands.iter().map(compile).collect::<Result<Vec<_>>>()?;
            Ok(if *op == LogicOp::And { and(parts) } else { or(parts) })
        }
        // A field that is not a boolean is neither true nor false.
        Expr::Field(field) => truth(field, true),
        Expr::Not(inner) => compile_not(expr, inner),
        Expr::Compare { op, lhs, rhs } => compile_compare(expr, *op, lhs, rhs),
        Expr::Static(_) | Expr::Neg(_) | Expr::Arith { .. } => Ok(Predicate::PerSpan(Program::new(expr)?)),
    }
}

fn compile_not(expr: &Expr, inner: &Expr) -> Result<Predicate> {
    let (mut operand, mut wanted) = (inner, false);
    while let Expr::Not(inner) = operand {
        (operand, wanted) = (inner, !wanted);
    }
    match operand {
        Expr::Field(field) => truth(field, wanted),
        Expr::Logic(..) | Expr::Compare { .. } => Ok(match (wanted, compile(operand)?) {
            (true, same) => same,
            (false, Predicate::All) => Predicate::Nothing,
            (false, Predicate::Nothing) => Predicate::All,
            (false, other) => Predicate::Not(other.into()),
        }),
        // Not necessarily a boolean, so its negation is not the complement.
        _ => Ok(Predicate::PerSpan(Program::new(expr)?)),
    }
}

fn truth(field: &Field, wanted: bool) -> Result<Predicate> {
    Ok(Predicate::Match(
        field.clone(),
        Matcher::Compare(CompareOp::Eq, Static::Bool(wanted)),
    ))
}

fn compile_compare(expr: &Expr, op: CompareOp, lhs: &Expr, rhs: &Expr) -> Result<Predicate> {
    let literal = |side: &Expr| (!references_span(side)).then(|| row_expr::constant(side));
    match (lhs, literal(lhs), rhs, literal(rhs)) {
        (Expr::Field(field), _, _, Some(value)) => compile_match(field, op, &value),
        (_, Some(value), Expr::Field(field), _) => match op.flipped() {
            Some(op) => compile_match(field, op, &value),
            None => Ok(Predicate::PerSpan(Program::new(expr)?)),
        },
        _ => Ok(Predicate::PerSpan(Program::new(expr)?)),
    }
}

fn compile_match(field: &Field, op: CompareOp, value: &Static) -> Result<Predicate> {
    let which = match &field.name {
        Name::Intrinsic(which, _) if !field.of_parent => Some(*which),
        _ => None,
    };
    if *value == Static::Nil {
        return Ok(match (op, which) {
            (CompareOp::Eq, Some(Intrinsic::ParentId)) => Predicate::IsRoot,
            (CompareOp::Eq, _) => Predicate::Not(Predicate::Exists(field.clone()).into()),
            (CompareOp::Ne, _) => Predicate::Exists(field.clone()),
            // What a division by zero gives compares with nothing.
            _ => Predicate::Nothing,
        });
    }
    let below_zero = matches!(
        (op, value),
        (CompareOp::Lt, Static::Int(..=0)) | (CompareOp::Le, Static::Int(..=-1)) | (CompareOp::Eq, Static::Int(-1))
    );
    let reaches_roots = match (op, value) {
        (CompareOp::Lt, Static::Int(n)) => *n > -1,
        (_, Static::Int(n)) => *n >= -1,
        _ => false,
    };
    if which == Some(Intrinsic::NestedSetParent) && below_zero {
        return Ok(if reaches_roots {
            Predicate::IsRoot
        } else {
            Predicate::Nothing
        });
    }
    let padded = match (which, op, value) {
        (Some(which), CompareOp::Eq | CompareOp::Ne, Static::Str(text)) => padded_id(which, text),
        _ => None,
    };
    let matcher = Matcher::new(op, padded.as_ref().unwrap_or(value))?;
    Ok(Predicate::Match(field.clone(), matcher))
}

/// Ids are compared as lower-case hex of full length, however many leading zeros were typed.
fn padded_id(which: Intrinsic, text: &str) -> Option<Static> {
    let width = match which {
        Intrinsic::TraceId | Intrinsic::LinkTraceId => 32,
        Intrinsic::SpanId | Intrinsic::ParentId | Intrinsic::LinkSpanId => 16,
        _ => return None,
    };
    if text.len() > width {
        return None;
    }
    let full = TraceId::parse_hex(text)?.to_string();
    Some(Static::str(&full[32 - width..]))
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Predicate::All => f.write_str("all"),
            Predicate::Nothing => f.write_str("nothing"),
            Predicate::IsRoot => f.write_str("is root"),
            Predicate::Not(inner) => write!(f, "not ({inner})"),
            Predicate::And(parts) => write_parts(f, parts, " and "),
            Predicate::Or(parts) => write_parts(f, parts, " or "),
            Predicate::Exists(field) => write!(f, "{field} exists"),
            Predicate::PerSpan(program) => write!(f, "per span {{ {} }}", program.expr),
            Predicate::Match(field, matcher) => match matcher {
                Matcher::Compare(op, value) => write!(f, "{field} {} {value}", op.symbol()),
                Matcher::OneOf(texts) => {
                    let mut texts: Vec<_> = texts.iter().map(|text| Static::str(text).to_string()).collect();
                    texts.sort();
                    write!(f, "{field} in ({})", texts.join(", "))
                }
                Matcher::Regex(regex) => write!(f, "{field} =~ {}", Static::str(regex.as_str())),
                Matcher::NotRegex(regex) => write!(f, "{field} !~ {}", Static::str(regex.as_str())),
            },
        }
    }
}

fn write_parts(f: &mut fmt::Formatter<'_>, parts: &[Predicate], separator: &str) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(separator)?;
        }
        match part {
            Predicate::And(_) | Predicate::Or(_) => write!(f, "({part})")?,
            _ => write!(f, "{part}")?,
        }
    }
    Ok(())
}

/// The attribute columns a field may be read from, in order of precedence, with their scopes.
pub(crate) fn attribute_columns(scope: Option<Scope>, key: &std::sync::Arc<str>) -> Vec<(Scope, ColumnRef)> {
    let column = |scope: Scope| (scope, ColumnRef::Attribute(scope, key.clone()));
    match scope {
        Some(scope) => vec![column(scope)],
        None => PRECEDENCE.into_iter().map(column).collect(),
    }
}

/// The trace id a span must have to satisfy the predicate, if it says so.
pub(crate) fn only_trace(predicate: &Predicate) -> Option<TraceId> {
    match predicate {
        Predicate::And(parts) => parts.iter().find_map(only_trace),
        Predicate::Match(field, Matcher::Compare(CompareOp::Eq, Static::Str(text))) => match &field.name {
            Name::Intrinsic(Intrinsic::TraceId, _) if !field.of_parent => TraceId::parse_hex(text),
            _ => None,
        },
        _ => None,
    }
}
