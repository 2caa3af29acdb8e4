//! A store that goes away and comes back, in manual time.

use futures::FutureExt;
use model::ManualClock;

use super::*;

/// Answers what it was told to, and counts.
#[derive(Debug)]
struct Scripted {
    answer: Mutex<Answer>,
    reads: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Bytes,
    Silence,
    NotFound,
    /// Never comes.
    Never,
}

impl RangeReader for Scripted {
    fn read<'a>(&'a self, object: &'a Arc<str>, _: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>, Error>> {
        let error = |source| Error::Store {
            object: Arc::clone(object),
            start: 0,
            end: 1,
            source: Arc::new(source),
        };
        Box::pin(async move {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let answer = *self.answer.lock();
            match answer {
                Answer::Bytes => Ok(vec![Bytes::from_static(b"x")]),
                Answer::Silence => Err(error(object_store::Error::Generic {
                    store: "test",
                    source: "connection refused".into(),
                })),
                Answer::NotFound => Err(error(object_store::Error::NotFound {
                    path: "x".to_owned(),
                    source: "gone".into(),
                })),
                Answer::Never => std::future::pending().await,
            }
        })
    }
}

struct Bench {
    inner: Arc<Scripted>,
    clock: Arc<ManualClock>,
    reader: WatchedReader,
}

impl Bench {
    fn new() -> Self {
        let inner = Arc::new(Scripted {
            answer: Mutex::new(Answer::Bytes),
            reads: AtomicU64::new(0),
        });
        let clock = Arc::new(ManualClock::at(0));
        let reader = WatchedReader::new(Arc::clone(&inner) as _, Arc::clone(&clock) as _);
        Self { inner, clock, reader }
    }

    /// Reads once under this answer; says how it ended and whether the store was asked.
    fn read(&self, answer: Answer) -> (Result<(), Kind>, bool) {
        *self.inner.answer.lock() = answer;
        let before = self.inner.reads.load(Ordering::Relaxed);
        let first = 0..1;
        let outcome = self
            .reader
            .read(&"object".into(), std::slice::from_ref(&first))
            .now_or_never();
        let outcome = outcome.map_or(Err(Kind::Internal), |read| read.map(drop).map_err(|error| error.kind()));
        (outcome, self.inner.reads.load(Ordering::Relaxed) > before)
    }
}

const SILENCE: Result<(), Kind> = Err(Kind::Unavailable);

#[test]
fn a_store_that_does_not_answer_is_left_alone_and_tried_now_and_then() {
    let bench = Bench::new();
    for _ in 1..FAILURES_MAX {
        assert_eq!(bench.read(Answer::Silence), (SILENCE, true));
    }
    // One answer, whatever it says, and the counting starts again.
    assert_eq!(bench.read(Answer::NotFound), (Err(Kind::Missing), true));
    for _ in 0..FAILURES_MAX {
        assert!(!bench.reader.is_away());
        assert_eq!(bench.read(Answer::Silence), (SILENCE, true));
    }
    assert!(bench.reader.is_away());
    // Each try in vain doubles the rest, up to a bound.
    let mut rest = REST_MIN;
    for _ in 0..6 {
        assert_eq!(bench.read(Answer::Bytes), (SILENCE, false));
        bench.clock.advance(rest - Duration::from_nanos(1));
        assert_eq!(bench.read(Answer::Bytes), (SILENCE, false));
        bench.clock.advance(Duration::from_nanos(1));
        assert_eq!(bench.read(Answer::Silence), (SILENCE, true));
        rest = (rest * 2).min(REST_MAX);
    }
    assert_eq!(bench.reader.refused(), 12);
    bench.clock.advance(REST_MAX);
    assert_eq!(bench.read(Answer::Bytes), (Ok(()), true));
    assert_eq!(bench.read(Answer::Bytes), (Ok(()), true));
    // What was refused was no request.
    assert_eq!(bench.reader.ranges(), bench.inner.reads.load(Ordering::Relaxed));
    assert_eq!(bench.reader.bytes(), 2);
    assert!(!bench.reader.is_away());
}

/// A bench whose store is away and may be tried again.
fn away() -> Bench {
    let bench = Bench::new();
    for _ in 0..FAILURES_MAX {
        assert_eq!(bench.read(Answer::Silence), (SILENCE, true));
    }
    bench.clock.advance(REST_MIN);
    bench
}

#[test]
fn a_few_try_and_the_others_do_not_wait() {
    let bench = away();
    *bench.inner.answer.lock() = Answer::Never;
    let (object, range): (Arc<str>, _) = ("object".into(), [0..1, 1..2]);
    let mut trials: Vec<_> = (0..TRIALS_MAX).map(|_| bench.reader.read(&object, &range)).collect();
    for trial in &mut trials {
        assert!(trial.now_or_never().is_none());
    }
    assert_eq!(bench.read(Answer::Bytes), (SILENCE, false));
    // One of those who tried has gone: the next one tries.
    trials.pop();
    assert_eq!(bench.read(Answer::Bytes), (Ok(()), true));
}

#[test]
fn what_takes_two_reads_at_once_finds_a_store_that_is_back() {
    let bench = away();
    *bench.inner.answer.lock() = Answer::Bytes;
    let (object, range): (Arc<str>, _) = ("object".into(), [0..1, 1..2]);
    let both = futures::future::try_join(bench.reader.read(&object, &range), bench.reader.read(&object, &range));
    assert!(both.now_or_never().unwrap().is_ok());
    assert!(!bench.reader.is_away());
}

#[test]
fn those_who_try_together_double_the_rest_once() {
    let bench = away();
    *bench.inner.answer.lock() = Answer::Silence;
    let (object, range): (Arc<str>, _) = ("object".into(), [0..1, 1..2]);
    let both = futures::future::join(bench.reader.read(&object, &range), bench.reader.read(&object, &range));
    let (a, b) = both.now_or_never().unwrap();
    assert!(a.is_err() && b.is_err());
    bench.clock.advance(REST_MIN * 2);
    assert_eq!(bench.read(Answer::Bytes), (Ok(()), true));
}

#[test]
fn second_looks_and_damage_are_counted() {
    let bench = Bench::new();
    let (object, range): (Arc<str>, _) = ("object".into(), [0..1, 1..2]);
    bench
        .reader
        .read_again(&object, &range)
        .now_or_never()
        .unwrap()
        .unwrap();
    bench.reader.damaged(&Error::Corrupt {
        object,
        offset: 1,
        what: "page",
    });
    assert_eq!((bench.reader.looked_again(), bench.reader.damaged_count()), (1, 1));
}
