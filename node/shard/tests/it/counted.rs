//! What questions ask of the object store, counted at the store: requests and bytes of each kind of question.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use query::metrics::Intervals;
use query::source::TimeRange;
use shard::port::CatalogPort;

use crate::world::{NOW, SECOND, World, span, text};

/// A store in memory that counts what is read.
#[derive(Debug, Default)]
struct Counting {
    inner: InMemory,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

impl Counting {
    /// Requests and bytes since the last time.
    fn take(&self) -> (u64, u64) {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        (take(&self.requests), take(&self.bytes))
    }
}

#[async_trait::async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_read = !options.head;
        let result = self.inner.get_opts(location, options).await?;
        if is_read {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.bytes
                .fetch_add(result.range.end - result.range.start, Ordering::Relaxed);
        }
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

const BLOCKS: u8 = 60;

/// Sixty blocks. Each has a trace of its own with four spans, which all have a needle that no other block has.
async fn hay(store: &Arc<Counting>) -> World {
    let mut world = World::over(Arc::clone(store) as _);
    for block in 0..BLOCKS {
        let spans: Vec<_> = (0..4u8)
            .map(|id| {
                let mut span = span(block, id, 0, u64::from(block) * 100 + u64::from(id), id);
                span.attributes.push(text("needle", format!("needle-{block}-{id}")));
                span
            })
            .collect();
        world.send(&spans);
        world.flush().await;
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_without_the_value_are_not_read() {
    let store = Arc::new(Counting::default());
    let mut world = hay(&store).await;
    world.close_blocks();
    store.take();

    // A value that is nowhere: of each block its index and its filter, and of a filter that errs what it let through.
    let nowhere = "{ span.needle = \"nowhere\" }";
    let answer = world.search(nowhere, TimeRange::ALWAYS).await;
    let (requests, _) = store.take();
    assert_eq!((answer.traces.len(), answer.looked.blocks), (0, u32::from(BLOCKS)));
    assert!(answer.looked.row_groups <= 3, "{:?}", answer.looked);
    let opening = 2 * u64::from(BLOCKS);
    assert!(requests <= opening + 3 * 4, "{requests}");

    // They are open now: what is nowhere costs no request, what is in one block costs that block's columns.
    let answer = world.search(nowhere, TimeRange::ALWAYS).await;
    assert!(store.take().0 <= 3 * 4 && answer.traces.is_empty());
    let answer = world
        .search("{ span.needle = \"needle-31-2\" }", TimeRange::ALWAYS)
        .await;
    let (requests, bytes) = store.take();
    assert_eq!(answer.traces.len(), 1);
    assert!(answer.looked.row_groups <= 4, "{:?}", answer.looked);
    assert!(
        requests <= 4 * 8 && bytes < answer.looked.block_bytes / 4,
        "{requests} requests, {bytes} bytes"
    );

    // A window reads the blocks inside.
    let window = TimeRange {
        start_unix_nanos: NOW + 1_000 * SECOND,
        end_unix_nanos: NOW + 1_099 * SECOND,
    };
    let answer = world.search("{ name = \"op-1\" }", window).await;
    assert_eq!((answer.looked.row_groups, answer.traces.len()), (1, 1));
    let (requests, _) = store.take();
    assert!(requests <= 16, "{requests}");

    // A trace by its id: of one block its spans alone.
    assert_eq!(world.trace(31).await.len(), 4);
    let (requests, _) = store.take();
    assert!(requests <= 4, "{requests}");
}

/// What is read is what is counted, and a question reads no column twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_reads_its_columns_once() {
    let store = Arc::new(Counting::default());
    let mut world = hay(&store).await;
    let range = Intervals::range(NOW, NOW + 7_000 * SECOND, 600 * SECOND).unwrap();
    for query in [
        "{ name = \"op-1\" }",
        "{ status = error } >> { name = \"op-1\" }",
        "{ kind != client } | by(span.flavour) | count() > 1",
    ] {
        world.close_blocks();
        store.take();
        let answer = world.search(query, TimeRange::ALWAYS).await;
        let (_, bytes) = store.take();
        assert!(bytes <= 2 * whole(&world), "{query}: {bytes}");
        assert!(answer.looked.bytes <= bytes, "{query}: {:?} of {bytes}", answer.looked);
    }
    for query in [
        "{} | rate() by(name)",
        "{} | quantile_over_time(duration, .5, .9) by(resource.service.name)",
        "{} | compare({ status = error })",
    ] {
        world.close_blocks();
        store.take();
        let (_, answer) = world.measure(query, range).await;
        let (_, bytes) = store.take();
        assert!(bytes <= 2 * whole(&world), "{query}: {bytes}");
        assert!(answer.looked.bytes <= bytes, "{query}: {:?} of {bytes}", answer.looked);
    }
}

/// Columns that lie together are fetched together, and before the first is looked at: over a link where each request waits
/// for 20 ms, one after the other would be the time of the whole question.
#[tokio::test(flavor = "multi_thread")]
async fn columns_of_a_row_group_come_in_one_request() {
    let store = Arc::new(Counting::default());
    let mut world = hay(&store).await;
    let range = Intervals::range(NOW, NOW + 7_000 * SECOND, 600 * SECOND).unwrap();
    let blocks = u64::from(BLOCKS);
    // Opening a block takes two requests: its index and its filters. Exemplars are left out: they are read of few spans.
    for (query, limit) in [
        ("{} | rate() by(name) with(exemplars=false)", 3 * blocks),
        (
            "{} | quantile_over_time(duration, .5, .9) by(resource.service.name) with(exemplars=false)",
            3 * blocks,
        ),
        (
            "{ kind != client } | rate() by(span.needle) with(exemplars=false)",
            4 * blocks,
        ),
    ] {
        world.close_blocks();
        store.take();
        let (_, answer) = world.measure(query, range).await;
        assert_eq!(answer.looked.row_groups, u32::from(BLOCKS));
        let (requests, _) = store.take();
        assert!(requests <= limit, "{query}: {requests}");
    }
    for (query, limit) in [
        ("{ span.flavour = \"nowhere\" && kind != client }", 3 * blocks),
        ("{ name = \"op-1\" && kind != client }", 4 * blocks),
    ] {
        world.close_blocks();
        store.take();
        world.search(query, TimeRange::ALWAYS).await;
        let (requests, _) = store.take();
        assert!(requests <= limit, "{query}: {requests}");
    }
}

/// Bytes of all objects.
fn whole(world: &World) -> u64 {
    world.catalog.view().objects().map(|object| object.bytes).sum()
}

/// Hundreds of attributes that few spans have lie together; compare() wants them all and reads them once.
#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_lie_together_are_read_together() {
    let store = Arc::new(Counting::default());
    let mut world = World::over(Arc::clone(&store) as _);
    let spans: Vec<_> = (0..200u8)
        .map(|id| {
            let mut span = span(1, id, 0, u64::from(id), id);
            span.attributes
                .push(text(&format!("rare.{id}"), format!("value-{id}").repeat(20)));
            span
        })
        .collect();
    world.send(&spans);
    world.flush().await;
    world.close_blocks();
    store.take();
    let range = Intervals::range(NOW, NOW + 300 * SECOND, 100 * SECOND).unwrap();
    let (found, answer) = world.measure("{} | compare({ status = error }, 1000)", range).await;
    let (_, bytes) = store.take();
    let has = |key: &str| {
        found
            .series
            .iter()
            .any(|series| series.labels.iter().any(|(label, _)| label == key))
    };
    assert!((0..200).all(|id| has(&format!("span.rare.{id}"))));
    let block_bytes = answer.looked.block_bytes;
    assert!(
        answer.looked.bytes < 8 * block_bytes && bytes < 8 * block_bytes,
        "{} counted, {bytes} read of {block_bytes}",
        answer.looked.bytes
    );
}
