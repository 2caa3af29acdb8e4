//! What the node takes on at once: bytes in flight and bytes per second.
//!
//! Owns [`InFlight`], a budget whose [`Permit`]s give back what they took when dropped (also when a client goes away
//! and its future is dropped), and [`RateLimiter`], one token bucket per tenant. Neither ever waits: who does not fit
//! is told when to come back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::TenantId;
use parking_lot::Mutex;

use crate::refusal::{Kind, Refusal};

/// A budget of bytes held by requests that are not answered.
#[derive(Debug)]
pub struct InFlight {
    held: AtomicU64,
    budget: u64,
}

/// A part of an [`InFlight`] budget, given back on drop.
#[derive(Debug)]
pub struct Permit {
    from: Arc<InFlight>,
    bytes: u64,
}

impl InFlight {
    pub fn new(budget_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicU64::new(0),
            budget: budget_bytes,
        })
    }

    /// A permit over nothing, to be grown.
    pub fn permit(self: &Arc<Self>) -> Permit {
        Permit {
            from: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

impl Permit {
    /// Takes `bytes` more, or refuses and keeps what was held.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let bytes = bytes as u64;
        let budget = self.from.budget;
        let fits = |held: u64| held.checked_add(bytes).filter(|held| *held <= budget);
        match self.from.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(Refusal::throttled(
                "too many bytes in flight on this node",
                Duration::from_secs(1),
            )),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.from.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Token buckets by tenant. A bucket that is full again says nothing and may be forgotten.
#[derive(Debug, Default)]
pub struct RateLimiter {
    buckets: Mutex<HashMap<TenantId, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Bytes that may be taken at `at`.
    tokens: f64,
    at: Duration,
}

/// Buckets beyond this many are tidied; more tenants than this cannot be active at once.
const BUCKETS_TIDY: usize = 10_000;

impl RateLimiter {
    /// Takes `bytes` for this tenant at monotonic time `now`.
    ///
    /// Errors: [`Kind::Throttled`] with the time after which it will fit; [`Kind::TooLarge`] when it never will.
    pub fn take(&self, tenant: &TenantId, bytes: usize, rate: u64, burst: u64, now: Duration) -> Result<(), Refusal> {
        if bytes as u64 > burst {
            let message =
                format!("request of {bytes} bytes is larger than the burst of {burst} bytes; send smaller batches");
            return Err(Refusal::new(Kind::TooLarge, message));
        }
        let (bytes, rate, burst) = (bytes as f64, rate as f64, burst as f64);
        let mut buckets = self.buckets.lock();
        if buckets.len() >= BUCKETS_TIDY && !buckets.contains_key(tenant) {
            buckets.retain(|_, bucket| bucket.filled(rate, burst, now) < burst);
        }
        let bucket = buckets
            .entry(tenant.clone())
            .or_insert(Bucket { tokens: burst, at: now });
        bucket.tokens = bucket.filled(rate, burst, now);
        bucket.at = now;
        if bytes <= bucket.tokens {
            bucket.tokens -= bytes;
            return Ok(());
        }
        let wait = Duration::try_from_secs_f64((bytes - bucket.tokens) / rate).unwrap_or(Duration::from_secs(60));
        let message = format!("ingestion rate limit of {rate} bytes per second exceeded for this tenant");
        Err(Refusal::throttled(message, wait))
    }
}

impl Bucket {
    fn filled(&self, rate: f64, burst: f64, now: Duration) -> f64 {
        (self.tokens + now.saturating_sub(self.at).as_secs_f64() * rate).min(burst)
    }
}

#[cfg(test)]
mod tests {
    //! Budgets at the limit and one beside it.

    use super::*;

    #[test]
    fn a_budget_takes_exactly_what_it_has() {
        let in_flight = InFlight::new(100);
        let mut first = in_flight.permit();
        assert!(first.grow(99).is_ok());
        let mut second = in_flight.permit();
        assert_eq!(second.grow(2).unwrap_err().kind, Kind::Throttled);
        assert!(second.grow(1).is_ok());
        assert!(second.grow(1).is_err());
        drop(first);
        assert_eq!(in_flight.held(), 1);
        assert!(second.grow(99).is_ok());
        assert_eq!(in_flight.held(), 100);
        drop(second);
        assert_eq!(in_flight.held(), 0);
    }

    #[test]
    fn a_budget_cannot_overflow() {
        let in_flight = InFlight::new(u64::MAX);
        let mut permit = in_flight.permit();
        assert!(permit.grow(usize::MAX).is_ok());
        assert!(permit.grow(usize::MAX).is_err());
    }

    #[test]
    fn a_bucket_lets_the_burst_through_and_then_the_rate() {
        let limiter = RateLimiter::default();
        let tenant = TenantId::single();
        let take = |bytes, millis| limiter.take(&tenant, bytes, 100, 200, Duration::from_millis(millis));
        assert!(take(199, 0).is_ok());
        assert!(take(1, 0).is_ok());
        let refusal = take(50, 0).unwrap_err();
        assert_eq!(
            (refusal.kind, refusal.retry_after),
            (Kind::Throttled, Some(Duration::from_millis(500)))
        );
        assert_eq!(refusal.retry_after_seconds(), Some(1));
        assert!(take(50, 499).is_err());
        assert!(take(50, 500).is_ok());
        // It never fills above the burst, however long it rests.
        assert!(take(200, 100_000).is_ok());
        assert!(take(1, 100_000).is_err());
    }

    #[test]
    fn what_never_fits_is_not_asked_to_come_back() {
        let limiter = RateLimiter::default();
        let take = |bytes| limiter.take(&TenantId::single(), bytes, 100, 200, Duration::ZERO);
        assert_eq!(take(201).unwrap_err().kind, Kind::TooLarge);
        assert_eq!(take(201).unwrap_err().retry_after, None);
        assert!(take(200).is_ok());
    }

    #[test]
    fn tenants_do_not_share_a_bucket() {
        let limiter = RateLimiter::default();
        let take = |name| limiter.take(&TenantId::new(name).unwrap(), 200, 100, 200, Duration::ZERO);
        assert!(take("a").is_ok());
        assert!(take("a").is_err());
        assert!(take("b").is_ok());
    }
}
