//! Makes one larger block of several blocks of one tenant.
//!
//! A merge walks all inputs in trace order, in batches of a few row groups: it takes every trace below a bound for which
//! all inputs have been read far enough, lays the rows out afresh (pieces of a trace meet here, so subtrees and parent
//! distances are computed anew) and appends them to the writer. Spans that are equal in everything they say are kept once.
//!
//! Memory: the compressed bytes of one row group per input (about 4 MB each) and one decoded batch
//! ([`MergeOptions::batch_rows`], about 350 bytes a row), whatever the size of the inputs. Time is CPU but for the reads:
//! run it where seconds without an await hurt nobody.

use std::collections::VecDeque;
use std::io::Write;

use model::TraceId;

use crate::error::{Error, Result};
use crate::format::ROW_GROUP_ROWS;
use crate::order::{self, Duplicates};
use crate::reader::{Block, Columns, RowGroup};
use crate::rows::{RowsView, SpanRows};
use crate::schema::{BlockStats, Schema};
use crate::writer::{BlockSummary, BlockWriter};

/// Blocks in one merge, at most: what 512 MiB of compaction memory holds row groups of.
pub const MERGE_INPUTS_MAX: usize = 100;

/// How much a merge holds at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeOptions {
    /// Rows decoded at a time. Four row groups: enough that the last, partly filled one that is put back for the next
    /// batch is a small part, at about 90 MB. Fewer rows than a row group make small row groups.
    pub batch_rows: u32,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            batch_rows: 4 * ROW_GROUP_ROWS,
        }
    }
}

/// Merges all spans of `inputs`, sections of one tenant, into one block of one section written to `sink`.
///
/// Errors: `Rejected` when the tenants differ or there are too many inputs; those of reading and writing. Nothing of the
/// output is usable after an error.
/// Cancel: the sink holds a beginning without a footer.
pub async fn merge<W: Write + Send>(inputs: &[Block], sink: W, options: MergeOptions) -> Result<(W, BlockSummary)> {
    let Some(first) = inputs.first() else {
        return Err(Error::NoSuch {
            what: "input of a merge",
            number: 0,
        });
    };
    if inputs.len() > MERGE_INPUTS_MAX {
        let (found, limit) = (inputs.len() as u64, MERGE_INPUTS_MAX as u64);
        return Err(Error::TooLarge {
            what: "inputs of a merge",
            found,
            limit,
        });
    }
    let tenant = first.index().tenant().clone();
    if let Some(other) = inputs.iter().find(|b| *b.index().tenant() != tenant) {
        return Err(Error::WrongTenant {
            object: other.object().clone(),
            offset: 0,
        });
    }
    let mut stats = BlockStats::default();
    inputs.iter().for_each(|block| block.index().add_stats(&mut stats));
    let mut writer = BlockWriter::new(sink, Schema::choose(&stats))?;
    writer.begin(&tenant);
    // With many inputs a batch must span at least a page of each, or pages are decoded again and again.
    let target = u64::from(options.batch_rows).max(inputs.len() as u64 * u64::from(crate::format::PAGE_ROWS));
    let mut inputs: Vec<Input<'_>> = inputs.iter().map(Input::new).collect();
    loop {
        for input in &mut inputs {
            input.open_next_if_empty().await?;
        }
        let limit = inputs.iter().filter_map(Input::unread_from).min();
        let bound = choose_bound(&inputs, limit, target);
        if inputs.iter().all(|input| input.rows_below(bound) == 0) {
            // Nothing is complete yet: a trace goes on in the next row group of the inputs that hold the limit.
            let Some(limit) = limit else { break };
            for input in inputs.iter_mut().filter(|i| i.unread_from() == Some(limit)) {
                input.open_next().await?;
            }
            continue;
        }
        let is_last = bound.is_none() && limit.is_none();
        let consumed = write_batch(&mut writer, &inputs, bound, is_last)?;
        for input in &mut inputs {
            input.consume(consumed);
        }
    }
    writer.end();
    writer.finish()
}

/// Traces below this id; `None`: all of them.
type Bound = Option<TraceId>;

/// The largest bound that keeps a batch within `target` rows and does not pass `limit`, but at least one trace.
fn choose_bound(inputs: &[Input<'_>], limit: Bound, target: u64) -> Bound {
    let rows = |bound: Bound| inputs.iter().map(|i| i.rows_below(bound)).sum::<u64>();
    if rows(limit) <= target {
        return limit;
    }
    let (mut low, mut high) = (0u128, limit.map_or(u128::MAX, |id| id.to_u128()));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if rows(Some(TraceId(middle.to_be_bytes()))) <= target {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    let bound = TraceId(low.to_be_bytes());
    if rows(Some(bound)) > 0 {
        return Some(bound);
    }
    // One trace alone is longer than a batch. Its successor is the bound, unless that is beyond the limit.
    let next = low.checked_add(1).map(|id| TraceId(id.to_be_bytes()));
    match (next, limit) {
        (Some(next), Some(limit)) => Some(next.min(limit)),
        (next, limit) => next.or(limit),
    }
}

/// Decodes, lays out and writes all rows below `bound` but a small last row group, and answers the bound below which
/// everything was written.
fn write_batch<W: Write + Send>(
    writer: &mut BlockWriter<W>,
    inputs: &[Input<'_>],
    bound: Bound,
    is_last: bool,
) -> Result<Bound> {
    let schema = writer.schema().clone();
    let wanted: hashbrown::HashSet<(&[u8], model::ValueType)> = schema
        .attributes()
        .iter()
        .map(|d| (&*d.attribute.key, d.attribute.value_type))
        .collect();
    let mut decoded: Vec<SpanRows> = Vec::new();
    for input in inputs {
        for open in &input.open {
            let rows = open.next_row..open.row_of(bound);
            if !rows.is_empty() {
                let mut spans = open.rows.spans(rows)?;
                spans.expand_tail(&|key, value_type| wanted.contains(&(key, value_type)))?;
                decoded.push(spans);
            }
        }
    }
    let views: Vec<RowsView<'_>> = decoded.iter().map(SpanRows::view).collect();
    let mut layout = order::lay_out(&views, Duplicates::Drop);
    let put_back = if is_last { None } else { layout.put_back_small_group() };
    writer.append_laid_out(&views, &layout)?;
    Ok(put_back.or(bound))
}

/// One block on its way through a merge.
#[derive(Debug)]
struct Input<'a> {
    block: &'a Block,
    next_group: usize,
    open: VecDeque<Open>,
}

/// A fetched row group, consumed up to a row.
#[derive(Debug)]
struct Open {
    rows: RowGroup,
    ids: Vec<TraceId>,
    /// First row of each trace, and the number of rows.
    starts: Vec<u32>,
    next_row: u32,
}

impl Open {
    /// First row whose trace is not below the bound.
    fn row_of(&self, bound: Bound) -> u32 {
        let trace = bound.map_or(self.ids.len(), |b| self.ids.partition_point(|id| *id < b));
        self.starts[trace].max(self.next_row)
    }
}

impl<'a> Input<'a> {
    fn new(block: &'a Block) -> Self {
        Self {
            block,
            next_group: 0,
            open: VecDeque::new(),
        }
    }

    /// The first trace that has not been fetched; `None` when everything was.
    fn unread_from(&self) -> Bound {
        self.block.index().fences().get(self.next_group).map(|f| f.first_trace)
    }

    fn rows_below(&self, bound: Bound) -> u64 {
        self.open
            .iter()
            .map(|open| u64::from(open.row_of(bound) - open.next_row))
            .sum()
    }

    async fn open_next_if_empty(&mut self) -> Result<()> {
        if self.open.is_empty() && self.unread_from().is_some() {
            self.open_next().await?;
        }
        Ok(())
    }

    async fn open_next(&mut self) -> Result<()> {
        let whole = |rows: &RowGroup| rows.verify().map(|()| rows.clone());
        let rows = self.block.read_row_group(self.next_group, Columns::All, whole).await?;
        self.next_group += 1;
        let (ordinals, ids) = rows.traces()?;
        let mut starts: Vec<u32> = (0..ids.len() as u32)
            .map(|t| ordinals.partition_point(|o| *o < t) as u32)
            .collect();
        starts.push(ordinals.len() as u32);
        self.open.push_back(Open {
            rows,
            ids,
            starts,
            next_row: 0,
        });
        Ok(())
    }

    fn consume(&mut self, bound: Bound) {
        for open in &mut self.open {
            open.next_row = open.row_of(bound);
        }
        self.open.retain(|open| (open.next_row as usize) < open.rows.len());
    }
}
