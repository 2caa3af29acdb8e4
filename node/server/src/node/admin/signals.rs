//! The node's load, as whoever scales it reads it.
//!
//! Counters become rates over the time since an earlier look, at least [`SPAN_MIN`] ago, so that two readers do not take
//! each other's time away. Always holds: [`rates`] is pure, and a counter that did not move is a rate of zero.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::Admin;

/// Rates over less are noise.
const SPAN_MIN: Duration = Duration::from_secs(5);
const MILLIS_PER_CPU: u64 = 1_000;

/// What has been counted up to a moment on the monotonic clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sample {
    at: Duration,
    bytes: u64,
    requests: u64,
    spans: u64,
    shed_requests: u64,
    cpu: Duration,
}

/// The look that rates count from, and the one that takes its place.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::node) struct Looks {
    from: Sample,
    next: Sample,
}

/// Per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rates {
    bytes: u64,
    shed_spans: u64,
    cpu_millis: u64,
}

fn rates(from: &Sample, to: &Sample) -> Rates {
    let millis = u64::try_from(to.at.saturating_sub(from.at).as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return Rates::default();
    }
    let per_second = |from: u64, to: u64| to.saturating_sub(from).saturating_mul(1_000) / millis;
    // What was refused was not opened: it is taken to be as large as what was taken.
    let spans_per_request = (to.spans / to.requests.max(1)).max(1);
    let shed = to.shed_requests.saturating_sub(from.shed_requests);
    let cpu = to.cpu.saturating_sub(from.cpu).as_millis();
    Rates {
        bytes: per_second(from.bytes, to.bytes),
        shed_spans: (shed * spans_per_request).saturating_mul(1_000).div_ceil(millis),
        cpu_millis: u64::try_from(cpu).unwrap_or(u64::MAX).saturating_mul(MILLIS_PER_CPU) / millis,
    }
}

impl Looks {
    /// The look to count from at `now`.
    fn turn(&mut self, now: Sample) -> Sample {
        if now.at.saturating_sub(self.next.at) >= SPAN_MIN {
            (self.from, self.next) = (self.next, now);
        }
        self.from
    }
}

impl Admin {
    pub(super) fn signals(&self) -> Value {
        let counted = &self.common.metrics;
        let now = Sample {
            at: self.common.clock.monotonic(),
            bytes: counted.acknowledged.bytes.load(Ordering::Relaxed),
            requests: counted.acknowledged.requests.load(Ordering::Relaxed),
            spans: counted.acknowledged.spans.load(Ordering::Relaxed),
            shed_requests: counted.shed_requests.load(Ordering::Relaxed),
            cpu: crate::load::report::process_cpu().unwrap_or_default(),
        };
        let from = self.looks.lock().turn(now);
        let rates = rates(&from, &now);
        let usage = self.wal.usage();
        let quota = self.common.settings.wal.quota_bytes.bytes().max(1);
        json!({
            "ageSeconds": 0,
            "ingestBytesPerSecond": rates.bytes,
            "rejectedSpansPerSecond": rates.shed_spans,
            "cpuMillis": rates.cpu_millis,
            "memoryBytes": resident_bytes().unwrap_or(0),
            "walPercent": usage.used.saturating_mul(100) / quota,
            "queryQueue": self.turns.waiting(),
        })
    }
}

/// Memory of this process that is in RAM: the second field of proc(5) statm, in pages of 4 KiB.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: u64, bytes: u64, shed_requests: u64) -> Sample {
        Sample {
            at: Duration::from_secs(seconds),
            bytes,
            requests: 10,
            spans: 3_000,
            shed_requests,
            cpu: Duration::from_secs(seconds / 2),
        }
    }

    #[test]
    fn counters_become_rates() {
        let rates = rates(&sample(10, 1_000, 1), &sample(20, 51_000, 2));
        assert_eq!((rates.bytes, rates.shed_spans, rates.cpu_millis), (5_000, 30, 500));
        assert_eq!(super::rates(&sample(10, 0, 0), &sample(10, 9, 9)), Rates::default());
    }

    #[test]
    fn readers_in_a_hurry_do_not_shorten_the_time_that_is_looked_at() {
        let mut looks = Looks::default();
        let from = |looks: &mut Looks, seconds| looks.turn(sample(seconds, 0, 0)).at.as_secs();
        assert_eq!(from(&mut looks, 3), 0);
        assert_eq!(from(&mut looks, 10), 0);
        assert_eq!((from(&mut looks, 11), from(&mut looks, 14)), (0, 0));
        assert_eq!((from(&mut looks, 15), from(&mut looks, 16)), (10, 10));
    }
}
