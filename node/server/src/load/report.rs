//! What came back, counted while it comes and summed up at the end.
//!
//! Owns [`Tally`] (shared by all senders) and [`Report`].

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

/// Buckets per power of two: a quantile is exact to 3 %.
const STEPS: usize = 32;
const STEP_BITS: u32 = STEPS.ilog2();
const BUCKETS: usize = 64 * STEPS;

/// Running totals.
#[derive(Debug)]
pub struct Tally {
    acknowledged: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
    throttled: AtomicU64,
    bytes: AtomicU64,
    latency_max_micros: AtomicU64,
    latencies: Box<[AtomicU64]>,
    last_failure: parking_lot::Mutex<Option<String>>,
    /// Why the first request was sent again that nobody had asked to.
    first_trouble: watch::Sender<Option<String>>,
}

/// The final word; durations in milliseconds in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Spans in requests that were acknowledged, without those that were refused by name.
    pub spans_acknowledged: u64,
    /// Spans that `partial_success` named as refused.
    pub spans_rejected: u64,
    /// Spans in requests that were never acknowledged.
    pub spans_failed: u64,
    pub requests: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Of those, after an answer that asked to slow down.
    pub throttled: u64,
    /// Bytes of acknowledged messages, uncompressed.
    pub bytes: u64,
    pub seconds: f64,
    pub spans_per_second: f64,
    /// From the time a request was due to its acknowledgement, retries included.
    pub ack_p50_ms: f64,
    pub ack_p90_ms: f64,
    pub ack_p99_ms: f64,
    pub ack_max_ms: f64,
    /// CPU time of this process per acknowledged span. `None` where the system does not tell.
    pub generator_ns_per_span: Option<f64>,
    /// The last reason why a request failed for good.
    pub last_failure: Option<String>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            acknowledged: AtomicU64::default(),
            rejected: AtomicU64::default(),
            failed: AtomicU64::default(),
            requests: AtomicU64::default(),
            retries: AtomicU64::default(),
            throttled: AtomicU64::default(),
            bytes: AtomicU64::default(),
            latency_max_micros: AtomicU64::default(),
            latencies: (0..BUCKETS).map(|_| AtomicU64::default()).collect(),
            last_failure: parking_lot::Mutex::default(),
            first_trouble: watch::Sender::default(),
        }
    }
}

impl Tally {
    pub(crate) fn count_acknowledged(&self, spans: u64, rejected: u64, bytes: usize, latency: Duration) {
        self.acknowledged
            .fetch_add(spans.saturating_sub(rejected), Ordering::Relaxed);
        self.rejected.fetch_add(rejected, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_max_micros.fetch_max(micros, Ordering::Relaxed);
        self.latencies[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failed(&self, spans: u64, why: String) {
        self.failed.fetch_add(spans, Ordering::Relaxed);
        *self.last_failure.lock() = Some(why);
    }

    pub(crate) fn count_retry(&self, is_throttled: bool, why: &str) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        self.throttled.fetch_add(u64::from(is_throttled), Ordering::Relaxed);
        if !is_throttled {
            self.first_trouble.send_if_modified(|trouble| {
                let is_first = trouble.is_none();
                trouble.get_or_insert_with(|| why.to_owned());
                is_first
            });
        }
    }

    /// Waits until a request had to be sent again for another reason than the receiver's wish, and says the reason.
    pub async fn trouble(&self) -> String {
        let mut trouble = self.first_trouble.subscribe();
        let seen = trouble.wait_for(Option::is_some).await;
        seen.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    /// Spans acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Requests sent again so far.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Latency that this share of requests did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let counts: Vec<u64> = self
            .latencies
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let total: u64 = counts.iter().sum();
        let wanted = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                let max = self.latency_max_micros.load(Ordering::Relaxed);
                return Duration::from_micros(bucket_end(bucket).min(max));
            }
        }
        Duration::ZERO
    }

    /// Everything, after `elapsed` and `cpu` time of this process.
    pub fn report(&self, elapsed: Duration, cpu: Option<Duration>) -> Report {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let spans = self.acknowledged();
        let millis = |latency: Duration| latency.as_secs_f64() * 1e3;
        let per_span = cpu
            .filter(|_| spans > 0)
            .map(|cpu| cpu.as_nanos() as f64 / spans as f64);
        Report {
            spans_acknowledged: spans,
            spans_rejected: load(&self.rejected),
            spans_failed: load(&self.failed),
            requests: load(&self.requests),
            retries: self.retries(),
            throttled: load(&self.throttled),
            bytes: load(&self.bytes),
            seconds: elapsed.as_secs_f64(),
            spans_per_second: spans as f64 / elapsed.as_secs_f64().max(1e-9),
            ack_p50_ms: millis(self.quantile(0.5)),
            ack_p90_ms: millis(self.quantile(0.9)),
            ack_p99_ms: millis(self.quantile(0.99)),
            ack_max_ms: load(&self.latency_max_micros) as f64 / 1e3,
            generator_ns_per_span: per_span,
            last_failure: self.last_failure.lock().clone(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "acknowledged  {} spans in {:.2} s",
            self.spans_acknowledged, self.seconds
        )?;
        writeln!(
            f,
            "rate          {:.0} spans/s, {:.1} MB/s",
            self.spans_per_second,
            self.bytes as f64 / 1e6 / self.seconds
        )?;
        writeln!(
            f,
            "ack latency   p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms over {} requests",
            self.ack_p50_ms, self.ack_p90_ms, self.ack_p99_ms, self.ack_max_ms, self.requests
        )?;
        writeln!(f, "rejected      {} spans", self.spans_rejected)?;
        writeln!(f, "failed        {} spans", self.spans_failed)?;
        write!(
            f,
            "retries       {}, of which {} throttled",
            self.retries, self.throttled
        )?;
        if let Some(nanos) = self.generator_ns_per_span {
            write!(f, "\ngenerator     {nanos:.0} ns of CPU per span")?;
        }
        if let Some(why) = &self.last_failure {
            write!(f, "\nlast failure  {why}")?;
        }
        Ok(())
    }
}

fn bucket(micros: u64) -> usize {
    if micros < STEPS as u64 {
        return micros as usize;
    }
    let power = micros.ilog2();
    let step = (micros >> (power - STEP_BITS)) as usize & (STEPS - 1);
    (power - STEP_BITS + 1) as usize * STEPS + step
}

/// Largest value that falls into the bucket.
fn bucket_end(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let power = (bucket / STEPS) as u32 - 1;
    (((STEPS + bucket % STEPS) as u64 + 1) << power).wrapping_sub(1)
}

/// User and system time of this process.
pub(crate) fn process_cpu() -> Option<Duration> {
    // Fields 14 and 15 of proc(5) stat, in ticks, counted after the parenthesis that ends the command's name.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields = stat.rsplit_once(')')?.1;
    let mut ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let total = ticks.next()?.ok()? + ticks.next()?.ok()?;
    // 100 ticks a second on every Linux that Rust runs on (USER_HZ is part of the kernel's interface).
    Some(Duration::from_millis(total * 10))
}

#[cfg(test)]
mod tests {
    //! Buckets and quantiles.

    use super::*;

    #[test]
    fn a_bucket_holds_its_values_and_is_narrow() {
        for micros in (0..5000).chain([1 << 20, (1 << 20) - 1, (1 << 40) + 12345, u64::MAX >> 1]) {
            let end = bucket_end(bucket(micros));
            assert!(
                end >= micros && end as f64 <= micros as f64 * 1.04 + 1.0,
                "{micros} ends at {end}"
            );
            assert!(bucket(micros) < BUCKETS);
            assert_eq!(bucket(end), bucket(micros), "{micros}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_of_a_known_row() {
        let tally = Tally::default();
        for millis in 1..=100 {
            tally.count_acknowledged(10, 1, 100, Duration::from_millis(millis));
        }
        tally.count_failed(7, "why".into());
        tally.count_retry(true, "slow down");
        tally.count_retry(false, "refused");
        let report = tally.report(Duration::from_secs(2), Some(Duration::from_micros(900)));
        assert_eq!(
            (report.spans_acknowledged, report.spans_rejected, report.spans_failed),
            (900, 100, 7)
        );
        assert_eq!((report.retries, report.throttled, report.requests), (2, 1, 100));
        assert!((report.spans_per_second - 450.0).abs() < 1e-9);
        assert!((50.0..52.0).contains(&report.ack_p50_ms), "{report}");
        assert!((99.0..=100.0).contains(&report.ack_p99_ms), "{report}");
        assert!((report.ack_max_ms - 100.0).abs() < 1e-9);
        assert_eq!(report.generator_ns_per_span, Some(1000.0));
    }
}
