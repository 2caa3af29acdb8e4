//! Reads fields row by row: for what cannot be answered column by column, and for showing values in answers.

use std::rc::Rc;

use super::context::Context;
use super::physical::{Meaning, Physical, row_values, span_id_value};
use super::row_expr::{Cell, Program, is_true};
use super::tree::{NONE, Tree};
use crate::error::Result;
use crate::field::{Field, Intrinsic, Name, scope_repeats};
use crate::predicate::attribute_columns;
use crate::source::ColumnRef;
use crate::value::Static;

/// Where the values of one field come from.
pub(crate) enum Reader<'c> {
    /// The first group with a value counts.
    Columns { groups: Vec<Group<'c>>, missing: Static },
    /// Worked out from other columns.
    Computed(Intrinsic),
    /// From the parent's row.
    OfParent(Box<Reader<'c>>),
}

/// The physical columns of one attribute scope or intrinsic.
pub(crate) struct Group<'c> {
    pub(crate) columns: Physical<'c>,
    pub(crate) meaning: Meaning,
    /// One value per event or link rather than elements of one array.
    pub(crate) each: bool,
}

/// The column an intrinsic stands in, what its numbers mean, and what a row without a value has. None if it is computed.
pub(crate) fn intrinsic_column(which: Intrinsic) -> Option<(ColumnRef, Meaning, Static)> {
    let empty = Static::str("");
    Some(match which {
        Intrinsic::Duration => (ColumnRef::Duration, Meaning::Duration, Static::Nil),
        Intrinsic::Name => (ColumnRef::Name, Meaning::Plain, empty),
        Intrinsic::Status => (ColumnRef::Status, Meaning::Status, Meaning::Status.of_int(0)),
        Intrinsic::StatusMessage => (ColumnRef::StatusMessage, Meaning::Plain, empty),
        Intrinsic::Kind => (ColumnRef::Kind, Meaning::Kind, Meaning::Kind.of_int(0)),
        Intrinsic::SpanId => (ColumnRef::SpanId, Meaning::Plain, Static::Nil),
        Intrinsic::EventName => (ColumnRef::EventName, Meaning::Plain, Static::Nil),
        // An event may be recorded before its span's start.
        Intrinsic::EventTimeSinceStart => (ColumnRef::EventTimeSinceStart, Meaning::SignedDuration, Static::Nil),
        Intrinsic::LinkTraceId => (ColumnRef::LinkTraceId, Meaning::Plain, Static::Nil),
        Intrinsic::LinkSpanId => (ColumnRef::LinkSpanId, Meaning::Plain, Static::Nil),
        Intrinsic::InstrumentationName => (ColumnRef::InstrumentationName, Meaning::Plain, empty),
        Intrinsic::InstrumentationVersion => (ColumnRef::InstrumentationVersion, Meaning::Plain, empty),
        _ => return None,
    })
}

pub(crate) fn intrinsic_repeats(which: Intrinsic) -> bool {
    use Intrinsic::{EventName, EventTimeSinceStart, LinkSpanId, LinkTraceId};
    matches!(which, EventName | EventTimeSinceStart | LinkTraceId | LinkSpanId)
}

impl<'c> Reader<'c> {
    /// A reader good for all rows or, if given, for `rows` only.
    pub(crate) fn new(ctx: &Context<'c>, field: &Field, rows: Option<&[u32]>) -> Result<Reader<'c>> {
        if field.of_parent {
            let own = Field {
                of_parent: false,
                name: field.name.clone(),
            };
            return Ok(Reader::OfParent(Reader::new(ctx, &own, None)?.into()));
        }
        let load = |column: &ColumnRef| match rows {
            None => ctx.columns(column),
            Some(rows) => ctx.columns_at(column, rows),
        };
        Ok(match &field.name {
            Name::Attribute(scope, key) => {
                let mut groups = Vec::new();
                for (scope, column) in attribute_columns(*scope, key) {
                    let columns = load(&column)?;
                    if !columns.is_empty() {
                        groups.push(Group {
                            columns,
                            meaning: Meaning::Plain,
                            each: scope_repeats(scope),
                        });
                    }
                }
                Reader::Columns {
                    groups,
                    missing: Static::Nil,
                }
            }
            Name::Intrinsic(which, _) => match intrinsic_column(*which) {
                Some((column, meaning, missing)) => {
                    let group = Group {
                        columns: load(&column)?,
                        meaning,
                        each: intrinsic_repeats(*which),
                    };
                    Reader::Columns {
                        groups: vec![group],
                        missing,
                    }
                }
                None => Reader::Computed(*which),
            },
        })
    }

    pub(crate) fn read(&self, ctx: &Context<'c>, row: u32) -> Result<Cell> {
        match self {
            Reader::Columns { groups, missing } => {
                for group in groups {
                    let value = row_values(&group.columns, row, group.meaning);
                    if value != Static::Nil {
                        return Ok(Cell {
                            value,
                            each: group.each,
                        });
                    }
                }
                Ok(Cell::new(missing.clone()))
            }
            Reader::Computed(which) => computed(ctx, *which, row).map(Cell::new),
            Reader::OfParent(own) => {
                let (tree, run, position) = place(ctx, row)?;
                match tree.parent[position as usize] {
                    NONE => Ok(Cell::new(Static::Nil)),
                    parent => own.read(ctx, run.row(parent)),
                }
            }
        }
    }
}

/// The tree a row stands in, the rows of its trace, and its position among them.
fn place<'x>(ctx: &'x Context<'_>, row: u32) -> Result<(Rc<Tree>, super::context::TraceRun<'x>, u32)> {
    let ordinal = ctx.traces()?.ordinals[row as usize];
    let run = ctx.run(ordinal)?;
    let position = run.position(row).unwrap_or_default();
    Ok((ctx.tree(ordinal)?, run, position))
}

fn computed(ctx: &Context<'_>, which: Intrinsic, row: u32) -> Result<Static> {
    let ordinal = ctx.traces()?.ordinals[row as usize];
    Ok(match which {
        Intrinsic::TraceId => Static::str(&ctx.trace_id(ordinal)?.to_string()),
        Intrinsic::ParentId => ctx.parent_id(row)?.map_or(Static::Nil, span_id_value),
        Intrinsic::TraceDuration => {
            let summary = ctx.summary(ordinal)?;
            let nanos = summary.end_unix_nanos.saturating_sub(summary.start_unix_nanos);
            Static::Duration(i64::try_from(nanos).unwrap_or(i64::MAX))
        }
        Intrinsic::RootName => match ctx.summary(ordinal)?.root {
            Some(root) => Static::str(&ctx.name(root)?),
            None => Static::str(""),
        },
        Intrinsic::RootService => match ctx.summary(ordinal)?.root {
            Some(root) => Static::str(&ctx.service(root)?),
            None => Static::str(""),
        },
        _ => {
            let (tree, run, position) = place(ctx, row)?;
            let at = position as usize;
            let parent = tree.parent[at];
            match which {
                Intrinsic::Parent if parent == NONE => Static::Nil,
                Intrinsic::Parent => span_id_value(ctx.span_id(run.row(parent))?),
                Intrinsic::ChildCount => Static::Int(i64::from(tree.child_counts[at])),
                Intrinsic::NestedSetLeft => Static::Int(tree.nested_set[at].0),
                Intrinsic::NestedSetRight => Static::Int(tree.nested_set[at].1),
                Intrinsic::NestedSetParent => Static::Int(match parent {
                    NONE if tree.is_root[at] => -1,
                    NONE => 0,
                    parent => tree.nested_set[parent as usize].0,
                }),
                _ => Static::Nil,
            }
        }
    })
}

/// A program with readers for its fields.
pub(crate) struct Runner<'p, 'c> {
    program: &'p Program,
    readers: Vec<Reader<'c>>,
}

impl<'p, 'c> Runner<'p, 'c> {
    pub(crate) fn new(ctx: &Context<'c>, program: &'p Program) -> Result<Runner<'p, 'c>> {
        let readers = program
            .fields
            .iter()
            .map(|field| Reader::new(ctx, field, None))
            .collect::<Result<_>>()?;
        Ok(Runner { program, readers })
    }

    pub(crate) fn run(&self, ctx: &Context<'c>, row: u32) -> Result<Cell> {
        self.program.run(&mut |slot| self.readers[slot].read(ctx, row))
    }

    pub(crate) fn is_true(&self, ctx: &Context<'c>, row: u32) -> Result<bool> {
        Ok(is_true(&self.run(ctx, row)?))
    }
}
