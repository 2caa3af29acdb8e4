//! Trees back to text. Parsing the text gives the same tree, so plans, labels and caches can use it as the tree's name.
//!
//! Brackets are printed only where the tree needs them, with one exception: an `||` directly below an `&&` (or the reverse)
//! gets them although the language gives both the same rank, because people read them otherwise.

use std::fmt::{self, Display, Formatter, Write as _};

use crate::ast::{
    Aggregate, ArithOp, Body, Expr, FirstStage, Flavour, Function, Hint, LogicOp, MetricsExpr, Pipeline, Query,
    Relation, ScalarExpr, ScalarFilter, SecondStage, SpansetExpr, SpansetOp, Stage,
};
use crate::field::{Field, Name, Spelling, scope_from_word, scope_word};
use crate::lex::ends_name;
use crate::limits;
use crate::value::Static;

/// How tightly things bind, from loose to tight; shared with the parser.
pub(crate) mod rank {
    pub(crate) const LOGIC: u8 = 1;
    pub(crate) const COMPARE: u8 = 2;
    pub(crate) const ADD: u8 = 3;
    pub(crate) const NEG: u8 = 3;
    pub(crate) const NOT: u8 = 4;
    pub(crate) const MUL: u8 = 5;
    pub(crate) const POW: u8 = 6;
    pub(crate) const ATOM: u8 = 7;
}

impl ArithOp {
    /// As written.
    pub fn symbol(self) -> &'static str {
        match self {
            ArithOp::Add => "+",
            ArithOp::Sub => "-",
            ArithOp::Mul => "*",
            ArithOp::Div => "/",
            ArithOp::Mod => "%",
            ArithOp::Pow => "^",
        }
    }

    pub(crate) fn rank(self) -> u8 {
        match self {
            ArithOp::Add | ArithOp::Sub => rank::ADD,
            ArithOp::Mul | ArithOp::Div | ArithOp::Mod => rank::MUL,
            ArithOp::Pow => rank::POW,
        }
    }

    /// Ranks the left and the right operand must have to stand without brackets.
    fn operand_ranks(self) -> (u8, u8) {
        match self {
            ArithOp::Pow => (rank::POW + 1, rank::POW),
            _ => (self.rank(), self.rank() + 1),
        }
    }
}

impl LogicOp {
    /// As written.
    pub fn symbol(self) -> &'static str {
        match self {
            LogicOp::And => "&&",
            LogicOp::Or => "||",
        }
    }
}

impl SpansetOp {
    /// As written.
    pub fn symbol(self) -> &'static str {
        use Flavour::*;
        use Relation::*;
        match self {
            SpansetOp::And => "&&",
            SpansetOp::Or => "||",
            SpansetOp::Structural(relation, flavour) => match (relation, flavour) {
                (Child, Plain) => ">",
                (Child, Negated) => "!>",
                (Child, Union) => "&>",
                (Descendant, Plain) => ">>",
                (Descendant, Negated) => "!>>",
                (Descendant, Union) => "&>>",
                (Parent, Plain) => "<",
                (Parent, Negated) => "!<",
                (Parent, Union) => "&<",
                (Ancestor, Plain) => "<<",
                (Ancestor, Negated) => "!<<",
                (Ancestor, Union) => "&<<",
                (Sibling, Plain) => "~",
                (Sibling, Negated) => "!~",
                (Sibling, Union) => "&~",
            },
        }
    }

    pub(crate) fn rank(self) -> u8 {
        match self {
            SpansetOp::And | SpansetOp::Or => rank::LOGIC,
            SpansetOp::Structural(..) => rank::COMPARE,
        }
    }
}

/// Writes a name so that the lexer reads it back, quoted if need be.
fn write_key(f: &mut Formatter<'_>, key: &str, quote_always: bool) -> fmt::Result {
    let plain = !key.is_empty() && !quote_always && !key.contains(|c| ends_name(c) || c == '\\');
    if plain {
        return f.write_str(key);
    }
    f.write_char('"')?;
    for c in key.chars() {
        if matches!(c, '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    f.write_char('"')
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Intrinsic(which, spelling) => {
                if self.of_parent {
                    f.write_str("parent.")?;
                }
                let (first, second) = match spelling {
                    // Behind `parent.` only the scoped spelling is an intrinsic.
                    Spelling::Bare if !self.of_parent => (which.bare(), which.scoped()),
                    _ => (which.scoped(), which.bare()),
                };
                f.write_str(first.or(second).unwrap_or_default())
            }
            Name::Attribute(scope, key) => {
                // What would read as something else without quotes: `.5`, `parent."span.x"`, `parent."span:name"`.
                let misread = match (self.of_parent, scope) {
                    (false, None) => key.starts_with(|c: char| c.is_ascii_digit()),
                    (true, None) => key
                        .split_once(['.', ':'])
                        .is_some_and(|(word, _)| scope_from_word(word).is_some() || word == "trace"),
                    _ => false,
                };
                f.write_str(if self.of_parent { "parent." } else { "" })?;
                match scope {
                    Some(scope) => write!(f, "{}.", scope_word(*scope))?,
                    None if !self.of_parent => f.write_char('.')?,
                    None => {}
                }
                write_key(f, key, misread)
            }
        }
    }
}

impl Expr {
    fn rank(&self) -> u8 {
        match self {
            Expr::Static(value) => static_rank(value),
            Expr::Field(_) => rank::ATOM,
            Expr::Not(_) => rank::NOT,
            Expr::Neg(_) => rank::NEG,
            Expr::Logic(..) => rank::LOGIC,
            Expr::Compare { .. } => rank::COMPARE,
            Expr::Arith { op, .. } => op.rank(),
        }
    }

    fn write(&self, f: &mut Formatter<'_>, wanted: u8) -> fmt::Result {
        if self.rank() < wanted {
            return write!(f, "({self})");
        }
        write!(f, "{self}")
    }
}

/// A negative number is a minus and a number to the parser.
fn static_rank(value: &Static) -> u8 {
    let negative = match value {
        Static::Int(v) => *v < 0 && *v != i64::MIN,
        Static::Duration(v) => *v < 0,
        Static::Float(v) => v.is_sign_negative(),
        _ => false,
    };
    if negative { rank::NEG } else { rank::ATOM }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Static(value) => write!(f, "{value}"),
            Expr::Field(field) => write!(f, "{field}"),
            Expr::Not(inner) => {
                f.write_char('!')?;
                inner.write(f, rank::MUL)
            }
            Expr::Neg(inner) => {
                f.write_char('-')?;
                // A bare number would become part of a negative literal.
                match **inner {
                    Expr::Static(_) => write!(f, "({inner})"),
                    _ => inner.write(f, rank::NOT),
                }
            }
            Expr::Logic(op, operands) => {
                for (i, operand) in operands.iter().enumerate() {
                    if i > 0 {
                        write!(f, " {} ", op.symbol())?;
                    }
                    operand.write(f, rank::COMPARE)?;
                }
                Ok(())
            }
            Expr::Compare { op, lhs, rhs } => {
                lhs.write(f, rank::COMPARE)?;
                write!(f, " {} ", op.symbol())?;
                rhs.write(f, rank::ADD)
            }
            Expr::Arith { op, lhs, rhs } => {
                let (left, right) = op.operand_ranks();
                lhs.write(f, left)?;
                write!(f, " {} ", op.symbol())?;
                rhs.write(f, right)
            }
        }
    }
}

impl SpansetExpr {
    fn write(&self, f: &mut Formatter<'_>, wanted: u8) -> fmt::Result {
        match self {
            SpansetExpr::Op { op, .. } if op.rank() < wanted => write!(f, "({self})"),
            _ => write!(f, "{self}"),
        }
    }
}

impl Display for SpansetExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            SpansetExpr::Filter(None) => f.write_str("{ }"),
            SpansetExpr::Filter(Some(expr)) => write!(f, "{{ {expr} }}"),
            SpansetExpr::Pipeline(pipeline) => write!(f, "({pipeline})"),
            SpansetExpr::Op { op, lhs, rhs } => {
                match (op, &**lhs) {
                    // See the module's documentation: && below || and the reverse.
                    (SpansetOp::And | SpansetOp::Or, SpansetExpr::Op { op: inner, .. })
                        if inner.rank() == rank::LOGIC && inner != op =>
                    {
                        write!(f, "({lhs})")?;
                    }
                    _ => lhs.write(f, op.rank())?,
                }
                write!(f, " {} ", op.symbol())?;
                rhs.write(f, op.rank() + 1)
            }
        }
    }
}

impl ScalarExpr {
    fn rank(&self) -> u8 {
        match self {
            ScalarExpr::Static(value) => static_rank(value),
            ScalarExpr::Arith { op, .. } => op.rank(),
            ScalarExpr::Aggregate(..) | ScalarExpr::Pipeline(..) => rank::ATOM,
        }
    }

    fn write(&self, f: &mut Formatter<'_>, wanted: u8) -> fmt::Result {
        if self.rank() < wanted {
            return write!(f, "({self})");
        }
        write!(f, "{self}")
    }
}

impl Display for Aggregate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Display for ScalarExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ScalarExpr::Static(value) => write!(f, "{value}"),
            ScalarExpr::Aggregate(aggregate, None) => write!(f, "{aggregate}()"),
            ScalarExpr::Aggregate(aggregate, Some(expr)) => write!(f, "{aggregate}({expr})"),
            ScalarExpr::Arith { op, lhs, rhs } => {
                let (left, right) = op.operand_ranks();
                lhs.write(f, left)?;
                write!(f, " {} ", op.symbol())?;
                rhs.write(f, right)
            }
            ScalarExpr::Pipeline(pipeline, value) => write!(f, "({pipeline} | {value})"),
        }
    }
}

impl Display for ScalarFilter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.lhs.write(f, rank::ADD)?;
        write!(f, " {} ", self.op.symbol())?;
        self.rhs.write(f, rank::ADD)
    }
}

/// Writes items with a separator between them.
fn join<T: Display>(f: &mut Formatter<'_>, items: &[T], separator: &str) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Spanset(expr) => write!(f, "{expr}"),
            Stage::Scalar(filter) => write!(f, "{filter}"),
            Stage::By(expr) => write!(f, "by({expr})"),
            Stage::Coalesce => f.write_str("coalesce()"),
            Stage::Select(fields) => {
                f.write_str("select(")?;
                join(f, fields, ", ")?;
                f.write_char(')')
            }
        }
    }
}

impl Display for Pipeline {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        join(f, &self.stages, " | ")
    }
}

impl Function {
    /// The function's name, as written and as the label of ungrouped series.
    pub fn word(&self) -> &'static str {
        match self {
            Function::Rate => "rate",
            Function::CountOverTime => "count_over_time",
            Function::MinOverTime(_) => "min_over_time",
            Function::MaxOverTime(_) => "max_over_time",
            Function::SumOverTime(_) => "sum_over_time",
            Function::AvgOverTime(_) => "avg_over_time",
            Function::QuantileOverTime(..) => "quantile_over_time",
            Function::HistogramOverTime(_) => "histogram_over_time",
            Function::Compare { .. } => "compare",
        }
    }
}

impl Display for FirstStage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.function.word())?;
        match &self.function {
            Function::Rate | Function::CountOverTime => {}
            Function::MinOverTime(field)
            | Function::MaxOverTime(field)
            | Function::SumOverTime(field)
            | Function::AvgOverTime(field)
            | Function::HistogramOverTime(field) => write!(f, "{field}")?,
            Function::QuantileOverTime(field, quantiles) => {
                write!(f, "{field}")?;
                for quantile in quantiles {
                    write!(f, ", {quantile:?}")?;
                }
            }
            Function::Compare {
                selection,
                top,
                window_unix_nanos,
            } => {
                match selection {
                    None => f.write_str("{ }")?,
                    Some(expr) => write!(f, "{{ {expr} }}")?,
                }
                if window_unix_nanos.is_some() || *top != limits::COMPARE_TOP_DEFAULT {
                    write!(f, ", {top}")?;
                }
                if let Some((start, end)) = window_unix_nanos {
                    write!(f, ", {start}, {end}")?;
                }
            }
        }
        f.write_char(')')?;
        if !self.by.is_empty() {
            f.write_str(" by(")?;
            join(f, &self.by, ", ")?;
            f.write_char(')')?;
        }
        Ok(())
    }
}

impl Display for SecondStage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            SecondStage::TopK(n) => write!(f, " | topk({n})"),
            SecondStage::BottomK(n) => write!(f, " | bottomk({n})"),
            SecondStage::Filter(op, value) => write!(f, " {} {value}", op.symbol()),
        }
    }
}

impl Display for MetricsExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            MetricsExpr::Pipeline { spans, first, second } => {
                write!(f, "{spans} | {first}")?;
                join(f, second, "")
            }
            MetricsExpr::Math { op, lhs, rhs } => {
                write_math_operand(f, lhs)?;
                write!(f, " {} ", op.symbol())?;
                write_math_operand(f, rhs)
            }
            MetricsExpr::Scalar(value) => write!(f, "{value:?}"),
            MetricsExpr::Staged(inner, second) => {
                write!(f, "({inner})")?;
                join(f, second, "")
            }
        }
    }
}

/// Brackets around everything that is not a plain number: maths nests rarely, and reads better so.
fn write_math_operand(f: &mut Formatter<'_>, operand: &MetricsExpr) -> fmt::Result {
    match operand {
        MetricsExpr::Scalar(value) if !value.is_sign_negative() => write!(f, "{operand}"),
        _ => write!(f, "({operand})"),
    }
}

impl Display for Hint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl Display for Query {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::Search(pipeline) => write!(f, "{pipeline}")?,
            Body::Metrics(metrics) => write!(f, "{metrics}")?,
        }
        if !self.hints.is_empty() {
            f.write_str(" with(")?;
            join(f, &self.hints, ", ")?;
            f.write_char(')')?;
        }
        Ok(())
    }
}
