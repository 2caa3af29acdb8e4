//! Threads for work that would hold up the IO threads for more than about half a millisecond.
//!
//! Owns [`CpuPool`]. The queue of a rayon pool has no bound of its own: what is in it is bounded by the in-flight
//! budget of receivers and by the concurrency limit of queries.

use std::sync::Arc;

use crate::refusal::{Kind, Refusal};

/// A pool of CPU threads, cheap to clone.
#[derive(Debug, Clone)]
pub struct CpuPool {
    threads: Arc<rayon::ThreadPool>,
}

impl CpuPool {
    /// Errors: the system has no threads left.
    pub fn new(name: &'static str, threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |n| format!("{name}-{n}"))
            .build()?;
        Ok(Self {
            threads: Arc::new(threads),
        })
    }

    /// Runs `work` and waits for it.
    ///
    /// Cancel: work that has begun ends and its result is dropped.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let (done, result) = tokio::sync::oneshot::channel();
        self.threads.spawn(move || {
            let _ = done.send(work());
        });
        result.await.map_err(|_| Refusal::new(Kind::Internal, "work was lost"))
    }
}
