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

/// How nice a thread is that computes for a question. A nice of 5 weighs a third of 0: whoever wakes to receive goes first
/// at once, and questions still have a quarter of a CPU that somebody else wants whole.
const NICENESS: i32 = 5;

/// Threads for questions.
pub fn computing() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("question")
        .on_thread_start(|| {
            #[cfg(target_os = "linux")]
            if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
                tracing::debug!(%error, "threads for questions are as important as all others");
            }
        })
        .build()
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
