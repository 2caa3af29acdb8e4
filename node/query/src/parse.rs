//! Tokens to tree: recursive descent with precedence climbing.
//!
//! Ranks, loose to tight: `|` · `&& ||` (one rank, left to right) · comparisons and structural operators · `+ -` · `!` ·
//! `* / %` · `^` (right to left). Which operators an operand may take depends on what it is: `>` between spansets is
//! structural, between aggregates a comparison, behind a metrics query a filter. Expressions inside `{ }` are in
//! [`expr`], metrics functions in [`metrics`].
//!
//! What always holds: no recursion deeper than [`limits::DEPTH_MAX`] and no tree higher, whatever the text; a tree handed
//! out satisfies the promises of [`crate::ast`].

mod expr;
mod metrics;
mod words;

use self::words::{is_known_word, nearest_word};
use crate::ast::{
    Aggregate, ArithOp, Body, Expr, Flavour, Hint, MetricsExpr, Pipeline, Query, Relation, ScalarExpr, ScalarFilter,
    SecondStage, SpansetExpr, SpansetOp, Stage,
};
use crate::engine::row_expr::arith;
use crate::error::Result;
use crate::field::{Field, Intrinsic, Name, Spelling};
use crate::lex::{Sym, Tok, Token, error_at, lex};
use crate::limits;
use crate::print::rank;
use crate::value::{CompareOp, SpanKind, Static, Status};

/// Parses a query. The tree is not checked for meaning; see [`crate::check`].
pub(crate) fn parse_query(text: &str) -> Result<Query> {
    let tokens = lex(text)?;
    let mut parser = Parser::new(text, &tokens);
    let query = parser.query()?;
    parser.expect_end()?;
    Ok(query)
}

/// Parses one field as a URL path segment or a parameter names it (`.foo`, `span.foo`, `name`, `event:name`).
pub(crate) fn parse_field(text: &str) -> Result<Field> {
    let tokens = lex(text)?;
    let mut parser = Parser::new(text, &tokens);
    let field = parser.field()?;
    parser.expect_end()?;
    Ok(field)
}

/// Parses the tokens of an expression as it stands inside `{ }`. The last token must be [`Tok::End`].
pub(crate) fn parse_expr_tokens(text: &str, tokens: &[Token<'_>]) -> Result<Expr> {
    let mut parser = Parser::new(text, tokens);
    let expr = parser.expr()?;
    parser.expect_end()?;
    Ok(expr)
}

/// A tree and its height.
struct Tall<T> {
    node: T,
    height: u32,
}

/// What a bracket or a stage can turn out to be.
enum Node {
    Spanset(SpansetExpr),
    Scalar(ScalarExpr),
    Filter(ScalarFilter),
    Metrics(MetricsExpr),
}

impl Node {
    fn noun(&self) -> &'static str {
        match self {
            Node::Spanset(_) => "a spanset",
            Node::Scalar(_) => "a value",
            Node::Filter(_) => "a scalar filter",
            Node::Metrics(_) => "a metrics query",
        }
    }
}

/// What a pipeline ends in.
enum Tail {
    Spansets,
    Scalar(ScalarExpr),
    Metrics(MetricsExpr),
}

const STAGES: &str = "a spanset filter { … }, an aggregate, by(), coalesce(), select() or a metrics function";
const SPANSET: &str = "a spanset filter such as { span.name = \"value\" }";

struct Parser<'t, 'a> {
    text: &'a str,
    tokens: &'t [Token<'a>],
    at: usize,
    depth: u32,
    spansets: usize,
    stages: usize,
    regexes: usize,
}

impl<'t, 'a> Parser<'t, 'a> {
    fn new(text: &'a str, tokens: &'t [Token<'a>]) -> Self {
        Parser {
            text,
            tokens,
            at: 0,
            depth: 0,
            spansets: 0,
            stages: 0,
            regexes: 0,
        }
    }

    fn token(&self) -> &'t Token<'a> {
        // The end token is never stepped over.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn tok(&self) -> &'t Tok<'a> {
        &self.token().tok
    }

    fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    fn eat(&mut self, sym: Sym) -> bool {
        let hit = *self.tok() == Tok::Sym(sym);
        if hit {
            self.advance();
        }
        hit
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let hit = matches!(self.tok(), Tok::Word(w) if *w == word);
        if hit {
            self.advance();
        }
        hit
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        self.fail_at(self.token().start, message)
    }

    fn fail_at<T>(&self, offset: usize, message: impl Into<String>) -> Result<T> {
        Err(error_at(self.text, offset, message))
    }

    /// The error for a token that does not fit here.
    fn unexpected<T>(&self, expected: &str) -> Result<T> {
        if let Tok::Word(word) = self.tok()
            && !is_known_word(word)
        {
            let near = nearest_word(word).map_or(String::new(), |near| format!(", did you mean {near}?"));
            return self.fail(format!("unknown identifier: {word}{near}"));
        }
        self.fail(format!("syntax error: unexpected {}, expected {expected}", self.tok()))
    }

    fn expect(&mut self, sym: Sym) -> Result<()> {
        if self.eat(sym) {
            return Ok(());
        }
        self.unexpected(&format!("'{}'", sym.text()))
    }

    fn expect_end(&self) -> Result<()> {
        if *self.tok() == Tok::End {
            return Ok(());
        }
        self.unexpected("end of query")
    }

    /// Runs `parse` one bracket deeper.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > limits::DEPTH_MAX {
            return self.fail(format!("query nests deeper than {} levels", limits::DEPTH_MAX));
        }
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// The height of a node above children of these heights.
    fn above(&self, a: u32, b: u32) -> Result<u32> {
        let height = 1 + a.max(b);
        if height > limits::DEPTH_MAX {
            return self.fail(format!("expression nests deeper than {} levels", limits::DEPTH_MAX));
        }
        Ok(height)
    }

    fn query(&mut self) -> Result<Query> {
        let (stages, tail) = self.pipe()?;
        let body = match tail {
            Tail::Spansets => Body::Search(Pipeline { stages }),
            Tail::Metrics(metrics) => Body::Metrics(metrics),
            Tail::Scalar(_) => return self.unexpected("a comparison, as in count() > 2"),
        };
        let hints = if self.eat_word("with") {
            self.hints()?
        } else {
            Vec::new()
        };
        Ok(Query { body, hints })
    }

    fn hints(&mut self) -> Result<Vec<Hint>> {
        self.expect(Sym::ParenOpen)?;
        let mut hints = Vec::new();
        loop {
            let Tok::Word(key) = self.tok() else {
                return self.fail(format!(
                    "syntax error: unexpected {}, expected a hint such as most_recent=true",
                    self.tok()
                ));
            };
            self.advance();
            self.expect(Sym::Eq)?;
            let value = self.literal()?;
            hints.push(Hint {
                key: (*key).to_owned(),
                value,
            });
            if self.eat(Sym::ParenClose) {
                return Ok(hints);
            }
            self.expect(Sym::Comma)?;
        }
    }

    /// A literal with an optional sign.
    fn literal(&mut self) -> Result<Static> {
        let negative = self.eat(Sym::Minus);
        let Some(value) = self.static_here() else {
            return self.fail(format!("syntax error: unexpected {}, expected a value", self.tok()));
        };
        match (negative, value) {
            (false, value) => {
                self.advance();
                Ok(value)
            }
            (true, value) => match negated(&value) {
                Some(value) => {
                    self.advance();
                    Ok(value)
                }
                None => self.fail(format!("syntax error: unexpected {}, expected a number", self.tok())),
            },
        }
    }

    /// The literal at the current token, if it is one.
    fn static_here(&self) -> Option<Static> {
        match self.tok() {
            Tok::Literal(value) => Some(value.clone()),
            Tok::Word(word) => match *word {
                "true" => Some(Static::Bool(true)),
                "false" => Some(Static::Bool(false)),
                "nil" => Some(Static::Nil),
                "minInt" => Some(Static::Int(i64::MIN)),
                "maxInt" => Some(Static::Int(i64::MAX)),
                word => Status::from_word(word)
                    .map(Static::Status)
                    .or_else(|| SpanKind::from_word(word).map(Static::Kind)),
            },
            _ => None,
        }
    }

    /// The field at the current token, if it is one.
    fn field_here(&self) -> Option<Field> {
        match self.tok() {
            Tok::Field(field) => Some(field.clone()),
            Tok::Word(word) => Intrinsic::from_bare(word).map(|which| Field {
                of_parent: false,
                name: Name::Intrinsic(which, Spelling::Bare),
            }),
            _ => None,
        }
    }

    fn field(&mut self) -> Result<Field> {
        match self.field_here() {
            Some(field) => {
                self.advance();
                Ok(field)
            }
            None => self.unexpected("an attribute such as span.name or an intrinsic such as duration"),
        }
    }

    /// One or more fields and the closing bracket; the opening one is already read.
    fn fields_to_close(&mut self) -> Result<Vec<Field>> {
        let mut fields = vec![self.field()?];
        while self.eat(Sym::Comma) {
            fields.push(self.field()?);
        }
        self.expect(Sym::ParenClose)?;
        Ok(fields)
    }

    /// Stages separated by `|`, up to something that is no stage.
    fn pipe(&mut self) -> Result<(Vec<Stage>, Tail)> {
        let mut stages = Vec::new();
        loop {
            self.stages += 1;
            if self.stages > limits::STAGES_MAX {
                return self.fail(format!("query has more than {} pipeline stages", limits::STAGES_MAX));
            }
            if let Tok::Word(word) = self.tok() {
                if metrics::is_first_stage(word) {
                    if stages.is_empty() {
                        return self.fail(format!(
                            "syntax error: unexpected '{word}', expected {SPANSET} before it"
                        ));
                    }
                    let first = self.first_stage()?;
                    let second = self.second_stages()?;
                    let spans = Pipeline { stages };
                    return Ok((
                        Vec::new(),
                        Tail::Metrics(MetricsExpr::Pipeline { spans, first, second }),
                    ));
                }
                if let Some(stage) = self.word_stage(word, stages.is_empty())? {
                    stages.push(stage);
                    if self.eat(Sym::Pipe) {
                        continue;
                    }
                    return Ok((stages, Tail::Spansets));
                }
            }
            let start = self.token().start;
            match self.operators(rank::LOGIC)?.node {
                Node::Spanset(expr) => stages.push(Stage::Spanset(expr)),
                Node::Filter(filter) => stages.push(Stage::Scalar(filter)),
                Node::Scalar(scalar) => {
                    if stages.is_empty() || has_aggregate(&scalar) {
                        return Ok((stages, Tail::Scalar(scalar)));
                    }
                    return self.fail_at(
                        start,
                        format!("syntax error: unexpected value {scalar}, expected {STAGES}"),
                    );
                }
                Node::Metrics(metrics) => {
                    if !stages.is_empty() {
                        return self.fail_at(start, "a metrics query in brackets cannot follow other stages");
                    }
                    let second = self.second_stages()?;
                    let metrics = staged(metrics, second);
                    return Ok((stages, Tail::Metrics(metrics)));
                }
            }
            if !self.eat(Sym::Pipe) {
                return Ok((stages, Tail::Spansets));
            }
        }
    }

    /// `by`, `coalesce`, `select`; None if `word` is none of them.
    fn word_stage(&mut self, word: &str, is_first: bool) -> Result<Option<Stage>> {
        let stage = match word {
            "by" => {
                self.advance();
                self.expect(Sym::ParenOpen)?;
                let expr = self.expr()?;
                self.expect(Sym::ParenClose)?;
                Stage::By(expr)
            }
            "coalesce" => {
                if is_first {
                    return self.fail(format!(
                        "syntax error: unexpected 'coalesce', expected {SPANSET} before it"
                    ));
                }
                self.advance();
                self.expect(Sym::ParenOpen)?;
                self.expect(Sym::ParenClose)?;
                Stage::Coalesce
            }
            "select" => {
                self.advance();
                self.expect(Sym::ParenOpen)?;
                Stage::Select(self.fields_to_close()?)
            }
            _ => return Ok(None),
        };
        Ok(Some(stage))
    }

    /// Spanset, scalar and metrics operators of at least `rank_min`.
    fn operators(&mut self, rank_min: u8) -> Result<Tall<Node>> {
        let mut lhs = self.operand()?;
        loop {
            let Tok::Sym(sym) = *self.tok() else { return Ok(lhs) };
            let Some(rank) = pipeline_rank(sym) else { return Ok(lhs) };
            if rank < rank_min {
                return Ok(lhs);
            }
            let at = self.token().start;
            self.advance();
            let rhs = self.operators(if sym == Sym::Caret { rank } else { rank + 1 })?;
            let height = self.above(lhs.height, rhs.height)?;
            lhs = Tall {
                node: self.combine(at, sym, lhs.node, rhs.node)?,
                height,
            };
        }
    }

    fn combine(&self, at: usize, sym: Sym, lhs: Node, rhs: Node) -> Result<Node> {
        let nouns = (lhs.noun(), rhs.noun());
        let mismatch = || {
            let text = format!(
                "syntax error: operator '{}' does not go between {} and {}",
                sym.text(),
                nouns.0,
                nouns.1
            );
            self.fail_at(at, text)
        };
        match (lhs, rhs) {
            (Node::Scalar(lhs), Node::Scalar(rhs)) => {
                if let Some(op) = arith_op(sym) {
                    return Ok(Node::Scalar(ScalarExpr::Arith {
                        op,
                        lhs: lhs.into(),
                        rhs: rhs.into(),
                    }));
                }
                let Some(op) = compare_op(sym).filter(|op| op.flipped().is_some()) else {
                    return mismatch();
                };
                if !has_aggregate(&lhs) && !has_aggregate(&rhs) {
                    return self.fail_at(
                        at,
                        "syntax error: comparing two constants, expected an aggregate such as count()",
                    );
                }
                Ok(Node::Filter(ScalarFilter { op, lhs, rhs }))
            }
            (Node::Metrics(lhs), Node::Scalar(rhs)) if compare_op(sym).is_some() && !has_aggregate(&rhs) => {
                let op = compare_op(sym).filter(|op| op.flipped().is_some());
                let Some(op) = op else { return mismatch() };
                let value = self.constant(at, &rhs)?;
                self.check_filter_value(at, &value)?;
                Ok(Node::Metrics(staged(lhs, vec![SecondStage::Filter(op, value)])))
            }
            (lhs @ Node::Metrics(_), rhs) | (lhs, rhs @ Node::Metrics(_)) => {
                let op = arith_op(sym).filter(|op| !matches!(op, ArithOp::Mod | ArithOp::Pow));
                match (op, self.metrics_operand(at, lhs)?, self.metrics_operand(at, rhs)?) {
                    (Some(op), Some(lhs), Some(rhs)) => Ok(Node::Metrics(MetricsExpr::Math {
                        op,
                        lhs: lhs.into(),
                        rhs: rhs.into(),
                    })),
                    _ => mismatch(),
                }
            }
            (lhs, rhs) => match (spanset_op(sym), spanset_operand(lhs), spanset_operand(rhs)) {
                (Some(op), Some(lhs), Some(rhs)) => Ok(Node::Spanset(SpansetExpr::Op {
                    op,
                    lhs: lhs.into(),
                    rhs: rhs.into(),
                })),
                _ => mismatch(),
            },
        }
    }

    /// None if it is nothing that metrics are combined with.
    fn metrics_operand(&self, at: usize, node: Node) -> Result<Option<MetricsExpr>> {
        Ok(match node {
            Node::Metrics(metrics) => Some(metrics),
            Node::Scalar(scalar) if !has_aggregate(&scalar) => match self.constant(at, &scalar)? {
                Static::Int(v) => Some(MetricsExpr::Scalar(v as f64)),
                Static::Float(v) => Some(MetricsExpr::Scalar(v)),
                _ => None,
            },
            _ => None,
        })
    }

    /// What a value without aggregates is worth.
    fn constant(&self, at: usize, scalar: &ScalarExpr) -> Result<Static> {
        let value = constant(scalar);
        match value {
            Some(Static::Float(v)) if !v.is_finite() => {}
            Some(Static::Nil) | None => {}
            Some(value) => return Ok(value),
        }
        self.fail_at(at, format!("syntax error: {scalar} is not a number"))
    }

    fn operand(&mut self) -> Result<Tall<Node>> {
        match self.tok() {
            Tok::Sym(Sym::BraceOpen) => {
                let filter = self.filter()?;
                Ok(Tall {
                    node: Node::Spanset(SpansetExpr::Filter(filter)),
                    height: 1,
                })
            }
            Tok::Sym(Sym::ParenOpen) => self.deeper(|p| {
                p.advance();
                let node = p.bracketed()?;
                p.expect(Sym::ParenClose)?;
                Ok(Tall { node, height: p.depth })
            }),
            Tok::Sym(Sym::Minus) => {
                let value = self.literal()?;
                Ok(Tall {
                    node: Node::Scalar(ScalarExpr::Static(value)),
                    height: 1,
                })
            }
            Tok::Word(word) if Aggregate::from_word(word).is_some() => {
                let aggregate = Aggregate::from_word(word).unwrap_or(Aggregate::Count);
                self.advance();
                self.expect(Sym::ParenOpen)?;
                let expr = match aggregate {
                    Aggregate::Count => None,
                    _ => Some(self.expr()?),
                };
                self.expect(Sym::ParenClose)?;
                Ok(Tall {
                    node: Node::Scalar(ScalarExpr::Aggregate(aggregate, expr)),
                    height: 1,
                })
            }
            _ => match self.static_here() {
                Some(value) => {
                    self.advance();
                    Ok(Tall {
                        node: Node::Scalar(ScalarExpr::Static(value)),
                        height: 1,
                    })
                }
                None => self.unexpected(STAGES),
            },
        }
    }

    /// `{ … }`: the expression inside, None if there is none.
    fn filter(&mut self) -> Result<Option<Expr>> {
        self.expect(Sym::BraceOpen)?;
        self.spansets += 1;
        if self.spansets > limits::SPANSETS_MAX {
            return self.fail(format!("query has more than {} spanset filters", limits::SPANSETS_MAX));
        }
        if self.eat(Sym::BraceClose) {
            return Ok(None);
        }
        let expr = self.expr()?;
        self.expect(Sym::BraceClose)?;
        Ok(Some(expr))
    }

    /// What stands inside round brackets.
    fn bracketed(&mut self) -> Result<Node> {
        let (mut stages, tail) = self.pipe()?;
        Ok(match tail {
            Tail::Metrics(metrics) => Node::Metrics(metrics),
            Tail::Scalar(scalar) if stages.is_empty() => Node::Scalar(scalar),
            Tail::Scalar(scalar) => Node::Scalar(ScalarExpr::Pipeline(Pipeline { stages }, scalar.into())),
            Tail::Spansets => match (stages.pop(), stages.is_empty()) {
                // Brackets around one spanset only group.
                (Some(Stage::Spanset(expr)), true) => Node::Spanset(expr),
                (last, _) => {
                    stages.extend(last);
                    Node::Spanset(SpansetExpr::Pipeline(Pipeline { stages }))
                }
            },
        })
    }
}

fn staged(metrics: MetricsExpr, more: Vec<SecondStage>) -> MetricsExpr {
    if more.is_empty() {
        return metrics;
    }
    match metrics {
        MetricsExpr::Staged(inner, mut second) => {
            second.extend(more);
            MetricsExpr::Staged(inner, second)
        }
        MetricsExpr::Pipeline {
            spans,
            first,
            mut second,
        } => {
            second.extend(more);
            MetricsExpr::Pipeline { spans, first, second }
        }
        other => MetricsExpr::Staged(other.into(), more),
    }
}

fn has_aggregate(scalar: &ScalarExpr) -> bool {
    match scalar {
        ScalarExpr::Static(_) => false,
        ScalarExpr::Aggregate(..) | ScalarExpr::Pipeline(..) => true,
        ScalarExpr::Arith { lhs, rhs, .. } => has_aggregate(lhs) || has_aggregate(rhs),
    }
}

fn constant(scalar: &ScalarExpr) -> Option<Static> {
    match scalar {
        ScalarExpr::Static(value) => Some(value.clone()),
        ScalarExpr::Arith { op, lhs, rhs } => Some(arith(*op, &constant(lhs)?, &constant(rhs)?)),
        ScalarExpr::Aggregate(..) | ScalarExpr::Pipeline(..) => None,
    }
}

fn spanset_operand(node: Node) -> Option<SpansetExpr> {
    match node {
        Node::Spanset(expr) => Some(expr),
        Node::Filter(filter) => Some(SpansetExpr::Pipeline(Pipeline {
            stages: vec![Stage::Scalar(filter)],
        })),
        _ => None,
    }
}

/// `-value`, for numbers.
fn negated(value: &Static) -> Option<Static> {
    Some(match value {
        Static::Int(v) => Static::Int(v.checked_neg()?),
        Static::Float(v) => Static::Float(-v),
        Static::Duration(v) => Static::Duration(v.checked_neg()?),
        _ => return None,
    })
}

pub(crate) fn arith_op(sym: Sym) -> Option<ArithOp> {
    Some(match sym {
        Sym::Plus => ArithOp::Add,
        Sym::Minus => ArithOp::Sub,
        Sym::Star => ArithOp::Mul,
        Sym::Slash => ArithOp::Div,
        Sym::Percent => ArithOp::Mod,
        Sym::Caret => ArithOp::Pow,
        _ => return None,
    })
}

pub(crate) fn compare_op(sym: Sym) -> Option<CompareOp> {
    Some(match sym {
        Sym::Eq => CompareOp::Eq,
        Sym::Ne => CompareOp::Ne,
        Sym::Lt => CompareOp::Lt,
        Sym::Le => CompareOp::Le,
        Sym::Gt => CompareOp::Gt,
        Sym::Ge => CompareOp::Ge,
        Sym::Match => CompareOp::Match,
        Sym::NotMatch => CompareOp::NotMatch,
        _ => return None,
    })
}

fn spanset_op(sym: Sym) -> Option<SpansetOp> {
    use Flavour::{Negated, Plain, Union};
    use Relation::{Ancestor, Child, Descendant, Parent, Sibling};
    let (relation, flavour) = match sym {
        Sym::AndAnd => return Some(SpansetOp::And),
        Sym::OrOr => return Some(SpansetOp::Or),
        Sym::Gt => (Child, Plain),
        Sym::NotChild => (Child, Negated),
        Sym::UnionChild => (Child, Union),
        Sym::Descendant => (Descendant, Plain),
        Sym::NotDescendant => (Descendant, Negated),
        Sym::UnionDescendant => (Descendant, Union),
        Sym::Lt => (Parent, Plain),
        Sym::NotParent => (Parent, Negated),
        Sym::UnionParent => (Parent, Union),
        Sym::Ancestor => (Ancestor, Plain),
        Sym::NotAncestor => (Ancestor, Negated),
        Sym::UnionAncestor => (Ancestor, Union),
        Sym::Tilde => (Sibling, Plain),
        Sym::NotMatch => (Sibling, Negated),
        Sym::UnionSibling => (Sibling, Union),
        _ => return None,
    };
    Some(SpansetOp::Structural(relation, flavour))
}

/// Rank of `sym` as an operator outside `{ }`; None if it is none there.
fn pipeline_rank(sym: Sym) -> Option<u8> {
    if let Some(op) = spanset_op(sym) {
        return Some(op.rank());
    }
    if compare_op(sym).is_some() {
        return Some(rank::COMPARE);
    }
    arith_op(sym).map(ArithOp::rank)
}
