//! Reads queries that are still being typed: what an editor sends while it asks for suggestions.
//!
//! The answer is one filter that keeps a superset of what the finished query could match: complete comparisons are kept,
//! the rest is ignored. It never fails; from nothing usable follows no filter.

use crate::ast::{Body, MetricsExpr, Pipeline, ScalarExpr};
use crate::ast::{Expr, LogicOp, SpansetExpr, Stage};
use crate::check::check_filter;
use crate::lex::{Sym, Tok, Token, lex_unfinished};
use crate::parse::{parse_expr_tokens, parse_query};

/// Most alternatives kept; more make the filter pointless, so then there is none.
const ALTERNATIVES_MAX: usize = 100;

/// The filter that a finished or unfinished query asks spans to satisfy. None keeps all spans.
pub(crate) fn parse_lenient(text: &str) -> Option<Expr> {
    let mut spansets = Vec::new();
    match parse_query(text) {
        Ok(query) => collect_body(&query.body, &mut spansets),
        Err(_) => collect_tokens(text, &lex_unfinished(text), &mut spansets),
    }
    // A span is of interest if any of the spansets could hold it; one that holds all spans decides it.
    let mut alternatives = Vec::new();
    for spanset in spansets {
        match spanset {
            None => return None,
            Some(expr) if check_filter(&expr).is_ok() => {
                if !alternatives.contains(&expr) {
                    alternatives.push(expr);
                }
            }
            Some(_) => return None,
        }
    }
    match alternatives.len() {
        0 => None,
        1 => alternatives.pop(),
        n if n > ALTERNATIVES_MAX => None,
        _ => Some(Expr::Logic(LogicOp::Or, alternatives)),
    }
}

fn collect_body(body: &Body, out: &mut Vec<Option<Expr>>) {
    match body {
        Body::Search(pipeline) => collect_pipeline(pipeline, out),
        Body::Metrics(metrics) => collect_metrics(metrics, out),
    }
}

fn collect_metrics(metrics: &MetricsExpr, out: &mut Vec<Option<Expr>>) {
    match metrics {
        MetricsExpr::Pipeline { spans, .. } => collect_pipeline(spans, out),
        MetricsExpr::Math { lhs, rhs, .. } => {
            collect_metrics(lhs, out);
            collect_metrics(rhs, out);
        }
        MetricsExpr::Staged(inner, _) => collect_metrics(inner, out),
        MetricsExpr::Scalar(_) => {}
    }
}

/// The first stage decides which spans there are; later stages only take some away.
fn collect_pipeline(pipeline: &Pipeline, out: &mut Vec<Option<Expr>>) {
    match pipeline.stages.first() {
        Some(Stage::Spanset(expr)) => collect_spanset(expr, out),
        Some(Stage::Scalar(filter)) => {
            for side in [&filter.lhs, &filter.rhs] {
                match side {
                    ScalarExpr::Pipeline(pipeline, _) => collect_pipeline(pipeline, out),
                    ScalarExpr::Static(_) => {}
                    _ => out.push(None),
                }
            }
        }
        _ => out.push(None),
    }
}

fn collect_spanset(expr: &SpansetExpr, out: &mut Vec<Option<Expr>>) {
    match expr {
        SpansetExpr::Filter(filter) => out.push(filter.clone()),
        SpansetExpr::Pipeline(pipeline) => collect_pipeline(pipeline, out),
        SpansetExpr::Op { lhs, rhs, .. } => {
            collect_spanset(lhs, out);
            collect_spanset(rhs, out);
        }
    }
}

/// Every `{ … }` of the tokens, the last one perhaps open. That of `compare({ … })` only marks some of the spans.
fn collect_tokens(text: &str, tokens: &[Token<'_>], out: &mut Vec<Option<Expr>>) {
    let mut open = None;
    for (i, token) in tokens.iter().enumerate() {
        match token.tok {
            Tok::Sym(Sym::BraceOpen) => {
                let before: Vec<_> = tokens[..i].iter().rev().take(2).map(|token| &token.tok).collect();
                let is_selection = before == [&Tok::Sym(Sym::ParenOpen), &Tok::Word("compare")];
                open = (!is_selection).then_some(i + 1);
            }
            Tok::Sym(Sym::BraceClose) | Tok::End => {
                if let Some(start) = open.take() {
                    out.push(usable_parts(text, &tokens[start..i]));
                }
            }
            _ => {}
        }
    }
}

/// The parts between `&&` and `||` that parse and mean something, joined as they stood.
fn usable_parts(text: &str, tokens: &[Token<'_>]) -> Option<Expr> {
    let mut kept: Option<Expr> = None;
    let mut op = LogicOp::And;
    let mut start = 0;
    let mut depth = 0usize;
    for at in 0..=tokens.len() {
        let sym = match tokens.get(at).map(|token| &token.tok) {
            Some(Tok::Sym(sym)) => Some(*sym),
            _ => None,
        };
        match sym {
            Some(Sym::ParenOpen) => depth += 1,
            Some(Sym::ParenClose) => depth = depth.saturating_sub(1),
            _ => {}
        }
        let next = match sym {
            Some(Sym::AndAnd) if depth == 0 => Some(LogicOp::And),
            Some(Sym::OrOr) if depth == 0 => Some(LogicOp::Or),
            _ => None,
        };
        if next.is_none() && at < tokens.len() {
            continue;
        }
        let part = usable_part(text, &tokens[start..at]);
        kept = if start == 0 { part } else { join(op, kept, part) };
        op = next.unwrap_or(op);
        start = at + 1;
    }
    kept
}

/// Joins two parts of which None stands for "no idea", which is "perhaps" and so keeps everything.
fn join(op: LogicOp, lhs: Option<Expr>, rhs: Option<Expr>) -> Option<Expr> {
    match (op, lhs, rhs) {
        (op, Some(Expr::Logic(same, mut parts)), Some(rhs)) if same == op => {
            parts.push(rhs);
            Some(Expr::Logic(op, parts))
        }
        (op, Some(lhs), Some(rhs)) => Some(Expr::Logic(op, vec![lhs, rhs])),
        (LogicOp::And, known, None) | (LogicOp::And, None, known) => known,
        (LogicOp::Or, ..) => None,
    }
}

fn usable_part(text: &str, tokens: &[Token<'_>]) -> Option<Expr> {
    let last = tokens.last()?;
    let mut closed = tokens.to_vec();
    closed.push(Token {
        tok: Tok::End,
        start: last.end,
        end: last.end,
    });
    let part = parse_expr_tokens(text, &closed).ok()?;
    check_filter(&part).ok().map(|()| part)
}
