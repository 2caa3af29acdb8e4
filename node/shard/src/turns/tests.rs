//! Turns under a clock that moves when told to. Threads are awaited by what they did, never by time.

use std::sync::mpsc;

use model::ManualClock;

use super::*;

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn world(at_once: usize) -> (Arc<Turns>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(0));
    (Turns::new(at_once, Arc::clone(&clock) as _), clock)
}

/// A turn that is held.
fn taken(turns: &Arc<Turns>, name: &str) -> Arc<Turn> {
    let turn = turns.of(&tenant(name));
    turn.take();
    turn
}

/// A thread that waits for a turn of `name`, says so, and gives it back.
fn contender(turns: &Arc<Turns>, name: &'static str, said: &mpsc::Sender<&'static str>) -> std::thread::JoinHandle<()> {
    let before = turns.waiting();
    let (turn, said) = (turns.of(&tenant(name)), said.clone());
    let thread = std::thread::spawn(move || {
        turn.take();
        said.send(name).unwrap();
    });
    while turns.waiting() == before {
        std::thread::yield_now();
    }
    thread
}

#[test]
fn the_tenant_that_has_had_least_goes_next_whoever_came_first() {
    let (turns, clock) = world(1);
    let (said, order) = mpsc::channel();
    let (busy, _beyond) = (taken(&turns, "a"), taken(&turns, "x"));
    let mut threads: Vec<_> = (0..3).map(|_| contender(&turns, "a", &said)).collect();
    clock.advance(Duration::from_millis(30));
    threads.push(contender(&turns, "b", &said));
    busy.give_back();
    let order: Vec<_> = order.iter().take(4).collect();
    assert_eq!(order, ["b", "a", "a", "a"]);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_long_turn_is_given_up_to_whoever_has_had_less_and_comes_back() {
    let (turns, clock) = world(1);
    let (said, order) = mpsc::channel();
    let (busy, _beyond) = (taken(&turns, "a"), taken(&turns, "x"));
    let same = contender(&turns, "a", &said);
    let other = contender(&turns, "b", &said);
    clock.advance(QUANTUM - Duration::from_nanos(1));
    busy.breathe();
    assert!(
        order.try_recv().is_err(),
        "before its quantum is over nobody goes first"
    );
    clock.advance(Duration::from_nanos(1));
    busy.breathe();
    // The other tenant went first; of its own tenant it stood before those who have not begun.
    assert_eq!(order.try_recv(), Ok("b"));
    assert!(order.try_recv().is_err());
    busy.give_back();
    assert_eq!(order.recv(), Ok("a"));
    same.join().unwrap();
    other.join().unwrap();
}

#[test]
fn waiting_for_the_store_frees_the_turn() {
    let (turns, _) = world(1);
    let mine = turns.of(&tenant("a"));
    mine.take();
    let theirs = turns.of(&tenant("b"));
    mine.outside(|| {
        theirs.take();
        theirs.give_back();
    });
    assert_eq!(turns.state.lock().computing, 1);
    drop(mine);
    assert_eq!(turns.state.lock().computing, 0);
    assert!(
        turns.state.lock().present.is_empty(),
        "tenants that are done are forgotten"
    );
}

#[test]
fn a_tenant_that_was_away_has_saved_up_nothing() {
    let (turns, clock) = world(1);
    let (said, order) = mpsc::channel();
    // Tenant a computes alone for long, then leaves.
    let early = turns.of(&tenant("a"));
    early.take();
    clock.advance(Duration::from_secs(5));
    early.give_back();
    // Both come new: who came first is not preferred, and nobody owes the five seconds.
    let (busy, _beyond) = (taken(&turns, "b"), taken(&turns, "x"));
    let a = contender(&turns, "a", &said);
    clock.advance(Duration::from_millis(1));
    let b = contender(&turns, "b", &said);
    busy.give_back();
    assert_eq!(order.iter().take(2).collect::<Vec<_>>(), ["a", "b"]);
    a.join().unwrap();
    b.join().unwrap();
}

#[test]
fn a_turn_is_taken_and_given_back_once() {
    let (turns, _) = world(2);
    let turn = turns.of(&tenant("a"));
    turn.take();
    turn.take();
    assert_eq!(turns.state.lock().computing, 1);
    turn.give_back();
    turn.give_back();
    turn.breathe();
    assert_eq!(turns.state.lock().computing, 0);
    assert_eq!(Turns::new(0, Arc::new(ManualClock::at(0))).at_once(), 1);
}

#[test]
fn a_tenant_without_a_turn_waits_for_nobody_else_and_twice_the_cpus_are_the_most() {
    let (turns, _) = world(2);
    let (said, order) = mpsc::channel();
    let storm = [taken(&turns, "storm"), taken(&turns, "storm")];
    // Its third waits; that of another tenant does not, but its second does.
    let third = contender(&turns, "storm", &said);
    let calm = taken(&turns, "calm");
    let second = contender(&turns, "calm", &said);
    let other = taken(&turns, "other");
    assert_eq!(turns.state.lock().computing, 4);
    let late = contender(&turns, "late", &said);
    assert!(order.try_recv().is_err());
    calm.give_back();
    // The turn beyond the CPUs went to a tenant that had none, and then to the next one.
    let first: std::collections::BTreeSet<_> = order.iter().take(2).collect();
    assert_eq!(first, ["calm", "late"].into());
    drop((storm, other));
    assert_eq!(order.recv(), Ok("storm"));
    for thread in [third, second, late] {
        thread.join().unwrap();
    }
    assert_eq!(turns.state.lock().computing, 0);
}

#[test]
fn who_has_several_turns_steps_back_when_there_are_more_than_cpus() {
    let (turns, clock) = world(2);
    let (said, order) = mpsc::channel();
    let storm = [taken(&turns, "storm"), taken(&turns, "storm")];
    let calm = taken(&turns, "calm");
    clock.advance(QUANTUM);
    let [stays, steps_back] = storm;
    let thread = std::thread::spawn(move || {
        steps_back.breathe();
        said.send("back").unwrap();
    });
    while turns.waiting() == 0 {
        std::thread::yield_now();
    }
    // One is left to it, which goes on: two compute on two CPUs.
    clock.advance(QUANTUM);
    stays.breathe();
    assert_eq!(turns.waiting(), 1);
    assert_eq!(turns.state.lock().computing, 2);
    assert!(order.try_recv().is_err());
    calm.give_back();
    assert_eq!(order.recv(), Ok("back"));
    thread.join().unwrap();
    assert_eq!(turns.state.lock().computing, 1);
}
