//! Expressions over one span, as they stand inside `{ }`, `by()` and aggregates.

use super::{Parser, Tall, arith_op, compare_op, negated};
use crate::ast::{ArithOp, Expr, LogicOp};
use crate::error::Result;
use crate::lex::{Sym, Tok};
use crate::limits;
use crate::print::rank;
use crate::value::CompareOp;

enum Op {
    Logic(LogicOp),
    Compare(CompareOp),
    Arith(ArithOp),
}

impl Op {
    fn of(sym: Sym) -> Option<Op> {
        match sym {
            Sym::AndAnd => Some(Op::Logic(LogicOp::And)),
            Sym::OrOr => Some(Op::Logic(LogicOp::Or)),
            _ => compare_op(sym)
                .map(Op::Compare)
                .or_else(|| arith_op(sym).map(Op::Arith)),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Op::Logic(_) => rank::LOGIC,
            Op::Compare(_) => rank::COMPARE,
            Op::Arith(op) => op.rank(),
        }
    }
}

impl Parser<'_, '_> {
    pub(super) fn expr(&mut self) -> Result<Expr> {
        self.binary(rank::LOGIC).map(|tall| tall.node)
    }

    fn binary(&mut self, rank_min: u8) -> Result<Tall<Expr>> {
        let mut lhs = self.unary()?;
        loop {
            let Tok::Sym(sym) = *self.tok() else { return Ok(lhs) };
            let Some(op) = Op::of(sym) else { return Ok(lhs) };
            if op.rank() < rank_min {
                return Ok(lhs);
            }
            self.advance();
            // Only `^` groups to the right; a chain of it recurses, so it counts as nesting.
            let rhs = match op {
                Op::Arith(ArithOp::Pow) => self.deeper(|p| p.binary(rank::POW))?,
                _ => self.binary(op.rank() + 1)?,
            };
            lhs = self.join(op, lhs, rhs)?;
        }
    }

    fn join(&mut self, op: Op, lhs: Tall<Expr>, rhs: Tall<Expr>) -> Result<Tall<Expr>> {
        let node = match op {
            Op::Logic(op) => {
                // A run of one operator stays flat, however long it is.
                if let Expr::Logic(same, mut operands) = lhs.node {
                    if same == op {
                        operands.push(rhs.node);
                        let height = lhs.height.max(self.above(rhs.height, 0)?);
                        return Ok(Tall {
                            node: Expr::Logic(op, operands),
                            height,
                        });
                    }
                    Expr::Logic(op, vec![Expr::Logic(same, operands), rhs.node])
                } else {
                    Expr::Logic(op, vec![lhs.node, rhs.node])
                }
            }
            Op::Compare(op) => {
                if matches!(op, CompareOp::Match | CompareOp::NotMatch) {
                    self.regexes += 1;
                    if self.regexes > limits::REGEXES_MAX {
                        return self.fail(format!(
                            "query has more than {} regular expressions",
                            limits::REGEXES_MAX
                        ));
                    }
                }
                Expr::Compare {
                    op,
                    lhs: lhs.node.into(),
                    rhs: rhs.node.into(),
                }
            }
            Op::Arith(op) => Expr::Arith {
                op,
                lhs: lhs.node.into(),
                rhs: rhs.node.into(),
            },
        };
        Ok(Tall {
            node,
            height: self.above(lhs.height, rhs.height)?,
        })
    }

    fn unary(&mut self) -> Result<Tall<Expr>> {
        match self.tok() {
            Tok::Sym(Sym::Minus) => self.deeper(|p| {
                p.advance();
                let inner = p.binary(rank::NOT)?;
                let literal = match &inner.node {
                    Expr::Static(value) => negated(value),
                    _ => None,
                };
                let height = p.above(inner.height, 0)?;
                let node = literal.map_or_else(|| Expr::Neg(inner.node.into()), Expr::Static);
                Ok(Tall { node, height })
            }),
            Tok::Sym(Sym::Not) => self.deeper(|p| {
                p.advance();
                let inner = p.binary(rank::MUL)?;
                let height = p.above(inner.height, 0)?;
                Ok(Tall {
                    node: Expr::Not(inner.node.into()),
                    height,
                })
            }),
            Tok::Sym(Sym::ParenOpen) => self.deeper(|p| {
                p.advance();
                let inner = p.binary(rank::LOGIC)?;
                p.expect(Sym::ParenClose)?;
                Ok(inner)
            }),
            _ => {
                let node = match (self.static_here(), self.field_here()) {
                    (Some(value), _) => Expr::Static(value),
                    (None, Some(field)) => Expr::Field(field),
                    (None, None) => return self.unexpected("an attribute, an intrinsic or a value"),
                };
                self.advance();
                Ok(Tall { node, height: 1 })
            }
        }
    }
}
