//! Conditions before and after; words of a store in, a reason out.

use super::*;

#[test]
fn a_conditions_time_changes_with_its_status_only() {
    let early: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    let late: Timestamp = "2026-11-22T11:00:00Z".parse().unwrap();
    let mut first = Conditions::new(&[], Some(1), early);
    first.say("Ready", false, "Bootstrapping", "one");
    let first = first.finish();
    let mut second = Conditions::new(&first, Some(2), late);
    second.say("Ready", false, "Unavailable", "another");
    let second = second.finish();
    assert_eq!(second[0].last_transition_time, Time(early));
    assert_eq!(second[0].observed_generation, Some(2));
    let mut third = Conditions::new(&second, Some(2), late);
    third.say("Ready", true, "Running", "x".repeat(5_000));
    let third = third.finish();
    assert_eq!(third[0].last_transition_time, Time(late));
    assert_eq!(third[0].message.len(), MESSAGE_MAX);
}

#[test]
fn what_a_store_answered_is_understood() {
    for (words, problem) in [
        (
            "error: NoSuchBucket: The specified bucket does not exist",
            Some(StorageProblem::BucketNotFound),
        ),
        ("403 Forbidden: AccessDenied", Some(StorageProblem::AccessDenied)),
        ("the object store cannot be reached", Some(StorageProblem::Unreachable)),
        ("wal: no room", None),
    ] {
        assert_eq!(problem_in(words), problem, "{words}");
    }
}
