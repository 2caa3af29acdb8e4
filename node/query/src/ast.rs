//! The shape of a query: what the parser builds and everyone else reads.
//!
//! What always holds for a tree that [`crate::parse()`] returned: heights are within [`crate::limits::DEPTH_MAX`], a
//! [`Expr::Logic`] has at least two operands and its first operand is not the same operator again, a minus before a number
//! is part of the number. Printing such a tree (its `Display`) and parsing the text gives the same tree.
//! Whether it means anything is for `check` to say.

use crate::field::Field;
use crate::value::{CompareOp, Static};

/// A whole query.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// What is asked.
    pub body: Body,
    /// `with(...)`, in the order written.
    pub hints: Vec<Hint>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Which traces.
    Search(Pipeline),
    /// How many, how long, how often.
    Metrics(MetricsExpr),
}

/// One `key=value` of `with(...)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Hint {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Static,
}

/// Stages, left to right. Never empty, and the first is not `coalesce()`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// The stages. Where the first is not a spanset expression the pipeline starts with all spans.
    pub stages: Vec<Stage>,
}

/// One stage of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Keeps spans.
    Spanset(SpansetExpr),
    /// Keeps spansets by an aggregate.
    Scalar(ScalarFilter),
    /// Splits each spanset by the value of an expression.
    By(Expr),
    /// Merges the spansets of a trace into one.
    Coalesce,
    /// Shows more fields in the answer.
    Select(Vec<Field>),
}

/// Chooses spans of a trace.
#[derive(Clone, Debug, PartialEq)]
pub enum SpansetExpr {
    /// `{ … }`; None for `{ }`, which keeps all.
    Filter(Option<Expr>),
    /// Two spansets combined.
    Op {
        /// How.
        op: SpansetOp,
        /// Left side.
        lhs: Box<SpansetExpr>,
        /// Right side.
        rhs: Box<SpansetExpr>,
    },
    /// A pipeline in brackets.
    Pipeline(Pipeline),
}

/// How two spansets of one trace combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpansetOp {
    /// Both must be there; gives the spans of both.
    And,
    /// Gives the spans of both.
    Or,
    /// Spans of the right side related to a span of the left side.
    Structural(Relation, Flavour),
}

/// How a right span stands to a left span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// `>`: is a child of it.
    Child,
    /// `>>`: is below it.
    Descendant,
    /// `<`: is its parent.
    Parent,
    /// `<<`: is above it.
    Ancestor,
    /// `~`: has the same parent.
    Sibling,
}

/// What a structural operator gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// `>`: right spans that stand so to some left span.
    Plain,
    /// `!>`: right spans that stand so to no left span.
    Negated,
    /// `&>`: both spans of each pair that stands so.
    Union,
}

/// An aggregate compared with another, or with a number.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalarFilter {
    /// Never a regex operator.
    pub op: CompareOp,
    /// Left side.
    pub lhs: ScalarExpr,
    /// Right side.
    pub rhs: ScalarExpr,
}

/// One value per spanset.
#[derive(Clone, Debug, PartialEq)]
pub enum ScalarExpr {
    /// A literal.
    Static(Static),
    /// An aggregate over the spans of the spanset; only `count` has no operand.
    Aggregate(Aggregate, Option<Expr>),
    /// Arithmetic.
    Arith {
        /// How.
        op: ArithOp,
        /// Left side.
        lhs: Box<ScalarExpr>,
        /// Right side.
        rhs: Box<ScalarExpr>,
    },
    /// A pipeline in brackets that ends in a value: `({ … } | count())`.
    Pipeline(Pipeline, Box<ScalarExpr>),
}

/// How the spans of a spanset become one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aggregate {
    /// Number of spans.
    Count,
    /// Smallest.
    Min,
    /// Largest.
    Max,
    /// Mean.
    Avg,
    /// Sum.
    Sum,
}

impl Aggregate {
    /// As written.
    pub fn word(self) -> &'static str {
        match self {
            Aggregate::Count => "count",
            Aggregate::Min => "min",
            Aggregate::Max => "max",
            Aggregate::Avg => "avg",
            Aggregate::Sum => "sum",
        }
    }

    /// Reverse of [`Aggregate::word`].
    pub fn from_word(word: &str) -> Option<Aggregate> {
        [
            Aggregate::Count,
            Aggregate::Min,
            Aggregate::Max,
            Aggregate::Avg,
            Aggregate::Sum,
        ]
        .into_iter()
        .find(|a| a.word() == word)
    }
}

/// An expression over one span.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A literal.
    Static(Static),
    /// Something of the span.
    Field(Field),
    /// `!`
    Not(Box<Expr>),
    /// `-`
    Neg(Box<Expr>),
    /// `&&` or `||` over two or more.
    Logic(LogicOp, Vec<Expr>),
    /// Comparison.
    Compare {
        /// How.
        op: CompareOp,
        /// Left side.
        lhs: Box<Expr>,
        /// Right side.
        rhs: Box<Expr>,
    },
    /// Arithmetic.
    Arith {
        /// How.
        op: ArithOp,
        /// Left side.
        lhs: Box<Expr>,
        /// Right side.
        rhs: Box<Expr>,
    },
}

/// Boolean operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogicOp {
    /// `&&`
    And,
    /// `||`
    Or,
}

/// Arithmetic operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArithOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Mod,
    /// `^`
    Pow,
}

/// A metrics query.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricsExpr {
    /// Spans counted or measured over time.
    Pipeline {
        /// Which spans.
        spans: Pipeline,
        /// What is measured.
        first: FirstStage,
        /// What is done with the series.
        second: Vec<SecondStage>,
    },
    /// Series combined label by label. Only `+ - * /`.
    Math {
        /// How.
        op: ArithOp,
        /// Left side.
        lhs: Box<MetricsExpr>,
        /// Right side.
        rhs: Box<MetricsExpr>,
    },
    /// A number that takes part in [`MetricsExpr::Math`].
    Scalar(f64),
    /// Second stages behind brackets.
    Staged(Box<MetricsExpr>, Vec<SecondStage>),
}

/// The stage that turns spans into series.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstStage {
    /// What is measured.
    pub function: Function,
    /// Labels of the series.
    pub by: Vec<Field>,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Function {
    /// Spans per second.
    Rate,
    /// Spans.
    CountOverTime,
    /// Smallest value.
    MinOverTime(Field),
    /// Largest value.
    MaxOverTime(Field),
    /// Sum of values.
    SumOverTime(Field),
    /// Mean of values.
    AvgOverTime(Field),
    /// Quantiles of values, each in `0.0..=1.0`.
    QuantileOverTime(Field, Vec<f64>),
    /// Number of spans per power-of-two bucket.
    HistogramOverTime(Field),
    /// Attributes of the selected spans against those of the rest.
    Compare {
        /// The expression inside the selecting `{ }`; None selects all.
        selection: Option<Expr>,
        /// How many values per attribute are kept.
        top: u32,
        /// Only spans inside this window can be selected, in nanoseconds since the epoch.
        window_unix_nanos: Option<(i64, i64)>,
    },
}

/// What is done with series.
#[derive(Clone, Debug, PartialEq)]
pub enum SecondStage {
    /// The largest at each point in time.
    TopK(u32),
    /// The smallest at each point in time.
    BottomK(u32),
    /// Samples that compare so with a number (a duration counts as seconds).
    Filter(CompareOp, Static),
}

impl MetricsExpr {
    /// The spans it measures, when it measures one set of spans.
    pub fn single_pipeline(&self) -> Option<&Pipeline> {
        match self {
            MetricsExpr::Pipeline { spans, .. } => Some(spans),
            MetricsExpr::Staged(inner, _) => inner.single_pipeline(),
            MetricsExpr::Math { lhs, rhs, .. } => match (&**lhs, &**rhs) {
                (one, MetricsExpr::Scalar(_)) | (MetricsExpr::Scalar(_), one) => one.single_pipeline(),
                _ => None,
            },
            MetricsExpr::Scalar(_) => None,
        }
    }
}
