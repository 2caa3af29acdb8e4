//! Where the blocks of a snapshot hold traces, and reading it.
//!
//! However many blocks there are, no read waits for more than one other. Blocks that are open say by themselves whether
//! a trace may be in them. For the others there are the merged trace-id indexes, whose directories are kept in memory:
//!
//! ```text
//! covered by an index   a page of the index ─► the row group, beside the block's own index
//! not covered           the block's index and filter ─► the row group
//! ```
//! An index that cannot be read costs time and no answer: its blocks are then asked one by one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use block::{Columns, RowGroup, SpanRows};
use futures::future::BoxFuture;
use futures::stream::{self, Stream, StreamExt as _};
use model::TraceId;

use super::{Places, chain};
use crate::blocks::{Blocks, OpenBlock, OpenIndex};
use crate::catalog::BlockRecord;
use crate::error::Result;
use crate::snapshot::Snapshot;

/// Blocks read at once, and as many row groups that were found through indexes.
const READS_AT_ONCE: usize = 16;

/// What a block gave.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// Spans of the traces.
    pub(super) rows: Vec<SpanRows>,
    /// Bytes read for them.
    pub(super) bytes: u64,
    /// Reads they took.
    pub(super) reads: u64,
}

/// A piece, or what could not be read, for people.
pub(super) type Found = Result<Piece, String>;

type Reading<'a> = BoxFuture<'a, Found>;

/// An index, and those of its blocks that nobody else is asked for, by their numbers in it.
struct Asked {
    index: Arc<OpenIndex>,
    covered: HashMap<u32, Arc<BlockRecord>>,
}

/// Looks for several traces in what has left the memory of the shards. Nothing is read before it is asked for.
#[derive(Clone, Copy)]
pub(super) struct Lookup<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) blocks: &'a Arc<Blocks>,
    pub(super) traces: &'a [TraceId],
}

impl<'a> Lookup<'a> {
    /// Pieces of the traces, in no particular order.
    pub(super) async fn pieces(self, places: Places) -> impl Stream<Item = Found> + 'a {
        let mut readings = Vec::new();
        let mut indexes = Vec::new();
        if places.recent {
            self.ask_spooled(&mut readings);
        }
        if places.blocks {
            let closed = self.ask_open(places, &mut readings);
            let closed = self.ask_indexes(closed, &mut indexes).await;
            readings.extend(closed.into_iter().map(|record| self.closed(record)));
        }
        let directly = stream::iter(readings).buffered(READS_AT_ONCE);
        let through_indexes = stream::iter(indexes)
            .map(move |asked| self.find(asked))
            .buffered(READS_AT_ONCE)
            .flat_map(stream::iter)
            .buffered(READS_AT_ONCE);
        stream::select(directly, through_indexes)
    }

    fn ask_spooled(self, readings: &mut Vec<Reading<'a>>) {
        let tenant = &self.snapshot.tenant;
        for spooled in self.snapshot.spooled() {
            let Some(section) = spooled.section_of(tenant) else {
                continue;
            };
            if !self.traces.iter().any(|trace| spooled.holds_trace(tenant, trace)) {
                continue;
            }
            readings.push(Box::pin(async move {
                let read = async {
                    let open = self.blocks.open_spooled(spooled, section).await?;
                    self.read_open(&open).await
                };
                read.await
                    .map_err(|error| format!("a block that waits for its upload: {}", chain(&error)))
            }));
        }
    }

    /// Asks the blocks that are open. Returns the others.
    fn ask_open(self, places: Places, readings: &mut Vec<Reading<'a>>) -> Vec<Arc<BlockRecord>> {
        let mut closed = Vec::new();
        for record in self.snapshot.blocks() {
            let window = places.window;
            if !record.overlaps(window.start_unix_nanos, window.end_unix_nanos)
                || !self.traces.iter().any(|trace| record.may_contain(trace))
            {
                continue;
            }
            match self.blocks.cached(record.id) {
                Some(open) if self.traces.iter().any(|trace| open.may_contain_trace(trace)) => {
                    readings.push(Box::pin(async move { found_in(&record, self.read_open(&open).await) }));
                }
                Some(_) => {}
                None => closed.push(record),
            }
        }
        closed
    }

    /// Divides `closed` among the indexes that cover them. Returns those that none covers. Reads nothing but directories
    /// that are not in memory.
    async fn ask_indexes(self, mut closed: Vec<Arc<BlockRecord>>, asked: &mut Vec<Asked>) -> Vec<Arc<BlockRecord>> {
        if closed.is_empty() {
            return closed;
        }
        let records = self.snapshot.view.trace_indexes_of(&self.snapshot.tenant);
        let records: Vec<_> = records.map(Arc::clone).collect();
        let opened = records.iter().map(|record| self.blocks.open_index(record));
        for index in futures::future::join_all(opened).await {
            let index = match index {
                Ok(index) => index,
                Err(error) => {
                    warn_of_index(&error);
                    continue;
                }
            };
            let mut covered = HashMap::new();
            closed.retain(|record| match index.number_of(record) {
                Some(number) => covered.insert(number, Arc::clone(record)).is_some(),
                None => true,
            });
            if !covered.is_empty() {
                asked.push(Asked { index, covered });
            }
        }
        closed
    }

    /// The readings of an index's blocks.
    async fn find(self, asked: Asked) -> Vec<Reading<'a>> {
        let finding = self.traces.iter().map(|trace| asked.index.find(trace));
        let mut found: BTreeMap<_, Vec<TraceId>> = BTreeMap::new();
        for (trace, places) in self.traces.iter().zip(futures::future::join_all(finding).await) {
            match places {
                Ok(places) => places
                    .into_iter()
                    .for_each(|at| found.entry(at).or_default().push(*trace)),
                Err(error) => {
                    warn_of_index(&error);
                    return asked.covered.into_values().map(|record| self.closed(record)).collect();
                }
            }
        }
        let mut readings: Vec<Reading<'a>> = Vec::new();
        for (place, traces) in found {
            // Whatever is not in the catalog is gone.
            let Some(record) = asked.covered.get(&place.block).map(Arc::clone) else {
                continue;
            };
            readings.push(match asked.index.row_group(place) {
                Some(range) => Box::pin(async move {
                    let read = self.read_place(&record, place.row_group as usize, range, &traces);
                    found_in(&record, read.await)
                }),
                None => self.closed(record),
            });
        }
        readings
    }

    /// One row group, fetched while the block is being opened.
    async fn read_place(
        self,
        record: &Arc<BlockRecord>,
        group: usize,
        range: std::ops::Range<u64>,
        traces: &[TraceId],
    ) -> Result<Piece> {
        let (view, bytes) = (&self.snapshot.view, range.end - range.start);
        let opening = self.blocks.open(view, record);
        let (open, fetched) = futures::join!(opening, self.blocks.read_raw(view, record, range));
        let (open, (object, fetched)) = (open?, fetched?);
        let first = RowGroup::from_bytes(&object, Arc::clone(open.index()), group, fetched);
        let rows = match first.and_then(|row_group| spans(&row_group, traces)) {
            // A bit may have flipped on the way; this looks twice.
            Err(error) if error.kind() == block::Kind::Corrupt => read_group(&open, group, traces).await?,
            read => read?,
        };
        Ok(Piece { rows, bytes, reads: 1 })
    }

    /// A block that no index covers.
    fn closed(self, record: Arc<BlockRecord>) -> Reading<'a> {
        Box::pin(async move {
            let read = async {
                let open = self.blocks.open(&self.snapshot.view, &record).await?;
                self.read_open(&open).await
            };
            found_in(&record, read.await)
        })
    }

    /// The row groups of an open block, side by side; traces of one row group share its read.
    async fn read_open(self, open: &OpenBlock) -> Result<Piece> {
        let mut by_group: BTreeMap<usize, Vec<TraceId>> = BTreeMap::new();
        for trace in self.traces.iter().filter(|trace| open.may_contain_trace(trace)) {
            for group in open.index().groups_of_trace(trace) {
                by_group.entry(group).or_default().push(*trace);
            }
        }
        let mut piece = Piece::default();
        let reading = by_group.into_iter().map(|(group, traces)| async move {
            let bytes = open.index().fences().get(group).map_or(0, |fence| fence.length);
            let rows = read_group(open, group, &traces).await?;
            // Decoding a row group takes milliseconds; what is at hand would otherwise be decoded without a pause.
            tokio::task::yield_now().await;
            Ok::<_, block::Error>((rows, bytes))
        });
        let mut read = std::pin::pin!(stream::iter(reading).buffered(READS_AT_ONCE));
        while let Some(group) = read.next().await {
            let (rows, bytes) = group?;
            piece.rows.extend(rows);
            piece.bytes += bytes;
            piece.reads += 1;
        }
        Ok(piece)
    }
}

async fn read_group(open: &OpenBlock, group: usize, traces: &[TraceId]) -> block::Result<Vec<SpanRows>> {
    let read = |row_group: &RowGroup| spans(row_group, traces);
    open.block().read_row_group(group, Columns::All, read).await
}

fn spans(row_group: &RowGroup, traces: &[TraceId]) -> block::Result<Vec<SpanRows>> {
    let mut all = Vec::new();
    for trace in traces {
        if let Some(rows) = row_group.trace_rows(trace)? {
            all.push(row_group.spans(rows)?);
        }
    }
    Ok(all)
}

fn found_in(record: &BlockRecord, read: Result<Piece>) -> Found {
    read.map_err(|error| format!("block {}: {}", record.id, chain(&error)))
}

fn warn_of_index(error: &crate::error::Error) {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "a trace index cannot be read; its blocks are asked one by one"
    );
}
