//! One comparison with a literal, compiled: asked once per distinct value where there is a dictionary.

use std::collections::HashSet;

use crate::check::compile_regex;
use crate::error::Result;
use crate::value::{CompareOp, Static};

/// What a value must satisfy. A value of another type than the literal's never does, whatever the operator.
#[derive(Clone, Debug)]
pub(crate) enum Matcher {
    /// Compare with a literal; never nil, never a list, never a regex operator.
    Compare(CompareOp, Static),
    /// Is one of these texts (`a = "x" || a = "y"`).
    OneOf(HashSet<String>),
    /// The whole text matches.
    Regex(regex::Regex),
    /// The whole text does not match.
    NotRegex(regex::Regex),
}

impl Matcher {
    pub(crate) fn new(op: CompareOp, value: &Static) -> Result<Matcher> {
        Ok(match (op, value) {
            (CompareOp::Match, Static::Str(pattern)) => Matcher::Regex(compile_regex(pattern)?),
            (CompareOp::NotMatch, Static::Str(pattern)) => Matcher::NotRegex(compile_regex(pattern)?),
            (op, value) => Matcher::Compare(op, value.clone()),
        })
    }

    /// Whether every element of an array must satisfy it rather than any.
    pub(crate) fn wants_all(&self) -> bool {
        matches!(self, Matcher::Compare(CompareOp::Ne, _) | Matcher::NotRegex(_))
    }

    /// Text that has not been looked at yet. What is not UTF-8 was refused at the door; here it just does not match.
    pub(crate) fn accepts_bytes(&self, text: &[u8]) -> bool {
        match self {
            Matcher::Compare(op, Static::Str(literal)) => op.accepts(text.cmp(literal.as_bytes())),
            Matcher::Compare(..) => false,
            _ => std::str::from_utf8(text).is_ok_and(|text| self.accepts_str(text)),
        }
    }

    pub(crate) fn accepts_str(&self, text: &str) -> bool {
        match self {
            Matcher::Compare(op, Static::Str(literal)) => op.accepts(text.as_bytes().cmp(literal.as_bytes())),
            Matcher::Compare(..) => false,
            Matcher::OneOf(texts) => texts.contains(text),
            Matcher::Regex(regex) => regex.is_match(text),
            Matcher::NotRegex(regex) => !regex.is_match(text),
        }
    }

    pub(crate) fn accepts_int(&self, value: i64) -> bool {
        match self {
            Matcher::Compare(op, Static::Int(literal) | Static::Duration(literal)) => op.accepts(value.cmp(literal)),
            Matcher::Compare(op, literal) => Static::Int(value).order(literal).is_some_and(|o| op.accepts(o)),
            _ => false,
        }
    }

    pub(crate) fn accepts_double(&self, value: f64) -> bool {
        match self {
            Matcher::Compare(op, literal) => Static::Float(value).order(literal).is_some_and(|o| op.accepts(o)),
            _ => false,
        }
    }

    pub(crate) fn accepts_bool(&self, value: bool) -> bool {
        matches!(self, Matcher::Compare(op, Static::Bool(literal)) if op.accepts(value.cmp(literal)))
    }

    /// Any single value.
    pub(crate) fn accepts_static(&self, value: &Static) -> bool {
        match (self, value) {
            (_, Static::Str(text)) => self.accepts_str(text),
            (Matcher::Compare(op, literal), value) => value.order(literal).is_some_and(|o| op.accepts(o)),
            _ => false,
        }
    }

    /// The values of which one must be there for the matcher to accept anything, if it is an equality.
    pub(crate) fn wanted(&self) -> Option<Vec<Static>> {
        match self {
            Matcher::Compare(CompareOp::Eq, literal) => Some(vec![literal.clone()]),
            Matcher::OneOf(texts) => Some(texts.iter().map(|text| Static::str(text)).collect()),
            _ => None,
        }
    }
}
