//! Which rows of a chunk a predicate keeps.
//!
//! A matcher looks at each dictionary value once and then at ids; values without a dictionary are looked at in place;
//! only what is left is worked out row by row, and only for rows that are still in the running.

use std::collections::HashMap;

use model::column::{ColumnView, DictView, Rows, Values, slice_at};
use model::{SpanId, Value};

use super::context::Context;
use super::physical::{Meaning, plain_value, raw_value};
use super::read::{Group, Reader, Runner};
use crate::budget::BATCH;
use crate::error::Result;
use crate::field::{Field, Intrinsic, Name};
use crate::matcher::Matcher;
use crate::predicate::Predicate;
use crate::rowset::RowSet;
use crate::value::{CompareOp, Static};

/// The rows of `within` that satisfy `predicate`.
pub(crate) fn filter(ctx: &Context<'_>, predicate: &Predicate, within: &RowSet) -> Result<RowSet> {
    if within.is_empty() {
        return Ok(within.clone());
    }
    let mut found = match predicate {
        Predicate::All => return Ok(within.clone()),
        Predicate::Nothing => return Ok(RowSet::empty(ctx.rows)),
        Predicate::And(parts) => {
            let mut left = within.clone();
            // Parts answered by columns first: they are cheap and leave few rows for the rest.
            let mut ordered: Vec<&Predicate> = parts.iter().collect();
            ordered.sort_by_key(|part| cost(part));
            for part in ordered {
                left = filter(ctx, part, &left)?;
                if left.is_empty() {
                    break;
                }
            }
            return Ok(left);
        }
        Predicate::Or(parts) => {
            let mut found = RowSet::empty(ctx.rows);
            let mut rest = within.clone();
            for part in parts {
                let more = filter(ctx, part, &rest)?;
                rest.remove_all(&more);
                found.add_all(&more);
            }
            return Ok(found);
        }
        Predicate::Not(inner) => {
            let mut rest = within.clone();
            rest.remove_all(&filter(ctx, inner, within)?);
            return Ok(rest);
        }
        Predicate::IsRoot => ctx.roots()?.clone(),
        Predicate::Match(field, matcher) => match_field(ctx, field, matcher, within)?,
        Predicate::Exists(field) => match Reader::new(ctx, field, None)? {
            Reader::Columns {
                groups,
                missing: Static::Nil,
            } => {
                let mut present = RowSet::empty(ctx.rows);
                for group in &groups {
                    present.add_all(&present_rows(ctx.rows, group));
                }
                present
            }
            reader => per_row(ctx, within, |row| Ok(reader.read(ctx, row)?.value != Static::Nil))?,
        },
        Predicate::PerSpan(program) => {
            let runner = Runner::new(ctx, program)?;
            per_row(ctx, within, |row| runner.is_true(ctx, row))?
        }
    };
    ctx.budget.spend_spans(ctx.rows)?;
    found.keep_common(within);
    Ok(found)
}

/// Dearest last.
fn cost(predicate: &Predicate) -> u8 {
    match predicate {
        Predicate::All | Predicate::Nothing => 0,
        Predicate::Match(field, _) if field.needs_whole_trace() => 5,
        Predicate::Match(field, matcher) => match (&field.name, matcher) {
            (_, Matcher::Regex(_) | Matcher::NotRegex(_)) => 3,
            (Name::Attribute(Some(_), _), _) => 1,
            _ => 2,
        },
        Predicate::IsRoot | Predicate::Exists(_) => 2,
        Predicate::Not(inner) => cost(inner),
        Predicate::And(parts) | Predicate::Or(parts) => parts.iter().map(cost).max().unwrap_or(0),
        Predicate::PerSpan(_) => 6,
    }
}

fn per_row(ctx: &Context<'_>, within: &RowSet, keep: impl Fn(u32) -> Result<bool>) -> Result<RowSet> {
    let mut found = RowSet::empty(ctx.rows);
    for (i, row) in within.iter().enumerate() {
        if i % BATCH == 0 {
            ctx.budget.check()?;
        }
        if keep(row)? {
            found.insert(row);
        }
    }
    Ok(found)
}

fn match_field(ctx: &Context<'_>, field: &Field, matcher: &Matcher, within: &RowSet) -> Result<RowSet> {
    match Reader::new(ctx, field, None)? {
        Reader::Columns { groups, missing } => {
            let mut found = RowSet::empty(ctx.rows);
            let mut unseen = RowSet::full(ctx.rows);
            let last = groups.len().saturating_sub(1);
            for (i, group) in groups.iter().enumerate() {
                let need_present = i < last || missing != Static::Nil;
                let (present, mut matched) = match_group(within, group, matcher, need_present)?;
                matched.keep_common(&unseen);
                found.add_all(&matched);
                unseen.remove_all(&present);
            }
            if missing != Static::Nil && matcher.accepts_static(&missing) {
                found.add_all(&unseen);
            }
            Ok(found)
        }
        Reader::Computed(
            Intrinsic::TraceId | Intrinsic::TraceDuration | Intrinsic::RootName | Intrinsic::RootService,
        ) => per_trace(ctx, field, matcher, within),
        reader => per_row(ctx, within, |row| Ok(accepts_cell(matcher, &reader.read(ctx, row)?))),
    }
}

/// For fields that are the same in all spans of a trace: asked once per trace.
fn per_trace(ctx: &Context<'_>, field: &Field, matcher: &Matcher, within: &RowSet) -> Result<RowSet> {
    let reader = Reader::new(ctx, field, None)?;
    let ordinals = ctx.traces()?.ordinals;
    let mut known: HashMap<u32, bool> = HashMap::new();
    let mut found = RowSet::empty(ctx.rows);
    for (i, row) in within.iter().enumerate() {
        if i % BATCH == 0 {
            ctx.budget.check()?;
        }
        let ordinal = ordinals[row as usize];
        let keep = match known.get(&ordinal) {
            Some(keep) => *keep,
            None => {
                let keep = accepts_cell(matcher, &reader.read(ctx, row)?);
                known.insert(ordinal, keep);
                keep
            }
        };
        if keep {
            found.insert(row);
        }
    }
    Ok(found)
}

fn accepts_cell(matcher: &Matcher, cell: &super::row_expr::Cell) -> bool {
    let items = cell.items();
    match matcher.wants_all() && !cell.each {
        true => !items.is_empty() && items.iter().all(|item| matcher.accepts_static(item)),
        false => items.iter().any(|item| matcher.accepts_static(item)),
    }
}

/// What a matcher thinks of one stored value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// There is no value.
    Absent,
    No,
    Yes,
    /// An array some elements of which satisfy it, while it wants all.
    Some,
}

fn verdict(matcher: &Matcher, value: &Static, each: bool) -> Verdict {
    match value {
        Static::Nil => Verdict::Absent,
        Static::List(items) => {
            let yes = items.iter().filter(|item| matcher.accepts_static(item)).count();
            match (yes, matcher.wants_all() && !each) {
                (0, _) => Verdict::No,
                (n, true) if n < items.len() => Verdict::Some,
                _ => Verdict::Yes,
            }
        }
        single if matcher.accepts_static(single) => Verdict::Yes,
        _ => Verdict::No,
    }
}

/// Of the rows `within`, those with a value, and those whose value satisfies the matcher; perhaps others too. The first is
/// only filled if `need_present`.
fn match_group(within: &RowSet, group: &Group<'_>, matcher: &Matcher, need_present: bool) -> Result<(RowSet, RowSet)> {
    let rows = within.rows();
    let mut present = RowSet::empty(rows);
    let mut matched = RowSet::empty(rows);
    let mut failed = RowSet::empty(rows);
    let wants_all = matcher.wants_all() && !group.each;
    for column in group.columns.iter() {
        let view = column.view();
        let judge = Judge::new(&view, matcher, group);
        match view.rows {
            Rows::All => {
                matched.add_all(&judge.dense(within, |v| v == Verdict::Yes));
                if need_present {
                    present.add_all(&judge.dense(within, |v| v != Verdict::Absent));
                }
                // One value per row: what is not Yes is no match, so nothing has failed that matched elsewhere, unless
                // the attribute has values of several types in one span, which cannot be.
            }
            Rows::Sparse(at_rows) => {
                for (at, row) in at_rows.iter().enumerate() {
                    match judge.at(at) {
                        Verdict::Absent => continue,
                        Verdict::Yes => matched.insert(*row),
                        Verdict::No | Verdict::Some if wants_all => failed.insert(*row),
                        Verdict::No | Verdict::Some => {}
                    }
                    if need_present {
                        present.insert(*row);
                    }
                }
            }
        }
    }
    if wants_all {
        matched.remove_all(&failed);
    }
    Ok((present, matched))
}

/// A matcher bound to a view: answers by position.
struct Judge<'v> {
    values: Values<'v>,
    matcher: &'v Matcher,
    meaning: Meaning,
    each: bool,
    /// By dictionary id, for dictionary columns.
    by_id: Vec<Verdict>,
    /// The literal as a span id, where that is enough.
    id: Option<(CompareOp, [u8; 8])>,
}

impl<'v> Judge<'v> {
    fn new(view: &ColumnView<'v>, matcher: &'v Matcher, group: &Group<'_>) -> Judge<'v> {
        let (meaning, each) = (group.meaning, group.each);
        let by_id = match view.values {
            Values::Dict { dict, .. } => dict_verdicts(&dict, matcher, meaning, each),
            _ => Vec::new(),
        };
        let id = match (view.values, matcher) {
            (Values::Fixed8(_), Matcher::Compare(op @ (CompareOp::Eq | CompareOp::Ne), Static::Str(text))) => {
                // Only text of full length and lower case is an id's own text; anything else equals none.
                SpanId::parse_hex(text)
                    .filter(|id| id.to_string() == **text)
                    .map(|id| (*op, id.0))
            }
            _ => None,
        };
        Judge {
            values: view.values,
            matcher,
            meaning,
            each,
            by_id,
            id,
        }
    }

    #[inline]
    fn at(&self, at: usize) -> Verdict {
        let answer = |yes: bool| if yes { Verdict::Yes } else { Verdict::No };
        match &self.values {
            Values::Dict { ids, .. } => self.verdict_of_id(ids[at]),
            Values::Bytes { offsets, bytes } => answer(self.matcher.accepts_bytes(slice_at(offsets, bytes, at))),
            Values::Int(values) => answer(self.accepts_int(values[at])),
            Values::Double(values) => answer(self.matcher.accepts_double(values[at])),
            Values::Bool(values) => answer(self.matcher.accepts_bool(values[at])),
            Values::Fixed8(values) => self.verdict_of_span_id(values[at]),
            Values::Fixed16(values) => answer(self.matcher.accepts_str(&model::TraceId(values[at]).to_string())),
            Values::Raw { offsets, bytes } => {
                verdict(self.matcher, &raw_value(slice_at(offsets, bytes, at)), self.each)
            }
        }
    }

    /// Rows whose verdict is wanted, for a view with a value per row. Only those of `within` matter.
    fn dense(&self, within: &RowSet, wanted: impl Fn(Verdict) -> bool) -> RowSet {
        match &self.values {
            Values::Dict { ids, .. } => {
                let table: Vec<bool> = self.by_id.iter().map(|v| wanted(*v)).collect();
                let absent = wanted(Verdict::Absent);
                RowSet::from_values_within(ids, within, |id| table.get(id as usize).copied().unwrap_or(absent))
            }
            Values::Int(values) => {
                let (yes, no) = (wanted(Verdict::Yes), wanted(Verdict::No));
                RowSet::from_values_within(values, within, |v| if self.accepts_int(v) { yes } else { no })
            }
            _ => RowSet::from_fn_within(within, |at| wanted(self.at(at))),
        }
    }

    fn verdict_of_id(&self, id: u32) -> Verdict {
        self.by_id.get(id as usize).copied().unwrap_or(Verdict::Absent)
    }

    fn verdict_of_span_id(&self, id: [u8; 8]) -> Verdict {
        if id == [0; 8] {
            return Verdict::Absent;
        }
        let yes = match self.id {
            Some((CompareOp::Ne, wanted)) => id != wanted,
            Some((_, wanted)) => id == wanted,
            None => self.matcher.accepts_str(&SpanId(id).to_string()),
        };
        if yes { Verdict::Yes } else { Verdict::No }
    }

    #[inline]
    fn accepts_int(&self, value: i64) -> bool {
        match self.meaning {
            Meaning::Plain | Meaning::SignedDuration => self.matcher.accepts_int(value),
            Meaning::Duration => self.matcher.accepts_int(value.max(0)),
            Meaning::Status | Meaning::Kind => self.matcher.accepts_static(&self.meaning.of_int(value)),
        }
    }
}

fn dict_verdicts(dict: &DictView<'_>, matcher: &Matcher, meaning: Meaning, each: bool) -> Vec<Verdict> {
    match dict {
        DictView::Bytes { offsets, bytes } => (0..dict.len())
            .map(|id| {
                if matcher.accepts_bytes(slice_at(offsets, bytes, id)) {
                    Verdict::Yes
                } else {
                    Verdict::No
                }
            })
            .collect(),
        DictView::Values(values) => values
            .iter()
            .map(|value| match value {
                None => Verdict::Absent,
                Some(Value::Int(v)) => verdict(matcher, &meaning.of_int(*v), each),
                Some(value) => verdict(matcher, &plain_value(value), each),
            })
            .collect(),
    }
}

/// Rows with a value in a group.
pub(crate) fn present_rows(rows: usize, group: &Group<'_>) -> RowSet {
    let mut present = RowSet::empty(rows);
    for column in group.columns.iter() {
        let view = column.view();
        match (view.rows, view.values) {
            (Rows::All, Values::Dict { ids, dict }) => {
                let known: Vec<bool> = match dict {
                    DictView::Bytes { .. } => vec![true; dict.len()],
                    DictView::Values(values) => values
                        .iter()
                        .map(|v| v.as_ref().is_some_and(|v| plain_value(v) != Static::Nil))
                        .collect(),
                };
                present.add_all(&RowSet::from_values(ids, |id| {
                    known.get(id as usize).copied().unwrap_or(false)
                }));
            }
            (Rows::All, _) => {
                present.add_all(&RowSet::from_fn(rows, |at| {
                    super::physical::value_at(&view.values, at, group.meaning) != Static::Nil
                }));
            }
            (Rows::Sparse(at_rows), Values::Raw { .. } | Values::Dict { .. } | Values::Fixed8(_)) => {
                for (at, row) in at_rows.iter().enumerate() {
                    if super::physical::value_at(&view.values, at, group.meaning) != Static::Nil {
                        present.insert(*row);
                    }
                }
            }
            (Rows::Sparse(at_rows), _) => at_rows.iter().for_each(|row| present.insert(*row)),
        }
    }
    present
}
