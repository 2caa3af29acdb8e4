//! Which spans of a trace to show: those a filter keeps, and so many levels around them.

use crate::ast::{Body, Query, SpansetExpr, Stage};
use crate::budget::{BATCH, Budget};
use crate::engine::context::Context;
use crate::engine::filter::filter;
use crate::engine::tree::{NONE, Tree};
use crate::error::{Error, Result};
use crate::predicate::Predicate;
use crate::rowset::RowSet;
use crate::source::Chunk;

/// How many levels above or below a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// So many; 0 for none.
    UpTo(u32),
    /// To the root, or to the leaves.
    All,
}

/// A filter, and what is kept around the spans it keeps.
#[derive(Clone, Debug)]
pub struct SpanPick {
    predicate: Predicate,
    above: Levels,
    below: Levels,
    text: String,
}

impl PartialEq for SpanPick {
    fn eq(&self, other: &Self) -> bool {
        (self.above, self.below, &self.text) == (other.above, other.below, &other.text)
    }
}

impl SpanPick {
    /// Of a checked query that is one filter.
    ///
    /// Errors: [`Error::Invalid`] for every other query.
    pub fn new(query: &Query, above: Levels, below: Levels) -> Result<SpanPick> {
        let filter = match &query.body {
            Body::Search(pipeline) => match pipeline.stages.as_slice() {
                [Stage::Spanset(SpansetExpr::Filter(filter))] => filter,
                _ => return Err(not_a_filter()),
            },
            Body::Metrics(_) => return Err(not_a_filter()),
        };
        Ok(SpanPick {
            predicate: Predicate::compile(filter.as_ref())?,
            above,
            below,
            text: query.to_string(),
        })
    }
}

fn not_a_filter() -> Error {
    Error::invalid("spans of a trace are picked by a single filter such as { status = error }")
}

/// The rows of a chunk that a pick keeps, ascending. The chunk must hold its traces whole.
///
/// Errors: as [`crate::search_chunk`].
pub fn pick_spans(pick: &SpanPick, chunk: &dyn Chunk, budget: &Budget) -> Result<Vec<u32>> {
    let ctx = Context::new(chunk, budget);
    if ctx.rows == 0 {
        return Ok(Vec::new());
    }
    let matched = filter(&ctx, &pick.predicate, &RowSet::full(ctx.rows))?;
    let mut kept = matched.clone();
    if (pick.above, pick.below) != (Levels::UpTo(0), Levels::UpTo(0)) {
        for ordinal in 0..ctx.traces()?.ids.len() as u32 {
            let (run, tree) = (ctx.run(ordinal)?, ctx.tree(ordinal)?);
            let is_matched: Vec<bool> = run.iter().map(|row| matched.contains(row)).collect();
            let mut keep = is_matched.clone();
            budget.check()?;
            keep_below(&tree, &is_matched, pick.below, &mut keep);
            keep_above(&tree, &is_matched, pick.above, &mut keep, budget)?;
            let positions = keep.iter().enumerate().filter(|(_, keep)| **keep);
            positions.for_each(|(at, _)| kept.insert(run.row(at as u32)));
        }
    }
    Ok(kept.iter().collect())
}

/// Parents stand before children in the tree's order, so one pass carries down how far the nearest match is.
fn keep_below(tree: &Tree, matched: &[bool], levels: Levels, keep: &mut [bool]) {
    const FAR: u32 = u32::MAX;
    let mut distance = vec![FAR; matched.len()];
    for at in &tree.order {
        let at = *at as usize;
        distance[at] = match (matched[at], tree.parent[at]) {
            (true, _) => 0,
            (false, NONE) => FAR,
            (false, parent) => distance[parent as usize].saturating_add(1),
        };
        keep[at] |= match levels {
            Levels::All => distance[at] != FAR,
            Levels::UpTo(levels) => distance[at] <= levels.min(FAR - 1),
        };
    }
}

/// The other way round: children before parents.
fn keep_above(tree: &Tree, matched: &[bool], levels: Levels, keep: &mut [bool], budget: &Budget) -> Result<()> {
    const FAR: u32 = u32::MAX;
    let mut distance: Vec<u32> = matched.iter().map(|matched| if *matched { 0 } else { FAR }).collect();
    for (i, at) in tree.order.iter().rev().enumerate() {
        if i % BATCH == 0 {
            budget.check()?;
        }
        let at = *at as usize;
        keep[at] |= match levels {
            Levels::All => distance[at] != FAR,
            Levels::UpTo(levels) => distance[at] <= levels.min(FAR - 1),
        };
        if tree.parent[at] != NONE {
            let (parent, from_here) = (tree.parent[at] as usize, distance[at].saturating_add(1));
            distance[parent] = distance[parent].min(from_here);
        }
    }
    Ok(())
}
