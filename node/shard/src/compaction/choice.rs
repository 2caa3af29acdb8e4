//! Which blocks to merge next. Pure: blocks in, at most one job out.
//!
//! Blocks are merged with neighbours in time only, those that end in the same [`Window`], so that retention can drop what
//! is old without holding on to it for the sake of what is new. Inside a window:
//!
//! - A block that is half as large as a block may become is *full*: nobody merges it any more.
//! - While the window is open, blocks of one size class (powers of eight) are merged when [`FAN_IN`] of them are there.
//!   Each merge lifts its spans by a class, so a span is written at most once per class.
//! - When the window is closed, everything that is not full is merged, smallest first. A block is taken only if the
//!   smaller ones together make a quarter of it: a few stragglers do not make anybody write a large block again. So a
//!   closed window ends with its full blocks and a few others, each over four times the size of the next smaller one.
//!
//! Closed windows come first, the oldest before the others. They get no new blocks but stragglers, so this ends, and an
//! open window waits no longer than until it is closed itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{BlockId, TenantId};
use settings::CompactionSettings;

use crate::catalog::BlockRecord;

/// Spans of a block, at most. A trace lookup costs the same in a block of any size; with ten million spans a block is
/// about 550 MB, is read by a hundred and fifty jobs, and an hour of 30,000 spans a second is a dozen blocks.
pub const BLOCK_SPANS_MAX: u64 = 10_000_000;
/// Blocks of one size class that make a merge worth while. With 8 a span is written about twice before its window closes.
const FAN_IN: usize = 8;
/// A block is written again in a closed window when the smaller ones together have at least one part in this many of it.
const STRAGGLER_DIVISOR: u64 = 4;
/// A window is closed this long after its end: flushes of its last spans are in the catalog by then.
const CLOSING_NANOS: u64 = 5 * 60 * 1_000_000_000;
/// Bytes of one decoded row, about.
pub(super) const ROW_BYTES: u64 = 400;
/// Rows that a merge decodes of each input at the least.
const INPUT_ROWS: u64 = 8_192;

/// How blocks are to be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Length of a window. Not 0.
    pub window_nanos: u64,
    /// Blocks of one merge, at least 2.
    pub inputs_max: usize,
    /// Bytes of a block, at most.
    pub block_bytes_max: u64,
    /// Spans of a block, at most.
    pub block_spans_max: u64,
    /// Bytes of memory that the inputs of one merge may need together. Two blocks are merged in any case.
    pub input_memory: u64,
}

/// Blocks of one tenant and one window to be merged into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Whose.
    pub tenant: TenantId,
    /// At least two, oldest id first.
    pub inputs: Vec<Arc<BlockRecord>>,
}

/// A span of time whose blocks are merged with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// The nth since the epoch.
    At(u64),
    /// All that end in an impossible future. Apart, so that they do not keep well-dated blocks from ageing.
    Ahead,
}

/// Work that waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Blocks that merges should take now.
    pub blocks: u64,
    /// Bytes of their row groups.
    pub bytes: u64,
}

impl Rules {
    /// As the settings want it.
    pub fn new(settings: &CompactionSettings) -> Self {
        let window = settings.window.duration().as_nanos();
        Self {
            window_nanos: u64::try_from(window).unwrap_or(u64::MAX).max(1),
            inputs_max: (settings.input_blocks_max as usize).clamp(2, block::MERGE_INPUTS_MAX),
            block_bytes_max: settings.block_bytes_max.bytes().max(2),
            block_spans_max: BLOCK_SPANS_MAX,
            // The other half is for the batch that is laid out and encoded.
            input_memory: settings.job_memory.bytes() / 2,
        }
    }

    /// In which window a block is.
    pub fn window_of(&self, record: &BlockRecord) -> Window {
        if record.is_ahead() {
            return Window::Ahead;
        }
        Window::At(record.max_unix_nanos / self.window_nanos)
    }

    fn is_closed(&self, window: Window, now_unix_nanos: u64) -> bool {
        match window {
            Window::At(n) => {
                let end = n.saturating_add(1).saturating_mul(self.window_nanos);
                end.saturating_add(CLOSING_NANOS) <= now_unix_nanos
            }
            Window::Ahead => true,
        }
    }

    /// How large a block is, in spans: those it has, or those that its bytes stand for if that is more.
    fn size(&self, record: &BlockRecord) -> u64 {
        let by_bytes = u128::from(record.bytes) * u128::from(self.block_spans_max) / u128::from(self.block_bytes_max);
        record.spans.max(u64::try_from(by_bytes).unwrap_or(u64::MAX)).max(1)
    }

    fn is_full(&self, size: u64) -> bool {
        size >= self.block_spans_max.div_ceil(2)
    }
}

/// What to merge next among the blocks of one tenant; `None` when all is well. Equal blocks give an equal answer, in
/// whatever order they come.
pub fn choose<'a>(
    blocks: impl IntoIterator<Item = &'a Arc<BlockRecord>>,
    rules: &Rules,
    now_unix_nanos: u64,
) -> Option<Job> {
    let windows = windows(blocks, rules);
    let (closed, open): (Vec<_>, Vec<_>) = windows
        .into_iter()
        .partition(|(window, _)| rules.is_closed(*window, now_unix_nanos));
    let mut jobs = closed
        .into_iter()
        .map(|(_, blocks)| jobs_of_closed(blocks, rules))
        .chain(open.into_iter().map(|(_, blocks)| jobs_of_open(blocks, rules)))
        .flatten();
    let mut inputs: Vec<_> = jobs.next()?.into_iter().map(|sized| Arc::clone(sized.record)).collect();
    inputs.sort_by_key(|record| record.id);
    let tenant = inputs.first()?.tenant.clone();
    Some(Job { tenant, inputs })
}

/// How much there is to do for one tenant.
pub fn outstanding<'a>(
    blocks: impl IntoIterator<Item = &'a Arc<BlockRecord>>,
    rules: &Rules,
    now_unix_nanos: u64,
) -> Outstanding {
    let mut sum = Outstanding::default();
    for (window, blocks) in windows(blocks, rules) {
        let jobs = if rules.is_closed(window, now_unix_nanos) {
            jobs_of_closed(blocks, rules)
        } else {
            jobs_of_open(blocks, rules)
        };
        for sized in jobs.into_iter().flatten() {
            sum.blocks += 1;
            sum.bytes += sized.record.bytes;
        }
    }
    sum
}

/// A block that is not full.
#[derive(Debug, Clone, Copy)]
struct Sized<'a> {
    size: u64,
    record: &'a Arc<BlockRecord>,
}

impl Sized<'_> {
    fn key(&self) -> (u64, BlockId) {
        (self.size, self.record.id)
    }
}

fn windows<'a>(
    blocks: impl IntoIterator<Item = &'a Arc<BlockRecord>>,
    rules: &Rules,
) -> BTreeMap<Window, Vec<Sized<'a>>> {
    let mut windows = BTreeMap::<_, Vec<_>>::new();
    for record in blocks {
        let size = rules.size(record);
        if !rules.is_full(size) {
            let window = rules.window_of(record);
            windows.entry(window).or_default().push(Sized { size, record });
        }
    }
    windows
}

/// Blocks that go together, as long as they fit.
struct Gathered<'a, 'r> {
    rules: &'r Rules,
    blocks: Vec<Sized<'a>>,
    size: u64,
    memory: u64,
}

impl<'a, 'r> Gathered<'a, 'r> {
    fn of(first: Sized<'a>, rules: &'r Rules) -> Self {
        Self {
            rules,
            blocks: vec![first],
            size: first.size,
            memory: input_memory(first.record),
        }
    }

    /// Takes one more if it fits. Two blocks that are not full always fit.
    fn take(&mut self, next: Sized<'a>) -> bool {
        let size = self.size + next.size;
        let memory = self.memory + input_memory(next.record);
        let is_pair = self.blocks.len() == 1;
        let fits = self.blocks.len() < self.rules.inputs_max
            && size <= self.rules.block_spans_max
            && (is_pair || memory <= self.rules.input_memory);
        if fits {
            self.blocks.push(next);
            (self.size, self.memory) = (size, memory);
        }
        fits
    }
}

/// What a merge holds of an input: one row group as it is stored, and what is decoded of it.
fn input_memory(record: &BlockRecord) -> u64 {
    let groups = u64::from(record.row_groups.end - record.row_groups.start).max(1);
    record.bytes / groups + record.spans.min(INPUT_ROWS) * ROW_BYTES
}

fn jobs_of_closed<'a>(mut blocks: Vec<Sized<'a>>, rules: &Rules) -> Vec<Vec<Sized<'a>>> {
    blocks.sort_unstable_by_key(Sized::key);
    let mut jobs = Vec::new();
    let mut rest = blocks.into_iter().peekable();
    while let Some(first) = rest.next() {
        let mut gathered = Gathered::of(first, rules);
        while let Some(next) = rest.peek() {
            let is_worth_it = next.size / STRAGGLER_DIVISOR <= gathered.size;
            if !is_worth_it || !gathered.take(*next) {
                break;
            }
            rest.next();
        }
        if gathered.blocks.len() > 1 {
            jobs.push(gathered.blocks);
        }
    }
    jobs
}

fn jobs_of_open<'a>(blocks: Vec<Sized<'a>>, rules: &Rules) -> Vec<Vec<Sized<'a>>> {
    let mut classes = BTreeMap::<u32, Vec<Sized<'a>>>::new();
    for block in blocks {
        classes.entry(block.size.ilog2() / 3).or_default().push(block);
    }
    let mut jobs = Vec::new();
    for mut class in classes.into_values() {
        // Neighbours in time hold the pieces of the same traces.
        class.sort_unstable_by_key(|sized| (sized.record.max_unix_nanos, sized.record.id));
        let mut rest = class.into_iter().peekable();
        while let Some(first) = rest.next() {
            let mut gathered = Gathered::of(first, rules);
            while rest.next_if(|next| gathered.take(*next)).is_some() {}
            // Stopped by a bound means that waiting for more blocks would not help.
            let is_bounded = rest.peek().is_some();
            let count = gathered.blocks.len();
            if count >= FAN_IN || (is_bounded && count > 1) {
                jobs.push(gathered.blocks);
            }
        }
    }
    jobs
}

#[cfg(test)]
mod tests;
