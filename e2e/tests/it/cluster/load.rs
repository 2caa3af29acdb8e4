//! Writers that send to whichever node answers, and keep account of what was acknowledged and how long they waited.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use vivace_e2e::client::{Otlp, Reply};
use vivace_e2e::ledger::Ledger;
use vivace_e2e::spans::Workload;

use super::SOON;
use super::members::{Cluster, TENANT};
use crate::fixture::{eventually, send};

const WRITERS: u16 = 3;
/// Spans of one request.
const BATCH: u64 = 40;
/// For an answer, before it is sent again to another node.
const WITHIN: Duration = Duration::from_secs(12);
/// Of so many acknowledged batches one is sent again, to another node.
const RESEND_EVERY: u64 = 7;

/// Writers that go on until told, whatever becomes of the nodes.
pub(super) struct Load {
    pub(super) ledger: Arc<Ledger>,
    endpoints: Arc<std::sync::Mutex<Vec<String>>>,
    acknowledged: Arc<AtomicU64>,
    gap_millis: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    writers: JoinSet<()>,
}

impl Load {
    pub(super) fn start(cluster: &Cluster) -> Self {
        Self::of(cluster, 20_261_122, WITHIN)
    }

    /// Writers of spans of their own, less or more patient.
    pub(super) fn of(cluster: &Cluster, seed: u64, within: Duration) -> Self {
        let workload = Workload::starting_now(seed);
        let tenants = (0..WRITERS).map(|client| (client, TENANT.to_owned()));
        let ledger = Ledger::new(workload, tenants)
            .logging_to(&cluster.scratch.path().join(format!("ledger-{seed}.jsonl")))
            .unwrap();
        let mut load = Self {
            ledger: Arc::new(ledger),
            endpoints: Arc::new(std::sync::Mutex::new(cluster.endpoints())),
            acknowledged: Arc::default(),
            gap_millis: Arc::default(),
            is_over: Arc::default(),
            writers: JoinSet::new(),
        };
        for client in 0..WRITERS {
            load.writers.spawn(write(
                Arc::clone(&load.ledger),
                Arc::clone(&load.endpoints),
                Arc::clone(&load.acknowledged),
                Arc::clone(&load.gap_millis),
                Arc::clone(&load.is_over),
                client,
                within,
            ));
        }
        load
    }

    pub(super) fn now_at(&self, cluster: &Cluster) {
        *self.endpoints.lock().unwrap() = cluster.endpoints();
    }

    /// Waits until so many more requests were acknowledged.
    pub(super) async fn goes_on(&self, requests: u64) {
        let until = self.acknowledged.load(Ordering::Relaxed) + requests;
        eventually("writes go on", SOON, async || {
            self.acknowledged.load(Ordering::Relaxed) >= until
        })
        .await;
    }

    /// The longest any writer waited for an acknowledgement since the last call.
    pub(super) fn gap(&self) -> Duration {
        Duration::from_millis(self.gap_millis.swap(0, Ordering::Relaxed))
    }

    pub(super) async fn end(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(writer) = self.writers.join_next().await {
            writer.unwrap();
        }
        println!("{} spans acknowledged", self.ledger.acknowledged());
    }
}

async fn write(
    ledger: Arc<Ledger>,
    endpoints: Arc<std::sync::Mutex<Vec<String>>>,
    acknowledged: Arc<AtomicU64>,
    gap_millis: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    client: u16,
    within: Duration,
) {
    let (mut turn, mut first) = (usize::from(client), 0);
    let mut last = Instant::now();
    let connect = |turn: usize| {
        let endpoints = endpoints.lock().unwrap();
        let url = endpoints.get(turn % endpoints.len().max(1))?;
        Otlp::grpc(url, None).ok()
    };
    let mut otlp = connect(turn);
    while !is_over.load(Ordering::Relaxed) {
        let reply = match &mut otlp {
            // A node that died may have stored it: the same again, to another, must not count twice.
            Some(otlp) => match tokio::time::timeout(within, send(otlp, &ledger, client, first, BATCH)).await {
                Ok(reply) => reply,
                Err(_) => Reply::Broken("no answer".to_owned()),
            },
            None => Reply::Broken("nobody is there".to_owned()),
        };
        match reply {
            Reply::Accepted => {
                let waited = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
                gap_millis.fetch_max(waited, Ordering::Relaxed);
                last = Instant::now();
                let count = acknowledged.fetch_add(1, Ordering::Relaxed);
                if count.is_multiple_of(RESEND_EVERY)
                    && let Some(mut other) = connect(turn + 1)
                {
                    let again = send(&mut other, &ledger, client, first, BATCH);
                    let _ = tokio::time::timeout(within, again).await;
                }
                first += BATCH;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Reply::Broken(_) | Reply::Busy(_) => {
                turn += 1;
                otlp = connect(turn);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            refused @ (Reply::Refused(_) | Reply::Partial { .. }) => panic!("client {client} at {first}: {refused:?}"),
        }
    }
}
