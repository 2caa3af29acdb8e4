//! An index over merged blocks finds what they hold.

use std::collections::BTreeSet;

use block::StoreReader;

use super::*;
use crate::housekeeping::bed::{Bed, HOUR, START, tenant, trace};

#[tokio::test]
async fn an_index_finds_the_blocks_of_a_trace() {
    let bed = Bed::new();
    let a = tenant("a");
    for window in 0..3u8 {
        let start = START + u64::from(window) * HOUR;
        bed.flush(&[(&a, &[(1, window, start), (10 + window, 1, start)])]).await;
        bed.flush(&[(&a, &[(20 + window, 1, start)])]).await;
    }
    bed.advance(6 * HOUR);
    let compactor = bed.compactor(Default::default(), "scratch");
    while let Some(claim) = compactor.next() {
        let (_sender, stop) = tokio::sync::watch::channel(false);
        compactor.run(claim, stop).await.unwrap();
    }
    bed.flush(&[(&a, &[(1, 9, START)])]).await;
    let view = bed.view();
    let covered = coverable(&view, &a);
    assert_eq!(covered.len(), 3, "a flushed block will be merged soon");
    let id = bed.names.next();
    let written = write(&bed.store, &bed.blocks, &view, &a, &covered, id).await.unwrap();
    let reader = Arc::new(StoreReader::new(Arc::clone(bed.store.inner())));
    let index = open(&bed.store, reader, &a, &written).await.unwrap();
    let blocks_of = |places: Vec<Place>| -> BTreeSet<u32> { places.iter().map(|place| place.block).collect() };
    assert_eq!(blocks_of(index.find(&trace(1)).await.unwrap()).len(), 3);
    for window in 0..3u8 {
        let found = blocks_of(index.find(&trace(20 + window)).await.unwrap());
        assert_eq!(found, blocks_of(index.find(&trace(10 + window)).await.unwrap()));
        let block = *found.first().unwrap();
        let record = view.block(written.blocks[block as usize]).unwrap();
        assert_eq!(record.min_unix_nanos, START + u64::from(window) * HOUR);
        let path = bed.store.path(&view.object(record.object).unwrap().path);
        assert_eq!(&*index.blocks()[block as usize].object, path.as_ref());
    }
    assert!(index.find(&trace(77)).await.unwrap().is_empty());
}
