//! Where the bytes of a block come from.
//!
//! [`RangeReader`] stands between the reader and the object store so that a cache, or whoever watches over the store, can
//! be put there. It answers whole ranges or an error: never fewer bytes.
//!
//! What was read and does not match its checksum is read once more before anybody hears of it: bits flip on the wire more
//! often than at rest.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::error::{Error, Kind, Result};

/// Two wanted ranges closer than this are read as one. A request costs about as much as 256 KiB at the 10-20 MB/s
/// a busy connection to S3 gives within its first-byte latency; smaller gaps only make more requests.
pub const GAP_BYTES_MAX: u64 = 256 << 10;

/// Reads byte ranges of objects.
pub trait RangeReader: Debug + Send + Sync {
    /// The bytes of `ranges`, in order, each of exactly the length asked for.
    ///
    /// Cancel: nothing is left behind.
    fn read<'a>(&'a self, object: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>>>;

    /// Reads again, past whatever is kept, ranges whose bytes did not match their checksums.
    fn read_again<'a>(&'a self, object: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        self.read(object, ranges)
    }

    /// Is told of bytes that did not match their checksums twice.
    fn damaged(&self, error: &Error) {
        let _ = error;
    }
}

/// Whether bytes are asked for for the first time, or because they were wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// From wherever they are.
    First,
    /// From where they were written.
    Again,
}

impl Look {
    pub(crate) async fn read(
        self,
        reader: &Arc<dyn RangeReader>,
        object: &Arc<str>,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>> {
        match self {
            Self::First => reader.read(object, ranges).await,
            Self::Again => reader.read_again(object, ranges).await,
        }
    }

    /// Whether this outcome is to be had with a second look; the reader is told when that is over.
    pub(crate) fn is_not_enough<T>(self, reader: &Arc<dyn RangeReader>, outcome: &Result<T>) -> bool {
        match outcome {
            Err(error) if error.kind() == Kind::Corrupt => {
                if self == Self::Again {
                    reader.damaged(error);
                }
                self == Self::First
            }
            _ => false,
        }
    }
}

/// Reads one range and takes it apart, looking twice.
pub(crate) async fn read_checked<T>(
    reader: &Arc<dyn RangeReader>,
    object: &Arc<str>,
    range: Range<u64>,
    take_apart: impl Fn(Bytes) -> Result<T>,
) -> Result<T> {
    let ranges = std::slice::from_ref(&range);
    let one = |parts: Vec<Bytes>| match parts.into_iter().next() {
        Some(bytes) => take_apart(bytes),
        None => Err(Error::Corrupt {
            object: object.clone(),
            offset: range.start,
            what: "answer to a range",
        }),
    };
    let first = Look::First.read(reader, object, ranges).await.and_then(one);
    if !Look::First.is_not_enough(reader, &first) {
        return first;
    }
    let again = Look::Again.read(reader, object, ranges).await.and_then(one);
    Look::Again.is_not_enough(reader, &again);
    again
}

/// Reads straight from the object store, one request per range, all at once.
#[derive(Debug, Clone)]
pub struct StoreReader {
    store: Arc<dyn ObjectStore>,
}

impl StoreReader {
    /// Reads from `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    async fn one(&self, object: &Arc<str>, range: Range<u64>) -> Result<Bytes> {
        // The object's path as it is: converting it would encode its percent signs once more.
        let path = Path::parse(&**object).map_err(|source| Error::Store {
            object: object.clone(),
            start: range.start,
            end: range.end,
            source: Arc::new(source.into()),
        })?;
        let truncated = |at| Error::Corrupt {
            object: object.clone(),
            offset: at,
            what: "end of object",
        };
        match self.store.get_range(&path, range.clone()).await {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
            Ok(bytes) => Err(truncated(range.start + bytes.len() as u64)),
            Err(source) => {
                // A range beyond the end is refused by some stores in words only: ask how long the object is.
                if !matches!(source, object_store::Error::NotFound { .. })
                    && let Ok(meta) = self.store.head(&path).await
                    && meta.size < range.end
                {
                    return Err(truncated(meta.size));
                }
                let (start, end) = (range.start, range.end);
                Err(Error::Store {
                    object: object.clone(),
                    start,
                    end,
                    source: Arc::new(source),
                })
            }
        }
    }
}

impl RangeReader for StoreReader {
    fn read<'a>(&'a self, object: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        Box::pin(async move {
            let requests: FuturesOrdered<_> = ranges.iter().map(|range| self.one(object, range.clone())).collect();
            requests.try_collect().await
        })
    }
}

/// Joins ranges that lie close together into one read and takes the answer apart again: a few bytes too many cost less
/// than another request.
#[derive(Debug, Clone)]
pub struct JoiningReader {
    inner: Arc<dyn RangeReader>,
}

impl JoiningReader {
    /// Reads from `inner`, whose answers are not kept by anybody in between.
    pub fn new(inner: Arc<dyn RangeReader>) -> Self {
        Self { inner }
    }
}

/// Ranges with gaps of more than [`GAP_BYTES_MAX`] between them that hold all of `ranges`, ascending.
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP_BYTES_MAX) => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// The parts of `read`, the bytes of `joined`, that were asked for.
fn taken_apart(ranges: &[Range<u64>], joined: &[Range<u64>], read: &[Bytes]) -> Vec<Bytes> {
    let part = |range: &Range<u64>| {
        let at = joined
            .partition_point(|whole| whole.start <= range.start)
            .checked_sub(1)?;
        let (whole, bytes) = (joined.get(at)?, read.get(at)?);
        if whole == range {
            return Some(bytes.clone());
        }
        let (from, to) = (range.start - whole.start, range.end - whole.start);
        // Copied: a slice would keep all of what was read for as long as somebody keeps this part.
        bytes.get(from as usize..to as usize).map(Bytes::copy_from_slice)
    };
    ranges.iter().filter_map(part).collect()
}

impl RangeReader for JoiningReader {
    fn read<'a>(&'a self, object: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        Box::pin(async move {
            let joined = joined(ranges);
            let read = self.inner.read(object, &joined).await?;
            Ok(taken_apart(ranges, &joined, &read))
        })
    }

    fn read_again<'a>(&'a self, object: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        Box::pin(async move {
            let joined = joined(ranges);
            let read = self.inner.read_again(object, &joined).await?;
            Ok(taken_apart(ranges, &joined, &read))
        })
    }

    fn damaged(&self, error: &Error) {
        self.inner.damaged(error);
    }
}

/// A block held in memory: what a test reads, and what a freshly written block is checked from before it is uploaded.
#[derive(Debug, Clone)]
pub struct MemoryReader {
    bytes: Bytes,
}

impl MemoryReader {
    /// Reads from `bytes`, whatever the object's name.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }
}

impl RangeReader for MemoryReader {
    fn read<'a>(&'a self, object: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        let slices = ranges.iter().map(|range| {
            if range.start > range.end || range.end > self.bytes.len() as u64 {
                let offset = self.bytes.len() as u64;
                return Err(Error::Corrupt {
                    object: object.clone(),
                    offset,
                    what: "end of object",
                });
            }
            Ok(self.bytes.slice(range.start as usize..range.end as usize))
        });
        let answer = slices.collect();
        Box::pin(async move { answer })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt as _;

    use super::*;

    /// Notes what it is asked; byte `n` of its object is `n` modulo 251.
    #[derive(Debug, Default)]
    struct Source {
        asked: Mutex<Vec<Range<u64>>>,
    }

    impl RangeReader for Source {
        fn read<'a>(&'a self, _: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
            self.asked.lock().unwrap().extend_from_slice(ranges);
            let bytes = |range: &Range<u64>| range.clone().map(|at| (at % 251) as u8).collect();
            futures::future::ready(Ok(ranges.iter().map(bytes).collect())).boxed()
        }
    }

    #[test]
    fn close_ranges_are_one_read_and_answers_keep_their_order() {
        let gap = GAP_BYTES_MAX;
        let ranges = |of: &[(u64, u64)]| of.iter().map(|(start, end)| *start..*end).collect::<Vec<_>>();
        let cases = [
            (ranges(&[]), ranges(&[])),
            (ranges(&[(5, 9)]), ranges(&[(5, 9)])),
            (ranges(&[(5, 9), (9, 12), (14, 15)]), ranges(&[(5, 15)])),
            (ranges(&[(14, 15), (5, 9), (6, 8)]), ranges(&[(5, 15)])),
            (ranges(&[(0, 4), (4 + gap, 5 + gap)]), ranges(&[(0, 5 + gap)])),
            (
                ranges(&[(0, 4), (5 + gap, 6 + gap), (2, 3)]),
                ranges(&[(0, 4), (5 + gap, 6 + gap)]),
            ),
        ];
        for (ranges, asked) in cases {
            let source = Arc::new(Source::default());
            let reader = JoiningReader::new(Arc::clone(&source) as _);
            let object: Arc<str> = "o".into();
            let read = reader.read(&object, &ranges).now_or_never().unwrap().unwrap();
            assert_eq!(*source.asked.lock().unwrap(), asked);
            let alone = Source::default()
                .read(&object, &ranges)
                .now_or_never()
                .unwrap()
                .unwrap();
            assert_eq!(read, alone);
        }
    }
}
