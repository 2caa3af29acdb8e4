//! The head: live, unflushed spans of one shard, searchable the moment they are acknowledged.
//!
//! Per tenant a row of chunks, each a [`SpanTable`] over a range of the shard's log. The last chunk is open and takes
//! appends until the next cut; the others never change again. All live spans of a trace are therefore in one table, or in
//! two while a cut is on its way to the object store. Tenants never share a chunk, so no scan can show one tenant
//! another's spans.
//!
//! A cut becomes a block on local disk first, the spool; from then on its spans are read from there and their memory is
//! free. Once the catalog names the uploaded block, the spooled one goes. The tail of a shard is therefore, oldest first:
//! spooled blocks, then closed chunks of a cut that is being built, then open chunks.
//!
//! What always holds:
//! - ranges `(from, to]` of the parts of the tail ascend and do not overlap;
//! - a cut closes every open chunk, so each part lies wholly below or wholly above any watermark of the catalog;
//! - parts at or below [`Head::dropped_to`] are gone; a reader whose catalog snapshot is older than that is told so
//!   instead of being shown a gap.
//!
//! Not here: who appends and when (`shard::owner`), what a query does with a chunk (`shard::chunk`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;
use model::table::TraceSize;
use model::{LogIndex, SpanTable, TenantId, TraceId};
use parking_lot::RwLock;

use crate::spool::SpooledBlock;

/// Heap bytes after which a chunk closes without a cut. Offsets into a column are 32 bits wide, so no column may reach
/// 4 GiB; one request adds at most 64 MiB. Settings that flush in time never come here.
pub const CHUNK_BYTES_MAX: usize = 1 << 30;

/// Spans of one tenant from the log range `(from, to]`.
#[derive(Debug)]
pub struct HeadChunk {
    from: LogIndex,
    to: AtomicU64,
    heap_bytes: AtomicUsize,
    traces: AtomicUsize,
    largest_trace_bytes: AtomicU64,
    largest_trace_spans: AtomicU32,
    table: RwLock<SpanTable>,
}

impl HeadChunk {
    fn new(from: LogIndex) -> Self {
        let table = RwLock::new(SpanTable::new());
        Self {
            from,
            to: AtomicU64::new(from.0),
            heap_bytes: AtomicUsize::new(0),
            traces: AtomicUsize::new(0),
            largest_trace_bytes: AtomicU64::new(0),
            largest_trace_spans: AtomicU32::new(0),
            table,
        }
    }

    /// The spans. Hold the guard no longer than one scan: appends to the open chunk wait for it.
    pub fn table(&self) -> parking_lot::RwLockReadGuard<'_, SpanTable> {
        self.table.read()
    }

    /// The log index this chunk starts after; names it within its shard and tenant.
    pub fn from(&self) -> LogIndex {
        self.from
    }

    /// The last log index this chunk holds spans of.
    pub fn to(&self) -> LogIndex {
        LogIndex(self.to.load(Ordering::Acquire))
    }
}

/// The chunks of one tenant, oldest first.
pub type Chunks = Vec<Arc<HeadChunk>>;

#[derive(Debug, Default)]
struct TenantHead {
    chunks: Chunks,
    /// Whether the last chunk takes appends.
    open: bool,
}

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<TenantId, TenantHead>,
    /// Oldest first.
    spooled: Vec<Arc<SpooledBlock>>,
    /// Everything up to here is in `spooled` or dropped.
    spooled_to: LogIndex,
    dropped_to: LogIndex,
}

impl State {
    /// Whether every part lies wholly above or wholly below the watermark. A chunk that is open has no end yet.
    fn fits(&self, watermark: LogIndex) -> bool {
        let spooled = self.spooled.iter().map(|block| block.range());
        let mut closed = spooled
            .map(|range| (range.from, range.to))
            .chain(self.closed_chunks().map(|chunk| (chunk.from, chunk.to())));
        closed.all(|(from, to)| to <= watermark || watermark <= from)
            && self.open_chunks().all(|chunk| watermark <= chunk.from)
    }

    fn open_chunks(&self) -> impl Iterator<Item = &Arc<HeadChunk>> {
        let open = self.tenants.values().filter(|head| head.open);
        open.filter_map(|head| head.chunks.last())
    }

    fn closed_chunks(&self) -> impl Iterator<Item = &Arc<HeadChunk>> {
        self.tenants
            .values()
            .flat_map(|head| &head.chunks[..head.chunks.len() - usize::from(head.open)])
    }
}

/// The live spans of one tenant that a catalog snapshot does not name.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    /// Blocks on local disk, oldest first; those that hold nothing of the tenant are left out.
    pub spooled: Vec<Arc<SpooledBlock>>,
    /// Tables in memory, oldest first.
    pub chunks: Chunks,
}

/// A tenant's traces in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveTraces {
    /// How many; one that a cut divides counts twice.
    pub count: usize,
    /// No trace has more bytes, and none more spans.
    pub largest: TraceSize,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Head {
    state: RwLock<State>,
    heap_bytes: AtomicUsize,
    spans: AtomicUsize,
}

/// The reader's catalog snapshot is older than what the head still has; take a newer one, at least up to `dropped_to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("live spans up to log index {dropped_to} have become blocks that this catalog snapshot does not name")]
pub struct StaleCatalog {
    /// Everything up to here is in the catalog.
    pub dropped_to: LogIndex,
}

/// Live spans cut from the log range `(from, to]`, per tenant. Still readable in the head until dropped.
#[derive(Debug, Clone)]
pub struct Cut {
    /// Exclusive.
    pub from: LogIndex,
    /// Inclusive.
    pub to: LogIndex,
    /// In tenant order, so that the same log gives the same block.
    pub tenants: Vec<(TenantId, Chunks)>,
}

impl Head {
    /// A head whose log starts after `watermark`.
    pub fn starting_after(watermark: LogIndex) -> Self {
        let head = Self::default();
        let mut state = head.state.write();
        (state.dropped_to, state.spooled_to) = (watermark, watermark);
        drop(state);
        head
    }

    /// Appends spans of log entry `index` to the tenant's open chunk.
    ///
    /// `fill` appends to the table it is given and must not fail half-way through a span. Calls come from one thread at a
    /// time, in log order.
    pub fn append<T, E>(
        &self,
        index: LogIndex,
        tenant: &TenantId,
        fill: impl FnOnce(&mut SpanTable) -> Result<T, E>,
    ) -> Result<T, E> {
        let chunk = self.open_chunk(index, tenant);
        let mut table = chunk.table.write();
        let rows_before = table.len();
        let filled = fill(&mut table);
        let (rows, bytes) = (table.len(), table.heap_bytes());
        let largest = table.largest_trace();
        chunk.traces.store(table.traces().len(), Ordering::Relaxed);
        chunk.largest_trace_bytes.store(largest.bytes, Ordering::Relaxed);
        chunk.largest_trace_spans.store(largest.spans, Ordering::Relaxed);
        chunk.to.store(index.0, Ordering::Release);
        drop(table);
        self.spans.fetch_add(rows - rows_before, Ordering::Relaxed);
        let bytes_before = chunk.heap_bytes.swap(bytes, Ordering::Relaxed);
        // Tables only grow while they are open.
        self.heap_bytes
            .fetch_add(bytes.saturating_sub(bytes_before), Ordering::Relaxed);
        if bytes >= CHUNK_BYTES_MAX
            && let Some(head) = self.state.write().tenants.get_mut(tenant)
        {
            head.open = false;
        }
        filled
    }

    fn open_chunk(&self, index: LogIndex, tenant: &TenantId) -> Arc<HeadChunk> {
        if let Some(head) = self.state.read().tenants.get(tenant)
            && head.open
            && let Some(chunk) = head.chunks.last()
        {
            return Arc::clone(chunk);
        }
        let mut state = self.state.write();
        let head = state.tenants.entry(tenant.clone()).or_default();
        let chunk = Arc::new(HeadChunk::new(LogIndex(index.0.saturating_sub(1))));
        head.chunks.push(Arc::clone(&chunk));
        head.open = true;
        chunk
    }

    /// What is above `watermark` of the tenant's spans.
    pub fn tail(&self, tenant: &TenantId, watermark: LogIndex) -> Result<Tail, StaleCatalog> {
        let state = self.state.read();
        if watermark < state.dropped_to {
            return Err(StaleCatalog {
                dropped_to: state.dropped_to,
            });
        }
        let chunks = state
            .tenants
            .get(tenant)
            .map(|head| head.chunks.iter())
            .into_iter()
            .flatten();
        if !state.fits(watermark) {
            return Err(StaleCatalog {
                dropped_to: state.dropped_to,
            });
        }
        // An open chunk may have been opened for an entry that is not appended yet.
        let chunks = chunks.filter(|chunk| chunk.from >= watermark).map(Arc::clone).collect();
        let spooled = state
            .spooled
            .iter()
            .filter(|block| block.range().from >= watermark && block.holds(tenant));
        Ok(Tail {
            spooled: spooled.map(Arc::clone).collect(),
            chunks,
        })
    }

    /// Closes every open chunk and returns what the log range `(watermark, applied]` holds. The caller keeps appends away
    /// meanwhile and says how far the log is applied.
    pub fn cut(&self, applied: LogIndex) -> Cut {
        let mut state = self.state.write();
        let from = state.spooled_to;
        let mut tenants: Vec<_> = state
            .tenants
            .iter_mut()
            .map(|(tenant, head)| {
                head.open = false;
                (tenant.clone(), head.chunks.clone())
            })
            .collect();
        tenants.sort_by(|a, b| a.0.cmp(&b.0));
        Cut {
            from,
            to: applied.max(from),
            tenants,
        }
    }

    /// Swaps what a cut held for the block it became.
    pub fn spool(&self, block: Arc<SpooledBlock>) {
        let to = block.range().to;
        let mut state = self.state.write();
        state.spooled.push(block);
        state.spooled_to = state.spooled_to.max(to);
        self.forget_chunks(state, to);
    }

    /// The oldest spooled block: the next to be uploaded.
    pub fn oldest_spooled(&self) -> Option<Arc<SpooledBlock>> {
        self.state.read().spooled.first().map(Arc::clone)
    }

    /// Number of blocks that wait for their upload.
    pub fn spooled_blocks(&self) -> usize {
        self.state.read().spooled.len()
    }

    /// Forgets everything up to `watermark`: the catalog names the blocks that hold it.
    pub fn drop_to(&self, watermark: LogIndex) {
        let mut state = self.state.write();
        state.dropped_to = state.dropped_to.max(watermark);
        state.spooled_to = state.spooled_to.max(watermark);
        state.spooled.retain(|block| block.range().to > watermark);
        self.forget_chunks(state, watermark);
    }

    fn forget_chunks(&self, mut state: parking_lot::RwLockWriteGuard<'_, State>, to: LogIndex) {
        let mut forgotten = Vec::new();
        state.tenants.retain(|_, head| {
            // An open chunk may be taking in an entry that its end does not show yet. A cut closes what it covers, so what
            // is still open is above it, or was covered by another node's block and is read back from the log.
            let open = if head.open { head.chunks.pop() } else { None };
            head.chunks.retain(|chunk| {
                let keep = chunk.to() > to;
                if !keep {
                    forgotten.push(Arc::clone(chunk));
                }
                keep
            });
            head.chunks.extend(open);
            !head.chunks.is_empty()
        });
        drop(state);
        // A query may still hold a chunk; it is counted as gone all the same.
        for chunk in forgotten {
            self.heap_bytes
                .fetch_sub(chunk.heap_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
            self.spans.fetch_sub(chunk.table().len(), Ordering::Relaxed);
        }
    }

    /// Whether every part of the tail lies wholly above or wholly below the watermark. Not when a former leader's flush
    /// ended inside of what was read back from the log: then it must be read back from there.
    pub fn fits(&self, watermark: LogIndex) -> bool {
        self.state.read().fits(watermark)
    }

    /// Forgets everything and starts again after `watermark`, or after what was dropped already if that is further: the
    /// shard is led elsewhere, or its log is about to be read again. The caller keeps appends away meanwhile.
    pub fn restart(&self, watermark: LogIndex) {
        let mut state = self.state.write();
        state.spooled.clear();
        for head in state.tenants.values_mut() {
            head.open = false;
        }
        state.dropped_to = state.dropped_to.max(watermark);
        state.spooled_to = state.dropped_to;
        self.forget_chunks(state, LogIndex(u64::MAX));
    }

    /// Whether the next cut starts where the parts of the tail do: not after another node's block has covered a part of one.
    pub fn can_be_cut(&self) -> bool {
        let state = self.state.read();
        state.fits(state.spooled_to)
    }

    /// Everything up to here is in blocks that the catalog names, and has left the tail.
    pub fn dropped_to(&self) -> LogIndex {
        self.state.read().dropped_to
    }

    /// Bytes the live spans hold on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.heap_bytes.load(Ordering::Relaxed)
    }

    /// How much of each of these traces is in memory, in their order. Waits for an append that is under way.
    pub fn live_sizes(&self, tenant: &TenantId, traces: &[TraceId]) -> Vec<TraceSize> {
        let mut sizes = vec![TraceSize::default(); traces.len()];
        for chunk in self.chunks_of(tenant) {
            let table = chunk.table();
            for (size, trace) in sizes.iter_mut().zip(traces) {
                if let Some(found) = table.find_trace(trace) {
                    let part = table.trace_size(found);
                    size.bytes += part.bytes;
                    size.spans += part.spans;
                }
            }
        }
        sizes
    }

    /// How many traces of the tenant are in memory, and how large the largest is at most. Waits for nobody.
    pub fn live_traces(&self, tenant: &TenantId) -> LiveTraces {
        let mut live = LiveTraces::default();
        for chunk in self.chunks_of(tenant) {
            live.count += chunk.traces.load(Ordering::Relaxed);
            live.largest.bytes += chunk.largest_trace_bytes.load(Ordering::Relaxed);
            live.largest.spans += chunk.largest_trace_spans.load(Ordering::Relaxed);
        }
        live
    }

    fn chunks_of(&self, tenant: &TenantId) -> Chunks {
        let state = self.state.read();
        let head = state.tenants.get(tenant);
        head.map(|head| head.chunks.clone()).unwrap_or_default()
    }

    /// Number of live spans.
    pub fn spans(&self) -> usize {
        self.spans.load(Ordering::Relaxed)
    }

    /// Tenants that have live spans.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.state.read().tenants.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use model::proto;

    use super::*;

    fn span(trace: u8, id: u8) -> Vec<u8> {
        let mut out = Vec::new();
        proto::write_bytes(&mut out, 1, &[trace; 16]);
        proto::write_bytes(&mut out, 2, &[id; 8]);
        out
    }

    fn append(head: &Head, index: u64, tenant: &str, ids: &[u8]) {
        let tenant = TenantId::new(tenant).unwrap();
        head.append(LogIndex(index), &tenant, |table| {
            for id in ids {
                table.append(0, 0, &span(1, *id)).unwrap();
            }
            Ok::<_, Infallible>(())
        })
        .unwrap();
    }

    fn live(head: &Head, tenant: &str, watermark: u64) -> Result<Vec<u8>, StaleCatalog> {
        let chunks = head.tail(&TenantId::new(tenant).unwrap(), LogIndex(watermark))?.chunks;
        Ok(chunks
            .iter()
            .flat_map(|chunk| chunk.table().span_id().to_vec())
            .map(|id| id[0])
            .collect())
    }

    #[test]
    fn a_cut_partitions_the_log_for_every_reader() {
        let head = Head::starting_after(LogIndex(0));
        append(&head, 1, "a", &[1, 2]);
        append(&head, 2, "b", &[3]);
        let cut = head.cut(LogIndex(2));
        append(&head, 3, "a", &[4]);
        assert_eq!((cut.from, cut.to, cut.tenants.len()), (LogIndex(0), LogIndex(2), 2));

        // The catalog does not name the block yet: everything is live.
        assert_eq!(live(&head, "a", 0), Ok(vec![1, 2, 4]));
        // It does, and the head has not dropped the chunks yet: only what is above the watermark is live.
        assert_eq!(live(&head, "a", 2), Ok(vec![4]));
        head.drop_to(LogIndex(2));
        assert_eq!(live(&head, "a", 2), Ok(vec![4]));
        assert_eq!(live(&head, "b", 2), Ok(vec![]));
        // A reader with the old catalog is told, not shown a gap.
        assert_eq!(
            live(&head, "a", 0),
            Err(StaleCatalog {
                dropped_to: LogIndex(2)
            })
        );
        assert_eq!(head.spans(), 1);
    }

    #[test]
    fn tenants_do_not_share_chunks() {
        let head = Head::starting_after(LogIndex(0));
        append(&head, 1, "a", &[1]);
        append(&head, 1, "b", &[2]);
        assert_eq!(live(&head, "a", 0), Ok(vec![1]));
        assert_eq!(live(&head, "b", 0), Ok(vec![2]));
        assert_eq!(live(&head, "c", 0), Ok(vec![]));
    }

    #[test]
    fn what_is_forgotten_while_the_next_entry_comes_in_leaves_that_entry() {
        let head = Head::starting_after(LogIndex(0));
        append(&head, 1, "a", &[1]);
        head.cut(LogIndex(1));
        std::thread::scope(|scope| {
            let tenant = TenantId::new("a").unwrap();
            let appended = head.append(LogIndex(2), &tenant, |table| {
                // The block of the cut is named at this very moment.
                scope.spawn(|| head.drop_to(LogIndex(1)));
                while head.dropped_to() < LogIndex(1) {
                    std::thread::yield_now();
                }
                table.append(0, 0, &span(1, 2))
            });
            appended.unwrap();
        });
        assert_eq!(live(&head, "a", 1), Ok(vec![2]));
        assert_eq!(head.cut(LogIndex(2)).tenants.len(), 1);
        assert_eq!(head.spans(), 1);
    }

    #[test]
    fn memory_is_counted_down_to_zero() {
        let head = Head::starting_after(LogIndex(0));
        for index in 1..50 {
            append(&head, index, "a", &[index as u8]);
        }
        assert!(head.heap_bytes() > 0);
        head.cut(LogIndex(49));
        head.drop_to(LogIndex(49));
        assert_eq!((head.heap_bytes(), head.spans()), (0, 0));
    }
}
