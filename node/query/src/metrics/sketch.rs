//! Quantiles with a bounded relative error: counts in buckets whose edges grow by a constant factor (DDSketch).
//!
//! Merging adds counts, so it loses nothing and knows no order. Values below [`SMALLEST`] in size count as zero.

use std::sync::LazyLock;

use super::weight::ONE;

/// The answered quantile differs from the exact one by at most this part of it.
pub const RELATIVE_ERROR: f64 = 0.01;
/// Smallest size told from zero: a nanosecond in seconds, a thousand times over.
pub const SMALLEST: f64 = 1e-12;

/// One over the logarithm of γ, the factor between bucket edges: `(1 + e) / (1 - e)` for a relative error `e` of 0.01.
const BUCKETS_PER_E_FOLD: f64 = 49.998_333_288_886_78;
const GAMMA: f64 = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR);
/// Added to bucket numbers, so that codes of positive values are positive: finite doubles reach ±37 300 buckets.
pub(crate) const CODE_OFFSET: i32 = 50_000;

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sketch {
    /// Counts by [`code`], ascending, in parts of [`ONE`].
    counts: Vec<(i32, u64)>,
    count: u64,
}

/// The bucket of a value as a number that orders like the value. None for NaN and infinities, which are not values.
pub fn code(value: f64) -> Option<i32> {
    if !value.is_finite() {
        return None;
    }
    let size = value.abs();
    if size < SMALLEST {
        return Some(0);
    }
    // Bucket `b` holds sizes in `(γ^(b-1), γ^b]`.
    let scaled = size.ln() * BUCKETS_PER_E_FOLD;
    // Rounded up; without an instruction for it, `ceil` is a call.
    let whole = scaled as i32;
    let bucket = whole + i32::from(scaled > f64::from(whole));
    Some(if value > 0.0 {
        CODE_OFFSET + bucket
    } else {
        -(CODE_OFFSET + bucket)
    })
}

/// Cells per doubling: narrower than a bucket, so that a cell meets one edge at most.
const CELLS: usize = 128;
/// Bits of a double below those that tell cells apart.
const CELL_SHIFT: u32 = 52 - CELLS.ilog2();
/// The cell of one nanosecond.
const FIRST_CELL: usize = 1023 * CELLS;

/// Per cell of durations, up to which nanosecond they are in the bucket of its first, and that bucket.
static EDGES: LazyLock<Vec<(i64, i32)>> = LazyLock::new(|| {
    let of = |nanos: i64| code(nanos as f64 / 1e9).unwrap_or_default();
    let first_of = |cell: usize| f64::from_bits(((FIRST_CELL + cell) as u64) << CELL_SHIFT).ceil() as i64;
    let edge = |cell: usize| {
        let (first, mut beyond) = (first_of(cell), first_of(cell + 1));
        let bucket = of(first);
        if first >= beyond || of(beyond - 1) == bucket {
            return (i64::MAX, bucket);
        }
        let mut last = first;
        while beyond - last > 1 {
            let middle = last + (beyond - last) / 2;
            if of(middle) == bucket {
                last = middle;
            } else {
                beyond = middle;
            }
        }
        (last, bucket)
    };
    (0..63 * CELLS).map(edge).collect()
});

/// [`code`] of durations, without a logarithm.
#[derive(Clone, Copy)]
pub(crate) struct NanosCodes {
    edges: &'static [(i64, i32)],
}

impl NanosCodes {
    /// To be asked many times.
    pub(crate) fn get() -> NanosCodes {
        NanosCodes { edges: &EDGES }
    }

    /// Orders as durations do.
    #[inline(always)]
    pub(crate) fn of(self, nanos: i64) -> i32 {
        if nanos <= 0 {
            return 0;
        }
        let cell = ((nanos as f64).to_bits() >> CELL_SHIFT) as usize - FIRST_CELL;
        // The largest numbers round up to 2^63, the cell behind the last.
        match self.edges.get(cell) {
            Some((last, bucket)) => bucket + i32::from(nanos > *last),
            None => code(nanos as f64 / 1e9).unwrap_or_default(),
        }
    }
}

/// The value that is nearest, in proportion, to everything in a bucket.
fn representative(code: i32) -> f64 {
    let of = |bucket: i32| 2.0 * GAMMA.powi(bucket) / (GAMMA + 1.0);
    match code {
        0 => 0.0,
        code if code > 0 => of(code - CODE_OFFSET),
        code => -of(-code - CODE_OFFSET),
    }
}

impl Sketch {
    /// An empty one with room for so many buckets.
    pub(crate) fn with_capacity(buckets: usize) -> Sketch {
        Sketch {
            counts: Vec::with_capacity(buckets),
            count: 0,
        }
    }

    /// Counts a value.
    pub fn add(&mut self, value: f64) {
        if let Some(code) = code(value) {
            self.add_code(code, ONE);
        }
    }

    /// Counts values of one bucket, in parts of [`ONE`].
    pub fn add_code(&mut self, code: i32, count: u64) {
        self.count += count;
        match self.counts.last_mut() {
            Some((last, _)) if *last < code => self.counts.push((code, count)),
            None => self.counts.push((code, count)),
            Some(_) => match self.counts.binary_search_by_key(&code, |(known, _)| *known) {
                Ok(at) => self.counts[at].1 += count,
                Err(at) => self.counts.insert(at, (code, count)),
            },
        }
    }

    /// The same for a bucket above all others.
    #[inline]
    pub(crate) fn push_code(&mut self, code: i32, count: u64) {
        self.count += count;
        self.counts.push((code, count));
    }

    /// Adds another sketch.
    pub fn merge(&mut self, other: &Sketch) {
        self.count += other.count;
        // Mostly of the same spans at another time, so that nearly every bucket is there.
        let mut at = 0;
        let mut news = Vec::new();
        for (code, count) in &other.counts {
            while self.counts.get(at).is_some_and(|(known, _)| known < code) {
                at += 1;
            }
            match self.counts.get_mut(at) {
                Some((known, mine)) if known == code => *mine += count,
                _ => news.push((*code, *count)),
            }
        }
        if news.is_empty() {
            return;
        }
        let mut merged = Vec::with_capacity(self.counts.len() + news.len());
        let (mut mine, mut news) = (self.counts.iter().peekable(), news.iter().peekable());
        while let (Some(a), Some(b)) = (mine.peek(), news.peek()) {
            if a.0 < b.0 {
                merged.extend(mine.next());
            } else {
                merged.extend(news.next());
            }
        }
        merged.extend(mine.chain(news));
        self.counts = merged;
    }

    /// Counts by [`code`], ascending; [`Sketch::add_code`] takes them back.
    pub fn codes(&self) -> impl Iterator<Item = (i32, u64)> {
        self.counts.iter().copied()
    }

    /// The value below which `q` of the values lie (`0.0..=1.0`); None when there are none.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        // Of whole values the one nearest to the rank.
        let rank = (q * self.count.checked_sub(ONE)? as f64 / ONE as f64).round() as u64 * ONE;
        let mut seen = 0;
        for (code, count) in &self.counts {
            seen += count;
            if seen > rank {
                return Some(representative(*code));
            }
        }
        None
    }

    /// Approximate bytes it holds.
    pub fn held_bytes(&self) -> usize {
        48 + self.counts.len() * 16
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_written_out_factor_is_the_right_one() {
        assert!(
            (BUCKETS_PER_E_FOLD * GAMMA.ln() - 1.0).abs() < 1e-14,
            "{:?}",
            1.0 / GAMMA.ln()
        );
        assert!(code(f64::MAX).unwrap() < 2 * CODE_OFFSET && code(SMALLEST).unwrap() > 0);
    }

    proptest! {
        #[test]
        fn durations_need_no_logarithm(bits in 0..63u32, fraction in any::<u64>()) {
            let nanos = ((1u64 << bits) | (fraction & ((1 << bits) - 1))).cast_signed();
            for nanos in [nanos, nanos - 1, nanos.saturating_add(1), -nanos, 1 << bits] {
                prop_assert_eq!(Some(NanosCodes::get().of(nanos)), code(nanos.max(0) as f64 / 1e9), "{}", nanos);
            }
        }

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
