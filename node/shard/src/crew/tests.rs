//! Who looks at what at the same time.

use std::sync::Condvar;
use std::time::Duration;

use query::budget::Limits;
use query::source::TimeRange;

use super::*;
use crate::housekeeping::bed::{Bed, SECOND, START, Span, tenant};
use crate::scan::scan;

/// Threads that meet: each waits until as many are here as are wanted.
#[derive(Default)]
struct Meeting {
    here: std::sync::Mutex<usize>,
    came: Condvar,
}

impl Meeting {
    /// Whether all came. Ends without them after half a minute.
    fn wait_for(&self, wanted: usize) -> bool {
        let mut here = self.here.lock().unwrap();
        *here += 1;
        self.came.notify_all();
        let waited = self
            .came
            .wait_timeout_while(here, Duration::from_secs(30), |here| *here < wanted);
        !waited.unwrap().1.timed_out()
    }
}

#[tokio::test]
async fn one_block_is_looked_at_by_as_many_threads_as_may_compute() {
    let bed = Bed::new();
    // A row group has 65,536 rows.
    let spans: Vec<Span> = (0..=u8::MAX)
        .flat_map(|trace| (0..320).map(move |n: u64| (trace, n as u8, START + n * SECOND)))
        .collect();
    let (calm, at_once) = (tenant("calm"), 2);
    let blocks = bed.flush(&[(&calm, &spans)]).await;
    let snapshot = Arc::new(Snapshot::take(&*bed.catalog, &[], &calm).await.unwrap());
    let means = Means {
        blocks: Arc::clone(&bed.blocks),
        turns: Turns::new(at_once, bed.clock.clone()),
        threads: 2 * at_once,
        budget: Budget::new(Limits::default()),
    };
    let window = TimeRange {
        start_unix_nanos: 0,
        end_unix_nanos: u64::MAX,
    };
    let meeting = Meeting::default();
    let answer = scan(&snapshot, window, &means, None, move |_, met: &mut Vec<bool>, _| {
        met.push(meeting.wait_for(at_once));
        Ok(())
    });
    let answer = answer.await.unwrap();
    assert_eq!((blocks.len(), answer.looked.jobs), (1, 2));
    assert_eq!(answer.parts.concat(), [true, true]);
}
