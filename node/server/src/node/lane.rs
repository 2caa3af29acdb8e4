//! One shard's way into the log: gathers sub-batches, makes an entry of them, proposes it.
//!
//! Owns [`Lane`]. Gathering is what makes entries large and syncs few. It costs no latency when there is nothing to
//! gather: while no entry is under way, what comes is proposed at once; while one is, the next gathers until it is large
//! enough, old enough, or the way is free.

use std::sync::Arc;
use std::time::Duration;

use consensus::{ConsensusError, Group, Payload};
use model::{Clock, NodeId};
use settings::node::ReplicationSettings;
use shard::command::ShardCommand;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::frame::{EntryBuilder, SubBatch};

use super::machine::ShardMachine;
use crate::cpu::CpuPool;
use crate::refusal::{Kind, Refusal};

/// Sub-batches waiting to be gathered. Their bytes are in the receiver's in-flight budget.
const QUEUE: usize = 1024;
/// Entries under way at once: enough to overlap compressing with syncing.
const UNDER_WAY: usize = 4;

/// For an entry to be committed. Without a majority it may never be; who waits tries elsewhere.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);

/// One sub-batch and who waits for it.
struct Submission {
    sub_batch: SubBatch,
    done: oneshot::Sender<Result<(), Unstored>>,
}

/// Why a sub-batch is not known to be stored. Sending it again is safe: it is recognised.
#[derive(Debug, Clone)]
pub(super) enum Unstored {
    /// Somebody else leads, or nobody.
    NotLeader(Option<NodeId>),
    /// The generation takes nothing more.
    Sealed,
    /// Trying elsewhere does not help.
    Refused(Refusal),
}

impl From<ConsensusError> for Unstored {
    fn from(error: ConsensusError) -> Self {
        match error {
            ConsensusError::NotLeader { leader, .. } | ConsensusError::OutcomeUnknown { leader, .. } => {
                Self::NotLeader(leader)
            }
            ConsensusError::NoQuorum { .. } | ConsensusError::Closed { .. } => Self::NotLeader(None),
            error => Self::Refused(error.into()),
        }
    }
}

/// The entrance. Dropping all of them ends the task.
#[derive(Debug)]
pub(super) struct Lane {
    queue: mpsc::Sender<Submission>,
    stop: CancellationToken,
}

struct Task {
    group: Group<ShardMachine>,
    linger: Duration,
    batch_bytes: usize,
    clock: Arc<dyn Clock>,
    cpu: CpuPool,
    under_way: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Lane {
    pub(super) fn open(
        group: Group<ShardMachine>,
        settings: &ReplicationSettings,
        clock: Arc<dyn Clock>,
        cpu: CpuPool,
        tasks: &TaskTracker,
    ) -> Self {
        let (queue, submissions) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        let task = Task {
            group,
            linger: settings.linger.duration(),
            batch_bytes: settings.batch_bytes.as_usize(),
            clock,
            cpu,
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
            tasks: tasks.clone(),
        };
        tasks.spawn(task.run(submissions, stop.clone()));
        Self { queue, stop }
    }

    /// Comes back when the sub-batch is committed.
    ///
    /// Cancel: it may be committed all the same.
    pub(super) async fn submit(&self, sub_batch: SubBatch) -> Result<(), Unstored> {
        let (done, outcome) = oneshot::channel();
        self.queue
            .send(Submission { sub_batch, done })
            .await
            .map_err(|_| stopping())?;
        outcome.await.map_err(|_| stopping())?
    }

    /// Ends the task once what is in the queue is proposed.
    pub(super) fn close(&self) {
        self.stop.cancel();
    }
}

fn stopping() -> Unstored {
    Unstored::NotLeader(None)
}

impl Task {
    async fn run(self, mut submissions: mpsc::Receiver<Submission>, stop: CancellationToken) {
        let mut left_over = None;
        loop {
            let first = match left_over.take() {
                Some(first) => first,
                None => tokio::select! {
                    biased;
                    submission = submissions.recv() => match submission {
                        Some(submission) => submission,
                        None => return,
                    },
                    () = stop.cancelled() => return,
                },
            };
            let mut gathered = vec![first];
            left_over = self.gather(&mut gathered, &mut submissions).await;
            let Ok(way) = Arc::clone(&self.under_way).acquire_owned().await else {
                return;
            };
            let (group, clock, cpu) = (self.group.clone(), Arc::clone(&self.clock), self.cpu.clone());
            self.tasks.spawn(async move {
                let (sub_batches, waiting): (Vec<_>, Vec<_>) = gathered
                    .into_iter()
                    .map(|submission| (submission.sub_batch, submission.done))
                    .unzip();
                let outcome = propose(&group, &*clock, &cpu, sub_batches).await;
                drop(way);
                for done in waiting {
                    // Who went away does not want to know.
                    let _ = done.send(outcome.clone());
                }
            });
        }
    }

    /// Adds to `gathered` what comes in time and fits; gives back what does not fit.
    async fn gather(
        &self,
        gathered: &mut Vec<Submission>,
        submissions: &mut mpsc::Receiver<Submission>,
    ) -> Option<Submission> {
        let deadline = tokio::time::Instant::now() + self.linger;
        let mut bytes: usize = gathered
            .iter()
            .map(|submission| submission.sub_batch.body().len())
            .sum();
        while bytes < self.batch_bytes {
            let next = match submissions.try_recv() {
                Ok(next) => next,
                Err(_) if self.under_way.available_permits() == UNDER_WAY => break,
                Err(_) => match tokio::time::timeout_at(deadline, submissions.recv()).await {
                    Ok(Some(next)) => next,
                    Ok(None) | Err(_) => break,
                },
            };
            if bytes + next.sub_batch.body().len() > self.batch_bytes {
                return Some(next);
            }
            bytes += next.sub_batch.body().len();
            gathered.push(next);
        }
        None
    }
}

async fn propose(
    group: &Group<ShardMachine>,
    clock: &dyn Clock,
    cpu: &CpuPool,
    sub_batches: Vec<SubBatch>,
) -> Result<(), Unstored> {
    let stamped_unix_nanos = clock.unix_nanos();
    let build = move || {
        let mut builder = EntryBuilder::default();
        for sub_batch in &sub_batches {
            if builder.push(sub_batch.clone()).is_err() {
                return Err(Refusal::new(Kind::TooLarge, "the batch does not fit in one log entry"));
            }
        }
        let command = ShardCommand::Append {
            stamped_unix_nanos,
            entry: builder.finish(),
        };
        Ok((command.encode(), Arc::new(sub_batches)))
    };
    let built = cpu.run(build).await.map_err(Unstored::Refused)?;
    let (data, hint) = built.map_err(Unstored::Refused)?;
    let proposed = tokio::time::timeout(COMMIT_WITHIN, group.propose(Payload::with_hint(data, hint))).await;
    match proposed {
        Ok(Ok((_, appended))) if appended.is_sealed => Err(Unstored::Sealed),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Unstored::NotLeader(None)),
    }
}
