//! Room for work that would hold up the IO threads for more than about half a millisecond.
//!
//! Owns [`CpuPool`]: a bound on how much of it runs at once, on the runtime's blocking threads. Those sleep when there is
//! nothing to do; a work-stealing pool spins between two pieces of work, which cost a thirtieth of the CPU of a node that
//! is busy receiving. What waits is bounded by the in-flight budget of receivers and the concurrency limit of queries.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::refusal::{Kind, Refusal};

/// Turns on the CPU, cheap to clone.
#[derive(Debug, Clone)]
pub struct CpuPool {
    turns: Arc<Semaphore>,
}

impl CpuPool {
    /// At most `threads` pieces of work run at once.
    pub fn new(threads: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(threads.clamp(1, Semaphore::MAX_PERMITS))),
        }
    }

    /// Runs `work` and waits for it.
    ///
    /// Cancel: work that has begun ends and its result is dropped.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let lost = |_| Refusal::new(Kind::Internal, "work was lost");
        let turn = Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .map_err(|_| Refusal::new(Kind::Internal, "work was lost"))?;
        tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        })
        .await
        .map_err(lost)
    }
}
