//! A reader that asks for what was acknowledged while the nodes suffer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use vivace_e2e::client::Tempo;
use vivace_e2e::ledger::{Ledger, Reading};
use vivace_e2e::spans::{flatten, mix};

use super::PATIENCE;
use crate::cluster::load::Load;
use crate::cluster::members::{Cluster, TENANT};

pub(super) struct Reader {
    urls: Arc<std::sync::Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    task: JoinHandle<(Duration, Vec<String>)>,
}

impl Reader {
    pub(super) fn start(cluster: &Cluster, load: &Load) -> Self {
        let urls = Arc::new(std::sync::Mutex::new(cluster.questions()));
        let is_over = Arc::<AtomicBool>::default();
        let task = tokio::spawn(read(Arc::clone(&load.ledger), Arc::clone(&urls), Arc::clone(&is_over)));
        Self { urls, is_over, task }
    }

    pub(super) fn now_at(&self, cluster: &Cluster) {
        *self.urls.lock().unwrap() = cluster.questions();
    }

    /// The longest time without a complete answer, and complete answers that were wrong.
    pub(super) async fn end(self) -> (Duration, Vec<String>) {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn read(
    ledger: Arc<Ledger>,
    urls: Arc<std::sync::Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
) -> (Duration, Vec<String>) {
    let (mut gap, mut last) = (Duration::ZERO, Instant::now());
    let mut complaints = Vec::new();
    let mut turn = 0;
    while !is_over.load(Ordering::Relaxed) {
        turn += 1;
        let url = {
            let urls = urls.lock().unwrap();
            urls.get(turn % urls.len().max(1)).cloned()
        };
        // Taken before the question: what was acknowledged by now has to be in the answer.
        let floor = ledger.floor();
        let traces = ledger.traces_of(TENANT);
        let id = traces[(mix(7, turn as u64) % traces.len() as u64) as usize];
        let answer = async {
            Tempo::new(&url.ok_or_else(|| anyhow::anyhow!("nobody"))?, None)?
                .trace(id)
                .await
        };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) if answer.partial.is_none() => {
                gap = gap.max(last.elapsed());
                last = Instant::now();
                let verdict = ledger.verify(&Reading {
                    floor,
                    tenant: TENANT,
                    traces: Some([id].into()),
                    spans: flatten(answer.resource_spans),
                });
                if !verdict.is_clean() {
                    complaints.push(format!("node {}: {verdict}", turn % 3));
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (gap.max(last.elapsed()), complaints)
}
