//! What all steps share while they look at one chunk.
//!
//! Columns are asked for once and kept; the rows of each trace, its tree and its summary are worked out when first
//! needed. One context lives on one thread for one question over one chunk.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use model::column::{Rows, Values};
use model::{Scope, TraceId};

use super::physical::{Meaning, Physical, row_values};
use super::tree::{Node, Tree};
use crate::budget::{BATCH, Budget};
use crate::error::{Error, Result};
use crate::rowset::RowSet;
use crate::source::{Chunk, ColumnRef, Preorder, TraceRows};
use crate::value::Static;

/// See the module's documentation.
pub(crate) struct Context<'c> {
    pub(crate) chunk: &'c dyn Chunk,
    pub(crate) budget: &'c Budget,
    pub(crate) rows: usize,
    columns: RefCell<HashMap<ColumnRef, Physical<'c>>>,
    traces: OnceCell<TraceRows<'c>>,
    trace_starts: OnceCell<Cow<'c, [u64]>>,
    preorder: OnceCell<Option<Preorder<'c>>>,
    groups: OnceCell<Groups>,
    roots: OnceCell<RowSet>,
    trees: RefCell<HashMap<u32, Rc<Tree>>>,
    summaries: RefCell<HashMap<u32, Summary>>,
}

/// Rows of each trace of a chunk whose rows are not in order: those of ordinal `o` are `rows[bounds[o]..bounds[o + 1]]`.
struct Groups {
    bounds: Vec<u32>,
    rows: Vec<u32>,
}

/// The rows of one trace, ascending.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TraceRun<'a> {
    Range(u32, u32),
    List(&'a [u32]),
}

impl<'a> TraceRun<'a> {
    pub(crate) fn len(self) -> usize {
        match self {
            TraceRun::Range(start, end) => (end - start) as usize,
            TraceRun::List(rows) => rows.len(),
        }
    }

    /// The row at a position below [`TraceRun::len`].
    #[inline]
    pub(crate) fn row(self, position: u32) -> u32 {
        match self {
            TraceRun::Range(start, _) => start + position,
            TraceRun::List(rows) => rows[position as usize],
        }
    }

    pub(crate) fn position(self, row: u32) -> Option<u32> {
        match self {
            TraceRun::Range(start, end) => (start..end).contains(&row).then(|| row - start),
            TraceRun::List(rows) => rows.binary_search(&row).ok().map(|at| at as u32),
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u32> + 'a {
        (0..self.len() as u32).map(move |at| self.row(at))
    }
}

/// What is known of a trace as a whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub(crate) start_unix_nanos: u64,
    pub(crate) end_unix_nanos: u64,
    /// Row of the earliest span without a parent.
    pub(crate) root: Option<u32>,
}

impl<'c> Context<'c> {
    pub(crate) fn new(chunk: &'c dyn Chunk, budget: &'c Budget) -> Context<'c> {
        Context {
            chunk,
            budget,
            rows: chunk.row_count(),
            columns: RefCell::default(),
            traces: OnceCell::new(),
            trace_starts: OnceCell::new(),
            preorder: OnceCell::new(),
            groups: OnceCell::new(),
            roots: OnceCell::new(),
            trees: RefCell::default(),
            summaries: RefCell::default(),
        }
    }

    /// The physical columns of `column`, checked for length.
    pub(crate) fn columns(&self, column: &ColumnRef) -> Result<Physical<'c>> {
        if let Some(known) = self.columns.borrow().get(column) {
            return Ok(known.clone());
        }
        self.budget.check()?;
        let columns = self.chunk.columns(column)?;
        self.checked(columns).inspect(|loaded| {
            self.columns.borrow_mut().insert(column.clone(), loaded.clone());
        })
    }

    /// The same, good for `rows` only, and only kept by the caller.
    pub(crate) fn columns_at(&self, column: &ColumnRef, rows: &[u32]) -> Result<Physical<'c>> {
        if let Some(known) = self.columns.borrow().get(column) {
            return Ok(known.clone());
        }
        self.budget.check()?;
        let columns = self.chunk.columns_at(column, rows)?;
        self.checked(columns)
    }

    fn checked(&self, columns: Vec<model::column::ColumnCow<'c>>) -> Result<Physical<'c>> {
        for column in &columns {
            let view = column.view();
            let fits = match view.rows {
                Rows::All => view.values.len() == self.rows,
                Rows::Sparse(rows) => {
                    rows.len() == view.values.len() && rows.last().is_none_or(|row| (*row as usize) < self.rows)
                }
            };
            if !fits {
                return Err(Error::Inconsistent {
                    what: "a column's length differs from its rows",
                });
            }
        }
        Ok(Rc::new(columns))
    }

    pub(crate) fn traces(&self) -> Result<TraceRows<'c>> {
        if let Some(known) = self.traces.get() {
            return Ok(*known);
        }
        let traces = self.chunk.traces()?;
        if traces.ordinals.len() != self.rows {
            return Err(Error::Inconsistent {
                what: "trace ordinals differ in length from the rows",
            });
        }
        let highest = match traces.in_preorder {
            true => traces.ordinals.last().copied(),
            false => traces.ordinals.iter().copied().max(),
        };
        if highest.is_some_and(|ordinal| ordinal as usize >= traces.ids.len()) {
            return Err(Error::Inconsistent {
                what: "a trace ordinal without an id",
            });
        }
        Ok(*self.traces.get_or_init(|| traces))
    }

    /// The trees as the chunk has them; None where they are to be worked out.
    pub(crate) fn preorder(&self) -> Result<Option<Preorder<'c>>> {
        if let Some(known) = self.preorder.get() {
            return Ok(*known);
        }
        let preorder = match self.traces()?.in_preorder {
            true => self.chunk.preorder()?,
            false => None,
        };
        if preorder.is_some_and(|p| p.descendants.len() != self.rows || p.parent_distance.len() != self.rows) {
            return Err(Error::Inconsistent {
                what: "trees differ in length from the rows",
            });
        }
        Ok(*self.preorder.get_or_init(|| preorder))
    }

    /// Earliest start by trace, see [`Chunk::trace_starts`].
    pub(crate) fn trace_starts(&self) -> Result<&[u64]> {
        if let Some(known) = self.trace_starts.get() {
            return Ok(known);
        }
        let traces = self.traces()?;
        let starts = match self.chunk.trace_starts()? {
            Some(known) if known.len() == traces.ids.len() => known,
            Some(_) => {
                return Err(Error::Inconsistent {
                    what: "starts of traces differ in number from the traces",
                });
            }
            None => {
                let mut earliest = vec![u64::MAX; traces.ids.len()];
                for (ordinal, start) in traces.ordinals.iter().zip(self.starts()?.values()) {
                    let known = &mut earliest[*ordinal as usize];
                    *known = (*known).min(start.cast_unsigned());
                }
                earliest.into()
            }
        };
        Ok(self.trace_starts.get_or_init(|| starts))
    }

    pub(crate) fn trace_id(&self, ordinal: u32) -> Result<TraceId> {
        Ok(self.traces()?.ids[ordinal as usize])
    }

    /// The rows of a trace.
    pub(crate) fn run(&self, ordinal: u32) -> Result<TraceRun<'_>> {
        let traces = self.traces()?;
        if traces.in_preorder {
            let start = traces.ordinals.partition_point(|o| *o < ordinal);
            let end = start + traces.ordinals[start..].partition_point(|o| *o == ordinal);
            return Ok(TraceRun::Range(start as u32, end as u32));
        }
        let groups = self.groups.get_or_init(|| group(traces.ordinals, traces.ids.len()));
        let bounds = (
            groups.bounds[ordinal as usize] as usize,
            groups.bounds[ordinal as usize + 1] as usize,
        );
        Ok(TraceRun::List(&groups.rows[bounds.0..bounds.1]))
    }

    /// Rows without a parent id.
    pub(crate) fn roots(&self) -> Result<&RowSet> {
        if let Some(known) = self.roots.get() {
            return Ok(known);
        }
        let mut roots = match self.preorder()? {
            Some(preorder) => RowSet::from_values(preorder.parent_distance, |distance| distance == 0),
            None => RowSet::full(self.rows),
        };
        for column in self.columns(&ColumnRef::ParentSpanId)?.iter() {
            let view = column.view();
            let Values::Fixed8(ids) = view.values else {
                return Err(Error::Inconsistent {
                    what: "parent span ids are not ids",
                });
            };
            match view.rows {
                Rows::All => roots.keep_common(&RowSet::from_values(ids, |id| id == [0; 8])),
                Rows::Sparse(rows) => {
                    let mut with_parent = RowSet::empty(self.rows);
                    rows.iter()
                        .zip(ids)
                        .filter(|(_, id)| **id != [0; 8])
                        .for_each(|(row, _)| with_parent.insert(*row));
                    roots.remove_all(&with_parent);
                }
            }
        }
        Ok(self.roots.get_or_init(|| roots))
    }

    pub(crate) fn starts(&self) -> Result<Ints<'c>> {
        Ints::new(self.columns(&ColumnRef::Start)?)
    }

    pub(crate) fn durations(&self) -> Result<Ints<'c>> {
        Ints::new(self.columns(&ColumnRef::Duration)?)
    }

    pub(crate) fn summary(&self, ordinal: u32) -> Result<Summary> {
        if let Some(known) = self.summaries.borrow().get(&ordinal) {
            return Ok(*known);
        }
        let (starts, durations, roots) = (self.starts()?, self.durations()?, self.roots()?);
        let mut summary = Summary {
            start_unix_nanos: u64::MAX,
            end_unix_nanos: 0,
            root: None,
        };
        let mut root_start = u64::MAX;
        for row in self.run(ordinal)?.iter() {
            let start = starts.get(row).cast_unsigned();
            let end = start.saturating_add(durations.get(row).max(0).cast_unsigned());
            summary.start_unix_nanos = summary.start_unix_nanos.min(start);
            summary.end_unix_nanos = summary.end_unix_nanos.max(end);
            if roots.contains(row) && (summary.root.is_none() || start <= root_start) {
                let tie = start == root_start && summary.root.is_some();
                if !tie || self.span_id(row)? < self.span_id(summary.root.unwrap_or(row))? {
                    summary.root = Some(row);
                }
                root_start = start;
            }
        }
        self.summaries.borrow_mut().insert(ordinal, summary);
        Ok(summary)
    }

    pub(crate) fn span_id(&self, row: u32) -> Result<[u8; 8]> {
        self.id_at(&ColumnRef::SpanId, row).map(Option::unwrap_or_default)
    }

    fn id_at(&self, column: &ColumnRef, row: u32) -> Result<Option<[u8; 8]>> {
        for column in self.columns(column)?.iter() {
            let view = column.view();
            let Values::Fixed8(ids) = view.values else {
                return Err(Error::Inconsistent {
                    what: "span ids are not ids",
                });
            };
            if let Some(id) = super::physical::positions(&view, row).next().and_then(|at| ids.get(at)) {
                return Ok(Some(*id));
            }
        }
        Ok(None)
    }

    /// The parent id a span names; None for roots.
    pub(crate) fn parent_id(&self, row: u32) -> Result<Option<[u8; 8]>> {
        if let Some(preorder) = self.preorder()? {
            let distance = preorder.parent_distance[row as usize];
            if distance > 0 && distance <= row {
                return self.span_id(row - distance).map(Some);
            }
        }
        Ok(self.id_at(&ColumnRef::ParentSpanId, row)?.filter(|id| *id != [0; 8]))
    }

    pub(crate) fn tree(&self, ordinal: u32) -> Result<Rc<Tree>> {
        if let Some(known) = self.trees.borrow().get(&ordinal) {
            return Ok(known.clone());
        }
        let run = self.run(ordinal)?;
        let tree = match (self.preorder()?, run) {
            (Some(preorder), TraceRun::Range(start, end)) => {
                let roots = self.roots()?;
                let range = start as usize..end as usize;
                Tree::from_preorder(
                    &preorder.descendants[range.clone()],
                    &preorder.parent_distance[range],
                    run.iter().map(|row| roots.contains(row)).collect(),
                )
            }
            _ => {
                let starts = self.starts()?;
                let mut nodes = Vec::with_capacity(run.len());
                for row in run.iter() {
                    if nodes.len() % BATCH == 0 {
                        self.budget.check()?;
                    }
                    nodes.push(Node {
                        start: starts.get(row).cast_unsigned(),
                        id: self.span_id(row)?,
                        parent_id: self.parent_id(row)?.unwrap_or_default(),
                    });
                }
                Tree::build(&nodes)
            }
        };
        let tree = Rc::new(tree);
        self.trees.borrow_mut().insert(ordinal, tree.clone());
        Ok(tree)
    }

    /// `service.name` of a row's resource; empty when there is none.
    pub(crate) fn service(&self, row: u32) -> Result<String> {
        let columns = self.columns(&service_column())?;
        Ok(text_or_empty(row_values(&columns, row, Meaning::Plain)))
    }

    pub(crate) fn name(&self, row: u32) -> Result<String> {
        let columns = self.columns(&ColumnRef::Name)?;
        Ok(text_or_empty(row_values(&columns, row, Meaning::Plain)))
    }
}

pub(crate) fn service_column() -> ColumnRef {
    ColumnRef::Attribute(Scope::Resource, "service.name".into())
}

pub(crate) fn text_or_empty(value: Static) -> String {
    match value {
        Static::Nil => String::new(),
        other => other.display(),
    }
}

/// A column of integers with a value in every row.
pub(crate) struct Ints<'c> {
    columns: Physical<'c>,
}

impl<'c> Ints<'c> {
    pub(crate) fn new(columns: Physical<'c>) -> Result<Ints<'c>> {
        let dense = matches!(columns.as_slice(), [one] if {
            let view = one.view();
            matches!((view.rows, view.values), (Rows::All, Values::Int(_)))
        });
        // A chunk without rows may have no columns.
        if dense || columns.is_empty() {
            return Ok(Ints { columns });
        }
        Err(Error::Inconsistent {
            what: "starts or durations are not one integer per row",
        })
    }

    /// Of columns that may hold only some of the rows.
    pub(crate) fn of_some(columns: Physical<'c>) -> Result<Ints<'c>> {
        let is_int = |column: &model::column::ColumnCow<'_>| matches!(column.view().values, Values::Int(_));
        if columns.iter().all(is_int) && columns.len() <= 1 {
            return Ok(Ints { columns });
        }
        Err(Error::Inconsistent {
            what: "starts or durations are not integers",
        })
    }

    pub(crate) fn values(&self) -> &[i64] {
        match self.columns.first().map(|column| column.view().values) {
            Some(Values::Int(values)) => values,
            _ => &[],
        }
    }

    /// The value of a row that was asked for.
    pub(crate) fn get_some(&self, row: u32) -> i64 {
        let at = match self.columns.first().map(|column| column.view().rows) {
            Some(Rows::Sparse(rows)) => rows.binary_search(&row).unwrap_or(usize::MAX),
            _ => row as usize,
        };
        self.values().get(at).copied().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn get(&self, row: u32) -> i64 {
        self.values().get(row as usize).copied().unwrap_or_default()
    }
}

fn group(ordinals: &[u32], traces: usize) -> Groups {
    let mut bounds = vec![0u32; traces + 1];
    for ordinal in ordinals {
        bounds[*ordinal as usize + 1] += 1;
    }
    for i in 0..traces {
        bounds[i + 1] += bounds[i];
    }
    let mut next = bounds.clone();
    let mut rows = vec![0u32; ordinals.len()];
    for (row, ordinal) in ordinals.iter().enumerate() {
        let at = &mut next[*ordinal as usize];
        rows[*at as usize] = row as u32;
        *at += 1;
    }
    Groups { bounds, rows }
}
