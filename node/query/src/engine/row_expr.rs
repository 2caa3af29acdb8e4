//! Expressions worked out span by span: arithmetic, fields against fields, group keys.
//!
//! A [`Program`] is an expression with its fields numbered and its patterns compiled, so that nothing is looked up or
//! compiled per row. Missing values give nil, and nil compares with nothing; so do overflow and division by zero.

use crate::ast::{ArithOp, Expr, LogicOp};
use crate::error::Result;
use crate::field::Field;
use crate::matcher::Matcher;
use crate::value::{CompareOp, Static};

/// A value and, for lists, what the list is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) value: Static,
    /// The list has one element per event or link, each of which may satisfy a comparison alone; an array must satisfy
    /// `!=` and `!~` as a whole.
    pub(crate) each: bool,
}

impl Cell {
    pub(crate) fn new(value: Static) -> Cell {
        Cell { value, each: false }
    }

    /// The elements of a list, or the one value; nil has none.
    pub(crate) fn items(&self) -> &[Static] {
        match &self.value {
            Static::Nil => &[],
            Static::List(items) => items,
            single => std::slice::from_ref(single),
        }
    }
}

/// An expression ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) expr: Expr,
    /// What it reads; [`Node::Field`] indexes into it.
    pub(crate) fields: Vec<Field>,
    root: Node,
}

#[derive(Clone, Debug)]
enum Node {
    Static(Static),
    Field(usize),
    Not(Box<Node>),
    Neg(Box<Node>),
    Logic(LogicOp, Vec<Node>),
    Match(Matcher, Box<Node>),
    Compare(CompareOp, Box<Node>, Box<Node>),
    Arith(ArithOp, Box<Node>, Box<Node>),
}

impl Program {
    pub(crate) fn new(expr: &Expr) -> Result<Program> {
        let mut fields = Vec::new();
        let root = lower(expr, &mut fields)?;
        Ok(Program {
            expr: expr.clone(),
            fields,
            root,
        })
    }

    /// Runs it; `read` gives the value of a field by its index in [`Program::fields`].
    pub(crate) fn run(&self, read: &mut dyn FnMut(usize) -> Result<Cell>) -> Result<Cell> {
        run(&self.root, read)
    }
}

/// The value of an expression without fields. Patterns that do not compile match nothing; the check refused them before.
pub(crate) fn constant(expr: &Expr) -> Static {
    let program = Program::new(expr);
    let value = program.and_then(|program| program.run(&mut |_| Ok(Cell::new(Static::Nil))));
    value.map_or(Static::Nil, |cell| cell.value)
}

fn lower(expr: &Expr, fields: &mut Vec<Field>) -> Result<Node> {
    Ok(match expr {
        Expr::Static(value) => Node::Static(value.clone()),
        Expr::Field(field) => {
            let known = fields.iter().position(|known| known == field);
            Node::Field(known.unwrap_or_else(|| {
                fields.push(field.clone());
                fields.len() - 1
            }))
        }
        Expr::Not(inner) => Node::Not(lower(inner, fields)?.into()),
        Expr::Neg(inner) => Node::Neg(lower(inner, fields)?.into()),
        Expr::Logic(op, operands) => Node::Logic(
            *op,
            operands
                .iter()
                .map(|operand| lower(operand, fields))
                .collect::<Result<_>>()?,
        ),
        Expr::Compare {
            op: op @ (CompareOp::Match | CompareOp::NotMatch),
            lhs,
            rhs,
        } => match &**rhs {
            Expr::Static(pattern @ Static::Str(_)) => {
                Node::Match(Matcher::new(*op, pattern)?, lower(lhs, fields)?.into())
            }
            _ => Node::Static(Static::Bool(false)),
        },
        Expr::Compare { op, lhs, rhs } => Node::Compare(*op, lower(lhs, fields)?.into(), lower(rhs, fields)?.into()),
        Expr::Arith { op, lhs, rhs } => Node::Arith(*op, lower(lhs, fields)?.into(), lower(rhs, fields)?.into()),
    })
}

fn run(node: &Node, read: &mut dyn FnMut(usize) -> Result<Cell>) -> Result<Cell> {
    let truth = |value: bool| Ok(Cell::new(Static::Bool(value)));
    match node {
        Node::Static(value) => Ok(Cell::new(value.clone())),
        Node::Field(slot) => read(*slot),
        Node::Not(inner) => {
            let cell = run(inner, read)?;
            let value = map(&cell.value, |item| match item {
                Static::Bool(value) => Static::Bool(!value),
                _ => Static::Nil,
            });
            Ok(Cell { value, each: cell.each })
        }
        Node::Neg(inner) => {
            let cell = run(inner, read)?;
            Ok(Cell {
                value: map(&cell.value, negate),
                each: cell.each,
            })
        }
        Node::Logic(op, operands) => {
            for operand in operands {
                let value = is_true(&run(operand, read)?);
                if value == (*op == LogicOp::Or) {
                    return truth(value);
                }
            }
            truth(*op == LogicOp::And)
        }
        Node::Match(matcher, inner) => {
            let cell = run(inner, read)?;
            let mut items = cell.items().iter();
            truth(match matcher.wants_all() && !cell.each {
                true => !cell.items().is_empty() && items.all(|item| matcher.accepts_static(item)),
                false => items.any(|item| matcher.accepts_static(item)),
            })
        }
        Node::Compare(op, lhs, rhs) => truth(compare(*op, &run(lhs, read)?, &run(rhs, read)?)),
        Node::Arith(op, lhs, rhs) => {
            let (lhs, rhs) = (run(lhs, read)?, run(rhs, read)?);
            let each = lhs.each || rhs.each;
            let value = match (&lhs.value, &rhs.value) {
                (Static::List(_), Static::List(_)) => Static::Nil,
                (list @ Static::List(_), single) => map(list, |item| arith(*op, item, single)),
                (single, list @ Static::List(_)) => map(list, |item| arith(*op, single, item)),
                (a, b) => arith(*op, a, b),
            };
            Ok(Cell { value, each })
        }
    }
}

/// Whether a value that stands where a boolean is wanted is true: an array if any element is.
pub(crate) fn is_true(cell: &Cell) -> bool {
    cell.items().contains(&Static::Bool(true))
}

fn map(value: &Static, f: impl Fn(&Static) -> Static) -> Static {
    match value {
        Static::List(items) => Static::List(items.iter().map(f).collect()),
        single => f(single),
    }
}

/// Compares two cells element by element; see [`Cell::each`].
fn compare(op: CompareOp, lhs: &Cell, rhs: &Cell) -> bool {
    let (left, right) = (lhs.items(), rhs.items());
    if left.is_empty() || right.is_empty() {
        return false;
    }
    let mut pairs = left.iter().flat_map(|a| right.iter().map(move |b| (a, b)));
    let holds = |(a, b): (&Static, &Static)| a.order(b).is_some_and(|ordering| op.accepts(ordering));
    match op.wants_all() && !lhs.each && !rhs.each {
        true => pairs.all(holds),
        false => pairs.any(holds),
    }
}

fn negate(value: &Static) -> Static {
    match value {
        Static::Int(v) => v.checked_neg().map_or(Static::Nil, Static::Int),
        Static::Duration(v) => v.checked_neg().map_or(Static::Nil, Static::Duration),
        Static::Float(v) => Static::Float(-v),
        _ => Static::Nil,
    }
}

/// Arithmetic on two numbers; nil for everything else.
///
/// Integers stay integers. A duration with a number is a duration, except that duration over duration and powers are
/// plain numbers.
pub(crate) fn arith(op: ArithOp, lhs: &Static, rhs: &Static) -> Static {
    use Static::{Duration, Float, Int};
    let whole = |value: Option<i64>, wrap: fn(i64) -> Static| value.map_or(Static::Nil, wrap);
    match (lhs, rhs) {
        (Int(a), Int(b)) => match op {
            ArithOp::Pow if *b < 0 => float(op, *a as f64, *b as f64),
            _ => whole(integer(op, *a, *b), Int),
        },
        (Duration(a), Duration(b)) => match op {
            ArithOp::Add | ArithOp::Sub | ArithOp::Mod => whole(integer(op, *a, *b), Duration),
            _ => float(op, *a as f64, *b as f64),
        },
        (Duration(a), Int(b)) | (Int(a), Duration(b)) if op != ArithOp::Pow => whole(integer(op, *a, *b), Duration),
        (Duration(_), Float(_)) | (Float(_), Duration(_)) if op != ArithOp::Pow => match (lhs.as_f64(), rhs.as_f64()) {
            (Some(a), Some(b)) => match float(op, a, b) {
                Float(v) if v.is_finite() && v.abs() < 9.2e18 => Duration(v.round() as i64),
                _ => Static::Nil,
            },
            _ => Static::Nil,
        },
        _ => match (lhs.as_f64(), rhs.as_f64()) {
            (Some(a), Some(b)) => float(op, a, b),
            _ => Static::Nil,
        },
    }
}

fn integer(op: ArithOp, a: i64, b: i64) -> Option<i64> {
    match op {
        ArithOp::Add => a.checked_add(b),
        ArithOp::Sub => a.checked_sub(b),
        ArithOp::Mul => a.checked_mul(b),
        ArithOp::Div => a.checked_div(b),
        ArithOp::Mod => a.checked_rem(b),
        ArithOp::Pow => a.checked_pow(u32::try_from(b).ok()?),
    }
}

fn float(op: ArithOp, a: f64, b: f64) -> Static {
    let value = match op {
        ArithOp::Add => a + b,
        ArithOp::Sub => a - b,
        ArithOp::Mul => a * b,
        ArithOp::Div => a / b,
        ArithOp::Mod => a % b,
        ArithOp::Pow => a.powf(b),
    };
    if value.is_nan() {
        Static::Nil
    } else {
        Static::Float(value)
    }
}
