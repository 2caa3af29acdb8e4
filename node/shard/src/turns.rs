//! Whose turn it is to compute: as many threads at once as there are CPUs, and tenants by what they have had.
//!
//! Owns [`Turns`]. A thread that looks at a chunk holds a [`Turn`]. It gives the turn up while it waits for the object
//! store ([`Turn::outside`]), and lets others go first when it has had one for [`QUANTUM`] and somebody who has had less
//! is waiting ([`Turn::breathe`]). So a storm of queries of one tenant leaves another tenant's query half of the CPUs,
//! however many threads the storm brings.
//!
//! Some work cannot pause for tens of milliseconds: a column is decoded, sums are merged. A tenant none of whose threads
//! computes does not wait for that: it is given a turn beyond the CPUs at once, and the kernel shares them until somebody
//! of a tenant with several turns breathes and steps back.
//!
//! What always holds: no turn is free while somebody waits; among those who wait, the tenant that has computed least goes
//! next, and within a tenant who came first; at most twice as many compute as there are CPUs, and those beyond are the
//! only ones of their tenants or were when they began. A tenant that was away starts level with the least of those
//! present: it has saved up nothing and owes nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use hashbrown::HashMap;
use model::{Clock, TenantId};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// How long a thread computes before it lets others go first. Far above the cost of a handover (some 10 µs), far below
/// what a person notices.
pub const QUANTUM: Duration = Duration::from_millis(2);

/// See the module's documentation.
pub struct Turns {
    /// Whose blocking threads compute; those of the runtime that asks if there is none.
    threads: Option<Handle>,
    clock: Arc<dyn Clock>,
    at_once: usize,
    state: Mutex<State>,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// Threads that compute.
    computing: usize,
    /// Those that compute or wait. Few: as many as have queries under way.
    present: HashMap<TenantId, Present>,
    /// What the tenant that was served last had had by then.
    level: u64,
}

#[derive(Default)]
struct Present {
    /// Nanoseconds computed, on the scale of [`State::level`].
    had: u64,
    computing: usize,
    waiting: VecDeque<Arc<Waiter>>,
}

struct Waiter {
    thread: Thread,
    granted: AtomicBool,
}

impl Waiter {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            thread: std::thread::current(),
            granted: AtomicBool::new(false),
        })
    }

    fn wait(&self) {
        while !self.granted.load(Ordering::Acquire) {
            std::thread::park();
        }
    }

    fn go_on(&self) {
        self.granted.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl State {
    fn present(&mut self, tenant: &TenantId) -> &mut Present {
        if !self.present.contains_key(tenant) {
            let least = self.present.values().map(|present| present.had).min();
            let new = Present {
                had: self.level.max(least.unwrap_or(0)),
                ..Present::default()
            };
            self.present.insert(tenant.clone(), new);
        }
        self.present.entry(tenant.clone()).or_default()
    }

    /// Whether a tenant with so many threads at work may have one more.
    fn has_room_for(&self, computing: usize, at_once: usize) -> bool {
        self.computing < at_once || (computing == 0 && self.computing < 2 * at_once)
    }

    /// The tenant that goes next if one more may.
    fn next(&self, at_once: usize) -> Option<TenantId> {
        let waiting = self.present.iter().filter(|(_, tenant)| !tenant.waiting.is_empty());
        let may = waiting.filter(|(_, tenant)| self.has_room_for(tenant.computing, at_once));
        may.min_by_key(|(id, tenant)| (tenant.had, *id))
            .map(|(id, _)| id.clone())
    }

    /// Whether somebody who computes or waits has had less than `mine`, and is not served as long as `tenant` goes on.
    fn is_owed(&self, tenant: &TenantId, mine: &Present, at_once: usize) -> bool {
        // Stepping back from the only turn would be answered by a turn beyond the CPUs.
        let is_crowded = self.computing > at_once && mine.computing > 1;
        let others = self.present.iter().filter(|(id, _)| *id != tenant);
        others
            .into_iter()
            .any(|(_, other)| other.had < mine.had && (is_crowded || !other.waiting.is_empty()))
    }

    /// Somebody stops computing: whoever is next begins.
    fn hand_over(&mut self, tenant: &TenantId, nanos: u64, at_once: usize) {
        self.computing -= 1;
        if let Some(present) = self.present.get_mut(tenant) {
            present.had = present.had.saturating_add(nanos);
            present.computing -= 1;
            if present.computing == 0 && present.waiting.is_empty() {
                self.present.remove(tenant);
            }
        }
        while let Some(next) = self.next(at_once) {
            let Some(present) = self.present.get_mut(&next) else {
                break;
            };
            let Some(waiter) = present.waiting.pop_front() else {
                break;
            };
            present.computing += 1;
            self.computing += 1;
            self.level = self.level.max(present.had);
            waiter.go_on();
        }
    }
}

impl Turns {
    /// Turns for `at_once` threads, at least one.
    pub fn new(at_once: usize, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::on(None, at_once, clock)
    }

    /// The same for threads of a runtime of their own, which may be told to let others go first.
    pub fn on(threads: Option<Handle>, at_once: usize, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            threads,
            clock,
            at_once: at_once.max(1),
            state: Mutex::default(),
        })
    }

    /// Runs on a thread that will take turns.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        match &self.threads {
            Some(threads) => threads.spawn_blocking(work),
            None => tokio::task::spawn_blocking(work),
        }
    }

    /// Threads that compute at once.
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// A thread's place among those of `tenant`; it does not compute yet.
    pub fn of(self: &Arc<Self>, tenant: &TenantId) -> Arc<Turn> {
        Arc::new(Turn {
            turns: Arc::clone(self),
            tenant: tenant.clone(),
            since: AtomicU64::new(0),
            is_held: AtomicBool::new(false),
            stand_in: None,
        })
    }

    /// The same, with somebody to call whenever the thread is about to wait for something else than its turn.
    pub fn of_one_who_calls(self: &Arc<Self>, tenant: &TenantId, stand_in: Box<dyn Fn() + Send + Sync>) -> Arc<Turn> {
        Arc::new(Turn {
            turns: Arc::clone(self),
            tenant: tenant.clone(),
            since: AtomicU64::new(0),
            is_held: AtomicBool::new(false),
            stand_in: Some(stand_in),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Pieces of work that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.state
            .lock()
            .present
            .values()
            .map(|tenant| tenant.waiting.len())
            .sum()
    }
}

/// One thread's turn. Shared with the chunk the thread looks at, which gives it up while it fetches.
pub struct Turn {
    turns: Arc<Turns>,
    tenant: TenantId,
    /// When it was last taken or confirmed.
    since: AtomicU64,
    is_held: AtomicBool,
    stand_in: Option<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn")
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

impl Turn {
    /// Waits for the turn. Blocks the thread. Without effect when it is held.
    pub fn take(&self) {
        if self.is_held.swap(true, Ordering::Relaxed) {
            return;
        }
        let waiter = {
            let mut state = self.turns.state.lock();
            let computing = state.present(&self.tenant).computing;
            if state.has_room_for(computing, self.turns.at_once) {
                state.computing += 1;
                state.present(&self.tenant).computing += 1;
                None
            } else {
                let waiter = Waiter::new();
                state.present(&self.tenant).waiting.push_back(Arc::clone(&waiter));
                Some(waiter)
            }
        };
        if let Some(waiter) = waiter {
            waiter.wait();
        }
        self.since.store(self.turns.now(), Ordering::Relaxed);
    }

    /// Gives the turn back. Without effect when it is not held.
    pub fn give_back(&self) {
        if self.is_held.swap(false, Ordering::Relaxed) {
            let nanos = self.turns.now().saturating_sub(self.since.load(Ordering::Relaxed));
            self.turns
                .state
                .lock()
                .hand_over(&self.tenant, nanos, self.turns.at_once);
        }
    }

    /// Does `work` without holding the turn, and takes it again if it was held.
    pub fn outside<T>(&self, work: impl FnOnce() -> T) -> T {
        if let Some(call) = &self.stand_in {
            call();
        }
        if !self.is_held.load(Ordering::Relaxed) {
            return work();
        }
        self.give_back();
        let done = work();
        self.take();
        done
    }

    /// Lets others go first if it is time.
    pub fn breathe(&self) {
        let (now, since) = (self.turns.now(), self.since.load(Ordering::Relaxed));
        let had = now.saturating_sub(since);
        if u128::from(had) < QUANTUM.as_nanos() || !self.is_held.load(Ordering::Relaxed) {
            return;
        }
        let waiter = {
            let mut state = self.turns.state.lock();
            let mine = state.present(&self.tenant);
            mine.had = mine.had.saturating_add(had);
            let is_owed = state
                .present
                .get(&self.tenant)
                .is_some_and(|mine| state.is_owed(&self.tenant, mine, self.turns.at_once));
            if !is_owed {
                drop(state);
                self.since.store(now, Ordering::Relaxed);
                return;
            }
            let waiter = Waiter::new();
            // Before the others of its tenant: it is in the middle of something.
            state.present(&self.tenant).waiting.push_front(Arc::clone(&waiter));
            state.hand_over(&self.tenant, 0, self.turns.at_once);
            waiter
        };
        waiter.wait();
        self.since.store(self.turns.now(), Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests;
