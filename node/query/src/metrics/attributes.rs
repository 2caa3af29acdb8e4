//! `compare()`: how often each value of each attribute occurs among selected spans and among the rest.

use std::collections::{BTreeMap, HashMap};

use model::Scope;
use model::column::{Rows, Values};

use super::Intervals;
use super::partial::GroupKey;
use super::weight::Weights;
use crate::budget::BATCH;
use crate::engine::context::{Context, Ints};
use crate::engine::physical::{Physical, dict_value, value_at};
use crate::engine::read::{Reader, intrinsic_column};
use crate::error::Result;
use crate::field::{Field, Intrinsic, Name, Spelling};
use crate::limits;
use crate::rowset::RowSet;
use crate::source::ColumnRef;
use crate::value::Static;

/// Spans of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Not selected.
    Baseline = 0,
    /// Selected.
    Selection = 1,
}

/// Counts by interval, in parts of [`super::weight::ONE`].
pub type Counts = BTreeMap<u32, u64>;

/// Counts of one attribute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttributeCounts {
    /// By value (a key of one), then by [`Side`]. Empty once there were too many.
    pub values: BTreeMap<GroupKey, [Counts; 2]>,
    /// Over all values, by [`Side`].
    pub totals: [Counts; 2],
    /// Whether it has more than [`limits::COMPARE_VALUES_MAX`] values.
    pub too_many: bool,
}

/// Counts of all attributes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// By attribute.
    pub attributes: BTreeMap<Field, AttributeCounts>,
}

impl AttributeCounts {
    fn add(&mut self, value: Static, side: Side, index: u32, count: u64) {
        *self.totals[side as usize].entry(index).or_default() += count;
        if !self.too_many {
            let counts = self.values.entry(GroupKey(vec![value])).or_default();
            *counts[side as usize].entry(index).or_default() += count;
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if self.values.len() > limits::COMPARE_VALUES_MAX {
            self.too_many = true;
            self.values.clear();
        }
    }
}

fn add_counts(mine: &mut Counts, theirs: Counts) {
    for (index, count) in theirs {
        *mine.entry(index).or_default() += count;
    }
}

impl Comparison {
    pub(crate) fn merge(&mut self, other: Comparison) {
        for (field, theirs) in other.attributes {
            let mine = self.attributes.entry(field).or_default();
            for (mine, theirs) in mine.totals.iter_mut().zip(theirs.totals) {
                add_counts(mine, theirs);
            }
            if theirs.too_many {
                mine.too_many = true;
                mine.values.clear();
            }
            if !mine.too_many {
                for (value, theirs) in theirs.values {
                    let counts = mine.values.entry(value).or_default();
                    for (mine, theirs) in counts.iter_mut().zip(theirs) {
                        add_counts(mine, theirs);
                    }
                }
                mine.shrink();
            }
        }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        let of = |counts: &[Counts; 2]| (counts[0].len() + counts[1].len()) * 24;
        let attribute =
            |a: &AttributeCounts| 200 + of(&a.totals) + a.values.values().map(|counts| 96 + of(counts)).sum::<usize>();
        self.attributes.values().map(attribute).sum()
    }
}

/// Intrinsics that are compared like attributes.
const COMPARED: [Intrinsic; 6] = [
    Intrinsic::Name,
    Intrinsic::Status,
    Intrinsic::StatusMessage,
    Intrinsic::Kind,
    Intrinsic::RootName,
    Intrinsic::RootService,
];

/// Counts the attributes of `rows`, of which `selected` are selected.
pub(crate) fn compare_rows(
    ctx: &Context<'_>,
    rows: &RowSet,
    selected: &RowSet,
    intervals: &Intervals,
    weights: &Weights<'_>,
) -> Result<Comparison> {
    let mut comparison = Comparison::default();
    let starts = ctx.starts()?;
    for scope in [Scope::Span, Scope::Resource] {
        for key in ctx.chunk.attribute_keys(scope)? {
            // Not kept by the context: it would hold every column of the chunk at once.
            let columns: Physical<'_> = ctx.chunk.columns(&ColumnRef::Attribute(scope, key.clone()))?.into();
            let counts = count_columns(ctx, &columns, rows, selected, (&starts, intervals, weights))?;
            if !counts.totals.iter().all(Counts::is_empty) {
                comparison
                    .attributes
                    .insert(Field::attribute(Some(scope), &key), counts);
            }
        }
    }
    for which in COMPARED {
        let field = Field {
            of_parent: false,
            name: Name::Intrinsic(which, Spelling::Bare),
        };
        let reader = Reader::new(ctx, &field, None)?;
        let mut counts = AttributeCounts::default();
        let mut by_value: BTreeMap<(GroupKey, Side, u32), u64> = BTreeMap::new();
        let missing_is_news = intrinsic_column(which).is_none();
        for (i, row) in rows.iter().enumerate() {
            if i % BATCH == 0 {
                ctx.budget.check()?;
            }
            let Some(index) = intervals.index(starts.get(row).cast_unsigned()) else {
                continue;
            };
            let value = reader.read(ctx, row)?.value;
            if value == Static::str("") && (missing_is_news || which == Intrinsic::StatusMessage) {
                continue;
            }
            *by_value
                .entry((GroupKey(vec![value]), side(selected, row), index))
                .or_default() += weights.of(row);
        }
        for ((GroupKey(mut value), side, index), count) in by_value {
            counts.add(value.pop().unwrap_or(Static::Nil), side, index, count);
        }
        if !counts.totals.iter().all(Counts::is_empty) {
            comparison.attributes.insert(field, counts);
        }
    }
    Ok(comparison)
}

fn side(selected: &RowSet, row: u32) -> Side {
    if selected.contains(row) {
        Side::Selection
    } else {
        Side::Baseline
    }
}

/// Counts values where they stand; of a dictionary by id first.
fn count_columns(
    ctx: &Context<'_>,
    columns: &Physical<'_>,
    rows: &RowSet,
    selected: &RowSet,
    (starts, intervals, weights): (&Ints<'_>, &Intervals, &Weights<'_>),
) -> Result<AttributeCounts> {
    let mut counts = AttributeCounts::default();
    for column in columns.iter() {
        let view = column.view();
        let mut by_id: HashMap<(u32, Side, u32), u64> = HashMap::new();
        for at in 0..view.values.len() {
            if at % BATCH == 0 {
                ctx.budget.check()?;
            }
            let row = match view.rows {
                Rows::All => at as u32,
                Rows::Sparse(rows) => rows[at],
            };
            if row as usize >= ctx.rows || !rows.contains(row) {
                continue;
            }
            let Some(index) = intervals.index(starts.get(row).cast_unsigned()) else {
                continue;
            };
            let side = side(selected, row);
            match view.values {
                Values::Dict { ids, .. } => *by_id.entry((ids[at], side, index)).or_default() += weights.of(row),
                values => {
                    let value = value_at(&values, at, Default::default());
                    add_value(&mut counts, value, side, index, weights.of(row));
                }
            }
        }
        if let Values::Dict { dict, .. } = view.values {
            for ((id, side, index), count) in by_id {
                add_value(
                    &mut counts,
                    dict_value(&dict, id as usize, Default::default()),
                    side,
                    index,
                    count,
                );
            }
        }
    }
    Ok(counts)
}

/// Of a list every element counts.
fn add_value(counts: &mut AttributeCounts, value: Static, side: Side, index: u32, count: u64) {
    match value {
        Static::Nil => {}
        Static::List(items) => items
            .iter()
            .for_each(|item| counts.add(item.clone(), side, index, count)),
        value => counts.add(value, side, index, count),
    }
}
