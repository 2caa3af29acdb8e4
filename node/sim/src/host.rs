//! One machine of the simulation: a runtime of its own, with a clock that moves only when the simulation says so.
//!
//! A runtime per node makes a crash what it is: dropping it drops every task of the node at once, in the middle of whatever it
//! was doing. All runtimes run in turn on one thread.
//!
//! A node also puts work on blocking threads. [`Baton`] lets them and their runtime run in strict turn: a thread starts only
//! once the runtime has nothing left to do, and the runtime goes on only when the thread has ended. So which of two things
//! came first never depends on the machine. Threads end after their work, for otherwise there would be no end to wait for.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::{Builder, Runtime};

/// A thread that waits for what only the runtime can do would wait for ever; then both may run, and the run is said not to
/// repeat. Of real time: no work takes so long.
const STUCK: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
struct Turn {
    is_parked: bool,
    is_working: bool,
    is_over: bool,
    was_stuck: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
struct Baton {
    turn: Mutex<Turn>,
    changed: Condvar,
}

impl Baton {
    fn enter(&self) {
        let mut turn = self.turn.lock();
        while !(turn.is_over || turn.is_parked && !turn.is_working) {
            self.changed.wait(&mut turn);
        }
        turn.is_working = true;
    }

    fn leave(&self) {
        self.turn.lock().is_working = false;
        self.changed.notify_all();
    }

    fn park(&self) {
        self.turn.lock().is_parked = true;
        self.changed.notify_all();
    }

    fn unpark(&self) {
        let mut turn = self.turn.lock();
        while turn.is_working && !turn.was_stuck {
            if self.changed.wait_for(&mut turn, STUCK).timed_out() {
                turn.was_stuck = true;
            }
        }
        turn.is_parked = false;
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Host {
    runtime: Runtime,
    baton: Arc<Baton>,
}

impl Host {
    /// A machine that is switched on.
    pub(crate) fn new() -> std::io::Result<Self> {
        let baton = Arc::new(Baton::default());
        let hook = |act: fn(&Baton)| {
            let baton = Arc::clone(&baton);
            move || act(&baton)
        };
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            // Every so many rounds tokio looks at its queues in another order, and a round may also be a thread's end.
            .global_queue_interval(u32::MAX)
            .event_interval(u32::MAX)
            .thread_keep_alive(Duration::ZERO)
            .on_thread_start(hook(Baton::enter))
            .on_thread_stop(hook(Baton::leave))
            .on_thread_park(hook(Baton::park))
            .on_thread_unpark(hook(Baton::unpark))
            .build()?;
        Ok(Self { runtime, baton })
    }

    /// Starts a task of the machine.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // It ends with the machine.
        drop(self.runtime.spawn(task));
    }

    /// Runs the machine for this long of its own time.
    pub(crate) fn run(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Lets its clock jump, as if it had been stopped for so long.
    pub(crate) fn oversleep(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::advance(time).await });
    }

    /// Whether runtime and threads had to run at once: then another run may be different.
    pub(crate) fn was_stuck(&self) -> bool {
        self.baton.turn.lock().was_stuck
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.baton.turn.lock().is_over = true;
        self.baton.changed.notify_all();
    }
}
