//! Runs one piece of work over every chunk of a snapshot.
//!
//! For questions that need no joining of split traces: names and values of attributes. Searching and measuring have their
//! own work ([`crate::search`], [`crate::measure`]) because they bring traces together.

use std::sync::Arc;

use parking_lot::Mutex;
use query::Inspected;
use query::budget::Budget;
use query::source::{Chunk, TimeRange};

use crate::crew::{self, Looked, Means, Onlooker, Seen, Standing, Work};
use crate::error::{Error, Result};
use crate::jobs::{self, Job, Joining, Listed};
use crate::snapshot::Snapshot;

/// What came out of a scan.
#[derive(Debug, Default)]
pub struct Scanned<T> {
    /// In no particular order; more than one may have come from a thread.
    pub parts: Vec<T>,
    /// What that took.
    pub looked: Looked,
    /// Why it ended before everything was looked at: it was cancelled, or a limit was reached.
    pub cut: Option<query::Error>,
}

/// Watches a scan: is shown the parts that were collected since.
pub type ScanOnlooker<T> = Arc<dyn Onlooker<Scanned<T>>>;

struct Scan<T, F> {
    work: F,
    parts: Mutex<Vec<T>>,
    onlooker: Option<ScanOnlooker<T>>,
}

/// Calls `work` for every chunk that overlaps `window`, each thread with its own `T`.
///
/// When the budget ends it, what was collected until then is returned.
/// Errors: the first one of `work` that is of kind rejected; what could not be read is named in the result instead.
pub async fn scan<T, F>(
    snapshot: &Arc<Snapshot>,
    window: TimeRange,
    means: &Means,
    onlooker: Option<ScanOnlooker<T>>,
    work: F,
) -> Result<Scanned<T>>
where
    T: Default + Send + 'static,
    F: Fn(&dyn Chunk, &mut T, &Budget) -> query::Result<()> + Send + Sync + 'static,
{
    let Listed { jobs, mut looked, .. } = jobs::list(snapshot, &means.blocks, window, Joining::Apart).await;
    let scan = Arc::new(Scan {
        work,
        parts: Mutex::default(),
        onlooker,
    });
    let cut = match crew::run(snapshot, means, &scan, jobs, &mut looked).await {
        Ok(()) => None,
        Err(Error::Query(error)) if matches!(error.kind(), query::Kind::Cancelled | query::Kind::TooExpensive) => {
            Some(error)
        }
        Err(error) => return Err(error),
    };
    let parts = std::mem::take(&mut *scan.parts.lock());
    Ok(Scanned { parts, looked, cut })
}

impl<T, F> Work for Scan<T, F>
where
    T: Default + Send + 'static,
    F: Fn(&dyn Chunk, &mut T, &Budget) -> query::Result<()> + Send + Sync + 'static,
{
    type Part = T;

    fn look(&self, _: &Job, chunk: &dyn Chunk, part: &mut T, budget: &Budget) -> query::Result<Seen> {
        (self.work)(chunk, part, budget)?;
        Ok(Seen::Inspected(Inspected::default()))
    }

    fn hand_in(&self, part: T, _: &Budget) -> query::Result<()> {
        self.parts.lock().push(part);
        Ok(())
    }

    fn progress(&self, part: &mut T, _: &Budget, standing: &dyn Fn() -> Standing) -> query::Result<()> {
        let Some(onlooker) = self.onlooker.as_ref().filter(|onlooker| onlooker.is_curious()) else {
            return Ok(());
        };
        let mut parts = std::mem::take(&mut *self.parts.lock());
        parts.push(std::mem::take(part));
        let looked = standing().looked;
        onlooker.show(Scanned {
            parts,
            looked,
            cut: None,
        });
        Ok(())
    }
}
