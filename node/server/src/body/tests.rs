//! Bodies by frame and by clock; the clock is tokio's paused one.

use std::convert::Infallible;

use futures::StreamExt as _;
use http_body::Frame;
use http_body_util::{Full, StreamBody};

use super::*;
use crate::admission::InFlight;

const LIMITS: BodyLimits = BodyLimits {
    wire_bytes_max: 10_000,
    rate_min: 100,
    rate_window: Duration::from_secs(10),
};

async fn collected<B>(body: B, budget: u64) -> Result<usize, Kind>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let in_flight = InFlight::new(budget);
    let mut permit = in_flight.permit();
    let result = collect(body, &LIMITS, &mut permit).await;
    if let Ok(bytes) = &result {
        assert_eq!(in_flight.held(), bytes.len() as u64);
    }
    result.map(|bytes| bytes.len()).map_err(|refusal| refusal.kind)
}

/// A body of frames, each after a pause.
fn frames(each: Vec<(Duration, usize)>) -> impl Body<Data = Bytes, Error = Infallible> {
    StreamBody::new(futures::stream::iter(each).then(|(pause, length)| async move {
        tokio::time::sleep(pause).await;
        Ok(Frame::data(Bytes::from(vec![7; length])))
    }))
}

#[tokio::test(start_paused = true)]
async fn sizes_at_the_limit_and_one_beside_it() {
    for (length, expected) in [
        (0, Ok(0)),
        (9_999, Ok(9_999)),
        (10_000, Ok(10_000)),
        (10_001, Err(Kind::TooLarge)),
    ] {
        assert_eq!(
            collected(Full::new(Bytes::from(vec![1; length])), 1 << 20).await,
            expected,
            "one frame"
        );
        let split = vec![(Duration::ZERO, length / 2), (Duration::ZERO, length - length / 2)];
        assert_eq!(collected(frames(split), 1 << 20).await, expected, "two frames");
    }
}

#[tokio::test(start_paused = true)]
async fn the_in_flight_budget_bounds_a_body() {
    for (budget, expected) in [(999, Err(Kind::Throttled)), (1000, Ok(1000)), (1001, Ok(1000))] {
        assert_eq!(
            collected(frames(vec![(Duration::ZERO, 400), (Duration::ZERO, 600)]), budget).await,
            expected
        );
    }
}

#[tokio::test(start_paused = true)]
async fn frames_are_joined_in_order() {
    let body = StreamBody::new(futures::stream::iter(
        ["a", "b", "", "cd"].map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from_static(text.as_bytes())))),
    ));
    let in_flight = InFlight::new(100);
    assert_eq!(collect(body, &LIMITS, &mut in_flight.permit()).await.unwrap(), "abcd");
}

#[tokio::test(start_paused = true)]
async fn a_trickle_is_given_up() {
    let second = Duration::from_secs(1);
    // 100 bytes a second for a minute: just enough. 99: not. Silence: not.
    assert_eq!(collected(frames(vec![(second, 100); 60]), 1 << 20).await, Ok(6000));
    assert_eq!(
        collected(frames(vec![(second, 99); 60]), 1 << 20).await,
        Err(Kind::TooSlow)
    );
    assert_eq!(
        collected(frames(vec![(Duration::ZERO, 5000), (second * 21, 1)]), 1 << 20).await,
        Err(Kind::TooSlow)
    );
    // A small body that comes within the window needs no rate at all.
    assert_eq!(collected(frames(vec![(second * 9, 1)]), 1 << 20).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_broken_body_is_the_clients_fault() {
    let body = StreamBody::new(futures::stream::iter([
        Ok(Frame::data(Bytes::from_static(b"a"))),
        Err(std::io::Error::other("reset")),
    ]));
    assert_eq!(collected(body, 100).await, Err(Kind::Rejected));
}
