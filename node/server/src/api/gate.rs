//! How many queries run at once, by tenant and in all.
//!
//! Owns [`Gate`]. A query waits for its tenant's turn first and for the node's second, so that one tenant's queue never
//! stands before another's. Who would make a tenant's queue too long is told to come back later.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::TenantId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::{Kind, Refusal};

/// Lanes beyond this many are tidied away when nobody uses them.
const LANES_TIDY: usize = 1_000;

/// Turns for queries.
#[derive(Debug)]
pub(crate) struct Gate {
    node: Arc<Semaphore>,
    lanes: Mutex<HashMap<TenantId, Arc<Lane>>>,
}

#[derive(Debug)]
struct Lane {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A turn; given back on drop.
#[derive(Debug)]
pub(crate) struct Turn {
    _tenant: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

/// Counts one who waits, until dropped, also when the client goes away meanwhile.
struct Waiting<'a>(&'a Lane);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    pub(crate) fn new(concurrent_max: u32) -> Self {
        Self {
            node: Arc::new(Semaphore::new(concurrent_max as usize)),
            lanes: Mutex::default(),
        }
    }

    /// Waits for a turn of this tenant.
    ///
    /// A change of `concurrent` takes effect for a tenant once nobody of it is asking.
    pub(crate) async fn enter(&self, tenant: &TenantId, concurrent: u32, queued: u32) -> Result<Turn, Refusal> {
        let lane = self.lane(tenant, concurrent);
        let tenant_turn = match Arc::clone(&lane.turns).try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let before = lane.waiting.fetch_add(1, Ordering::Relaxed);
                let _waiting = Waiting(&lane);
                if before >= queued as usize {
                    return Err(Refusal::new(
                        Kind::Throttled,
                        "too many outstanding requests of this tenant",
                    ));
                }
                Arc::clone(&lane.turns).acquire_owned().await.map_err(closed)?
            }
        };
        let node_turn = Arc::clone(&self.node).acquire_owned().await.map_err(closed)?;
        Ok(Turn {
            _tenant: tenant_turn,
            _node: node_turn,
        })
    }

    fn lane(&self, tenant: &TenantId, concurrent: u32) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        if lanes.len() >= LANES_TIDY {
            // A turn that is out keeps its semaphore alive, a waiting query its lane.
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || Arc::strong_count(&lane.turns) > 1);
        }
        let new = || {
            let turns = Arc::new(Semaphore::new(concurrent as usize));
            Arc::new(Lane {
                turns,
                waiting: AtomicUsize::new(0),
            })
        };
        Arc::clone(lanes.entry(tenant.clone()).or_insert_with(new))
    }
}

fn closed(_: tokio::sync::AcquireError) -> Refusal {
    Refusal::new(Kind::Unavailable, "the node is stopping")
}

#[cfg(test)]
mod tests {
    //! Turns at the limit and one beside it.

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_tenant_has_so_many_turns_and_so_many_places_to_wait() {
        let gate = Gate::new(100);
        let tenant = TenantId::single();
        let first = gate.enter(&tenant, 2, 1).await.unwrap();
        let _second = gate.enter(&tenant, 2, 1).await.unwrap();
        let mut third = Box::pin(gate.enter(&tenant, 2, 1));
        assert!((&mut third).now_or_never().is_none(), "waits");
        let fourth = gate.enter(&tenant, 2, 1).await.unwrap_err();
        assert_eq!(fourth.kind, Kind::Throttled);
        drop(first);
        let third = third.await.unwrap();
        let other = TenantId::new("other").unwrap();
        assert!(gate.enter(&other, 2, 1).await.is_ok(), "tenants do not share");
        drop(third);
    }

    #[tokio::test]
    async fn one_who_goes_away_gives_up_the_place() {
        let gate = Gate::new(100);
        let tenant = TenantId::single();
        let _first = gate.enter(&tenant, 1, 1).await.unwrap();
        for _ in 0..10 {
            let mut waiting = Box::pin(gate.enter(&tenant, 1, 1));
            assert!(
                (&mut waiting).now_or_never().is_none(),
                "waits instead of being refused"
            );
        }
    }

    #[tokio::test]
    async fn the_node_has_so_many_turns() {
        let gate = Gate::new(1);
        let (one, other) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let first = gate.enter(&one, 5, 5).await.unwrap();
        let mut second = Box::pin(gate.enter(&other, 5, 5));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn tenants_that_ask_no_more_are_forgotten() {
        let gate = Gate::new(10);
        for number in 0..3 * LANES_TIDY {
            drop(
                gate.enter(&TenantId::new(&format!("t{number}")).unwrap(), 1, 1)
                    .await
                    .unwrap(),
            );
        }
        assert!(gate.lanes.lock().len() <= LANES_TIDY);
    }
}
