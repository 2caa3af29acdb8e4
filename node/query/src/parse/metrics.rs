//! The stages of metrics queries.

use super::{Node, Parser, compare_op};
use crate::ast::{FirstStage, Function, SecondStage};
use crate::error::Result;
use crate::lex::{Sym, Tok};
use crate::limits;
use crate::print::rank;
use crate::value::Static;

pub(super) const FIRST_STAGES: [&str; 9] = [
    "rate",
    "count_over_time",
    "min_over_time",
    "max_over_time",
    "sum_over_time",
    "avg_over_time",
    "quantile_over_time",
    "histogram_over_time",
    "compare",
];

pub(super) fn is_first_stage(word: &str) -> bool {
    FIRST_STAGES.contains(&word)
}

impl Parser<'_, '_> {
    /// A metrics function and its `by(...)`. The current token is its name.
    pub(super) fn first_stage(&mut self) -> Result<FirstStage> {
        let Tok::Word(word) = *self.tok() else {
            return self.unexpected("a metrics function");
        };
        self.advance();
        self.expect(Sym::ParenOpen)?;
        let function = match word {
            "rate" => Function::Rate,
            "count_over_time" => Function::CountOverTime,
            "compare" => self.compare_arguments()?,
            _ => {
                let field = self.field()?;
                match word {
                    "min_over_time" => Function::MinOverTime(field),
                    "max_over_time" => Function::MaxOverTime(field),
                    "sum_over_time" => Function::SumOverTime(field),
                    "avg_over_time" => Function::AvgOverTime(field),
                    "histogram_over_time" => Function::HistogramOverTime(field),
                    _ => Function::QuantileOverTime(field, self.quantiles()?),
                }
            }
        };
        self.expect(Sym::ParenClose)?;
        let mut by = Vec::new();
        if self.eat_word("by") {
            self.expect(Sym::ParenOpen)?;
            by = self.fields_to_close()?;
        }
        Ok(FirstStage { function, by })
    }

    fn quantiles(&mut self) -> Result<Vec<f64>> {
        let mut quantiles = Vec::new();
        while self.eat(Sym::Comma) {
            let at = self.token().start;
            match self.literal()? {
                Static::Float(q) => quantiles.push(q),
                Static::Int(q) => quantiles.push(q as f64),
                other => {
                    return self.fail_at(
                        at,
                        format!("syntax error: unexpected {other}, expected a quantile such as 0.99"),
                    );
                }
            }
            if quantiles.len() > limits::QUANTILES_MAX {
                return self.fail_at(at, format!("more than {} quantiles", limits::QUANTILES_MAX));
            }
        }
        if quantiles.is_empty() {
            return self.unexpected("',' and a quantile such as 0.99");
        }
        Ok(quantiles)
    }

    fn compare_arguments(&mut self) -> Result<Function> {
        let selection = self.filter()?;
        let mut numbers = Vec::new();
        while numbers.len() < 3 && self.eat(Sym::Comma) {
            let at = self.token().start;
            match self.literal()? {
                Static::Int(v) => numbers.push(v),
                other => return self.fail_at(at, format!("syntax error: unexpected {other}, expected an integer")),
            }
        }
        let top = match numbers.first() {
            None => limits::COMPARE_TOP_DEFAULT,
            // Out of range is refused by the check, which knows the bounds; here it only has to fit.
            Some(n) => u32::try_from((*n).max(0)).unwrap_or(u32::MAX),
        };
        let window_unix_nanos = match numbers.get(1..) {
            Some([start, end]) => Some((*start, *end)),
            Some([_]) => return self.unexpected("',' and the end of the selection window in nanoseconds"),
            _ => None,
        };
        Ok(Function::Compare {
            selection,
            top,
            window_unix_nanos,
        })
    }

    /// `| topk(n)`, `| bottomk(n)`, `> 3`, any number of them.
    pub(super) fn second_stages(&mut self) -> Result<Vec<SecondStage>> {
        let mut second = Vec::new();
        loop {
            self.stages += 1;
            if self.stages > limits::STAGES_MAX {
                return self.fail(format!("query has more than {} pipeline stages", limits::STAGES_MAX));
            }
            let piped = self.eat(Sym::Pipe);
            match self.tok() {
                Tok::Word(word @ ("topk" | "bottomk")) if piped => {
                    let stage = if *word == "topk" {
                        SecondStage::TopK
                    } else {
                        SecondStage::BottomK
                    };
                    self.advance();
                    self.expect(Sym::ParenOpen)?;
                    let n = match self.tok() {
                        Tok::Literal(Static::Int(n)) => u32::try_from(*n).ok(),
                        _ => None,
                    };
                    let Some(n) = n else {
                        return self.unexpected("how many series to keep, such as 10");
                    };
                    self.advance();
                    self.expect(Sym::ParenClose)?;
                    second.push(stage(n));
                }
                Tok::Sym(sym) if compare_op(*sym).is_some_and(|op| op.flipped().is_some()) => {
                    let Some(op) = compare_op(*sym) else {
                        return self.unexpected("a comparison");
                    };
                    self.advance();
                    let at = self.token().start;
                    let Node::Scalar(scalar) = self.operators(rank::ADD)?.node else {
                        return self.fail_at(at, "syntax error: expected a number or a duration");
                    };
                    let value = self.constant(at, &scalar)?;
                    self.check_filter_value(at, &value)?;
                    second.push(SecondStage::Filter(op, value));
                }
                _ if piped => return self.unexpected("topk(), bottomk() or a comparison with a number"),
                _ => return Ok(second),
            }
        }
    }

    pub(super) fn check_filter_value(&self, at: usize, value: &Static) -> Result<()> {
        if value.as_f64().is_some() {
            return Ok(());
        }
        self.fail_at(
            at,
            format!("syntax error: unexpected {value}, expected a number or a duration"),
        )
    }
}
