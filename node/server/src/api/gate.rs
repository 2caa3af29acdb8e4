//! How many queries run at once, by tenant and in all.
//!
//! Owns [`Gate`]. A turn goes to the waiting tenant that has the fewest queries running, and among those to the one that
//! got a turn longest ago; within a tenant to who came first. So one tenant's queue never stands before another's, at its
//! own limit or at the node's. Who would make a tenant's queue too long is told to come back later.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use model::TenantId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::refusal::{Kind, Refusal};

/// Turns for queries. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    concurrent_max: usize,
    running: usize,
    /// Only tenants that have a query running or waiting.
    lanes: HashMap<TenantId, Lane>,
    /// Counts turns, to know who got one longest ago; also names who waits.
    clock: u64,
}

#[derive(Debug, Default)]
struct Lane {
    concurrent_max: usize,
    running: usize,
    waiting: VecDeque<(u64, oneshot::Sender<Turn>)>,
    served_at: u64,
}

/// A turn; given back on drop.
#[derive(Debug)]
pub(crate) struct Turn {
    gate: Gate,
    tenant: TenantId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.gate.state.lock();
            state.running -= 1;
            if let Some(lane) = state.lanes.get_mut(&self.tenant) {
                lane.running -= 1;
            }
            state.tidy(&self.tenant);
        }
        self.gate.admit();
    }
}

/// One who waits, until dropped, also when the client goes away meanwhile.
struct Waiting<'a> {
    gate: &'a Gate,
    tenant: &'a TenantId,
    name: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock();
        if let Some(lane) = state.lanes.get_mut(self.tenant) {
            lane.waiting.retain(|(name, _)| *name != self.name);
        }
        state.tidy(self.tenant);
    }
}

impl State {
    /// The tenant whose turn is next.
    fn next(&self) -> Option<TenantId> {
        if self.running >= self.concurrent_max {
            return None;
        }
        let may = |lane: &Lane| !lane.waiting.is_empty() && lane.running < lane.concurrent_max;
        let next = self.lanes.iter().filter(|(_, lane)| may(lane));
        next.min_by_key(|(_, lane)| (lane.running, lane.served_at))
            .map(|(tenant, _)| tenant.clone())
    }

    fn tidy(&mut self, tenant: &TenantId) {
        if self
            .lanes
            .get(tenant)
            .is_some_and(|lane| lane.running == 0 && lane.waiting.is_empty())
        {
            self.lanes.remove(tenant);
        }
    }
}

impl Gate {
    pub(crate) fn new(concurrent_max: u32) -> Self {
        let state = State {
            concurrent_max: concurrent_max as usize,
            running: 0,
            lanes: HashMap::new(),
            clock: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Waits for a turn of this tenant.
    pub(crate) async fn enter(&self, tenant: &TenantId, concurrent: u32, queued: u32) -> Result<Turn, Refusal> {
        let (mut granted, name) = {
            let mut state = self.state.lock();
            state.clock += 1;
            let name = state.clock;
            let has_room = state.running < state.concurrent_max;
            let lane = state.lanes.entry(tenant.clone()).or_default();
            lane.concurrent_max = concurrent as usize;
            let waits = !has_room || lane.running >= lane.concurrent_max;
            if waits && lane.waiting.len() >= queued as usize {
                state.tidy(tenant);
                return Err(Refusal::new(
                    Kind::Throttled,
                    "too many outstanding requests of this tenant (queries_queued_max)",
                ));
            }
            let (grant, granted) = oneshot::channel();
            lane.waiting.push_back((name, grant));
            (granted, name)
        };
        self.admit();
        // What was granted while nobody looked any more gives itself back.
        let _waiting = Waiting {
            gate: self,
            tenant,
            name,
        };
        (&mut granted)
            .await
            .map_err(|_| Refusal::new(Kind::Unavailable, "the node is stopping"))
    }

    fn admit(&self) {
        loop {
            let (turn, grant) = {
                let mut state = self.state.lock();
                let Some(tenant) = state.next() else { return };
                state.clock += 1;
                let served_at = state.clock;
                let Some(lane) = state.lanes.get_mut(&tenant) else {
                    return;
                };
                let Some((_, grant)) = lane.waiting.pop_front() else {
                    return;
                };
                lane.running += 1;
                lane.served_at = served_at;
                state.running += 1;
                let turn = Turn {
                    gate: self.clone(),
                    tenant,
                };
                (turn, grant)
            };
            // Whoever went away leaves the turn to the next; it comes back and gives itself back when dropped.
            drop(grant.send(turn));
        }
    }
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
    async fn a_storm_of_one_tenant_does_not_stand_before_another() {
        let gate = Gate::new(2);
        let (storm, other) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let first = gate.enter(&storm, 20, 100).await.unwrap();
        let _second = gate.enter(&storm, 20, 100).await.unwrap();
        let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(gate.enter(&storm, 20, 100))).collect();
        for one in &mut waiting {
            assert!(one.now_or_never().is_none());
        }
        let mut late = Box::pin(gate.enter(&other, 20, 100));
        assert!((&mut late).now_or_never().is_none());
        drop(first);
        // The first turn that comes free is the other tenant's, although fifty were there before.
        let late = late.await.unwrap();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        drop(late);
        assert!(waiting.remove(0).await.is_ok());
    }

    #[tokio::test]
    async fn a_turn_granted_to_one_who_went_away_comes_back() {
        let gate = Gate::new(1);
        let tenant = TenantId::single();
        let first = gate.enter(&tenant, 5, 5).await.unwrap();
        let mut gone = Box::pin(gate.enter(&tenant, 5, 5));
        assert!((&mut gone).now_or_never().is_none());
        drop(first);
        drop(gone);
        assert!(gate.enter(&tenant, 5, 5).now_or_never().is_some());
    }

    #[tokio::test]
    async fn tenants_that_ask_no_more_are_forgotten() {
        let gate = Gate::new(10);
        for number in 0..100 {
            let tenant = TenantId::new(&format!("t{number}")).unwrap();
            let turn = gate.enter(&tenant, 1, 0).await.unwrap();
            assert!(gate.enter(&tenant, 1, 0).await.is_err());
            drop(turn);
        }
        assert!(gate.state.lock().lanes.is_empty());
    }
}
