//! Quantiles with a bounded relative error: counts in buckets whose edges grow by a constant factor (DDSketch).
//!
//! Merging adds counts, so it loses nothing and knows no order. Values below [`SMALLEST`] in size count as zero.

use std::collections::BTreeMap;

/// The answered quantile differs from the exact one by at most this part of it.
pub const RELATIVE_ERROR: f64 = 0.01;
/// Smallest size told from zero: a nanosecond in seconds, a thousand times over.
pub const SMALLEST: f64 = 1e-12;

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sketch {
    /// Counts by bucket: bucket `i` holds sizes in `(γ^(i-1), γ^i]`.
    positive: BTreeMap<i32, u64>,
    negative: BTreeMap<i32, u64>,
    zero: u64,
    count: u64,
}

fn gamma() -> f64 {
    (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR)
}

/// The bucket of a size; sizes of finite doubles are within ±40 000 buckets.
fn bucket(size: f64) -> i32 {
    (size.ln() / gamma().ln()).ceil() as i32
}

/// The value of a bucket that is nearest, in proportion, to everything in it.
fn representative(bucket: i32) -> f64 {
    2.0 * gamma().powi(bucket) / (gamma() + 1.0)
}

impl Sketch {
    /// Counts a value. NaN and infinities are not values.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.count += 1;
        if value.abs() < SMALLEST {
            self.zero += 1;
        } else if value > 0.0 {
            *self.positive.entry(bucket(value)).or_default() += 1;
        } else {
            *self.negative.entry(bucket(-value)).or_default() += 1;
        }
    }

    /// Adds another sketch.
    pub fn merge(&mut self, other: &Sketch) {
        self.count += other.count;
        self.zero += other.zero;
        for (bucket, count) in &other.positive {
            *self.positive.entry(*bucket).or_default() += count;
        }
        for (bucket, count) in &other.negative {
            *self.negative.entry(*bucket).or_default() += count;
        }
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value below which `q` of the values lie (`0.0..=1.0`); None when there are none.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = (q * (self.count - 1) as f64).round() as u64;
        let mut seen = 0;
        for (bucket, count) in self.negative.iter().rev() {
            seen += count;
            if seen > rank {
                return Some(-representative(*bucket));
            }
        }
        seen += self.zero;
        if seen > rank {
            return Some(0.0);
        }
        for (bucket, count) in &self.positive {
            seen += count;
            if seen > rank {
                return Some(representative(*bucket));
            }
        }
        None
    }

    /// Approximate bytes it holds.
    pub fn held_bytes(&self) -> usize {
        48 + (self.positive.len() + self.negative.len()) * 24
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quantiles_are_as_exact_as_promised(
            mut values in proptest::collection::vec(prop_oneof![-1e9..1e9f64, 1e-9..1e-3f64, Just(0.0)], 1..200),
            q in 0.0..=1.0f64,
            cut in any::<prop::sample::Index>(),
        ) {
            let at = cut.index(values.len());
            let (mut one, mut two) = (Sketch::default(), Sketch::default());
            values[..at].iter().for_each(|v| one.add(*v));
            values[at..].iter().for_each(|v| two.add(*v));
            one.merge(&two);
            values.sort_by(f64::total_cmp);
            let exact = values[(q * (values.len() - 1) as f64).round() as usize];
            let answer = one.quantile(q).unwrap();
            prop_assert!((answer - exact).abs() <= exact.abs() * RELATIVE_ERROR * 1.000_001, "{answer} for {exact}");
        }
    }
}
